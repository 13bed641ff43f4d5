"""In which chunks the model hears: its documented settings, and the arithmetic of frames and contexts. No tensors.

Sortformer gives a prediction for each frame of 80 ms, from eight mel frames of 10 ms. A chunk is heard together with a
little of what comes before and after it: the contexts, whose own predictions count for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wyoming_wlk.errors import RequestError
from wyoming_wlk.stages.sortformer.state import SortformerState

SAMPLE_RATE = 16000
MEL_HOP = 160
MEL_REACH = 200
"""Samples before and after its middle that a mel frame is computed from; that of frame t is the sample t * MEL_HOP."""
MEL_PER_FRAME = 8
FRAME = MEL_PER_FRAME * MEL_HOP
"""Samples to a prediction."""
FRAME_MILLISECONDS = 80
LEFT = 1
"""Frames of context before a chunk, in all settings."""
CACHE = 188
"""Frames of the speakers' voices that the model remembers, in all settings."""
LEAD = 2
"""Mel frames before the first one that counts: they give it its samples, and nothing of them remains."""


@dataclass(frozen=True)
class Chunks:
    """One of the model's settings, in frames."""

    length: int
    right: int
    """Frames of context after a chunk."""
    fifo: int
    """Frames before the chunk that are heard again with it."""
    period: int
    """Frames that leave the FIFO for the cache at once."""

    @property
    def milliseconds(self) -> int:
        """A chunk's first frame waits that long for its prediction."""
        return (self.length + self.right) * FRAME_MILLISECONDS


SETTINGS = (Chunks(340, 40, 40, 300), Chunks(124, 1, 124, 124), Chunks(6, 7, 188, 144), Chunks(3, 1, 188, 144))
"""NVIDIA's, from "very high latency" (30.4 s) over 10 s and 1.04 s to "ultra low latency" (0.32 s)."""

LONGEST_MEMORY = max(CACHE, *(chunks.fifo for chunks in SETTINGS))
"""Frames of the cache or the FIFO at most."""


def chunks_for(latency: float) -> Chunks:
    """The most accurate setting that keeps within `latency` (seconds). Raises `RequestError` where none does."""
    for chunks in SETTINGS:
        if 1000 * latency + 0.5 >= chunks.milliseconds:
            return chunks
    raise RequestError(f"Sortformer needs a latency of at least {SETTINGS[-1].milliseconds / 1000:g} s")


@dataclass(frozen=True)
class Window:
    """What the network hears of one client at once."""

    chunks: Chunks
    memory: dict[str, np.ndarray]
    audio: np.ndarray
    skip: int
    """Mel frames of `audio` that are no part of the window."""
    mel: int
    """Mel frames of the window."""
    left: int
    """Frames of context before the chunk."""
    length: int
    """Frames of the chunk: so many predictions are wanted."""


def next_window(state: SortformerState, final: bool) -> Window | None:
    """The next chunk of a client with its contexts; None where it has not been heard yet.

    `final`: nothing follows, so that the right context, and the chunk itself, may be shorter.
    """
    chunks = chunks_for(state.options.latency)
    left = min(LEFT, state.frame)
    first = MEL_PER_FRAME * (state.frame - left)
    wanted = MEL_PER_FRAME * (left + chunks.length + chunks.right)
    heard = (state.clock if final else state.clock - MEL_REACH + MEL_HOP) // MEL_HOP - first
    if heard <= MEL_PER_FRAME * left or (heard < wanted and not final):
        return None
    mel = min(heard, wanted)
    end = min(state.clock, (first + mel - 1) * MEL_HOP + MEL_REACH)
    return Window(
        chunks=chunks,
        memory=state.memory,
        audio=state.audio[: end - state.origin],
        skip=first - state.origin // MEL_HOP,
        mel=mel,
        left=left,
        length=min(chunks.length, -(-mel // MEL_PER_FRAME) - left),
    )


def advance(state: SortformerState, window: Window, memory: dict[str, np.ndarray]) -> None:
    """Goes on behind a window's chunk, with what the model remembers now; drops audio that is no longer needed."""
    state.memory = memory
    state.frame += window.length
    origin = audio_origin(state.frame)
    state.audio = state.audio[origin - state.origin :].copy()
    state.origin = origin


def audio_origin(frame: int) -> int:
    """The sample from which audio is needed where the next chunk begins at `frame`."""
    return max(0, MEL_PER_FRAME * (frame - LEFT) - LEAD) * MEL_HOP
