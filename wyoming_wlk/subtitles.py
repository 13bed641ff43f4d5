"""A transcription as text, subtitles or JSON. Pure: no I/O."""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wyoming_wlk.engine.request import Word
from wyoming_wlk.languages import LANGUAGES
from wyoming_wlk.stages.diarizer import SpeakerTurn, joined
from wyoming_wlk.stages.translator import Translation
from wyoming_wlk.transcription import Segment, Transcription

Json = dict[str, Any]

_LINE_WIDTH = 42
_CUE_SECONDS = 7.0
_PAUSE = 1.5
"""Nobody wants to read what is said after so long a silence before it is said."""

_SHORTEST = 0.8
"""A cue stays at least so long, where the next one leaves it the time."""

_SENTENCE_END = re.compile(r"""[.?!。？！…]["'”’»)\]]*$""")
_ABBREVIATION = re.compile(r"(^|\s)[A-Z][a-z]{0,2}\.$")
_CLAUSE_END = re.compile(r"""[,;:–—、，；：]["'”’»)\]]*$""")


# --- subtitles --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cue:
    """What is on the screen from `start` to `end`, in seconds: one or two lines."""

    start: float
    end: float
    lines: tuple[str, ...]
    speaker: int | None = None


def plain(transcription: Transcription) -> str:
    """The text alone; where speakers are known a line for each turn, with the speaker before it."""
    segments = _to_read(transcription)
    if all(segment.speaker is None for segment in segments):
        return "".join(segment.text for segment in segments).strip() + "\n"
    lines = itertools.groupby(segments, key=lambda segment: segment.speaker)
    return "".join(
        f"{speaker_name(speaker)}: {''.join(segment.text for segment in said).strip()}\n" for speaker, said in lines
    )


def speaker_name(speaker: int | None) -> str:
    return "Somebody" if speaker is None else f"Speaker {speaker}"


def srt(transcription: Transcription) -> str:
    """SubRip; a speaker is named where another one begins."""
    shown = cues(_to_read(transcription))
    names = [
        f"{speaker_name(cue.speaker)}: " if cue.speaker is not None and cue.speaker != before else ""
        for before, cue in zip([None, *(cue.speaker for cue in shown)], shown, strict=False)
    ]
    return "\n".join(
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{name}{_joined(cue)}\n"
        for number, (name, cue) in enumerate(zip(names, shown, strict=True), 1)
    )


