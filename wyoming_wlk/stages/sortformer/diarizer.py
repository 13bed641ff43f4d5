"""The Sortformer diarizer: audio of many clients in, speaker turns out. Knows no NeMo.

Chunks come as the model's settings say, whatever portions the audio comes in. What is wanted of a chunk that has not
been heard to its end is predicted on a copy of the client's state: the state itself goes on as if nothing had been
asked, so that a pause costs no accuracy and moves no later chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Protocol

import numpy as np

from wyoming_wlk.errors import RequestError
from wyoming_wlk.stages.diarizer import DiarizationOptions, Diarizer, Heard, Settled
from wyoming_wlk.stages.sortformer.chunks import (
    FRAME,
    LONGEST_MEMORY,
    SAMPLE_RATE,
    Window,
    advance,
    audio_origin,
    chunks_for,
    next_window,
)
from wyoming_wlk.stages.sortformer.state import SortformerState
from wyoming_wlk.stages.sortformer.turns import activity, tell


class Network(Protocol):
    """The model, without state of clients."""

    channels: int
    """Voices that it tells apart."""

    def begin(self) -> dict[str, np.ndarray]:
        """What it remembers of a client before it has heard anything."""

    def run(self, windows: Sequence[Window]) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """For each window the probabilities of the chunk [length, channels] and what is remembered after it."""


class SortformerDiarizer(Diarizer[SortformerState]):
    """Used on the thread that loaded the network."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def begin(self, options: DiarizationOptions) -> SortformerState:
        _check(options)
        channels = self._network.channels
        return SortformerState(options, self._network.begin(), [False] * channels, [0] * channels, [0] * channels)

    def restore(self, data: bytes) -> SortformerState:
        state = SortformerState.from_bytes(data)
        try:
            _check(state.options)
            fits = _fits(state, self.begin(state.options))
        except (RequestError, TypeError) as err:
            raise ValueError(f"no state of Sortformer: {err}") from err
        if not fits:
            raise ValueError("a state of another model")
        return state

    def step(self, items: Sequence[Heard[SortformerState]]) -> list[Settled | Exception]:
        states = [heard.state for heard in items]
        for heard in items:
            heard.state.audio = np.concatenate([heard.state.audio, heard.audio.astype(np.float32, copy=False)])
        frames = [state.frame for state in states]
        certain = self._hear(states, final=False)
        tails = iter(self._hear([copy(heard.state) for heard in items if heard.last], final=True))
        settled: list[Settled | Exception] = []
        for heard, frame, probabilities in zip(items, frames, certain, strict=True):
            rest = next(tails) if heard.last else np.zeros((0, self._network.channels))
            settled.append(_settle(heard, frame, probabilities, rest))
        return settled

    def _hear(self, states: Sequence[SortformerState], final: bool) -> list[np.ndarray]:
        """Moves all on as far as their audio goes, together; returns the probabilities [frames, channels] of each."""
        found = [[np.zeros((0, self._network.channels))] for _ in states]
        while due := [
            (place, window) for place, state in enumerate(states) if (window := next_window(state, final)) is not None
        ]:
            results = self._network.run([window for _, window in due])
            for (place, window), (probabilities, memory) in zip(due, results, strict=True):
                found[place].append(probabilities)
                advance(states[place], window, memory)
        return [np.concatenate(parts) for parts in found]


def _settle(heard: Heard[SortformerState], frame: int, certain: np.ndarray, rest: np.ndarray) -> Settled:
    """What a client is told: the frames since `frame`, and the `rest` that is only certain because it was asked for."""
    state = heard.state
    speech = activity(np.concatenate([certain, rest]), state.active)
    until = state.clock if heard.last else max(state.told, state.frame * FRAME)
    turns = tell(state, speech, frame, until)
    if len(certain):
        speech = speech[: len(certain)]
        state.active = [bool(value) for value in speech[-1]]
        state.spoken = [count + int(more) for count, more in zip(state.spoken, speech.sum(axis=0), strict=True)]
    return Settled(turns, state.told / SAMPLE_RATE, state.crowded)


def _check(options: DiarizationOptions) -> None:
    """Raises `RequestError` for options that cannot be served."""
    chunks_for(options.latency)
    if options.max_speakers < 1:
        raise RequestError("there must be one speaker at least")


def _fits(state: SortformerState, new: SortformerState) -> bool:
    """Whether a restored state could be one of this model; `new` is one that certainly is."""
    channels = len(new.speakers)
    return (
        {len(state.active), len(state.speakers), len(state.spoken)} == {channels}
        and (state.audio.dtype, state.audio.ndim) == (new.audio.dtype, new.audio.ndim)
        and min(state.frame, state.told, *state.speakers, *state.spoken) >= 0
        and state.origin == audio_origin(state.frame)
        and new.memory.keys() <= state.memory.keys()
        and all(_remembered(value, new.memory.get(name), channels) for name, value in state.memory.items())
    )


def _remembered(value: np.ndarray, new: np.ndarray | None, channels: int) -> bool:
    """Whether an array of a memory has the form of a new one; what a new memory lacks are predictions."""
    if new is None:
        new = np.zeros((1, 0, channels), np.float32)
    if (value.dtype, value.ndim, value.shape[0]) != (new.dtype, new.ndim, 1):
        return False
    return value.ndim == 1 or (value.shape[-1] == new.shape[-1] and max(value.shape[1:-1], default=0) <= LONGEST_MEMORY)
