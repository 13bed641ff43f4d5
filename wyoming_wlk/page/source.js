// One thing that is listened to: its capture, its connection, and its line above the buttons.

import { Connection } from "./connection.js";
import { Wave } from "./drawing.js";
import { make } from "./view.js";

const LAG_WORTH_SHOWING = 0.2; // seconds

export class Source {
  #capture = null;
  #connection = null;
  #wave;
  #status;
  #lag;
  #timer = 0;

  /**
   * `about`: {id, name, colour}. `page` has `address(id, rate, extra)`, `message(source, message)`, `locked(source)`,
   * `failed(text)` and `changed(source)`, called when it starts or ends.
   */
  constructor(about, lanes, page) {
    Object.assign(this, about);
    this.page = page;
    this.state = "idle"; // idle, starting, running, finishing
    this.#buildLane(lanes);
  }

  /** `open()` returns a capture or raises a CaptureError, which is passed on. */
  async start(open) {
    this.#enter("starting");
    try {
      this.#capture = await open();
    } catch (error) {
      this.#enter("idle");
      throw error;
    }
    const { rate } = this.#capture;
    this.began = performance.now() / 1000;
    this.#connection = new Connection((extra) => this.page.address(this.id, rate, extra), rate, {
      state: (name, text) => this.#connectionState(name, text),
      message: (message) => this.page.message(this, message),
    });
    this.#capture.onpiece = (samples, peak) => {
      this.#connection?.push(samples);
      this.#wave.push(peak);
    };
    this.#capture.onended = () => this.stop();
    this.#timer = setInterval(() => this.#showLag(), 500);
    this.#enter("running");
  }

  /** The last words are waited for; called once more, they are not. */
  async stop() {
    if (this.state === "finishing") {
      this.#connection?.abandon();
    } else if (this.state === "running") {
      this.#enter("finishing");
      await this.#release();
      this.#connection?.finish();
    }
  }

  /** Connects with a token that was just given. */
  retry() {
    this.#connection?.retry();
  }

  async #release() {
    const capture = this.#capture;
    this.#capture = null;
    await capture?.stop();
  }

  #connectionState(name, text) {
    this.lane.dataset.state = name;
    this.#status.textContent = text;
    if (name === "locked") this.page.locked(this);
    if (name === "failed") this.page.failed(text);
    if (name !== "failed" && name !== "ended") return;
    clearInterval(this.#timer);
    this.#connection = null;
    this.page.message(this, { type: "restart" });
    this.#enter("idle");
    this.#release();
  }

  #enter(state) {
    this.state = state;
    this.lane.hidden = state === "idle";
    this.page.changed(this);
  }

  #showLag() {
    const lag = this.#connection?.lag ?? 0;
    this.#lag.textContent = lag >= LAG_WORTH_SHOWING ? `${lag.toFixed(1)} s behind` : "";
  }

  #buildLane(lanes) {
    this.lane = make("div", "lane");
    this.lane.hidden = true;
    this.lane.dataset.colour = this.colour;
    this.#status = make("span", "status");
    this.#status.setAttribute("role", "status");
    this.#lag = make("span", "lag");
    const canvas = make("canvas", "");
    canvas.setAttribute("aria-hidden", "true");
    this.#wave = new Wave(canvas);
    this.lane.append(make("span", "dot"), make("span", "name", this.name), canvas, this.#status, this.#lag);
    lanes.append(this.lane);
  }
}
