// One source's way to the server: sends audio, passes messages on, and comes back by itself after a lost connection.
//
// Audio stays in the backlog until long after it was sent. The server tells how many samples it has taken when the
// connection comes back; what follows them is sent again, so that none is lost and none is heard twice.

import { Backlog, Clock } from "./backlog.js";

const KEPT_SECONDS = 120;
const MAX_BUFFERED_SECONDS = 4; // no more lies in the browser's own buffer: it would be lost with the connection
const STALLED_SECONDS = 10; // so long without any progress means that nobody is there any more
const DELAYS = [0.5, 1, 2, 4, 8, 15]; // seconds before each further attempt
const NEWS_SECONDS = 3; // in silence, what the last update told of the server's lag is old after that
const STEADY_SECONDS = 5; // a connection that lasted so long makes the delays start over
const RETRIED = new Set(["busy", "timeout", "internal"]); // errors that may be gone the next time

export class Connection {
  #socket = null;
  #backlog;
  #clock = new Clock();
  #secret = randomName(16);
  #epoch = 0; // counts the server's streams: one that restarted begins a new one
  #seq = 0;
  #stages = {}; // what the stream has besides words
  #sent = 0; // samples of the source
  #open = false; // the server has told where to go on
  #attempts = 0;
  #openedAt = 0;
  #timer = 0;
  #finishing = false;
  #stopSent = false;
  #committedEnd = 0; // seconds of the stream
  #remaining = { seconds: 0, at: 0 };
  #speaking = false;
  #error = null;
  #progress = { buffered: 0, at: 0 };

