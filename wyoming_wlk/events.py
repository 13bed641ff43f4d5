"""What a client's speech brings about: the events that every frontend hears of. Plain data; times in seconds on the
client's clock."""

from __future__ import annotations

from dataclasses import dataclass

from wyoming_wlk.engine.request import Word
from wyoming_wlk.stages.diarizer import SpeakerTurn
from wyoming_wlk.stages.translator import Translation


@dataclass(frozen=True)
class SpeechStarted:
    time: float


@dataclass(frozen=True)
class SpeechStopped:
    time: float


@dataclass(frozen=True)
class TextUpdate:
    """New committed words (never taken back), and all of those that may still change."""

    committed: tuple[Word, ...]
    tentative: tuple[Word, ...]
    waiting: tuple[Word, ...] = ()
    """All words that are certain but have no speaker yet; they stand before the tentative ones."""
    speaker: int | None = None
    """Who says the committed words, from 1; None where nobody asked or it is not known."""


@dataclass(frozen=True)
class SegmentEnded:
    """The words of a segment at full quality, final. They may differ from those committed early: who can still replace
    what it has shown replaces it by these."""

    words: tuple[Word, ...]
    kept: int = 0
    """So many of the words committed last belong to the next segment: this one was cut off in mid-speech."""
    speaker: int | None = None


@dataclass(frozen=True)
class SpeakersHeard:
    """Who spoke up to `horizon`, in seconds; turns behind the last horizon."""

    turns: tuple[SpeakerTurn, ...]
    horizon: float


@dataclass(frozen=True)
class TranslationUpdate:
    """New translations of words of one segment, for good, and one of those that follow, replaced by the next update."""

    segment: int
    """Counted from 1: the segments that had committed words."""
    stable: tuple[Translation, ...]
    tentative: str
    complete: bool = False
    """The segment has ended and has all its translation now."""


@dataclass(frozen=True)
class StageNotice:
    """What a client should know of a stage that it asked for; `failed` where nothing more will come of it."""

    stage: str
    text: str
    failed: bool = False


@dataclass(frozen=True)
class Flushed:
    """All that had been heard when it was asked for is out."""


@dataclass(frozen=True)
class Finished:
    """The transcript: exactly one at the end of every utterance, empty for silence."""

    text: str
    language: str | None


StageEvent = SpeakersHeard | TranslationUpdate | StageNotice
Event = SpeechStarted | SpeechStopped | TextUpdate | SegmentEnded | Flushed | Finished | StageEvent
