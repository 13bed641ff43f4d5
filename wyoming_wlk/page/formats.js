// The transcript as files: text, subtitles, JSON. Pure functions from segments to strings; only firm text is written.

import { firm, paragraphs } from "./transcript.js";

const CUE_CHARACTERS = 84; // two lines of subtitles
const MIN_CUE_SECONDS = 0.5;

export const FORMATS = {
  txt: { mime: "text/plain", write: toText },
  srt: { mime: "application/x-subrip", write: toSrt },
  vtt: { mime: "text/vtt", write: toVtt },
  json: { mime: "application/json", write: toJson },
};

/** `names`: what each source is called; they are written where there is more than one. */
export function toText(segments, names = {}) {
  const spoken = paragraphs(written(segments));
  const several = new Set(spoken.map((one) => `${one.source} ${one.speaker}`)).size > 1;
  return spoken
    .map((one) => (several ? `${voice(one, names)}: ` : "") + one.segments.map(firm).join(" ") + "\n")
    .join("\n");
}

export function toSrt(segments) {
  return cues(segments)
    .map((cue, index) => `${index + 1}\n${stamp(cue.start, ",")} --> ${stamp(cue.end, ",")}\n${cue.text}\n`)
    .join("\n");
}

export function toVtt(segments, names = {}) {
  const escape = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const lines = cues(segments).map((cue) => {
    const text = `<v ${escape(voice(cue, names))}>${escape(cue.text)}`;
    return `${stamp(cue.start, ".")} --> ${stamp(cue.end, ".")}\n${text}\n`;
  });
  return ["WEBVTT\n", ...lines].join("\n");
}

export function toJson(segments, names = {}) {
  const list = written(segments).map((segment) => ({
    source: names[segment.source] ?? segment.source,
    speaker: segment.speaker,
    language: segment.language,
    start: segment.start,
    end: segment.end,
    text: firm(segment),
    translation: segment.translation,
    words: segment.words,
  }));
  return JSON.stringify({ segments: list }, null, 2) + "\n";
}

/** How a speaker is called: after the source, and by number where speakers are told apart. */
export function voice({ source, speaker }, names) {
  const name = names[source] ?? source;
  return speaker === null ? name : `${name}, speaker ${speaker}`;
}

/** Seconds as 00:01:02 with milliseconds behind `point`, or without any where there is none. */
export function stamp(seconds, point) {
  const all = point ? Math.round(seconds * 1000) : Math.floor(seconds) * 1000;
  const parts = [all / 3600000, (all / 60000) % 60, (all / 1000) % 60].map((part) => pad(Math.floor(part), 2));
  return point ? `${parts.join(":")}${point}${pad(all % 1000, 3)}` : parts.join(":");
}

function pad(number, digits) {
  return String(number).padStart(digits, "0");
}

function written(segments) {
  return segments.filter((segment) => firm(segment) && segment.start !== null);
}

/** Pieces of text short enough to be read on a screen: [{start, end, text, source, speaker}]. */
function cues(segments) {
  return written(segments).flatMap((segment) => {
    const words = timed(segment);
    const found = [];
    for (const word of words) {
      const open = found.at(-1);
      if (open && open.text.length + 1 + word.text.length <= CUE_CHARACTERS && !/[.?!…]$/.test(open.text)) {
        open.text += ` ${word.text}`;
        open.end = word.end;
      } else {
        found.push({ ...word, source: segment.source, speaker: segment.speaker });
      }
    }
    for (const cue of found) cue.end = Math.max(cue.end, cue.start + MIN_CUE_SECONDS);
    return found;
  });
}

/** The words of the firm text with times: their own, or, where full quality found other words, evenly spread. */
function timed(segment) {
  const texts = firm(segment).split(/\s+/).filter(Boolean);
  const { start, end, words } = segment;
  if (texts.length === words.length) return texts.map((text, i) => ({ text, start: words[i].start, end: words[i].end }));
  const step = (end - start) / texts.length;
  return texts.map((text, i) => ({ text, start: start + i * step, end: start + (i + 1) * step }));
}
