"""What every diarizer does: audio of many clients in, speaker turns out. Knows no network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np


@dataclass(frozen=True)
class SpeakerTurn:
    """Somebody speaks from `start` to `end`, in seconds on the client's clock; turns of several may overlap.

    What goes on at a horizon is continued by a turn that begins there.
    """

    start: float
    end: float
    speaker: int
    """Counted from 1 in the order in which the client hears of them."""


def joined(turns: Sequence[SpeakerTurn]) -> tuple[SpeakerTurn, ...]:
    """Turns in order of time, with those as one that were only parted by a horizon."""
    found: dict[tuple[int, float], SpeakerTurn] = {}  # by speaker and end
    for turn in sorted(turns, key=lambda turn: (turn.start, turn.end, turn.speaker)):
        before = found.pop((turn.speaker, turn.start), turn)
        found[turn.speaker, turn.end] = SpeakerTurn(before.start, turn.end, turn.speaker)
    return tuple(sorted(found.values(), key=lambda turn: (turn.start, turn.end, turn.speaker)))


@dataclass(frozen=True)
class DiarizationOptions:
    """What a client may choose for itself."""

    latency: float = 5.0
    """Seconds after which it is told, at the latest, who spoke. More is more accurate."""
    max_speakers: int = 10
    """Further voices are taken for the most alike of these. A diarizer may know fewer."""


@dataclass(frozen=True)
class Settled:
    """What a client now knows for good: who spoke before `horizon` (seconds) and after the horizon before."""

    turns: tuple[SpeakerTurn, ...]
    horizon: float
    crowded: bool = False
    """More voices were heard than may be told apart: some were taken for others, now or earlier."""


class DiarizerState(Protocol):
    """One client's diarization between steps: plain data that can leave the process."""

    def to_bytes(self) -> bytes: ...


State = TypeVar("State", bound=DiarizerState)


@dataclass(frozen=True)
class Heard(Generic[State]):
    """What is new of one client: float32 samples at 16 kHz, possibly none.

    `last`: nothing more comes for now, so that all of it is to be settled. The same state may hear more later: its
    clock goes on.
    """

    state: State
    audio: np.ndarray
    last: bool = False


class Diarizer(ABC, Generic[State]):
    """Serves all clients and has no state of theirs. Used on one thread, off the event loop.

    A client gets the same whether it is alone or in a batch, and in whatever portions its audio comes.
    """

    @abstractmethod
    def begin(self, options: DiarizationOptions) -> State:
        """For a client that has not been heard yet. Raises `RequestError` for options that cannot be served."""

    @abstractmethod
    def restore(self, data: bytes) -> State:
        """What `to_bytes` of a state has written. Raises ValueError for anything else."""

    @abstractmethod
    def step(self, items: Sequence[Heard[State]]) -> Sequence[Settled | Exception]:
        """One result for each; a client occurs once."""
