// The transcript as files: text, subtitles, JSON. Pure functions from segments to strings; only firm text is written.
// Subtitles are in the language that was asked for: where there is a translation, that.

import { firm, paragraphs, translation } from "./transcript.js";

const CUE_CHARACTERS = 84; // two lines of subtitles
const MIN_CUE_SECONDS = 0.5;

export const FORMATS = {
  txt: { mime: "text/plain", write: toText },
  srt: { mime: "application/x-subrip", write: toSrt },
  vtt: { mime: "text/vtt", write: toVtt },
  json: { mime: "application/json", write: toJson },
};

/** `names`: what each source is called; they are written where there is more than one, as speakers always are. */
export function toText(segments, names = {}) {
  const spoken = paragraphs(written(segments));
  const several = severalSources(spoken);
  const label = (one) => (several || one.diarized ? `${voice(one, names, several)}: ` : "");
  return spoken
    .map((one) => {
      const lines = [label(one) + one.segments.map(firm).join(" "), translation(one.segments)];
      return lines.filter(Boolean).map((line) => `${line}\n`).join("");
    })
    .join("\n");
}

/** A speaker is named where another one begins. */
export function toSrt(segments, names = {}) {
  const several = severalSources(segments);
  let before = null;
  return cues(segments)
    .map((cue, index) => {
      const name = cue.diarized ? voice(cue, names, several) : null;
      const label = name !== null && name !== before ? `${name}: ` : "";
      before = name;
      return `${index + 1}\n${stamp(cue.start, ",")} --> ${stamp(cue.end, ",")}\n${label}${cue.text}\n`;
    })
    .join("\n");
}

export function toVtt(segments, names = {}) {
  const escape = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const several = severalSources(segments);
  const lines = cues(segments).map((cue) => {
    const text = `<v ${escape(voice(cue, names, several))}>${escape(cue.text)}`;
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
    translation: segment.translation.trim(),
    ...(segment.target && { target_language: segment.target }),
    words: segment.words,
  }));
  return JSON.stringify({ segments: list }, null, 2) + "\n";
}

/** How a voice is called: after its source, and by number where speakers are told apart. */
export function voice({ source, diarized, speaker }, names, several) {
  const name = names[source] ?? source;
  if (!diarized) return name;
  const who = speaker === null ? "Somebody" : `Speaker ${speaker}`;
  return several ? `${name}, ${who.toLowerCase()}` : who;
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

function severalSources(those) {
  return new Set(those.map((one) => one.source)).size > 1;
}

/** Pieces of text short enough to be read on a screen: [{start, end, text, source, diarized, speaker}]. */
function cues(segments) {
  return written(segments).flatMap((segment) => {
    const { source, diarized, speaker } = segment;
    const found = [];
    for (const { text, start, end } of timed(segment)) {
      const open = found.at(-1);
      if (open && open.text.length + text.length <= CUE_CHARACTERS && !/[.?!…。？！]$/.test(open.text)) {
        open.text += text;
        open.end = end;
      } else {
        found.push({ text: text.trimStart(), start, end, source, diarized, speaker });
      }
    }
    found.forEach((cue, i) => {
      cue.end = Math.max(cue.end, Math.min(cue.start + MIN_CUE_SECONDS, found[i + 1]?.start ?? Infinity));
    });
    return found;
  });
}

/** Words with times: their own, or, where a translation or full quality has other words, evenly spread. */
function timed(segment) {
  const { start, end, words } = segment;
  const foreign = segment.translated && segment.translation.trim();
  const texts = foreign ? separate(foreign) : firm(segment).split(/\s+/).filter(Boolean).map((text) => ` ${text}`);
  if (!foreign && texts.length === words.length) {
    return texts.map((text, i) => ({ text, start: words[i].start, end: words[i].end }));
  }
  const step = (end - start) / texts.length;
  return texts.map((text, i) => ({ text, start: start + i * step, end: start + (i + 1) * step }));
}

/** A text as words that join again; in scripts without spaces every character is one. */
function separate(text) {
  return text.split(/(?=\s)|(?<=[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}])|(?=[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}])/u);
}
