"""A row: one request while it is being decoded, with its beams. Knows nothing about the model or the device."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wyoming_wlk.engine.request import StepKind, StepRequest

if TYPE_CHECKING:
    from torch import Tensor

    from wyoming_wlk.engine.cache import ParkedRow

_MAX_NEW_TOKENS = 224
_TOKENS_PER_SECOND = 15
"""Faster than anybody speaks, in any language: what exceeds it is a loop."""


@dataclass(eq=False)
class Beam:
    """One hypothesis growing in a slot of the cache. `attention` holds [heads, frames] for each token."""

    slot: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)

    def extended(self, slot: int, token: int, logprob: float, attention: Tensor) -> Beam:
        return Beam(slot, [*self.tokens, token], [*self.logprobs, logprob], [*self.attention, attention])

    def ended(self, logprob: float) -> Beam:
        """The same with the end of text's log-probability counted in."""
        return Beam(self.slot, self.tokens, [*self.logprobs, logprob], self.attention)

    def shortened(self, count: int) -> Beam:
        keep = len(self.tokens) - count
        return Beam(self.slot, self.tokens[:keep], self.logprobs[:keep], self.attention[:keep])

    @property
    def average_logprob(self) -> float:
        """Mean over the tokens and the end of text."""
        return sum(self.logprobs) / (len(self.tokens) + 1)


@dataclass(eq=False)
class Row:
    """The decoding of one request, from its first pass over the prefix to its best hypothesis."""

    request: StepRequest
    width: int
    """Beams, and so slots, that it may take."""
    temperatures: Sequence[float]
    sequence: int
    """Arrival order, for ties."""
    frames: int = 0
    """Encoder frames of real audio."""
    language: str = ""
    prefix: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    beams: list[Beam] = field(default_factory=list)
    parked: dict[int, ParkedRow] = field(default_factory=dict)
    """What each slot held, while the row is away from the device."""
    finished: list[Beam] = field(default_factory=list)
    no_speech: float = 0.0
    attempt: int = 0
    """Index into `temperatures`."""
    turn_tokens: int = 0
    """Passes since it last got onto the device."""

    @property
    def final(self) -> bool:
        return self.request.kind is StepKind.FINAL

    @property
    def temperature(self) -> float:
        return self.temperatures[self.attempt]

    @property
    def search_width(self) -> int:
        return 1 if self.temperature > 0 else self.width

    @property
    def committed(self) -> list[int]:
        """Tokens that this decode starts from: none for a final, which hears everything anew."""
        return [] if self.final else self.request.context.committed

    @property
    def token_limit(self) -> int:
        return min(_MAX_NEW_TOKENS, 16 + _TOKENS_PER_SECOND * self.frames // 50)

    @property
    def done(self) -> bool:
        return not self.beams

    @property
    def best(self) -> Beam:
        return max(self.finished, key=lambda beam: beam.average_logprob)


def repeated_tail(tokens: Sequence[int], strict: bool) -> int:
    """How many tokens at the end only repeat what stands right before them, 0 where nothing is wrong.

    A phrase three times over is a loop (single tokens may repeat more often: "no, no, no, no"). `strict` also takes
    any four tokens that stood earlier: on audio that is cut off in a word that is the usual way to go wrong.
    """
    count = len(tokens)
    for period in range(1, 1 + min(24, count // 3)):
        times = 3 if period > 2 else 6
        if count >= times * period and all(
            tokens[count - 1 - i] == tokens[count - 1 - i - period] for i in range((times - 1) * period)
        ):
            return (times - 1) * period
    if strict and count >= 8:
        tail = list(tokens[-4:])
        if any(list(tokens[i : i + 4]) == tail for i in range(count - 7)):
            return 4
    return 0


def compression_ratio(text: str) -> float:
    """How much shorter zlib makes it: over 2.4, OpenAI's threshold, the text repeats itself."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0
