"""When each token was spoken, from the cross-attention of the alignment heads.

The idea is that of OpenAI's word timestamps: attention, normalized over tokens and smoothed over time, is a score for
"this token is spoken in this frame"; the best path that moves forward through both gives each token its frames.
"""

from __future__ import annotations

import numpy as np

FRAME_SECONDS = 0.02
_MEDIAN_FRAMES = 7


def attended_frames(attention: np.ndarray) -> np.ndarray:
    """The frame each token looks at most: attention [heads, tokens, frames] -> [tokens]."""
    return np.asarray(attention.mean(axis=0).argmax(axis=1))


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

    Vectorized over tokens, one pass over frames. Leading frames may belong to no token.
    """
    tokens, frames = scores.shape
    best = np.full(tokens + 1, -np.inf)
    best[0] = 0.0
    moved = np.zeros((frames, tokens + 1), dtype=bool)
    for frame in range(frames):
        advance = best[:-1]
        moved[frame, 1:] = advance > best[1:]
        best[1:] = np.where(moved[frame, 1:], advance, best[1:]) + scores[:, frame]
    starts = np.zeros(tokens, dtype=int)
    token = tokens
    for frame in range(frames - 1, -1, -1):
        if token and moved[frame, token]:
            starts[token - 1] = frame
            token -= 1
    return starts
