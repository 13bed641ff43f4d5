"""A row: one request while it is being decoded, with its beams. Knows nothing about the model or the device."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from wyoming_wlk.engine.biasing import Match, NameTree
from wyoming_wlk.engine.request import StepKind, StepRequest

if TYPE_CHECKING:
    from torch import Tensor

    from wyoming_wlk.engine.cache import ParkedRow

_MAX_NEW_TOKENS = 224
_SPOKEN_FRAMES = 3
"""Attention moves on by at least so many frames (60 ms) for each token that was really spoken."""

_TOKENS_PER_SECOND = 15
"""Faster than anybody speaks, in any language: what exceeds it is a loop."""


@dataclass(eq=False)
class Beam:
    """One hypothesis growing in a slot of the cache. `attention` holds [heads, frames] for each token, `frames` where
    each looks most, `match` what expected names are in it."""

    slot: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    match: Match = Match()

    def extended(self, slot: int, token: int, logprob: float, attention: Tensor, match: Match) -> Beam:
        frame = int(attention.mean(dim=0).argmax())
        return Beam(
            slot,
            [*self.tokens, token],
            [*self.logprobs, logprob],
            [*self.attention, attention],
            [*self.frames, frame],
            match,
        )

    def ended(self, logprob: float) -> Beam:
        """The same with the end of text's log-probability counted in."""
        return replace(self, logprobs=[*self.logprobs, logprob])

    def shortened(self, count: int, names: NameTree) -> Beam:
        keep = len(self.tokens) - count
        tokens = self.tokens[:keep]
        return Beam(
            self.slot, tokens, self.logprobs[:keep], self.attention[:keep], self.frames[:keep], names.match(tokens)
        )

    @property
    def average_logprob(self) -> float:
        """Mean over the tokens and the end of text."""
        return sum(self.logprobs) / (len(self.tokens) + 1)


@dataclass(frozen=True)
class Attempt:
    """A way to decode a row: the best of so many beams, or a sample where the temperature is over 0."""

    beams: int = 1
    temperature: float = 0.0


@dataclass(eq=False)
class Row:
    """The decoding of one request, from its first pass over the prefix to its best hypothesis."""

    request: StepRequest
    attempts: Sequence[Attempt]
    """Made one after the other, until the text is good."""
    sequence: int
    """Arrival order, for ties."""
    names: NameTree = NameTree(())
    """What the client expects to hear."""
    arrival: float = 0.0
    """When it came (monotonic seconds)."""
    encoding: bool = False
    """On its way through the encoder: it has its place on the device, but nothing to decode yet."""
    frames: int = 0
    """Encoder frames of real audio."""
    language: str = ""
    prefix: list[int] = field(default_factory=list)
    prompt_length: int = 0
    """Tokens of the prefix before start-of-transcript."""
    known: int = 0
    """Tokens of the prefix whose keys and values come from the last step."""
    unread: list[int] = field(default_factory=list)
    """The rest of the prefix, until the first pass has read it."""
    draft: list[int] = field(default_factory=list)
    """What the last step heard: likely to be heard again."""
    slots: list[int] = field(default_factory=list)
    beams: list[Beam] = field(default_factory=list)
    parked: dict[int, ParkedRow] = field(default_factory=dict)
    """What each slot held, while the row is away from the device."""
    finished: list[Beam] = field(default_factory=list)
    no_speech: float = 0.0
    attempt: int = 0
    """Index into `attempts`."""
    turn_tokens: int = 0
    """Passes since it last got onto the device."""

    @property
    def final(self) -> bool:
        return self.request.kind is StepKind.FINAL

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for it who has said everything."""
        return self.final and self.request.awaited

    @property
    def rank(self) -> int:
        """0 for a final that somebody waits for, 1 for one that may be needed soon, 2 for a partial."""
        return 0 if self.awaited else 1 if self.final else 2

    @property
    def width(self) -> int:
        """Slots that it takes: one for each beam of its widest attempt."""
        return max(attempt.beams for attempt in self.attempts)

    @property
    def temperature(self) -> float:
        return self.attempts[self.attempt].temperature

    @property
    def search_width(self) -> int:
        return self.attempts[self.attempt].beams

    @property
    def committed(self) -> list[int]:
        """Tokens that this decode starts from: none for a final, which hears everything anew."""
        return [] if self.final else self.request.context.committed

    @property
    def token_limit(self) -> int:
        return min(_MAX_NEW_TOKENS, 16 + _TOKENS_PER_SECOND * self.frames // 50)

    @property
    def done(self) -> bool:
        return not self.beams and not self.encoding

    @property
    def best(self) -> Beam:
        """The finished hypothesis that is likeliest per token; the bonus for its names counts per token of the longest,
        for it must not make short ones better."""
        longest = max(len(beam.tokens) for beam in self.finished) + 1
        return max(self.finished, key=lambda beam: beam.average_logprob + beam.match.earned / longest)


@dataclass(frozen=True)
class Repeat:
    """The last `span` tokens stood before, `distance` tokens earlier; without the loop there are `drop` tokens less."""

    drop: int
    span: int
    distance: int


def repeated_tail(tokens: Sequence[int], strict: bool) -> Repeat | None:
    """Whether the end only repeats what stands before it.

    A phrase three times over may be a loop (single tokens may repeat more often: "no, no, no, no"). `strict` also takes
    any four tokens that stood earlier: on audio that is cut off in a word that is the usual way to go wrong.
    """
    count = len(tokens)
    for period in range(1, 1 + min(24, count // 3)):
        times = 3 if period > 2 else 6
        if count >= times * period and all(
            tokens[count - 1 - i] == tokens[count - 1 - i - period] for i in range((times - 1) * period)
        ):
            return Repeat((times - 1) * period, period, period)
    if strict and count >= 8:
        tail = list(tokens[-4:])
        for start in range(count - 8, -1, -1):
            if list(tokens[start : start + 4]) == tail:
                return Repeat(4, 4, count - 4 - start)
    return None


def continuation(draft: Sequence[int], tokens: Sequence[int], most: int) -> list[int]:
    """What the draft says behind the hypothesis' last two tokens; of several places the one nearest to where they stand
    now (lookup decoding: Saxena, 2023)."""
    if len(tokens) < 2:
        return []
    places = [end for end in range(2, len(draft)) if list(draft[end - 2 : end]) == list(tokens[-2:])]
    if not places:
        return []
    place = min(places, key=lambda end: abs(end - len(tokens)))
    return list(draft[place : place + most])


def was_spoken(repeat: Repeat, frames: Sequence[int], attended: int) -> bool:
    """Whether a repeat is the speaker's and not a loop: attention has moved on since the first time.

    `frames`: what each token of the hypothesis attends to; what stands before it was committed, up to `attended`.
    """
    now = frames[len(frames) - min(repeat.span, len(frames)) :]
    begin = len(frames) - repeat.span - repeat.distance
    if begin < 0:
        return sum(now) / len(now) > attended
    before = frames[begin : begin + repeat.span]
    return sum(now) / len(now) - sum(before) / len(before) >= _SPOKEN_FRAMES * repeat.span


def compression_ratio(text: str) -> float:
    """How much shorter zlib makes it: over 2.4, OpenAI's threshold, the text repeats itself."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0
