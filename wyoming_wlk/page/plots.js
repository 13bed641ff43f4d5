// The server's clients, load and latency over the last minutes, out of its metrics in Prometheus' text format.

import { drawLines } from "./drawing.js";
import { make } from "./view.js";

const EVERY_MILLISECONDS = 2000;
const POINTS = 150;
const MIN_POINTS = 30; // there is room for so many from the beginning
const TITLES = {
  wlk_clients: "Clients",
  wlk_word_delay_seconds: "Word delay",
  wlk_queue_seconds: "Wait for the model",
  wlk_step_seconds: "Model step",
  wlk_batch_size: "Batch",
  wlk_real_time_factor: "Real-time factor",
  wlk_resident_memory_bytes: "Memory",
  wlk_contexts: "Contexts kept",
  wlk_parked_rows: "Decodings parked",
};

/** Samples in order: [{name, labels, value}]. What is no sample is left out. */
export function parseMetrics(text) {
  const found = [];
  for (const line of text.split("\n")) {
    const match = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/.exec(line);
    if (!match) continue;
    const labels = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[name] = value;
    found.push({ name: match[1], labels, value: Number(match[3].replace("Inf", "Infinity")) });
  }
  return found;
}

/** What is worth a picture: gauges and quantiles of the server's own, the known ones first. */
export function plotted(samples) {
  const order = Object.keys(TITLES);
  const place = (name) => (order.includes(name) ? order.indexOf(name) : order.length);
  const own = samples.filter(({ name }) => name.startsWith("wlk_") && !/_(total|created|sum|count|bucket|info|loaded)$/.test(name));
  return own.sort((a, b) => place(a.name) - place(b.name));
}

/** A number with the unit that the metric's name ends with. */
export function amount(name, value) {
  if (!Number.isFinite(value)) return "–";
  if (name.endsWith("_bytes")) return value >= 1e9 ? `${(value / 1e9).toFixed(2)} GB` : `${Math.round(value / 1e6)} MB`;
  if (name.endsWith("_seconds")) return value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(2)} s`;
  return Number.isInteger(value) ? String(value) : value.toFixed(2);
}

export class Plots {
  #list;
  #note;
  #fetch;
  #timer = 0;
  #histories = new Map(); // metric -> Map of label -> numbers
  #cards = new Map();

  /** `fetchMetrics()` returns the text, or raises an Error with a message for the user. */
  constructor(list, note, fetchMetrics) {
    this.#list = list;
    this.#note = note;
    this.#fetch = fetchMetrics;
  }

  start() {
    this.stop();
    this.#timer = setInterval(() => document.hidden || this.#poll(), EVERY_MILLISECONDS);
    this.#poll();
  }

  stop() {
    clearInterval(this.#timer);
  }

  async #poll() {
    try {
      const samples = plotted(parseMetrics(await this.#fetch()));
      this.#note.textContent = samples.length ? "" : "The server tells nothing about itself.";
      this.#take(samples);
    } catch (error) {
      this.#note.textContent = error.message;
    }
  }

  #take(samples) {
    for (const { name, labels, value } of samples) {
      const lines = this.#histories.get(name) ?? new Map();
      this.#histories.set(name, lines);
      const label = Object.entries(labels).map(([key, text]) => (key === "quantile" ? percentile(text) : text)).join(" ");
      const line = lines.get(label) ?? [];
      lines.set(label, line);
      line.push(value);
      if (line.length > POINTS) line.shift();
    }
    for (const [name, lines] of this.#histories) this.#draw(name, lines);
  }

  #draw(name, lines) {
    let card = this.#cards.get(name);
    if (!card) {
      card = make("li", "card");
      card.append(make("h3", "", TITLES[name] ?? name.replace(/^wlk_/, "").replaceAll("_", " ")), make("p", "figures"));
      card.append(make("canvas", ""));
      card.lastChild.setAttribute("aria-hidden", "true");
      this.#cards.set(name, card);
      this.#list.append(card);
    }
    const figures = [...lines].map(([label, line]) => {
      const figure = make("span", "", amount(name, line.at(-1)));
      if (label) figure.append(make("small", "", label));
      return figure;
    });
    card.querySelector(".figures").replaceChildren(...figures);
    const longest = Math.max(MIN_POINTS, ...[...lines.values()].map((line) => line.length));
    drawLines(card.querySelector("canvas"), [...lines.values()], longest);
  }
}

function percentile(quantile) {
  return Number(quantile) === 0.5 ? "median" : `${Number((Number(quantile) * 100).toFixed(1))} %`;
}
