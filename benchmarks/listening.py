"""What one client's speech is to the engine: what it is asked for, and what its thread does meanwhile."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from unittest.mock import patch

from torch import Tensor

from benchmarks import virtual
from benchmarks.client import Microphone
from benchmarks.clips import SAMPLE_RATE, Clip
from benchmarks.engine import open_services
from benchmarks.operations import FRAMES_PER_SECOND, Schedule, Steps
from benchmarks.servers import our_config
from wyoming_wlk.engine.cache import CrossAttention
from wyoming_wlk.engine.encoder import mel_start
from wyoming_wlk.engine.hypothesis import Row
from wyoming_wlk.engine.model import Whisper
from wyoming_wlk.engine.runner import Runner
from wyoming_wlk.engine.window import AudioMemory
from wyoming_wlk.engine.windows import WindowEncoder
from wyoming_wlk.events import Event
from wyoming_wlk.services import Pace

_PAUSE_SECONDS = 2.0


@dataclass
class Asked:
    """What the engine did for one request."""

    final: bool
    seconds: float
    encoded: float
    prefix: int
    known: int
    draft: int
    beams: int
    passes: int = 0


@dataclass(frozen=True)
class Client:
    """What one client's speech was to the engine, and what the engine's thread did with a second of it."""

    schedule: Schedule
    spent: Mapping[str, float]
    """Seconds by part, those of the model of cost and the rest."""


def listen(options: Sequence[str], clips: Sequence[Clip]) -> Client:
    """Clips one after the other through a session, in virtual time."""
    noted = _Notes()

    async def main(clock: virtual.Clock) -> float:
        async with open_services(our_config([*options, "--device", "cpu"])) as services:
            with services.context(None, services.defaults) as context:
                session = await services.session(context, "cost", _ignore, Pace())
                running = asyncio.create_task(session.run())
                for clip in clips:
                    async for chunk in Microphone(clip, _PAUSE_SECONDS):
                        await session.feed(chunk)
                session.stop()
                await running
            statistics = (await services.host.borrow()).engine.statistics
            return statistics.encoder.total + statistics.decoder.total

    with noted:
        busy = virtual.run(main)
    return noted.client(busy, sum(len(clip.samples) for clip in clips) / SAMPLE_RATE)


class _Notes:
    """While it is entered, notes what the engine is asked for, and how long its parts take."""

    def __init__(self) -> None:
        self._asked: dict[Row, Asked] = {}
        self._encoding = self._starting = self._advancing = 0.0
        self._encode, self._begin, self._advance = WindowEncoder.encode, Runner.begin, Runner.advance
        self._extend = Whisper.extend
        self._frames = 0
        self._patches = ExitStack()

    def __enter__(self) -> None:
        notes = self

        def encode(windows: WindowEncoder, rows: Sequence[Row]) -> list[CrossAttention]:
            began = time.perf_counter()
            try:
                return notes._encode(windows, rows)
            finally:
                notes._encoding += time.perf_counter() - began

        def extend(model: Whisper, mel: Tensor, first: int, memory: AudioMemory) -> CrossAttention:
            notes._frames = (mel_start(first) + mel.shape[1]) // 2 - first
            return notes._extend(model, mel, first, memory)

        def begin(runner: Runner, rows: Sequence[Row], crosses: Sequence[CrossAttention]) -> None:
            (row,) = rows  # one client, and so one at a time
            encoded = notes._frames / FRAMES_PER_SECOND
            began = time.perf_counter()
            notes._begin(runner, rows, crosses)
            notes._starting += time.perf_counter() - began
            size = len(row.prefix), row.known, len(row.draft)
            notes._asked[row] = Asked(row.final, row.request.seconds, encoded, *size, row.width)

        def advance(runner: Runner, rows: Sequence[Row]) -> None:
            (row,) = rows
            first, began = bool(row.unread), time.perf_counter()
            notes._advance(runner, rows)
            spent = time.perf_counter() - began
            if first:
                notes._starting += spent
            else:
                notes._advancing += spent
                notes._asked[row].passes += 1

        self._patches.enter_context(patch.object(WindowEncoder, "encode", encode))
        self._patches.enter_context(patch.object(Whisper, "extend", extend))
        self._patches.enter_context(patch.object(Runner, "begin", begin))
        self._patches.enter_context(patch.object(Runner, "advance", advance))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._patches.close()

    def client(self, busy: float, speech: float) -> Client:
        """What was noted in so many seconds of speech, through which the engine was `busy` for so many."""
        kinds = [[one for one in self._asked.values() if one.final is final] for final in (False, True)]
        spent = {
            "encoder": self._encoding,
            "first pass": self._starting,
            "token passes": self._advancing,
            "rest": busy - self._encoding - self._starting - self._advancing,
        }
        schedule = Schedule(*(_average(kind, speech) for kind in kinds))
        return Client(schedule, {name: seconds / speech for name, seconds in spent.items()})


async def _ignore(event: Event) -> None:
    return


def _average(asked: Sequence[Asked], speech: float) -> Steps:
    return Steps(
        rate=len(asked) / speech,
        seconds=statistics.mean(one.seconds for one in asked),
        encoded=statistics.mean(one.encoded for one in asked),
        prefix=statistics.mean(one.prefix for one in asked),
        known=statistics.mean(one.known for one in asked),
        draft=statistics.mean(one.draft for one in asked),
        passes=statistics.mean(one.passes for one in asked),
        beams=statistics.mean(one.beams for one in asked),
    )
