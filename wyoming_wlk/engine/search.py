"""The search for a row's best text: what to ask of each position, and what hypotheses become with the answers.

Moves beams between the slots of the cache; computes nothing with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from wyoming_wlk.engine.biasing import Match
from wyoming_wlk.engine.cache import KVCache
from wyoming_wlk.engine.hypothesis import Beam, Row, repeated_tail, was_spoken
from wyoming_wlk.engine.selection import Candidate, Question
from wyoming_wlk.engine.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

_LAST_FRAMES = 10
"""A partial that looks at the last 0.2 s has heard what there is: what it would say next is cut off in a word."""

_UNHEARD_FRAMES = 75
"""Where so much is left (1.5 s), a text that ends less surely than `_SURE_OF_END` goes on."""

_SURE_OF_END = math.log(0.5)


class Search:
    """Greedy, with beams, or by samples, as each row's attempt says. `limit`: tokens that a slot may hold."""

    def __init__(self, tokenizer: Tokenizer, cache: KVCache, limit: int) -> None:
        self._tokenizer, self._cache, self._limit = tokenizer, cache, limit

    def questions(self, row: Row, draft: list[int]) -> list[Question]:
        """For each token of the draft, as if those before it were right, and for the one after it."""
        match, begin = row.beams[0].match, len(row.beams[0].tokens)
        questions = [self.question(row, match, begin)]
        for count, token in enumerate(draft, begin + 1):
            match = row.names.step(match, token)
            questions.append(self.question(row, match, count))
        return questions

    @staticmethod
    def question(row: Row, match: Match, count: int) -> Question:
        """What may come after `count` tokens of a hypothesis."""
        width = row.search_width
        bonuses = row.names.bonuses(match, alone=width == 1) if row.names else {}
        return Question(width, not count and not row.committed, row.temperature, count, bonuses)

    def verify(self, row: Row, draft: list[int], answers: Sequence[list[Candidate]], evidence: Tensor) -> None:
        """Takes over the draft as far as the model agrees, and the token it says instead. evidence: [heads, draft + 1,
        frames]."""
        slot = row.beams[0].slot
        for position, answer in enumerate(answers):
            self.extend(row, [answer], evidence[:, position : position + 1])
            if row.done or row.beams[0].tokens[-1] != (draft[position] if position < len(draft) else None):
                break
        text = (row.beams or row.finished)[-1].tokens
        self._cache.tokens[slot] = len(row.prefix) + len(text) - 1

    def extend(self, row: Row, answers: Sequence[list[Candidate]], evidence: Tensor) -> None:
        """One step of the search. answers: for each beam what may come next; evidence: attention [heads, beams,
        frames]."""
        grown: list[tuple[int, int, float]] = []
        candidates = self._candidates(row, answers)
        for parent, token, logprob in candidates:
            if token == self._tokenizer.eot:
                if len(candidates) > 1 and _ends_too_early(row, row.beams[parent], logprob):
                    continue
                row.finished.append(row.beams[parent].ended(logprob))
            else:
                grown.append((parent, token, logprob))
            if len(grown) == row.search_width:
                break
        if len(row.finished) >= row.search_width:
            grown = []
        beams = self._grow(row, grown, evidence)
        row.beams = []
        for beam in beams:
            full = len(beam.tokens) >= row.token_limit or len(row.prefix) + len(beam.tokens) >= self._limit
            looped = self._looped(row, beam)
            heard = _moves_forward(row) and beam.frames[-1] >= row.frames - _LAST_FRAMES
            if looped or full or heard:
                row.finished.append(beam.shortened(looped, row.names))
            else:
                row.beams.append(beam)

    def _looped(self, row: Row, beam: Beam) -> int:
        """How many tokens at the end of a hypothesis are a loop of the model's."""
        repeat = repeated_tail([*row.committed, *beam.tokens], strict=not row.final)
        if repeat is None:
            return 0
        if was_spoken(repeat, beam.frames, row.request.context.attended):
            return 0
        return min(repeat.drop, len(beam.tokens))

    def _candidates(self, row: Row, answers: Sequence[list[Candidate]]) -> list[tuple[int, int, float]]:
        """(beam, token, log-probability of the token), best first. Names that are expected count in the order alone;
        for one beam they have counted already."""
        found = [(beam, *candidate) for beam, candidates in enumerate(answers) for candidate in candidates]
        if row.search_width == 1:
            return found
        return sorted(found, key=lambda item: self._total(row, *item), reverse=True)

    def _total(self, row: Row, index: int, token: int, logprob: float) -> float:
        """What a beam would be worth with one more token."""
        beam = row.beams[index]
        match = row.names.step(beam.match, token)
        return sum(beam.logprobs) + logprob + match.earned + match.pending

    def _grow(self, row: Row, grown: list[tuple[int, int, float]], evidence: Tensor) -> list[Beam]:
        """The next beams: each stays in its parent's slot, further children of one parent get copies of its tokens."""
        parents = {row.beams[index].slot for index, _, _ in grown}
        spare = [slot for slot in row.slots if slot not in parents]
        beams: list[Beam] = []
        for index, token, logprob in grown:
            parent = row.beams[index]
            slot = parent.slot
            if any(beam.slot == slot for beam in beams):
                slot = spare.pop()
                self._cache.copy_tokens(parent.slot, slot)
            match = row.names.step(parent.match, token)
            beams.append(parent.extended(slot, token, logprob, evidence[:, index], match))
        return beams


def _moves_forward(row: Row) -> bool:
    """Whether where a partial looks tells how much it has said: a translation puts words in another order."""
    return not row.final and row.request.context.options.task == "transcribe"


def _ends_too_early(row: Row, beam: Beam, logprob: float) -> bool:
    """Whether a partial ends its text, unsurely, although somebody has spoken on for a while: the likeliest word then
    takes the end's place."""
    heard = beam.frames[-1] if beam.frames else row.request.context.attended
    return _moves_forward(row) and heard < row.frames - _UNHEARD_FRAMES and logprob < _SURE_OF_END
