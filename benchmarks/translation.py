"""How far translations are behind the words, with Bergamot: from English, by clients that speak at their real pace.

python -m benchmarks.translation [--audio FOLDER] [--limit N] [--clients 1 8] [--target pt]

The words and their times are those that the speech model hears, which writes full stops. Speech is not decoded while
translations are timed.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clips import DEFAULT_AUDIO, Clip, load_clips
from benchmarks.report import percentile, print_machine, print_table, progress
from benchmarks.servers import our_config
from wyoming_wlk.config import Config
from wyoming_wlk.engine.request import Word
from wyoming_wlk.hosting import ModelInfo
from wyoming_wlk.loading import expected_model, load_speech
from wyoming_wlk.models import ModelStore
from wyoming_wlk.services import Services
from wyoming_wlk.session import Speech
from wyoming_wlk.stages.translation.load import load_bergamot
from wyoming_wlk.stages.translator import Said, Translated, Translator
from wyoming_wlk.stages.worker import Worker
from wyoming_wlk.transcription import transcribe

_SOURCE = "en"
_LENGTHS = (1, 5, 10, 20, 40)
_REPEATS = 30


@dataclass
class Delays:
    """Seconds since each word was handed over."""

    shown: list[float] = field(default_factory=list)
    """Until it was part of any translation."""
    stable: list[float] = field(default_factory=list)
    largest_state: int = 0
    """Bytes."""


@dataclass(frozen=True)
class Spoken:
    """A word, handed over when it was said. `last`: a pause follows."""

    word: Word
    last: bool


async def hear(config: Config, clips: Sequence[Clip]) -> list[list[Spoken]]:
    """What the speech model understands of each clip."""

    async def pieces(samples: np.ndarray) -> AsyncIterator[np.ndarray]:
        yield samples

    with ThreadPoolExecutor(1, "vad") as executor:

        async def load(config: Config) -> tuple[Speech, ModelInfo]:
            return await asyncio.to_thread(load_speech, config, executor)

        services = Services(config, expected_model(config), load)
        await services.host.borrow()
        heard = [await transcribe(services, "benchmark", services.defaults, pieces(clip.samples)) for clip in clips]
        await services.host.close()
    return [
        [Spoken(word, word is segment.words[-1]) for segment in transcription.segments for word in segment.words]
        for transcription in heard
        if transcription.segments
    ]


# --- steps ------------------------------------------------------------------------------------------------------------


def measure_steps(translator: Translator[Any], target: str, clips: Sequence[Clip]) -> dict[int, list[float]]:
    """Milliseconds of a step for an open sentence of so many words."""
    words = [part for clip in clips for part in clip.text.split()]
    found: dict[int, list[float]] = {}
    for length in _LENGTHS:
        found[length] = []
        for number in range(_REPEATS):
            first = number * length % max(1, len(words) - length)
            said = tuple(Word(0.0, 0.0, " " + word, 1.0) for word in words[first : first + length])
            began = time.perf_counter()
            translator.step([Said(translator.begin(_SOURCE, target), said)])
            found[length].append(1000 * (time.perf_counter() - began))
    return found


# --- at the pace of speech --------------------------------------------------------------------------------------------


async def crowd(
    translator: Translator[Any], target: str, clips: Sequence[Sequence[Spoken]], clients: int
) -> tuple[Delays, float]:
    """Clients that share the clips and speak all at once, and how long it took."""
    worker: Worker[Translator[Any], Said[Any], Translated] = Worker(
        "translation", lambda: translator, lambda translator, said: translator.step(said)
    )
    delays, began = Delays(), time.monotonic()
    await asyncio.gather(*(_speak(worker, target, clips[number::clients], delays) for number in range(clients)))
    worker.close()
    return delays, time.monotonic() - began


async def _speak(
    worker: Worker[Translator[Any], Said[Any], Translated],
    target: str,
    clips: Sequence[Sequence[Spoken]],
    delays: Delays,
) -> None:
    state = await worker.call(lambda translator: translator.begin(_SOURCE, target))
    for clip in clips:
        waiting, missing = list(clip), list[Word]()
        began = time.monotonic()
        while waiting:
            await asyncio.sleep(max(0.0, began + waiting[0].word.end - time.monotonic()))
            said = [waiting.pop(0)]
            while waiting and not said[-1].last and began + waiting[0].word.end <= time.monotonic():
                said.append(waiting.pop(0))
            words = [spoken.word for spoken in said]
            translated = await worker.step(Said(state, tuple(words), said[-1].last))
            now = time.monotonic() - began
            delays.shown += [now - word.end for word in words]
            delays.largest_state = max(delays.largest_state, len(state.to_bytes()))
            until = translated.stable[-1].end if translated.stable else -1.0
            missing += words
            delays.stable += [now - word.end for word in missing if word.end <= until]
            missing = [word for word in missing if word.end > until]


# --- the program ------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="folder with a manifest.jsonl")
    parser.add_argument("--limit", type=int, help="take only the first clips")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--target", default="pt")
    parser.add_argument("options", nargs="*", help="after --: options of `wyoming-wlk serve`")
    arguments = parser.parse_args()
    target = arguments.target
    config = our_config(["--model", "tiny.en", *arguments.options])
    clips = load_clips(arguments.audio, "short", _SOURCE, arguments.limit)
    print_machine()
    progress("hearing the clips")
    heard = asyncio.run(hear(config, clips))
    translator = load_bergamot(ModelStore(config.model.data_dir))
    progress("single steps")
    steps = measure_steps(translator, target, clips)
    rows = [[f"{n} words", percentile(ms, 50, 1), percentile(ms, 95, 1), f"{max(ms):.1f}"] for n, ms in steps.items()]
    print_table(f"One step, {_SOURCE} to {target}, one client", ["open sentence", "ms p50", "p95", "most"], rows)
    memory = _children_megabytes()
    rows = []
    for clients in arguments.clients:
        progress(f"{len(clips)} clips by {clients} clients")
        delays, seconds = asyncio.run(crowd(translator, target, heard, clients))
        rows.append(_row(clients, delays, seconds))
    header = ["clients", "words", "speech", "translated p50 [s]", "p95", "stable p50", "p95", "largest state"]
    print_table("Since a word was handed over", header, rows)
    translator.close()
    busy = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"\nThe process that translates: {memory:.0f} MB, {busy.ru_utime + busy.ru_stime:.1f} s of processor time")


def _row(clients: int, delays: Delays, seconds: float) -> list[str]:
    return [
        str(clients),
        str(len(delays.shown)),
        f"{seconds:.0f} s",
        percentile(delays.shown, 50, 3),
        percentile(delays.shown, 95, 3),
        percentile(delays.stable, 50),
        percentile(delays.stable, 95),
        f"{delays.largest_state} bytes",
    ]


def _children_megabytes() -> float:
    """Resident memory of our child processes."""
    children = [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]
    statuses = [(Path("/proc") / pid / "status").read_text().splitlines() for pid in children]
    return sum(int(line.split()[1]) / 1000 for lines in statuses for line in lines if line.startswith("VmRSS"))


if __name__ == "__main__":
    main()
