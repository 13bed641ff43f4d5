// What was said, as plain data: messages of the server become segments, segments become paragraphs. Knows no page and
// no network. Times are seconds since the first source began.

const PARAGRAPH_GAP = 2.5; // seconds of silence that begin a new paragraph
const PARAGRAPH_LENGTH = 500; // characters after which the next pause does
const SILENCE = 5; // seconds of silence that are worth a mark

/**
 * A segment: {key, source, diarized, speaker, language, start, end, words, final, waiting, tentative, target,
 * translation, translated, preview, ended}. `words` are committed and only grow; `final`, null before, is the text at
 * full quality that replaces them. `waiting` is certain text behind the words that has no speaker yet, `tentative` what
 * may still change. `speaker` is null where nobody knows, or nobody asked: `diarized` is false then. `translation`, in
 * the language `target`, only grows until it is all there, `translated`; `preview` is what may follow it.
 */
export class Transcript {
  segments = [];
  #byKey = new Map();
  #earlier = new Map(); // stream -> the speakers numbered before it began

  clear() {
    this.segments = this.segments.filter((segment) => !segment.ended);
    this.#byKey = new Map(this.segments.map((segment) => [segment.key, segment]));
  }

  /**
   * One message about `source`, whose clock began at `offset`. Returns what is firm now and was not before:
   * [{segment, text, translation}].
   */
  apply(source, message, offset) {
    if (message.type === "restart") this.close(source);
    if (message.type !== "transcript_update") return [];
    return message.segments.map((news) => this.#merge(source, news, offset)).filter(Boolean);
  }

  /** The source's stream has gone: what was tentative stays so for ever, and so goes away. */
  close(source) {
    for (const segment of this.segments) {
      if (segment.source !== source) continue;
      Object.assign(segment, { ended: true, waiting: "", tentative: "", preview: "" });
    }
  }

  #merge(source, news, offset) {
    const words = news.words.map((word) => ({ text: word.text, start: word.start + offset, end: word.end + offset }));
    const { diarization: waiting, transcription: tentative, translation: preview } = news.buffer;
    const known = this.#byKey.get(`${source} ${news.key}`);
    if (!known && !words.length && !waiting && !tentative && !news.final_text) return null;
    const segment = known ?? this.#add(source, news.key);
    segment.words.push(...words);
    segment.translation += news.translation;
    Object.assign(segment, { waiting, tentative, preview, diarized: news.diarized, target: news.target });
    segment.translated ||= news.translated ?? false;
    segment.speaker = this.#speaker(source, news) ?? segment.speaker;
    segment.language = news.language ?? segment.language;
    if (news.ended) this.#finish(segment, news);
    this.#settle(segment);
    return { segment, text: words.map((word) => word.text).join(""), translation: news.translation };
  }

  /** Each stream counts its speakers from 1. Nobody knows whether they spoke in an earlier one: they get new numbers. */
  #speaker(source, { stream, speaker }) {
    if (speaker === null) return null;
    if (!this.#earlier.has(stream)) {
      const others = this.segments.filter((segment) => segment.source === source);
      this.#earlier.set(stream, others.reduce((most, other) => Math.max(most, other.speaker ?? 0), 0));
    }
    return this.#earlier.get(stream) + speaker;
  }

  #add(source, key) {
    const segment = {
      key: `${source} ${key}`, source, diarized: false, speaker: null, language: null, start: null, end: null,
      words: [], final: null, waiting: "", tentative: "", target: null, translation: "", translated: false, preview: "",
      ended: false,
    };
    this.segments.push(segment);
    this.#byKey.set(segment.key, segment);
    return segment;
  }

  #finish(segment, news) {
    segment.ended = true;
    segment.final = news.final_text;
    // In the middle of speech a long segment is cut, and committed words behind the cut begin the next one.
    if (!news.kept) return;
    const kept = segment.words.splice(segment.words.length - news.kept);
    const next = this.#byKey.get(`${segment.source} ${news.nextKey}`) ?? this.#add(segment.source, news.nextKey);
    next.words.unshift(...kept);
    this.#settle(next);
  }

  /** Times follow from the words; segments of several sources stand in the order of their beginnings. */
  #settle(segment) {
    if (!segment.words.length) return;
    const before = segment.start;
    segment.start = segment.words[0].start;
    segment.end = segment.words.at(-1).end;
    if (segment.start === before) return;
    this.segments.splice(this.segments.indexOf(segment), 1);
    const index = this.segments.findLastIndex((other) => other.start !== null && other.start <= segment.start);
    this.segments.splice(index + 1, 0, segment);
  }
}

/** The firm text of a segment. */
export function firm(segment) {
  return segment.final ?? segment.words.map((word) => word.text).join("").trim();
}

/** The firm translation of segments, which join as they are. */
export function translation(segments) {
  return segments.map((segment) => segment.translation).join("").trim();
}

/** Segments that belong together: [{key, source, diarized, speaker, language, target, start, end, silence, segments}]. */
export function paragraphs(segments) {
  const found = [];
  let end = null; // of all speech so far
  for (const segment of segments) {
    if (!firm(segment) && !segment.waiting && !segment.tentative) continue;
    const open = found.at(-1);
    if (open && belongs(segment, open)) {
      open.segments.push(segment);
      open.length += firm(segment).length;
      open.end = segment.end ?? open.end;
      open.language ??= segment.language;
    } else {
      const { key, source, diarized, speaker, language, target, start } = segment;
      const silence = start !== null && end !== null && start - end >= SILENCE ? start - end : 0;
      const about = { key, source, diarized, speaker, language, target, start, end: segment.end, silence };
      found.push({ ...about, length: firm(segment).length, segments: [segment] });
    }
    end = Math.max(end ?? 0, segment.end ?? 0);
  }
  return found;
}

function belongs(segment, paragraph) {
  const gap = segment.start === null ? 0 : segment.start - paragraph.end;
  const other = ["source", "diarized", "speaker", "target"].some((name) => segment[name] !== paragraph[name]);
  const foreign = segment.language && paragraph.language && segment.language !== paragraph.language;
  return !other && !foreign && gap < PARAGRAPH_GAP && (paragraph.length < PARAGRAPH_LENGTH || segment.start === null);
}
