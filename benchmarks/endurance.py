"""Whether anything grows: hours of one client's audio and thousands of short sessions, in process and in virtual time.

python -m benchmarks.endurance [--parts stream sessions speakers] [--hours 10] [--sessions 10000] [--speaker-hours 1]
                               [--audio FOLDER] [-- OPTIONS OF wyoming-wlk serve]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks import virtual
from benchmarks.client import Microphone
from benchmarks.clips import DEFAULT_AUDIO, SAMPLE_RATE, Clip, load_clips
from benchmarks.engine import in_process, open_services
from benchmarks.report import percentile, print_machine, print_table, progress
from benchmarks.servers import machine_seconds, our_config, resident_mb
from wyoming_wlk.engine.context import DecoderContext
from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.engine.statistics import EngineStatistics, Recent
from wyoming_wlk.events import Event, StageNotice, TextUpdate
from wyoming_wlk.services import Pace, Services
from wyoming_wlk.stages.client import ClientStage, Emit
from wyoming_wlk.stages.library import Stages

PARTS = ("stream", "sessions", "speakers")
TENTHS = 10
_PAUSE_SECONDS = 3.0
"""Between clips: long enough to end a segment."""

_AT_ONCE = 4
_REGULARS = 50
"""Clients of the short sessions that come again and again."""

_SEED = 0
_HEADER = ["hours", "MB", "objects", "tasks", "contexts", "words", "steps", "step p50 [s]", "p95", "CPU ms a step"]
_HEADER += ["CPU of others / ours", "state [MB]"]


@dataclass(frozen=True)
class Mark:
    """The process at one moment, and what it did since the moment before."""

    seconds: float
    """Virtual time since the run began."""
    memory: float
    """Resident megabytes."""
    objects: int
    """Objects that Python's garbage collector knows."""
    tasks: int
    contexts: int
    """Kept for clients that are away."""
    steps: Sequence[float]
    """Seconds from request to result of each step."""
    processor: float
    """Processor seconds of the whole process: engine, voice activity, and the client."""
    others: float = 0.0
    """Those of all other programs: where they differ, so do the times."""
    words: int = 0
    state: int = 0
    """Bytes of the diarizer's state."""


# --- measuring --------------------------------------------------------------------------------------------------------


class _AllSteps(Recent):
    """Lengths of all steps, not only those of the last minute."""

    def __init__(self) -> None:
        super().__init__()
        self._all: list[float] = []

    def add(self, value: float) -> None:
        super().add(value)
        self._all.append(value)

    def take(self) -> list[float]:
        """Those since the last call."""
        taken, self._all = self._all, []
        return taken


class Watch:
    """Takes the marks of one run."""

    def __init__(self, services: Services, engine: Engine, state: Callable[[], int] = lambda: 0) -> None:
        """`state`: size of what a diarizer knows."""
        self.marks: list[Mark] = []
        self._services, self._state = services, state
        self._steps = _AllSteps()
        engine.statistics = EngineStatistics(step=self._steps)
        self._began = time.monotonic()
        self._restart()

    async def hear(self, event: Event) -> None:
        """The callback of the sessions. Raises RuntimeError where a stage fails: its figures would mean nothing."""
        if isinstance(event, TextUpdate):
            self.words += len(event.committed)
        if isinstance(event, StageNotice) and event.failed:
            raise RuntimeError(event.text)

    def mark(self) -> None:
        gc.collect()
        processor = time.process_time()
        self.marks.append(
            Mark(
                time.monotonic() - self._began,
                resident_mb("self"),
                len(gc.get_objects()),
                len(asyncio.all_tasks()),
                self._services.contexts,
                self._steps.take(),
                processor - self._processor,
                machine_seconds() - processor - self._others,
                self.words,
                self._state(),
            )
        )
        progress(", ".join(f"{name} {value}" for name, value in zip(_HEADER, _row(self.marks[-1:]), strict=False)))
        self._restart()

    def _restart(self) -> None:
        self.words, self._processor = 0, time.process_time()
        self._others = machine_seconds() - self._processor


