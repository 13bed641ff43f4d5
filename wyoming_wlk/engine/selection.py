"""Which tokens may come next, for all positions of a pass at once: one transfer from the device, whatever the batch.

Knows nothing of rows or clients; a position of one row gets the same answer in any batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wyoming_wlk.engine.tokenizer import Tokenizer
from wyoming_wlk.engine.transfer import upload

Candidate = tuple[int, float]
"""A token and its log-probability."""


@dataclass(frozen=True)
class Question:
    """What is asked of one position: the likeliest `2 * width` tokens, for a search with so many beams; or a sample,
    where the temperature is over 0."""

    width: int = 1
    begins: bool = False
    """Whether a text begins there, which may not be empty."""
    temperature: float = 0.0
    seed: int = 0
    bonuses: Mapping[int, float] = field(default_factory=dict)
    """What tokens are worth beside their log-probability, in the choice alone."""


class Selector:
    """Answers questions about the logits of one model."""

    def __init__(self, tokenizer: Tokenizer, n_vocab: int, device: torch.device) -> None:
        self._device = device
        self._suppress = torch.zeros(n_vocab, device=device)
        self._suppress[list(tokenizer.suppressed)] = -math.inf
        self._suppress[tokenizer.timestamp_begin :] = -math.inf
        self._at_begin = torch.tensor([tokenizer.space, tokenizer.eot], device=device)

    def choose(self, logits: Tensor, questions: Sequence[Question]) -> list[list[Candidate]]:
        """Candidates for each position, best first. `logits` [positions, n_vocab] in float32, which are changed."""
        logits += self._suppress
        if begins := [position for position, question in enumerate(questions) if question.begins]:
            logits[upload(begins, self._device)[:, None], self._at_begin] = -math.inf
        # log_softmax, because logsumexp sums one row alone in another order than rows of a batch
        logprobs, scores = torch.log_softmax(logits, dim=-1), self._with_bonuses(logits, questions)
        groups: dict[int, list[int]] = {}
        for position, question in enumerate(questions):
            groups.setdefault(question.width, []).append(position)
        found: list[Tensor] = []
        for width, members in groups.items():
            where = slice(None) if len(groups) == 1 else upload(members, self._device)
            tokens = scores[where].topk(2 * width, dim=-1).indices
            for place, position in enumerate(members):
                if questions[position].temperature > 0:
                    tokens[place] = _sample(scores[position], questions[position])
            found += [tokens.flatten(), logprobs[where].gather(1, tokens).flatten()]
        values = torch.cat([part.float() for part in found]).tolist()  # exact for tokens, too
        return _by_position(groups, values)

    def _with_bonuses(self, logits: Tensor, questions: Sequence[Question]) -> Tensor:
        bonuses = [(at, token, bonus) for at, q in enumerate(questions) for token, bonus in q.bonuses.items()]
        if not bonuses:
            return logits
        positions, tokens, values = zip(*bonuses, strict=True)
        scores = logits.clone()
        scores[upload(positions, self._device), upload(tokens, self._device)] += upload(values, self._device)
        return scores


def _sample(scores: Tensor, question: Question) -> Tensor:
    """Seeded by the question alone, so that a client gets the same whoever else is there."""
    generator = torch.Generator(scores.device).manual_seed(question.seed)
    return torch.multinomial(torch.softmax(scores / question.temperature, dim=-1), 1, generator=generator)


def _by_position(groups: Mapping[int, Sequence[int]], values: list[float]) -> list[list[Candidate]]:
    """Sorts the values, for each group its tokens and then their log-probabilities, by position."""
    answers: dict[int, list[Candidate]] = {}
    begin = 0
    for width, members in groups.items():
        count = 2 * width
        size = len(members) * count
        tokens, logprobs = values[begin : begin + size], values[begin + size : begin + 2 * size]
        begin += 2 * size
        for place, position in enumerate(members):
            span = slice(place * count, (place + 1) * count)
            answers[position] = [
                (int(token), logprob)
                for token, logprob in zip(tokens[span], logprobs[span], strict=True)
                if logprob > -math.inf
            ]
    return [answers[position] for position in range(len(answers))]
