"""Streaming policies: given a hypothesis over audio that is still growing, how much of it will not change?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Evidence:
    """What a policy may look at: the new hypothesis after the committed tokens, and the step before."""

    tokens: Sequence[int]
    frames: Sequence[int]
    """The encoder frame (20 ms) that each token attends to most."""
    probabilities: Sequence[float]
    audio_frames: int
    """Frames of real audio in the window."""
    frame_threshold: int
    """How many frames before the end of the audio the client wants a committed token to look."""
    previous: Sequence[int]
    """The previous step's tokens after the same committed ones."""


class Policy(Protocol):
    """Decides how many of the leading tokens may be committed; the caller cuts that down to whole words."""

    def stable(self, evidence: Evidence) -> int: ...
