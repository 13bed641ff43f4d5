"""When each token was spoken, from the cross-attention of the alignment heads.

The idea is that of OpenAI's word timestamps: attention, normalized over tokens and smoothed over time, is a score for
"this token is spoken in this frame"; the best path that moves forward through both gives each token its frames.
"""

from __future__ import annotations

import numpy as np

FRAME_SECONDS = 0.02
_MEDIAN_FRAMES = 7


def token_spans(attention: np.ndarray) -> np.ndarray:
    """First and last-plus-one frame of each token: attention [heads, tokens, frames] -> [tokens, 2], without gaps.

    The last token ends where its own attention fades, so that trailing silence is not counted as speech.
    """
    tokens, frames = attention.shape[1:]
    if tokens == 0:
        return np.zeros((0, 2), dtype=int)
    scores = attention
    if tokens > 1:  # normalized over tokens, so that a frame everybody looks at says nothing
        spread = attention.std(axis=1, keepdims=True)
        scores = (attention - attention.mean(axis=1, keepdims=True)) / np.maximum(spread, 1e-9)
    scores = _median_filter(scores.mean(axis=0))
    starts = _monotonic_starts(scores)
    last = attention.mean(axis=0)[-1]
    strong = np.flatnonzero(last[starts[-1] :] > 0.1 * last.max())
    end = starts[-1] + (int(strong[-1]) + 1 if len(strong) else 1)
    ends = np.append(starts[1:], min(end, frames))
    return np.stack([starts, np.maximum(ends, starts + 1)], axis=1)


def _median_filter(scores: np.ndarray) -> np.ndarray:
    half = _MEDIAN_FRAMES // 2
    padded = np.pad(scores, ((0, 0), (half, half)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, _MEDIAN_FRAMES, axis=-1)
    return np.asarray(np.partition(windows, half, axis=-1)[..., half])


def _monotonic_starts(scores: np.ndarray) -> np.ndarray:
    """Dynamic programming over scores [tokens, frames]: each frame belongs to the token before or the next one.

    Vectorized over frames: what a token is worth up to a frame is the sum of its scores since it began, and the best
    beginning so far is a running maximum. Leading frames may belong to no token.
    """
    tokens, frames = scores.shape
    sums = np.cumsum(scores, axis=1, dtype=np.float64)
    gains = np.empty((tokens, frames))  # of a token's beginning in a frame, short of its sum up to a later one
    before = np.zeros(frames)
    for token in range(tokens):
        gains[token] = before - (sums[token] - scores[token])
        best = sums[token] + np.maximum.accumulate(gains[token])
        before = np.append(-np.inf, best[:-1])
    starts = np.zeros(tokens, dtype=int)
    end = frames
    for token in range(tokens - 1, -1, -1):
        if end:
            starts[token] = end = int(gains[token, :end].argmax())
    return starts
