"""When each word of a clip ends, and when each word of a text was told first: what word delays are counted from and to.

Where a word ends is taken from our own engine: it hears the whole clip at full quality with a model that is better than
those measured, its words are matched with the clip's text, and Silero tells pauses from words. Words that it does not
hear have no time and do not count.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np

from benchmarks.clips import SAMPLE_RATE, Clip, normalize
from benchmarks.engine import in_process
from benchmarks.report import progress
from benchmarks.servers import our_config
from wyoming_wlk.engine.context import ClientOptions, DecoderContext
from wyoming_wlk.engine.request import StepKind, StepRequest
from wyoming_wlk.loading import load_speech
from wyoming_wlk.vad import SileroVad, SpeechDetector, VadSettings, VadStream

MODEL = "base"
"""Tells when words end."""

_KEY_LENGTH = 16
_PAUSE_SECONDS = 0.1
"""So long a pause is no part of the word before it."""


@dataclass(frozen=True)
class SaidWord:
    """A word as the word error rate compares it; `end` in seconds from the beginning, None where it is not known."""

    text: str
    end: float | None


@dataclass(frozen=True)
class Told:
    """A message of a server: when it came, all text that it said to be settled so far, and what stood behind that."""

    time: float
    committed: str
    tentative: str = ""


@dataclass(frozen=True)
class Delay:
    """Of one word: when it ended, and how long after that it was committed and first shown, settled or not.

    `shown` is None where nothing unsettled is ever shown.
    """

    end: float
    committed: float
    shown: float | None


# --- matching ---------------------------------------------------------------------------------------------------------


def matches(reference: Sequence[str], hypothesis: Sequence[str]) -> list[tuple[int, int]]:
    """Places of equal words, (in the reference, in the hypothesis), in the alignment of least edit distance."""
    if not reference:
        return []
    found = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    pairs: list[tuple[int, int]] = []
    for chunk in found.alignments[0]:
        if chunk.type == "equal":
            pairs += zip(
                range(chunk.ref_start_idx, chunk.ref_end_idx),
                range(chunk.hyp_start_idx, chunk.hyp_end_idx),
                strict=True,
            )
    return pairs


def timed(text: str, heard: Sequence[tuple[str, float]]) -> list[SaidWord]:
    """The words of `text`, each with its end where it is among the words (text, end) that were heard."""
    said = normalize(text).split()
    parts = [(part, end) for word, end in heard for part in normalize(word).split()]
    ends = {place: parts[other][1] for place, other in matches(said, [part for part, _ in parts])}
    return [SaidWord(word, ends.get(place)) for place, word in enumerate(said)]


def delays(said: Sequence[SaidWord], told: Sequence[Told]) -> list[Delay]:
    """Of each word whose end is known and that the last message has at the right place."""
    if not told:
        return []
    final = normalize(told[-1].committed).split()
    committed = first_times(final, [(message.time, message.committed) for message in told])
    texts = [(message.time, message.committed + message.tentative) for message in told]
    shown = first_times(final, texts) if any(message.tentative.strip() for message in told) else None
    found = []
    for place, other in matches([word.text for word in said], final):
        if (end := said[place].end) is not None:
            found.append(Delay(end, committed[other] - end, shown[other] - end if shown is not None else None))
    return found


def first_times(final: Sequence[str], texts: Sequence[tuple[float, str]]) -> list[float]:
    """For each word of the last text, the time of the first text that had it at its place."""
    times: dict[int, float] = {}
    for time, text in texts:
        for place, word in enumerate(normalize(text).split()[: len(final)]):
            if place not in times and word == final[place]:
                times[place] = time
    return [times[place] for place in range(len(final))]


# --- where words end --------------------------------------------------------------------------------------------------


def said_words(clips: Sequence[Clip], folder: Path) -> list[list[SaidWord]]:
    """The words of each clip with their ends; what was once found out is kept in `folder`."""
    file = folder / f"words-{MODEL}.json"
    known: dict[str, list[tuple[str, float]]] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    if missing := {_key(clip): clip for clip in clips if _key(clip) not in known}:
        progress(f"when words end in {len(missing)} clips, by {MODEL}")
        known |= zip(missing, in_process(_hear, list(missing.values())), strict=True)
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(known), "utf-8")
    return [timed(clip.text, known[_key(clip)]) for clip in clips]


def _key(clip: Clip) -> str:
    return hashlib.sha256(clip.samples.tobytes()).hexdigest()[:_KEY_LENGTH]


def _hear(clips: Sequence[Clip]) -> list[list[tuple[str, float]]]:
    """The words of each clip and when they end, as one final over all of it has them."""
    config = our_config(["--model", MODEL])
    with ThreadPoolExecutor(1) as executor:
        speech, _ = load_speech(config, executor)

    async def hear(clip: Clip) -> list[tuple[str, float]]:
        context = DecoderContext(ClientOptions(language="en", beam_size=config.decoding.beam_size))
        context.append(clip.samples)
        result = await speech.engine.step(StepRequest(context, StepKind.FINAL, 0.0, clip.path.name, awaited=True))
        voiced = _voiced(speech.vad, clip)
        return [(word.text, round(last_voiced(word.start, word.end, voiced), 3)) for word in result.words]

    async def hear_all() -> list[list[tuple[str, float]]]:
        return [await hear(clip) for clip in clips]

    try:
        return asyncio.run(hear_all())
    finally:
        speech.engine.stop()


def _voiced(vad: SileroVad, clip: Clip) -> list[tuple[float, float]]:
    """From when to when somebody speaks, by Silero, in seconds."""
    samples = np.concatenate([clip.samples, np.zeros(SAMPLE_RATE, np.float32)])  # so that speech ends
    detector = SpeechDetector(VadSettings(min_silence=_PAUSE_SECONDS))
    times = [event.sample / SAMPLE_RATE for event in detector.push(VadStream(vad).probabilities(samples))]
    return list(zip(times[::2], times[1::2], strict=True))


def last_voiced(start: float, end: float, voiced: Sequence[tuple[float, float]]) -> float:
    """Where a word ends: alignment knows no gaps between words, so that a pause belongs to the word before it."""
    return max((min(end, last) for first, last in voiced if first < end and last > start), default=end)