def stream(options: Sequence[str], clips: Sequence[Clip], hours: float) -> list[Mark]:
    """One client that speaks all clips again and again, with pauses; a mark after each round."""

    async def main(clock: virtual.Clock) -> list[Mark]:
        async with open_services(our_config(options)) as services:
            watch = Watch(services, (await services.host.borrow()).engine)
            with services.context("endurance", services.defaults) as context:
                await _talk(services, context, watch, clips, hours)
            return watch.marks

    return virtual.run(main)


class _WatchedStages(Stages):
    """Remembers the stages of the last client, to look at what they keep."""

    made: Sequence[ClientStage] = ()

    def of(
        self, context: DecoderContext, engine: Engine, client: str, emit: Emit, patient: bool
    ) -> tuple[list[ClientStage], Emit]:
        made, entry = super().of(context, engine, client, emit, patient)
        self.made = made
        return made, entry

    def size(self) -> int:
        parked: dict[str, bytes] = {}
        for stage in self.made:
            stage.park(parked)
        return sum(map(len, parked.values()))


def speakers(options: Sequence[str], clips: Sequence[Clip], hours: float) -> list[Mark]:
    """As `stream`, with the speakers told apart."""

    async def main(clock: virtual.Clock) -> list[Mark]:
        async with open_services(our_config(options)) as services:
            services.stages = stages = _WatchedStages(services.config)
            wanted = replace(services.defaults, diarization="online")
            await stages.load(wanted)
            watch = Watch(services, (await services.host.borrow()).engine, stages.size)
            with services.context("endurance", wanted) as context:
                await _talk(services, context, watch, clips, hours)
            return watch.marks

    return virtual.run(main)


async def _talk(services: Services, context: DecoderContext, watch: Watch, clips: Sequence[Clip], hours: float) -> None:
    session = await services.session(context, "endurance", watch.hear, Pace())
    running = asyncio.create_task(session.run())
    for _ in range(_rounds(clips, hours)):
        for clip in clips:
            async for chunk in Microphone(clip, _PAUSE_SECONDS):
                await session.feed(chunk)
        if running.done():
            break
        watch.mark()
    session.stop()
    await running


def _rounds(clips: Sequence[Clip], hours: float) -> int:
    """At least so long, and each tenth of it has the same audio."""
    seconds = sum(len(clip.samples) / SAMPLE_RATE + _PAUSE_SECONDS for clip in clips)
    return TENTHS * math.ceil(hours * 3600 / seconds / TENTHS)


def sessions(options: Sequence[str], clips: Sequence[Clip], count: int) -> list[Mark]:
    """Commands, some at a time: a third by clients without a name, a third by such that come once and the rest by
    regulars; one in eight leaves in mid-speech. A mark after each hundredth, while nobody speaks."""

    async def main(clock: virtual.Clock) -> list[Mark]:
        async with open_services(our_config(options)) as services:
            watch = Watch(services, (await services.host.borrow()).engine)
            chance = random.Random(_SEED)
            share = count // (10 * TENTHS)
            for first in range(0, 10 * TENTHS * share, share):
                numbers = iter(range(first, first + share))
                await asyncio.gather(
                    *(_visit(services, watch, clips, numbers, chance, place) for place in range(_AT_ONCE))
                )
                await asyncio.sleep(1)  # what was dropped is dropped by then
                watch.mark()
            return watch.marks

    return virtual.run(main)


async def _visit(
    services: Services, watch: Watch, clips: Sequence[Clip], numbers: Iterator[int], chance: random.Random, place: int
) -> None:
    """One of those who speak at the same time: one session after the other."""
    for number in numbers:
        client_id = (None, f"visitor {number}", f"regular {place} {chance.randrange(_REGULARS)}")[number % 3]
        clip = chance.choice(clips)
        await asyncio.sleep(chance.uniform(0, 1))
        with services.admitted(), services.context(client_id, services.defaults) as context:
            await _command(services, context, watch, clip, leaves=chance.randrange(8) == 0)


