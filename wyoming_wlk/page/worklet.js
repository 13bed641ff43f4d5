// Runs in the browser's audio thread: mixes to mono, and posts pieces of s16 samples with their peak.

class Recorder extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    this.size = processorOptions.size; // samples in a piece
    this.piece = new Int16Array(this.size);
    this.filled = this.peak = 0;
    this.ended = false;
    this.port.onmessage = () => {
      this.ended = true;
      this.post();
    };
  }

  process([channels]) {
    // A source that is muted has no channels at all; its silence counts all the same, or times would drift.
    const frames = channels.length ? channels[0].length : 128;
    for (let i = 0; i < frames && !this.ended; i += 1) {
      let sum = 0;
      for (const channel of channels) sum += channel[i];
      const value = Math.max(-1, Math.min(1, channels.length ? sum / channels.length : 0));
      this.peak = Math.max(this.peak, Math.abs(value));
      this.piece[this.filled] = value * 32767;
      this.filled += 1;
      if (this.filled === this.size) this.post();
    }
    return !this.ended;
  }

  post() {
    const samples = this.piece.slice(0, this.filled);
    this.port.postMessage({ samples, peak: this.peak, ended: this.ended }, [samples.buffer]);
    this.filled = this.peak = 0;
  }
}

registerProcessor("recorder", Recorder);
