"""The engine's whole interface: what a client wants, what one step is given, and what it gives back. Plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from wyoming_wlk.engine.context import SAMPLE_RATE, DecoderContext


@dataclass(frozen=True)
class Word:
    """A word with its time on the client's sample clock, in seconds, and the model's probability for it.

    `text` starts with its space where the language writes one, so that words join by concatenation.
    """

    start: float
    end: float
    text: str
    probability: float
    tokens: tuple[int, ...] = field(default=(), repr=False)


class StepKind(Enum):
    """PARTIAL commits what will not change and shows the rest; FINAL decodes the whole window anew at full quality."""

    PARTIAL = "partial"
    FINAL = "final"


@dataclass(eq=False)
class StepRequest:
    """One step for one client. The engine owns `context` until the result is there or the request is dropped."""

    context: DecoderContext
    kind: StepKind
    deadline: float
    """Arrival of the oldest audio not yet decoded (monotonic seconds): the scheduler serves the oldest first."""
    client: str
    """The client's id, for the log."""
    awaited: bool = False
    """Whether the client has said everything and now waits for this; may become so while the step runs."""
    cancelled: bool = False
    fill: Callable[[], None] = lambda: None
    """Called on the event loop when the step's turn has come: takes audio into the window that came while it waited."""
    coming: float = 0.0
    """Seconds of audio that it will take, as far as is known."""

    @property
    def seconds(self) -> float:
        """Length of the window."""
        return len(self.context.audio) / SAMPLE_RATE + self.coming


@dataclass(frozen=True)
class StepResult:
    """What a step found.

    A PARTIAL's `words` are newly committed and `tentative` may change; a FINAL's `words` are the whole window's and
    `tentative` is empty. `language` is None until it is known.
    """

    kind: StepKind
    words: tuple[Word, ...]
    tentative: tuple[Word, ...]
    language: str | None
    audio_end: float
    """End of the audio this step saw, in seconds on the client's clock."""
