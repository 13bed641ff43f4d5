// The audio of one source that may have to be sent again: its last minutes, by sample position. Knows no network.

export class Backlog {
  #chunks = []; // {position, samples}, in order and without gaps
  #capacity;

  /** `capacity` in samples: at least so many of the last ones are kept. */
  constructor(capacity) {
    this.#capacity = capacity;
    this.end = 0; // samples ever pushed
  }

  /** The position of the oldest sample that is kept. */
  get start() {
    return this.#chunks.length ? this.#chunks[0].position : this.end;
  }

  /** `samples`: Int16Array. */
  push(samples) {
    this.#chunks.push({ position: this.end, samples });
    this.end += samples.length;
    while (this.end - this.#chunks[0].position - this.#chunks[0].samples.length >= this.#capacity) this.#chunks.shift();
  }

  /** Some samples from `position` on, which must be from `start` to `end`; none at the end. */
  from(position) {
    let low = 0;
    let high = this.#chunks.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      const chunk = this.#chunks[middle];
      if (chunk.position + chunk.samples.length <= position) low = middle + 1;
      else high = middle;
    }
    const found = this.#chunks[low];
    return found ? found.samples.subarray(position - found.position) : new Int16Array(0);
  }
}

/**
 * Which sample of the source a sample of the server's stream is. They differ where audio had to be left out, or where
 * the server began a new stream.
 */
export class Clock {
  #anchors = [{ stream: 0, source: 0 }];

  /** The server has another stream, whose sample `stream` is the source's sample `source`. */
  restart(source, stream = 0) {
    this.#anchors = [{ stream, source }];
  }

  /** From the source's sample `from` on, nothing is sent until `to`. */
  skip(from, to) {
    this.#anchors.push({ stream: this.toStream(from), source: to });
  }

  toSource(stream) {
    const anchor = this.#anchors.findLast((known) => known.stream <= stream) ?? this.#anchors[0];
    return anchor.source + stream - anchor.stream;
  }

  toStream(source) {
    const anchor = this.#anchors.findLast((known) => known.source <= source) ?? this.#anchors[0];
    return anchor.stream + source - anchor.source;
  }
}
