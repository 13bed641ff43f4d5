"""What a client's speech brings about: the events that every frontend hears of. Plain data; times in seconds on the
client's clock."""

from __future__ import annotations

from dataclasses import dataclass

from wyoming_wlk.engine.request import Word


@dataclass(frozen=True)
class SpeechStarted:
    time: float


@dataclass(frozen=True)
class SpeechStopped:
    time: float


@dataclass(frozen=True)
class TextUpdate:
    """New committed words (never taken back) and all tentative ones."""

    committed: tuple[Word, ...]
    tentative: tuple[Word, ...]


@dataclass(frozen=True)
class SegmentEnded:
    """The words of a segment at full quality, final. They may differ from those committed early: who can still replace
    what it has shown replaces it by these."""

    words: tuple[Word, ...]
    kept: int = 0
    """So many of the words committed last belong to the next segment: this one was cut off in mid-speech."""


@dataclass(frozen=True)
class Flushed:
    """All that had been heard when it was asked for is out."""


@dataclass(frozen=True)
class Finished:
    """The transcript: exactly one at the end of every utterance, empty for silence."""

    text: str
    language: str | None


Event = SpeechStarted | SpeechStopped | TextUpdate | SegmentEnded | Flushed | Finished
