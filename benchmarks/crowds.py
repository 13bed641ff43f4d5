"""A crowd of talkers at a server for a while, and the figures of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.clips import normalize, word_error_rate
from benchmarks.observed import Observe, Snapshot
from benchmarks.talkers import Sound, Take, Talker, starting_at
from benchmarks.words import Delay

RAMP_SECONDS = 15.0
"""Clients begin one after the other in the first half of it; nothing is measured yet."""

_SETTLE_SECONDS = 1.0


@dataclass(frozen=True)
class Load:
    """So many clients at one server. `before` and `after` are the ends of what is measured; `idle` and `last` stand
    around all of it."""

    name: str
    clients: int
    takes: Sequence[Take]
    idle: Snapshot
    before: Snapshot
    after: Snapshot
    last: Snapshot

    @cached_property
    def finished(self) -> list[Take]:
        """Those that had an answer to get."""
        return [take for take in self.takes if not take.leaves]

    @cached_property
    def delays(self) -> list[Delay]:
        """Of the words that were spoken while it was measured."""
        began, ended = self.before.time, self.after.time
        return [d for take in self.finished for d in take.delays() if began <= take.began + d.end <= ended]

    @cached_property
    def first_words(self) -> list[Delay]:
        """Of the first word of each take, whenever it was."""
        return [found[0] for take in self.finished if (found := take.delays())]

    @cached_property
    def counted(self) -> float:
        """The share of all words that have a delay."""
        said = sum(len(normalize(take.text).split()) for take in self.finished)
        return sum(len(take.delays()) for take in self.finished) / said if said else float("nan")

    @property
    def failed(self) -> int:
        return sum(bool(take.error) for take in self.takes)

    @property
    def unanswered(self) -> int:
        """Takes without an error and without a single word of what was said."""
        return sum(is_unanswered(take) for take in self.finished)

    @property
    def lost_audio(self) -> float:
        """Seconds that were sent and not heard; NaN where the server does not tell."""
        name = "wlk_audio_seconds_total"
        heard = self.last.metrics.get(name, float("nan")) - self.idle.metrics.get(name, float("nan"))
        return sum(take.sent for take in self.takes) - heard

    @property
    def seconds(self) -> float:
        """How long it was measured."""
        return self.after.time - self.before.time

    def share(self, metric: str) -> float:
        """Of the time that was measured, what a counter of seconds has grown; NaN where there is none."""
        nothing = float("nan")
        return (self.after.metrics.get(metric, nothing) - self.before.metrics.get(metric, nothing)) / self.seconds

    def errors_of_chunks(self, offline: Mapping[Path, str]) -> tuple[float, float]:
        """The word error rate of joined committed text, and that of the same clips offline, NaN where it is unknown."""
        return _errors(self.finished, [take.committed for take in self.finished], offline)

    def errors_of_transcripts(self, offline: Mapping[Path, str]) -> tuple[float, float]:
        """The same of transcripts, where the door has them."""
        takes = [take for take in self.finished if take.transcript is not None]
        return _errors(takes, [take.transcript or "" for take in takes], offline)


def is_unanswered(take: Take) -> bool:
    heard = normalize(take.committed) or normalize(take.transcript or "")
    return not take.error and bool(normalize(take.text)) and not heard


def _errors(takes: Sequence[Take], heard: Sequence[str], offline: Mapping[Path, str]) -> tuple[float, float]:
    said = [take.text for take in takes]
    whole = [" ".join(offline[clip.path] for clip in take.clips) for take in takes] if offline else []
    return word_error_rate(said, heard), word_error_rate(said, whole) if offline else float("nan")


async def crowd(
    name: str, talkers: Sequence[Talker], sounds: Mapping[str, Sequence[Sound]], seconds: float, observe: Observe
) -> Load:
    """Measures for so many seconds after the ramp; `sounds` by kind."""
    began = time.perf_counter()
    until = began + RAMP_SECONDS + seconds

    async def talk(number: int, talker: Talker) -> list[Take]:
        await asyncio.sleep(number * RAMP_SECONDS / 2 / len(talkers))
        return await talker.talk(starting_at(sounds[talker.habit.kind], number), until)

    idle = await observe()
    talking = asyncio.gather(*(talk(number, talker) for number, talker in enumerate(talkers)))
    await asyncio.sleep(began + RAMP_SECONDS - time.perf_counter())
    before = await observe()
    await asyncio.sleep(until - time.perf_counter())
    after = await observe()
    takes = [take for found in await talking for take in found]
    await asyncio.sleep(_SETTLE_SECONDS)
    return Load(name, len(talkers), takes, idle, before, after, await observe())
