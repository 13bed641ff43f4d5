"""The online diarizer: segmentation of the last seconds, embeddings of what is new, clustering of the last minute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from threadpoolctl import ThreadpoolController

from wyoming_wlk.errors import RequestError
from wyoming_wlk.stages.diarization.networks import (
    FRAME,
    FRAME_START,
    POWERSET,
    WINDOW,
    WINDOW_FRAMES,
    EmbeddingNetwork,
    SegmentationNetwork,
)
from wyoming_wlk.stages.diarization.pending import Pending
from wyoming_wlk.stages.diarization.pieces import SECOND, most_likely, new_pieces, piece_features
from wyoming_wlk.stages.diarization.state import HOP, DiarizationState
from wyoming_wlk.stages.diarization.turns import Votes, identify, tell
from wyoming_wlk.stages.diarization.voices import forget, update_voices
from wyoming_wlk.stages.diarizer import DiarizationOptions, Diarizer, Heard, Settled, SpeakerTurn, joined

LEAST_LATENCY = 0.6
"""Seconds: the windows are half a second apart, and a window says little about its last frames."""
MOST_LATENCY = 30.0
"""Seconds: memory and time grow with it, and what a piece is worth is known after some seconds."""
_SILENCE = 1e-4
"""Peak below which nothing can be heard: what the networks make of it would be chance."""
_NOBODY = np.eye(len(POWERSET), dtype=np.float32)[np.zeros(WINDOW_FRAMES, int)]


def load_online(segmentation: Path, embedding: Path) -> OnlineDiarizer:
    """With the networks of two ONNX files. Raises `ModelError` for those that cannot be used.

    From then on numpy multiplies matrices on one thread, in the whole process: the clustering's are small, and further
    threads would but wait for them, each taking a core.
    """
    ThreadpoolController().select(prefix="libscipy_openblas").limit(limits=1)
    return OnlineDiarizer(SegmentationNetwork(segmentation), EmbeddingNetwork(embedding))


class OnlineDiarizer(Diarizer[DiarizationState]):
    """Segmentation, embeddings and clustering for many clients, one after the other."""

    def __init__(self, segmentation: SegmentationNetwork, embedding: EmbeddingNetwork) -> None:
        self._segmentation, self._embedding = segmentation, embedding

    def begin(self, options: DiarizationOptions) -> DiarizationState:
        if not LEAST_LATENCY <= options.latency <= MOST_LATENCY:
            raise RequestError(
                f"speakers are told after {LEAST_LATENCY:g} to {MOST_LATENCY:g} s, not {options.latency:g}"
            )
        if options.max_speakers < 1:
            raise RequestError(f"{options.max_speakers} speakers cannot be told apart")
        return DiarizationState.begin(options, self._embedding.name, self._embedding.dimensions)

    def restore(self, data: bytes) -> DiarizationState:
        state = DiarizationState.from_bytes(data)
        if state.network != self._embedding.name:
            raise ValueError("the state of a diarization with another embedding network")
        return state

    def step(self, items: Sequence[Heard[DiarizationState]]) -> list[Settled | Exception]:
        results: list[Settled | Exception] = []
        for item in items:
            try:
                results.append(self._settle(item.state, item.audio, item.last))
            except Exception as err:  # one client's failure is no concern of the others
                results.append(err)
        return results

    def _settle(self, state: DiarizationState, audio: np.ndarray, last: bool) -> Settled:
        state.audio = np.concatenate([state.audio, audio.astype(np.float32, copy=False)])
        if last and state.end > state.horizon:
            turns = self._settle_all(state)
        else:
            turns = self._settle_windows(state, state.end)
        return Settled(joined(turns), state.seconds(state.horizon), state.crowded)

    def _settle_windows(self, state: DiarizationState, end: int) -> list[SpeakerTurn]:
        """What the windows tell for which there is enough audio, up to the sample `end`."""
        turns: list[SpeakerTurn] = []
        while len(state.audio) >= (WINDOW + HOP) * FRAME:
            self._hear(state)
            due = (state.heard + HOP - round(state.options.latency * SECOND)) * FRAME + FRAME_START
            if (until := min(due, end)) > state.horizon:
                turns += tell(state, _votes(state), until)
        return turns

    def _settle_all(self, state: DiarizationState) -> list[SpeakerTurn]:
        """What all windows tell, the last of them filled up with silence."""
        end = state.end
        silence = -end % (HOP * FRAME)
        state.audio = np.concatenate([state.audio, np.zeros(silence, np.float32)])
        turns = self._settle_windows(state, end)
        turns += tell(state, _votes(state, final=True), end)
        state.horizon, state.padding = end + silence, state.padding + silence
        return turns

    def _hear(self, state: DiarizationState) -> None:
        """One window further."""
        state.audio = state.audio[HOP * FRAME :]
        state.heard += HOP
        audio = state.audio[: WINDOW * FRAME]
        window = _NOBODY
        if np.abs(audio).max() >= _SILENCE:
            (window,) = self._segmentation.run([audio])
        _add_window(state, window)
        masks = new_pieces(most_likely(window), _known_frames(state))
        embeddings = self._embedding.run([piece_features(audio, mask) for mask in masks])
        for mask, embedding in zip(masks, embeddings, strict=True):
            _add_piece(state, mask, embedding)
        forget(state)


def _votes(state: DiarizationState, final: bool = False) -> Votes:
    pending = Pending(state)
    return identify(state, pending, update_voices(state, pending, final))


def _add_window(state: DiarizationState, window: np.ndarray) -> None:
    """Keeps the windows that reach over what was told."""
    reach = state.heard - WINDOW + WINDOW_FRAMES - state.told
    others = max(0, -(-reach // HOP) - 1)
    state.windows = np.concatenate([state.windows[max(0, len(state.windows) - others) :], window[None]])


def _known_frames(state: DiarizationState) -> np.ndarray:
    """Which frames of the newest window are part of a piece already, [frames]."""
    known = np.zeros(WINDOW_FRAMES, bool)
    for mask, end in zip(state.masks, state.ends, strict=True):
        ago = state.heard - int(end)
        if ago < WINDOW_FRAMES:
            known[: WINDOW_FRAMES - ago] |= mask[ago:]
    return known


def _add_piece(state: DiarizationState, mask: np.ndarray, embedding: np.ndarray) -> None:
    state.embeddings = np.concatenate([state.embeddings, embedding[None]])
    state.masks = np.concatenate([state.masks, mask[None]])
    state.ends = np.append(state.ends, state.heard)
    state.purities = np.append(state.purities, 1.0)
    state.labels = np.append(state.labels, -1)
    state.links = np.pad(state.links, ((0, 1), (0, 1)))