async def _command(services: Services, context: DecoderContext, watch: Watch, clip: Clip, leaves: bool) -> None:
    session = await services.session(context, clip.path.name, watch.hear, Pace())
    running = asyncio.create_task(session.run())
    samples = clip.samples[: len(clip.samples) // 2] if leaves else clip.samples
    async for chunk in Microphone(replace(clip, samples=samples)):
        await session.feed(chunk)
    if leaves:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        return
    session.stop()
    await running


# --- the program ------------------------------------------------------------------------------------------------------


def growth(values: Sequence[float]) -> float:
    """By how much the line of least squares through the second half rises from that half's beginning to its end."""
    half = values[len(values) // 2 :]
    if len(half) < 2:
        return math.nan
    slope = np.polyfit(np.arange(len(half)), half, 1)[0]
    return float(slope * (len(half) - 1))


def tenths(marks: Sequence[Mark]) -> list[Sequence[Mark]]:
    size = len(marks) // TENTHS
    return [marks[size * number : size * (number + 1)] for number in range(TENTHS)]


def _row(marks: Sequence[Mark]) -> list[str]:
    """What the last of these marks found, and the steps since the mark before the first."""
    last, steps = marks[-1], [step for mark in marks for step in mark.steps]
    processor = sum(mark.processor for mark in marks)
    return [
        f"{last.seconds / 3600:.2f}",
        f"{last.memory:.1f}",
        str(last.objects),
        str(last.tasks),
        str(last.contexts),
        str(sum(mark.words for mark in marks)),
        str(len(steps)),
        percentile(steps, 50, 3),
        percentile(steps, 95, 3),
        f"{1000 * processor / max(1, len(steps)):.1f}",
        f"{sum(mark.others for mark in marks) / processor:.2f}",
        *([f"{last.state / 1e6:.2f}"] if last.state else []),
    ]


def print_marks(title: str, marks: Sequence[Mark]) -> None:
    print_table(title, _HEADER[: len(_row(marks))], [_row(part) for part in tenths(marks)])
    marks = [mark for mark in marks if mark.steps]
    step = [sum(mark.steps) / len(mark.steps) for mark in marks]
    processor = [mark.processor / len(mark.steps) for mark in marks]
    print(
        f"\nIn the second half, by a line through {len(marks) - len(marks) // 2} points: "
        f"memory {growth([mark.memory for mark in marks]):+.1f} MB, "
        f"step time {100 * growth(step) / np.mean(step):+.1f} %, "
        f"processor time of a step {100 * growth(processor) / np.mean(processor):+.1f} %."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="folder with a manifest.jsonl")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    parser.add_argument("--hours", type=float, default=10.0, help="of one client's audio")
    parser.add_argument("--sessions", type=int, default=10000, help="how many short ones; at least a hundred")
    parser.add_argument("--speaker-hours", type=float, default=1.0, help="of audio whose speakers are told apart")
    parser.add_argument("options", nargs="*", help="after --: options of `wyoming-wlk serve`")
    arguments = parser.parse_args()
    print_machine()
    options, audio = arguments.options, arguments.audio
    long = load_clips(audio, "long", "en") or load_clips(audio, "short", "en")
    if "stream" in arguments.parts:
        print_marks("One client's stream", in_process(stream, options, long, arguments.hours))
    if "sessions" in arguments.parts:
        marks = in_process(sessions, options, load_clips(audio, "command", "en"), arguments.sessions)
        print_marks(f"{arguments.sessions} short sessions", marks)
    if "speakers" in arguments.parts:
        clips = load_clips(audio, "multispeaker")
        print_marks(
            "One client's stream, speakers told apart", in_process(speakers, options, clips, arguments.speaker_hours)
        )


if __name__ == "__main__":
    main()