  /**
   * `address(extra)` gives the URL with more parameters. `listener` has `state(name, text)` and `message(message)`:
   * the times in messages are seconds of the source, and each segment has a `key`, its `stream`, whether it is
   * `diarized`, and the language `target` of its translation, null without one.
   * States: connecting, live, waiting, finishing; then ended, failed; and locked, where a token is asked for.
   */
  constructor(address, sampleRate, listener) {
    this.address = address;
    this.rate = sampleRate;
    this.listener = listener;
    this.#backlog = new Backlog(KEPT_SECONDS * sampleRate);
    addEventListener("online", this.#online);
    addEventListener("offline", this.#offline);
    this.#connect();
  }

  /** `samples`: Int16Array. */
  push(samples) {
    if (this.#finishing) return;
    this.#backlog.push(samples);
    this.#pump();
  }

  /** Nothing more will be said: the last words come, then the state is `ended`. */
  finish() {
    this.#finishing = true;
    if (this.#open) this.listener.state("finishing", "Waiting for the last words");
    this.#pump();
  }

  /** Ends it at once. */
  abandon() {
    this.#drop();
    this.#end("ended", "");
  }

  /** Tries again now, as with a token that was just given. */
  retry() {
    this.#drop();
    this.#connect();
  }

  /** Seconds of audio that the server has not looked at yet. */
  get lag() {
    const recent = performance.now() / 1000 - this.#remaining.at < NEWS_SECONDS;
    return (recent || this.#speaking ? this.#remaining.seconds : 0) + (this.#backlog.end - this.#sent) / this.rate;
  }

  // --- to the server ------------------------------------------------------------------------------------------------

  #connect() {
    clearTimeout(this.#timer);
    this.listener.state("connecting", this.#attempts ? "Connecting again" : "Connecting");
    const extra = { secret: this.#secret };
    if (this.#epoch || this.#attempts) extra.resume_from = this.#seq;
    const socket = new WebSocket(this.address(extra));
    socket.binaryType = "arraybuffer";
    socket.onmessage = (event) => this.#receive(JSON.parse(event.data));
    socket.onclose = () => this.#lost();
    this.#socket = socket;
    this.#error = null;
  }

  #pump() {
    if (!this.#open) return;
    const socket = this.#socket;
    this.#watch(socket.bufferedAmount);
    if (this.#sent < this.#backlog.start) this.#skipTo(this.#backlog.start);
    while (this.#sent < this.#backlog.end && socket.bufferedAmount < MAX_BUFFERED_SECONDS * this.rate * 2) {
      const samples = this.#backlog.from(this.#sent);
      socket.send(samples);
      this.#sent += samples.length;
    }
    if (!this.#finishing || this.#stopSent) return;
    clearTimeout(this.#timer);
    if (this.#sent < this.#backlog.end) {
      this.#timer = setTimeout(() => this.#pump(), 100);
    } else {
      socket.send(JSON.stringify({ type: "stop" }));
      this.#stopSent = true;
    }
  }

  /** Gives a connection up whose far end has gone without a word. */
  #watch(buffered) {
    const now = performance.now() / 1000;
    if (!buffered || buffered < this.#progress.buffered) this.#progress = { buffered, at: now };
    else if (now - this.#progress.at > STALLED_SECONDS) setTimeout(() => this.#lost());
    else this.#progress.buffered = Math.max(buffered, this.#progress.buffered);
  }

  #skipTo(position) {
    this.#clock.skip(this.#sent, position);
    this.#sent = position;
  }

  // --- from the server ----------------------------------------------------------------------------------------------

  #receive(message) {
    if (message.type === "session") this.#opened(message);
    else if (message.type === "transcript_update") this.#update(message);
    else if (message.type === "speech") this.#speech(message);
    else if (message.type === "notice") this.listener.message(message);
    else if (message.type === "error") this.#error = message;
    else if (message.type === "end") this.#end("ended", "");
  }

  #opened(message) {
    this.#openedAt = performance.now() / 1000;
    if (message.resumed && this.#clock.toSource(message.received_samples) <= this.#backlog.end) {
      this.#sent = this.#clock.toSource(message.received_samples);
      this.#epoch ||= 1;
    } else if (message.resumed) {
      // The stream of an earlier page under the same name: it goes on with our audio.
      this.#sent = this.#backlog.start;
      this.#clock.restart(this.#sent, message.received_samples);
      this.#seq = message.seq;
      this.#epoch += 1;
    } else {
      // A new stream. What an earlier one had not made words of is said again, as far as it is kept.
      this.#sent = this.#epoch ? Math.round(this.#seconds(this.#committedEnd) * this.rate) : 0;
      this.#sent = Math.min(Math.max(this.#sent, this.#backlog.start), this.#backlog.end);
      this.#clock.restart(this.#sent);
      this.#seq = this.#committedEnd = 0;
      if (this.#epoch) this.listener.message({ type: "restart" });
      this.#epoch += 1;
    }
    this.#stages = { diarized: Boolean(message.diarization), target: message.target_language ?? null };
    this.#stopSent = false;
    this.#progress = { buffered: 0, at: this.#openedAt };
    this.#open = true;
    this.listener.state(this.#finishing ? "finishing" : "live", this.#finishing ? "Waiting for the last words" : "");
    this.#pump();
  }

  #update(message) {
    this.#seq = message.seq;
    const seconds = message.metadata?.remaining_time_transcription ?? 0;
    this.#remaining = { seconds, at: performance.now() / 1000 };
    const segments = message.segments.map((segment) => {
      this.#committedEnd = Math.max(this.#committedEnd, segment.end ?? 0);
      const words = segment.words.map((word) => ({
        ...word,
        start: this.#seconds(word.start),
        end: this.#seconds(word.end),
      }));
      const keys = { stream: this.#stream, key: this.#key(segment.id), nextKey: this.#key(segment.id + 1) };
      return { ...segment, ...this.#stages, ...keys, words };
    });
    this.listener.message({ ...message, segments });
  }

  #speech(message) {
    this.#speaking = message.speaking;
    this.listener.message({ ...message, time: this.#seconds(message.time) });
  }

  /** The server numbers segments and speakers of each stream from 1; this page may see many streams. */
  get #stream() {
    return `${this.#secret} ${this.#epoch}`;
  }

  #key(id) {
    return `${this.#stream} ${id}`;
  }

  #seconds(time) {
    return this.#clock.toSource(time * this.rate) / this.rate;
  }

  // --- ends and new beginnings --------------------------------------------------------------------------------------

  #lost() {
    const error = this.#error;
    this.#drop();
    if (error?.code === "access") {
      this.listener.state("locked", error.error);
    } else if (error && !RETRIED.has(error.code) && !this.#takenByItself(error)) {
      this.#end("failed", error.code === "taken" ? "This name is in use by another page. Choose another." : error.error);
    } else {
      const delay = DELAYS[Math.min(this.#attempts, DELAYS.length - 1)] * (0.8 + 0.4 * Math.random());
      this.#attempts += 1;
      this.#timer = setTimeout(() => this.#connect(), delay * 1000);
      this.listener.state("waiting", error?.code === "busy" ? "The server is busy" : "No connection");
    }
  }

  /** Whether it may be this very page's lost connection, not yet missed by the server, that has the name. */
  #takenByItself(error) {
    return error.code === "taken" && this.#attempts > 0 && this.#attempts < DELAYS.length;
  }

  /** Lets the socket go without waiting for its close, which may take long. */
  #drop() {
    clearTimeout(this.#timer);
    if (this.#open && performance.now() / 1000 - this.#openedAt > STEADY_SECONDS) this.#attempts = 0;
    this.#open = false;
    if (!this.#socket) return;
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    this.#socket = null;
  }

  #end(state, text) {
    this.#drop();
    removeEventListener("online", this.#online);
    removeEventListener("offline", this.#offline);
    this.listener.state(state, text);
  }

  #online = () => {
    if (!this.#socket && this.#timer) this.retry();
  };

  #offline = () => {
    if (this.#socket) this.#lost();
  };
}

/** A name that nobody guesses. */
export function randomName(bytes) {
  return Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
