"""Figures of the last minute, for those who watch a server. Written by any thread, read by any other."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

_SECONDS = 60.0
_KEPT = 5000


class Recent:
    """Values of the last minute."""

    def __init__(self) -> None:
        self._values: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        self.total = 0.0
        """Sum of all values there ever were."""

    def add(self, value: float) -> None:
        self.total += value
        self._values.append((time.monotonic(), value))

    def values(self) -> list[float]:
        """In ascending order."""
        oldest = time.monotonic() - _SECONDS
        return sorted(value for when, value in self._values.copy() if when >= oldest)


@dataclass
class EngineStatistics:
    """Times in seconds."""

    step: Recent = field(default_factory=Recent)
    """From a request to its result."""
    queue: Recent = field(default_factory=Recent)
    """From a request to its first pass."""
    batch: Recent = field(default_factory=Recent)
    """Rows in a pass."""
    encoder: Recent = field(default_factory=Recent)
    """Time in the encoder, log-mel included."""
    decoder: Recent = field(default_factory=Recent)
    """Time in a pass of the decoder, with what is made of its output."""


@dataclass
class SessionStatistics:
    """Times in seconds."""

    audio: Recent = field(default_factory=Recent)
    """Audio that came in."""
    word_delay: Recent = field(default_factory=Recent)
    """From when a word ended, as it arrived, to when it was committed."""
    step_interval: Recent = field(default_factory=Recent)
    """From one partial result of a client to its next, without a final between them."""
