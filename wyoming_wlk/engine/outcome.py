"""What a finished row means: committed and tentative words of a partial step, the whole text of a final one.

Here the policies and the guards are applied and times are read from the attention; the client's context is updated
with what a partial step committed. Knows nothing of the model or the device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wyoming_wlk.engine.alignment import FRAME_SECONDS, token_spans
from wyoming_wlk.engine.context import SAMPLE_RATE, DecoderContext
from wyoming_wlk.engine.hypothesis import Beam, Row, compression_ratio
from wyoming_wlk.engine.policies import Evidence, Policy
from wyoming_wlk.engine.request import StepKind, StepResult, Word
from wyoming_wlk.engine.tokenizer import Tokenizer

_BACKWARD_FRAMES = 50
"""How far (1 s) attention may jump back before the rest of the hypothesis is distrusted; a stricter guard starves."""


@dataclass(frozen=True)
class Quality:
    """OpenAI's thresholds for text that is no transcript, and from which log-probability on further beams find nothing
    better; log-probabilities are means per token."""

    sure_logprob: float = -0.25
    min_logprob: float = -1.0
    max_compression_ratio: float = 2.4
    max_no_speech: float = 0.6


class Interpreter:
    """Turns rows into results, by the policies that clients chose."""

    def __init__(self, tokenizer: Tokenizer, policies: Mapping[str, Policy], quality: Quality) -> None:
        self._tokenizer, self._policies, self._quality = tokenizer, policies, quality

    def wants_retry(self, row: Row) -> bool:
        """Whether a row's text is poor enough for its next attempt, or unsure enough where that one has more beams."""
        if row.attempt + 1 >= len(row.attempts) or self._is_silence(row):
            return False
        beam, quality = row.best, self._quality
        wider = row.attempts[row.attempt + 1].beams > row.search_width
        least = quality.sure_logprob if wider else quality.min_logprob
        return beam.average_logprob < least or self._repeats(beam)

    def result(self, row: Row) -> StepResult:
        """The step's result; a partial's commitment is written into the context."""
        context = row.request.context
        end = context.end / SAMPLE_RATE
        if self._is_silence(row):
            context.tentative = []
            return StepResult(row.request.kind, (), (), None, end)
        if row.final:
            tokens = row.best.tokens[: self._tokenizer.complete_length(row.best.tokens)]
            words = self._words(context, row, len(tokens), since=0)
            return StepResult(StepKind.FINAL, words, (), row.language, end)
        return self._commit(row, context, end)

    def _commit(self, row: Row, context: DecoderContext, end: float) -> StepResult:
        tokens = row.best.tokens
        tokens, frames = _forward_only(tokens, row.best.frames, context.attended)
        probabilities = [math.exp(logprob) for logprob in row.best.logprobs[: len(tokens)]]
        evidence = Evidence(
            tokens, frames, probabilities, row.frames, context.options.frame_threshold, context.tentative
        )
        stable = self._policies[context.options.policy].stable(evidence)
        count = self._whole_words(tokens, min(stable, self._tokenizer.complete_length(tokens)), row.language)
        words = self._words(context, row, self._tokenizer.complete_length(tokens), since=context.attended)
        committed: list[Word] = []
        taken = 0
        for word in words:
            taken += len(word.tokens)
            if taken > count:
                break
            committed.append(word)
        context.committed = context.committed + tokens[:count]
        context.tentative = tokens[count:]
        if count:
            context.attended = max(context.attended, *frames[:count])
            context.language = row.language
        tentative = words[len(committed) :]
        return StepResult(StepKind.PARTIAL, tuple(committed), tentative, row.language, end)

    def _is_silence(self, row: Row) -> bool:
        """No words out of noise: the model doubts that there is speech and is unsure of what it wrote."""
        if not row.best.tokens or not row.frames:
            return True
        return row.no_speech > self._quality.max_no_speech and row.best.average_logprob < self._quality.min_logprob

    def _repeats(self, beam: Beam) -> bool:
        return compression_ratio(self._tokenizer.decode(beam.tokens)) > self._quality.max_compression_ratio

    def _whole_words(self, tokens: list[int], count: int, language: str) -> int:
        """`count` cut down to words that are complete: followed by another word."""
        whole = 0
        for word in self._tokenizer.split_words(tokens, language)[:-1]:
            if whole + len(word) > count:
                break
            whole += len(word)
        return whole

    def _words(self, context: DecoderContext, row: Row, count: int, since: int) -> tuple[Word, ...]:
        """Words of the best hypothesis' first `count` tokens, none of them before frame `since`."""
        beam = row.best
        if not count:
            return ()
        since = max(0, min(since, row.frames - 1))
        spans = token_spans(_stack(beam)[:, :count, since : row.frames]) + since
        origin = context.offset / SAMPLE_RATE
        words, position = [], 0
        for group in self._tokenizer.split_words(beam.tokens[:count], row.language):
            part = slice(position, position + len(group))
            position += len(group)
            words.append(
                Word(
                    start=round(origin + float(spans[part][0, 0]) * FRAME_SECONDS, 2),
                    end=round(origin + float(spans[part][-1, 1]) * FRAME_SECONDS, 2),
                    text=self._tokenizer.decode(group),
                    probability=round(math.exp(sum(beam.logprobs[part]) / len(group)), 4),
                    tokens=tuple(group),
                )
            )
        return tuple(words)


def _stack(beam: Beam) -> np.ndarray:
    """The attention of all tokens: [heads, tokens, frames]."""
    return np.stack([weights.numpy(force=True) for weights in beam.attention], axis=1).astype(np.float32)


def _forward_only(tokens: list[int], frames: list[int], attended: int) -> tuple[list[int], list[int]]:
    """The hypothesis up to where its attention runs backwards."""
    for index, frame in enumerate(frames):
        if frame < attended - _BACKWARD_FRAMES:
            return tokens[:index], frames[:index]
        attended = max(attended, frame)
    return tokens, frames
