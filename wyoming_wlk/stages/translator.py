"""What every translator of text does: committed words of many clients in, translations out. Knows no model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from wyoming_wlk.engine.request import Word


@dataclass(frozen=True)
class Translation:
    """What words that were said from `start` to `end` (seconds) mean in the other language; it will not change.

    Texts of one client join as they are: one begins with a space where the language writes one.
    """

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Translated:
    """The translations that are new, and one of the words that follow, which is replaced by the next."""

    stable: tuple[Translation, ...]
    tentative: str = ""


class TranslatorState(Protocol):
    """One client's translation between steps: plain data that can leave the process."""

    def to_bytes(self) -> bytes: ...


State = TypeVar("State", bound=TranslatorState)


@dataclass(frozen=True)
class Said(Generic[State]):
    """What is new of one client: committed words, possibly none.

    `last`: a pause, another speaker or the end follows, so that all that was said is to be translated for good.
    """

    state: State
    words: tuple[Word, ...]
    last: bool = False


class Translator(ABC, Generic[State]):
    """Serves all clients and has no state of theirs. Used on one thread, off the event loop.

    A client gets the same whether it is alone or in a batch.
    """

    @abstractmethod
    def begin(self, source: str, target: str) -> State:
        """For a client whose words are in the language `source` (an ISO 639 code as Whisper's) and wanted in `target`.

        May fetch what the pair needs, for minutes: may be called on any thread, while others are served. Raises
        `RequestError` for a pair that is unknown and `ModelError` where its model cannot be had.
        """

    @abstractmethod
    def restore(self, data: bytes) -> State:
        """What `to_bytes` of a state has written. Raises ValueError for anything else, and like `begin`."""

    @abstractmethod
    def step(self, items: Sequence[Said[State]]) -> Sequence[Translated | Exception]:
        """One result for each; a client occurs once."""
