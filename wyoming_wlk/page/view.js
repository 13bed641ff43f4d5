// The transcript on the page: firm and tentative text, silences, and what a screen reader says.

import { firm, paragraphs } from "./transcript.js";
import { stamp, voice } from "./formats.js";

const COLOURS = 8; // of speakers
const SPOKEN_KEPT = 20; // pieces that a screen reader can go back to
const NEAR_END = 120; // pixels: whoever is nearer to the end follows it

export class TranscriptView {
  #list;
  #log;
  #shown = new Map(); // key -> {element, text}
  #unsaid = { text: unspoken(), translation: unspoken() };
  #heard = null; // the speaker read out last
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

  /**
   * Text that has become firm is read out a sentence at a time: single words would be noise. `said` is what the
   * transcript told of it, `complete` whether its last sentence is over without a mark, too.
   */
  announce(said, complete) {
    for (const { segment, text, translation } of said) {
      this.#collect(this.#unsaid.text, text, this.#speaker(segment), segment.language);
      this.#collect(this.#unsaid.translation, translation, this.#speaker(segment), segment.target);
    }
    if (complete) for (const unsaid of Object.values(this.#unsaid)) this.#read(unsaid);
  }

  #collect(unsaid, text, speaker, language) {
    if (!text) return;
    if (unsaid.speaker !== speaker) this.#read(unsaid);
    unsaid.text += text;
    Object.assign(unsaid, { speaker, language });
    if (/[.?!。？！]$/.test(unsaid.text)) this.#read(unsaid);
  }

  #read(unsaid) {
    const { text, speaker, language } = unsaid;
    unsaid.text = "";
    if (!text.trim()) return;
    const name = speaker !== null && speaker !== this.#heard ? `${speaker}: ` : "";
    this.#heard = speaker;
    this.#log.append(make("p", "", name + text.trim(), language));
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
    const colour = this.sources.get(paragraph.source)?.colour ?? 0;
    element.dataset.colour = colour;
    if (paragraph.diarized) element.dataset.speaker = speakerColour(paragraph.speaker, colour);
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
    if (several || paragraph.diarized) about.push(make("span", "voice", this.#voice(paragraph)));
    if (foreign) about.push(make("span", "language", languageName(paragraph.language)));
    if (about.length) {
      body.append(make("div", "about"));
      body.lastChild.append(...about);
    }
    body.append(sentences(paragraph));
    const translation = translations(paragraph);
    if (translation.hasChildNodes()) body.append(translation);
    return [...parts, body];
  }

  #voice(one) {
    const names = { [one.source]: this.sources.get(one.source)?.name ?? one.source };
    return voice(one, names, this.sources.size > 1);
  }

  /** Who is read out, null where speakers are not told apart. */
  #speaker(segment) {
    return segment.diarized ? this.#voice(segment) : null;
  }
}

/** From 1; 0 is for nobody known. The speakers of two sources begin at different ones. */
function speakerColour(speaker, source) {
  return speaker === null ? 0 : ((speaker - 1 + (source * COLOURS) / 2) % COLOURS) + 1;
}

function sentences({ segments, language }) {
  const line = make("p", "", "", language);
  for (const segment of segments) {
    append(line, "firm", ` ${firm(segment)}`);
    append(line, "waiting", segment.waiting).title = "It is not known yet who says this";
    append(line, "tentative", segment.tentative);
  }
  return line;
}

function translations({ segments, target }) {
  const line = make("p", "translation", "", target);
  line.dir = "auto";
  for (const segment of segments) {
    append(line, "firm", segment.translation);
    append(line, "tentative", segment.preview);
  }
  return line;
}

/** Text behind what is in the line already. */
function append(line, kind, text) {
  const piece = make("span", kind, line.hasChildNodes() ? text : text.trimStart());
  if (text.trim()) line.append(piece);
  return piece;
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

function unspoken() {
  return { text: "", speaker: null, language: null };
}

/** `language`: of the text, where it may be another one than the page's. */
export function make(tag, className, text = "", language = null) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (language) element.lang = language;
  element.textContent = text;
  return element;
}
