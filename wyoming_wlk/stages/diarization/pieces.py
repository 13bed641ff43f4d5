"""Pieces of one voice: which parts of a window are worth an embedding, and what their features are."""

from __future__ import annotations

import numpy as np

from wyoming_wlk.stages.diarization.features import FRAME as FEATURE_FRAME
from wyoming_wlk.stages.diarization.features import HOP as FEATURE_HOP
from wyoming_wlk.stages.diarization.features import filter_bank
from wyoming_wlk.stages.diarization.networks import FRAME, FRAME_START, POWERSET
from wyoming_wlk.stages.diarization.state import HOP

SECOND = 16000 / FRAME
"""Frames in a second."""

LONGEST = round(SECOND)
"""Longer ones say more of a voice, but less of who speaks when."""
SHORTEST = round(0.3 * SECOND)
"""Shorter ones are mistaken for another voice too often."""
FARTHEST = round(2.5 * SECOND)
"""How far a piece may reach back over others' speech, which it leaves out."""
PAUSE = round(0.25 * SECOND)
"""A piece does not reach back over a longer pause: before it, the local speaker may have been somebody else."""
FRESH = round(0.1 * SECOND)
"""Of the newest half second a voice must fill this much to be embedded again."""


def most_likely(window: np.ndarray) -> np.ndarray:
    """Who speaks by the segmentation's likeliest class, [frames, classes] -> [frames, speakers] bool."""
    active: np.ndarray = POWERSET[window.argmax(axis=1)] > 0
    return active


def alone(activity: np.ndarray) -> np.ndarray:
    """Activity [frames, speakers] without the frames in which several speak."""
    single: np.ndarray = activity & (activity.sum(axis=1, keepdims=True) == 1)
    return single


def new_pieces(activity: np.ndarray, known: np.ndarray) -> list[np.ndarray]:
    """Masks [frames] of a window's newest pieces: of each local speaker that just spoke alone, its latest frames.

    `known` [frames] are those that earlier pieces have: at least half of a piece must be new.
    """
    found = []
    for speaker in alone(activity).T:
        if speaker[-HOP:].sum() < FRESH:
            continue
        frames = np.flatnonzero(speaker)
        frames = frames[frames >= len(speaker) - FARTHEST]
        pauses = np.flatnonzero(np.diff(frames) > PAUSE)
        frames = frames[pauses[-1] + 1 if len(pauses) else 0 :][-LONGEST:]
        if len(frames) >= SHORTEST and 2 * known[frames].sum() <= len(frames):
            mask = np.zeros(len(speaker), bool)
            mask[frames] = True
            found.append(mask)
    return found


def piece_features(audio: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The filter bank [n, 80] of a window's samples where the mask says so, the parts one behind the other."""
    first = int(mask.argmax()) * FRAME
    start = max(0, (first + FRAME_START - FEATURE_FRAME) // FEATURE_HOP * FEATURE_HOP)
    features = filter_bank(audio[start:])
    middles = start + FEATURE_HOP * np.arange(len(features)) + FEATURE_FRAME // 2
    chosen: np.ndarray = features[mask[np.clip((middles - FRAME_START) // FRAME, 0, len(mask) - 1)]]
    return chosen
