"""When tokens were spoken, read from attention."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from wyoming_wlk.engine.alignment import _monotonic_starts, token_spans


def test_starts_are_the_best_there_are() -> None:
    """No other beginnings, in order and a frame or more apart, have a higher sum of scores."""
    random = np.random.default_rng(0)
    for tokens, frames in ((1, 5), (3, 7), (4, 9), (6, 6)):
        scores = random.standard_normal((tokens, frames)).astype(np.float32)

        def worth(starts: tuple[int, ...], scores: np.ndarray = scores) -> float:
            ends = [*starts[1:], scores.shape[1]]
            return sum(scores[token, starts[token] : ends[token]].sum() for token in range(len(starts)))

        best = max(combinations(range(frames), tokens), key=worth)
        assert tuple(_monotonic_starts(scores)) == best


def test_more_tokens_than_frames() -> None:
    """What finds no frame of its own begins with the window."""
    assert token_spans(np.random.default_rng(1).random((2, 5, 3))).shape == (5, 2)
    assert token_spans(np.zeros((2, 0, 3))).shape == (0, 2)


def test_tokens_follow_their_peaks() -> None:
    """Tokens that look at one place after the other have these places, without gaps between them."""
    attention = np.full((3, 4, 80), 0.01)
    for token in range(4):
        attention[:, token, 20 * token : 20 * token + 16] = 1.0
    spans = token_spans(attention)
    assert np.array_equal(spans[1:, 0], spans[:-1, 1])
    assert all(-5 <= start - 20 * token <= 1 for token, (start, _) in enumerate(spans))
    assert abs(spans[-1, 1] - 76) <= 2
