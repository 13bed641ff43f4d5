"""What the segmentation says of the windows that reach over the horizon, and how the pieces lie in them."""

from __future__ import annotations

import numpy as np

from wyoming_wlk.stages.diarization.networks import LOCAL_SPEAKERS, POWERSET, WINDOW, WINDOW_FRAMES
from wyoming_wlk.stages.diarization.pieces import alone, most_likely
from wyoming_wlk.stages.diarization.state import HOP, DiarizationState


class Pending:
    """Read off a state; frames count from `base`, where the oldest window begins."""

    def __init__(self, state: DiarizationState) -> None:
        count = len(state.windows)
        self.base = state.heard - WINDOW - (count - 1) * HOP
        self.length = state.heard - self.base
        self.likely: np.ndarray = state.windows @ POWERSET
        """How likely each local speaker speaks, [windows, frames, 3]."""
        self.silence: np.ndarray = state.windows[:, :, 0]
        self.overlap: np.ndarray = state.windows[:, :, LOCAL_SPEAKERS + 1 :].sum(axis=2)
        """How likely nobody speaks, and that two do at once, [windows, frames]."""
        self.alone = np.stack([alone(most_likely(window)) for window in state.windows])
        """Where a local speaker most likely speaks alone, [windows, frames, 3] bool."""
        starts = state.ends - WINDOW + state.masks.argmax(axis=1)
        self.rows = np.flatnonzero(starts >= self.base)
        """The pieces that lie in the windows as a whole: their places in the state."""
        self.frames = np.zeros((len(self.rows), self.length), np.float32)
        """[pieces, frames]: what they are made of."""
        for place, row in enumerate(self.rows):
            start = int(state.ends[row]) - WINDOW - self.base
            mask = state.masks[row][max(0, -start) :]
            self.frames[place, max(0, start) : max(0, start) + len(mask)] = mask
        self.cover = np.zeros(self.length)
        """[frames]: how many windows there are."""
        for number in range(count):
            self.cover[self.here(number)] += 1
        self.cover = np.maximum(self.cover, 1)
        self.lengths = np.maximum(self.frames.sum(axis=1), 1)

    def here(self, number: int) -> slice:
        """The frames of a window."""
        return slice(number * HOP, number * HOP + WINDOW_FRAMES)
