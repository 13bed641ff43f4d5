// The transcript on the page: firm and tentative text, silences, and what a screen reader says.

import { firm, paragraphs } from "./transcript.js";
import { stamp, voice } from "./formats.js";

const SPOKEN_KEPT = 20; // pieces that a screen reader can go back to
const NEAR_END = 120; // pixels: whoever is nearer to the end follows it

export class TranscriptView {
  #list;
  #log;
  #shown = new Map(); // key -> {element, text}
  #unsaid = "";
  #scheduled = false;

  /** `list` shows paragraphs, `log` is read out; `sources` maps ids to {name, colour}. */
  constructor(transcript, list, log, sources) {
    this.transcript = transcript;
    this.sources = sources;
    this.#list = list;
    this.#log = log;
  }

  /** Shows the transcript's present state soon. */
  update() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      this.#render();
    });
  }

  /** Text that has become firm is read out a sentence at a time: single words would be noise. */
  announce(text, complete) {
    this.#unsaid += text;
    if (!this.#unsaid.trim() || !(complete || /[.?!。？！]$/.test(this.#unsaid))) return;
    this.#log.append(make("p", "", this.#unsaid.trim()));
    this.#unsaid = "";
    while (this.#log.children.length > SPOKEN_KEPT) this.#log.firstChild.remove();
  }

  #render() {
    const page = document.documentElement;
    const follow = page.scrollHeight - page.scrollTop - page.clientHeight < NEAR_END;
    const several = this.sources.size > 1;
    const kept = new Set();
    let place = this.#list.firstElementChild;
    let language = null;
    for (const paragraph of paragraphs(this.transcript.segments)) {
      const foreign = paragraph.language !== null && paragraph.language !== language;
      const element = this.#paragraph(paragraph, several, foreign && language !== null);
      language = paragraph.language ?? language;
      kept.add(paragraph.key);
      if (element === place) place = place.nextElementSibling;
      else this.#list.insertBefore(element, place);
    }
    for (const [key, { element }] of this.#shown) {
      if (kept.has(key)) continue;
      element.remove();
      this.#shown.delete(key);
    }
    if (follow) page.scrollTop = page.scrollHeight;
  }

  #paragraph(paragraph, several, foreign) {
    const text = JSON.stringify([paragraph, several, foreign]);
    const known = this.#shown.get(paragraph.key);
    if (known?.text === text) return known.element;
    const element = known?.element ?? document.createElement("li");
    element.dataset.colour = this.sources.get(paragraph.source)?.colour ?? 0;
    element.replaceChildren(...this.#parts(paragraph, several, foreign));
    this.#shown.set(paragraph.key, { element, text });
    return element;
  }

  #parts(paragraph, several, foreign) {
    const parts = [];
    if (paragraph.silence) parts.push(make("div", "silence", `${duration(paragraph.silence)} of silence`));
    parts.push(make("time", "", paragraph.start === null ? "" : stamp(paragraph.start, "").replace(/^00:/, "")));
    const body = make("div", "said");
    const about = [];
    if (several || paragraph.speaker !== null) {
      const names = { [paragraph.source]: this.sources.get(paragraph.source)?.name ?? paragraph.source };
      about.push(make("span", "voice", voice(paragraph, names)));
    }
    if (foreign) about.push(make("span", "language", languageName(paragraph.language)));
    if (about.length) {
      body.append(make("div", "about"));
      body.lastChild.append(...about);
    }
    body.append(sentences(paragraph.segments));
    const translation = paragraph.segments.map((one) => `${one.translation}${one.preview}`.trim()).join(" ").trim();
    if (translation) body.append(make("p", "translation", translation));
    return [...parts, body];
  }
}

function sentences(segments) {
  const line = make("p", "");
  for (const segment of segments) {
    const text = firm(segment);
    if (text) line.append(make("span", "firm", line.hasChildNodes() ? ` ${text}` : text));
    if (segment.tentative.trim()) {
      const tentative = line.hasChildNodes() ? segment.tentative : segment.tentative.trimStart();
      line.append(make("span", "tentative", tentative));
    }
  }
  return line;
}

/** A language's name in the language of the browser. */
export function languageName(code) {
  try {
    return new Intl.DisplayNames(undefined, { type: "language" }).of(code) ?? code;
  } catch {
    return code;
  }
}

export function duration(seconds) {
  const whole = Math.round(seconds);
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

export function make(tag, className, text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.textContent = text;
  return element;
}
