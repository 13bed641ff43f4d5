"""Choosing tokens for all positions of a pass at once."""

from __future__ import annotations

import math

import pytest
import torch

from wyoming_wlk.engine.selection import Question, Selector
from wyoming_wlk.engine.tokenizer import Tokenizer
from wyoming_wlk.models import InstalledModel

CPU = torch.device("cpu")
VOCABULARY = 51864


@pytest.fixture(scope="module")
def tokenizer(tiny_en: InstalledModel) -> Tokenizer:
    return Tokenizer(tiny_en.tokenizer, VOCABULARY)


@pytest.fixture(scope="module")
def selector(tokenizer: Tokenizer) -> Selector:
    return Selector(tokenizer, VOCABULARY, CPU)


def noise(positions: int) -> torch.Tensor:
    return 5 * torch.randn(positions, VOCABULARY, generator=torch.Generator().manual_seed(5))


MIXED = [
    Question(),
    Question(width=3),
    Question(temperature=0.8, seed=7),
    Question(width=5, bonuses={400: 3.0, 401: 50.0}),
    Question(begins=True),
    Question(width=3, begins=True),
]


@pytest.mark.parametrize("threads", [1, 3])
def test_neighbours_change_nothing(selector: Selector, threads: int) -> None:
    """Each question gets the answer that it gets alone, to the last bit, however many threads compute it."""
    logits = noise(len(MIXED))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = selector.choose(logits.clone(), MIXED)
        alone = [selector.choose(logits[i : i + 1].clone(), [question])[0] for i, question in enumerate(MIXED)]
    finally:
        torch.set_num_threads(before)
    assert together == alone
    assert [len(answer) for answer in together] == [2, 6, 2, 10, 2, 6]


def test_log_probabilities(selector: Selector) -> None:
    """They are the model's own over what may be said, best first, without the bonuses."""
    logits = noise(1)
    [plain] = selector.choose(logits.clone(), [Question(width=2)])
    [helped] = selector.choose(logits.clone(), [Question(width=2, bonuses={plain[3][0]: 100.0})])
    assert [logprob for _, logprob in plain] == sorted((logprob for _, logprob in plain), reverse=True)
    assert helped[0] == plain[3]
    assert sum(math.exp(logprob) for _, logprob in plain) < 1


def test_what_may_not_be_said(selector: Selector, tokenizer: Tokenizer) -> None:
    """Special tokens never come, however likely; an empty text not at its beginning, but later."""
    logits = noise(3)
    logits[:, tokenizer.timestamp_begin] = logits[:, tokenizer.sot] = 90.0
    logits[:, tokenizer.eot] = 80.0
    end, begin, several = selector.choose(logits, [Question(), Question(begins=True), Question(width=2, begins=True)])
    assert end[0][0] == tokenizer.eot
    assert begin[0][0] < tokenizer.eot and all(token < tokenizer.eot for token, _ in several)


def test_samples(selector: Selector) -> None:
    """A sample depends on its seed, and becomes the likeliest token as the temperature goes to 0."""
    logits = noise(1).repeat(40, 1) / 5
    hot = selector.choose(logits.clone(), [Question(temperature=1.0, seed=seed) for seed in range(40)])
    assert len({answer[0][0] for answer in hot}) > 20
    cold = selector.choose(logits.clone(), [Question(temperature=1e-3, seed=seed) for seed in range(40)])
    assert {answer[0][0] for answer in cold} == {int(logits[0, :50000].argmax())}