def vtt(transcription: Transcription) -> str:
    """WebVTT, speakers as its voices."""
    blocks = [
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{_voice(cue)}{_escaped(_joined(cue))}\n"
        for cue in cues(_to_read(transcription))
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def _to_read(transcription: Transcription) -> list[Segment]:
    """The segments in the language that was asked for: where there is a translation, that."""
    return [
        replace(segment, words=tuple(word for part in segment.translations for word in _spread(part)))
        if segment.translations
        else segment
        for segment in transcription.segments
    ]


def _spread(translation: Translation) -> Iterator[Word]:
    """The words of a translation over its time: nobody knows which of them was said when."""
    parts = [
        part
        for word in re.findall(r"\s*\S+", translation.text)
        for part in (word if columns(word) > len(word) else [word])  # scripts with wide letters write no spaces
    ]
    seconds = (translation.end - translation.start) / max(1, sum(map(len, parts)))
    start = translation.start
    for part in parts:
        yield Word(start, start + seconds * len(part), part, 1.0)
        start += seconds * len(part)


def cues(segments: Sequence[Segment]) -> list[Cue]:
    """Segments in pieces that can be read while they are heard, in order and without overlap."""
    pieces = [(piece, segment.speaker) for segment in segments for piece in _split(segment.words)]
    found: list[Cue] = []
    for (piece, speaker), following in itertools.zip_longest(pieces, pieces[1:]):
        limit = following[0][0].start if following is not None else math.inf
        start = max(piece[0].start, found[-1].end if found else 0.0)
        end = max(start, min(max(piece[-1].end, start + _SHORTEST), limit))
        found.append(Cue(start, end, _lines(piece) or _halves(piece), speaker))
    return found


def _split(words: Sequence[Word]) -> Iterator[Sequence[Word]]:
    """Where it says too much at once: at the ends of sentences and clauses and at pauses, as evenly as they allow."""
    silences = [after.start - before.end for before, after in itertools.pairwise(words)]
    if len(words) == 1 or (_lines(words) and words[-1].end - words[0].start <= _CUE_SECONDS and max(silences) < _PAUSE):
        yield words
        return
    total = columns(_text(words))

    def worth(count: int) -> float:
        said = _text(words[:count])
        if _ABBREVIATION.search(said):  # a title belongs to its name
            mark = -1.0
        else:
            mark = 2.0 if _SENTENCE_END.search(said) else 1.0 if _CLAUSE_END.search(said) else 0.0
        return mark + 2 * min(silences[count - 1], _PAUSE) - abs(2 * columns(said) / total - 1)

    count = max(range(1, len(words)), key=worth)
    yield from _split(words[:count])
    yield from _split(words[count:])


def _lines(words: Sequence[Word]) -> tuple[str, ...]:
    """The words in at most two lines, nothing where they need more."""
    if columns(_text(words)) <= _LINE_WIDTH:
        return (_text(words),)
    lines = _halves(words)
    return lines if all(columns(line) <= _LINE_WIDTH for line in lines) else ()


def _halves(words: Sequence[Word]) -> tuple[str, ...]:
    """Two lines of about the same width, if there are two words."""
    both = [(_text(words[:count]), _text(words[count:])) for count in range(1, len(words))]
    return min(both, key=lambda lines: max(map(columns, lines)), default=(_text(words),))


def _text(words: Sequence[Word]) -> str:
    return " ".join("".join(word.text for word in words).split())


def columns(text: str) -> int:
    """The width of a text: Chinese and the like are two wide."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _joined(cue: Cue) -> str:
    return "\n".join(cue.lines)


def _voice(cue: Cue) -> str:
    return "" if cue.speaker is None else f"<v {speaker_name(cue.speaker)}>"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, mark: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{mark}{rest % 1000:03}"


# --- speakers ---------------------------------------------------------------------------------------------------------


def rttm(turns: Sequence[SpeakerTurn], name: str) -> str:
    """Rich Transcription Time Marked: who spoke when in the recording `name`."""
    word = re.sub(r"\s", "_", name) or "recording"
    return "".join(
        f"SPEAKER {word} 1 {turn.start:.3f} {turn.end - turn.start:.3f} <NA> <NA> speaker_{turn.speaker} <NA> <NA>\n"
        for turn in joined(turns)
    )


def diarized_json(transcription: Transcription, task: str = "transcribe") -> Json:
    """OpenAI's `diarized_json`: speakers are A, B, ... in the order in which they first speak."""
    found: Json = {"task": task, "duration": round(transcription.duration, 3), "text": transcription.text}
    found["segments"] = [
        {
            "type": "transcript.text.segment",
            "id": f"seg_{number:03}",
            "start": round(segment.start, 3),
            "end": round(segment.end, 3),
            "text": segment.text,
            "speaker": _letters(segment.speaker or 1),
            **_translation_of(segment),
        }
        for number, segment in enumerate(transcription.segments)
    ]
    return found | _notices(transcription) | {"usage": _usage(transcription)}


def _letters(number: int) -> str:
    """1 is A, 26 is Z, 27 is AA."""
    letters = ""
    while number > 0:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


# --- JSON -------------------------------------------------------------------------------------------------------------


def short_json(transcription: Transcription) -> Json:
    """OpenAI's `json`; beside it the translation, where there is one."""
    found: Json = {"text": transcription.text, "usage": _usage(transcription)}
    return found | _whole_translation(transcription) | _notices(transcription)


def verbose_json(
    transcription: Transcription, task: str = "transcribe", segments: bool = True, words: bool = False
) -> Json:
    """OpenAI's `verbose_json`; each word has its probability besides."""
    language = "en" if task == "translate" else transcription.language
    found: Json = {
        "task": task,
        "language": LANGUAGES[language] if language else "",
        "duration": round(transcription.duration, 3),
        "text": transcription.text,
        "usage": _usage(transcription),
        **_whole_translation(transcription),
        **_notices(transcription),
    }
    if segments:
        found["segments"] = [_segment(number, segment) for number, segment in enumerate(transcription.segments)]
    if words:
        found["words"] = [_word(word) for segment in transcription.segments for word in segment.words]
    return found


def _segment(number: int, segment: Segment) -> Json:
    text = segment.text.encode()
    logs = [math.log(max(word.probability, 1e-10)) for word in segment.words]
    return {
        "id": number,
        "seek": round(segment.start * 100),
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        **({} if segment.speaker is None else {"speaker": segment.speaker}),
        **_translation_of(segment),
        "tokens": [token for word in segment.words for token in word.tokens],
        "temperature": 0.0,
        "avg_logprob": round(sum(logs) / len(logs), 4),
        "compression_ratio": round(len(text) / len(zlib.compress(text)), 3),
        "no_speech_prob": 0.0,  # what is no speech never becomes a segment
    }


def _translation_of(segment: Segment) -> Json:
    return {"translation": segment.translation} if segment.translations else {}


def _whole_translation(transcription: Transcription) -> Json:
    return {"translation": transcription.translation} if transcription.translation else {}


def _notices(transcription: Transcription) -> Json:
    return {"notices": [notice.text for notice in transcription.notices]} if transcription.notices else {}


def _word(word: Word) -> Json:
    return {
        "word": word.text.strip(),
        "start": round(word.start, 3),
        "end": round(word.end, 3),
        "probability": round(word.probability, 4),
    }


def _usage(transcription: Transcription) -> Json:
    return {"type": "duration", "seconds": math.ceil(transcription.duration)}
