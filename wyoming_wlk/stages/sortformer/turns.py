"""From probabilities to what a client is told: who speaks in a frame, by which number, in which turns. No tensors."""

from __future__ import annotations

import numpy as np

from wyoming_wlk.stages.diarizer import SpeakerTurn
from wyoming_wlk.stages.sortformer.chunks import FRAME, SAMPLE_RATE
from wyoming_wlk.stages.sortformer.state import SortformerState

ONSET = 0.64
"""Somebody begins to speak above this probability."""
OFFSET = 0.56
"""Who speaks has ended below this one. Both are NVIDIA's for its streaming models, tuned on CALLHOME."""


def activity(probabilities: np.ndarray, active: list[bool]) -> np.ndarray:
    """Who speaks: [frames, channels] bool. `active` are those who spoke in the frame before."""
    found = np.zeros(probabilities.shape, bool)
    before = np.array(active, bool)
    for place, row in enumerate(probabilities):
        found[place] = before = np.where(before, row >= OFFSET, row > ONSET)
    return found


def tell(state: SortformerState, speech: np.ndarray, first: int, until: int) -> tuple[SpeakerTurn, ...]:
    """The turns from what was told up to the sample `until`. `speech` [frames, channels] begins at frame `first`."""
    if until <= state.told:
        return ()
    told = max(0, state.told // FRAME - first)
    _number(state, speech, told)
    turns = []
    for speaker in sorted({number for number in state.speakers if number}):
        channels = [channel for channel, number in enumerate(state.speakers) if number == speaker]
        for start, end in _runs(speech[told:, channels].sum(axis=1) > 0):
            start, end = max(state.told, (first + told + start) * FRAME), min(until, (first + told + end) * FRAME)
            if start < end:
                turns.append(SpeakerTurn(start / SAMPLE_RATE, end / SAMPLE_RATE, speaker))
    state.told = until
    return tuple(sorted(turns, key=lambda turn: (turn.start, turn.end, turn.speaker)))


def _number(state: SortformerState, speech: np.ndarray, told: int) -> None:
    """Gives a number to each channel that the client hears of for the first time in the frames from `told` on.

    Where all numbers are taken, it is that of the channel which has spoken most until then.
    """
    news = [channel for channel in np.flatnonzero(speech[told:].any(axis=0)) if not state.speakers[channel]]
    for frame, channel in sorted((told + int(speech[told:, channel].argmax()), int(channel)) for channel in news):
        if max(state.speakers) < state.options.max_speakers:
            state.speakers[channel] = max(state.speakers) + 1
        else:
            spoken = np.where(state.speakers, state.spoken + speech[:frame].sum(axis=0), -1)
            state.speakers[channel] = state.speakers[int(spoken.argmax())]
            state.crowded = True


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """The stretches of a mask that are set, each as (first, behind the last)."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]
