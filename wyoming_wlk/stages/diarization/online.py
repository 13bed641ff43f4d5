"""The online diarizer: audio of many clients in, speaker turns out.

One object serves all clients and has no state of its own; not thread-safe, to be called off the event loop. A client
gets the same whether it is alone or in a batch, and in whatever portions its audio comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wyoming_wlk.stages.diarization.clustering import fill_gaps, runs
from wyoming_wlk.stages.diarization.networks import FRAME, FRAME_START, EmbeddingNetwork, SegmentationNetwork
from wyoming_wlk.stages.diarization.pieces import SECOND, new_pieces, piece_features
from wyoming_wlk.stages.diarization.state import HOP, WINDOW, WINDOW_FRAMES, DiarizationState, SpeakerTurn
from wyoming_wlk.stages.diarization.voices import Votes, forget, update_voices

SAMPLE_RATE = 16000
_GAP = round(0.75 * SECOND)
"""A shorter pause does not end a turn."""
_SILENCE = 1e-4
"""Peak below which nothing can be heard: what the networks make of it would be chance."""


@dataclass(frozen=True)
class Settled:
    """What a client now knows for good: who spoke before `horizon` (seconds) and after the horizon before."""

    turns: tuple[SpeakerTurn, ...]
    horizon: float


class OnlineDiarizer:
    """Segmentation, embeddings and clustering for many clients."""

    def __init__(self, segmentation: SegmentationNetwork, embedding: EmbeddingNetwork) -> None:
        self._segmentation, self._embedding = segmentation, embedding

    def step(self, items: Sequence[tuple[DiarizationState, np.ndarray]]) -> list[Settled]:
        """Takes each client's new float32 16 kHz samples, which may be none; a client occurs once."""
        states = [state for state, _ in items]
        for state, samples in items:
            state.audio = np.concatenate([state.audio, samples.astype(np.float32, copy=False)])
        turns: list[list[SpeakerTurn]] = [[] for _ in items]
        while due := [place for place, state in enumerate(states) if len(state.audio) >= (WINDOW + HOP) * FRAME]:
            settled = self._hear([states[place] for place in due])
            for place, votes in zip(due, settled, strict=True):
                turns[place] += _tell(states[place], votes, _horizon(states[place]))
        return [Settled(_joined(found), _seconds(state.told)) for found, state in zip(turns, states, strict=True)]

    def flush(self, state: DiarizationState) -> Settled:
        """Tells all that was heard; the audio is over."""
        end = state.clock
        missing = -(end // -FRAME) - state.told
        if missing <= 0:
            return Settled((), end / SAMPLE_RATE)
        silence = np.zeros(-(end % -(HOP * FRAME)), np.float32)
        (settled,) = self.step([(state, silence)])
        votes = update_voices(state, final=True)
        rest = _tell(state, votes, state.heard)
        limit = end / SAMPLE_RATE
        turns = [SpeakerTurn(t.start, min(t.end, limit), t.speaker) for t in [*settled.turns, *rest] if t.start < limit]
        return Settled(_joined(turns), limit)

    def _hear(self, states: Sequence[DiarizationState]) -> list[Votes]:
        """One window further for each client."""
        for state in states:
            state.audio = state.audio[HOP * FRAME :]
            state.heard += HOP
        audible = [state for state in states if np.abs(state.audio[: WINDOW * FRAME]).max() >= _SILENCE]
        activities = iter(self._segmentation.run([state.audio[: WINDOW * FRAME] for state in audible]))
        masks: list[list[np.ndarray]] = []
        for state in states:
            activity = next(activities) if state in audible else np.zeros((WINDOW_FRAMES, 3), bool)
            _add_window(state, activity)
            masks.append(new_pieces(activity, _known_frames(state)))
        features = [
            piece_features(state.audio[: WINDOW * FRAME], mask)
            for state, found in zip(states, masks, strict=True)
            for mask in found
        ]
        embeddings = iter(self._embedding.run(features))
        votes = []
        for state, found in zip(states, masks, strict=True):
            for mask in found:
                _add_piece(state, mask, next(embeddings))
            forget(state)
            votes.append(update_voices(state))
        return votes


def _add_window(state: DiarizationState, activity: np.ndarray) -> None:
    """Keeps the windows that reach over what was told."""
    reach = state.heard - WINDOW + WINDOW_FRAMES - state.told
    others = max(0, -(-reach // HOP) - 1)
    state.windows = np.concatenate([state.windows[max(0, len(state.windows) - others) :], activity[None]])


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


def _horizon(state: DiarizationState) -> int:
    """The frame up to which is told, so that no frame waits longer than the client's latency."""
    return max(state.told, state.heard + HOP - round(state.options.latency * SECOND))


def _tell(state: DiarizationState, votes: Votes, until: int) -> list[SpeakerTurn]:
    """The turns from what was told up to a frame."""
    active = fill_gaps(_loudest(votes), _GAP)[max(0, state.told - votes.base) : until - votes.base]
    first = max(state.told, votes.base)
    found = []
    for column in np.flatnonzero(active.any(axis=0)):
        voice = votes.voices[column]
        if voice not in state.speakers:
            state.speakers.append(voice)
        speaker = state.speakers.index(voice)
        for start, end in runs(active[:, column]):
            found.append(SpeakerTurn(_seconds(first + start), _seconds(first + end), speaker))
    state.told = until
    return found


def _joined(turns: Sequence[SpeakerTurn]) -> tuple[SpeakerTurn, ...]:
    """Turns in order of time, with those as one that were only parted by a horizon."""
    found: dict[tuple[int, float], SpeakerTurn] = {}  # by speaker and end
    for turn in sorted(turns, key=lambda turn: (turn.start, turn.end, turn.speaker)):
        before = found.pop((turn.speaker, turn.start), turn)
        found[turn.speaker, turn.end] = SpeakerTurn(before.start, turn.end, turn.speaker)
    return tuple(sorted(found.values(), key=lambda turn: (turn.start, turn.end, turn.speaker)))


def _loudest(votes: Votes) -> np.ndarray:
    """[frames, voices]: in each frame as many voices as speak at once, those that most windows hear."""
    active = np.zeros(votes.votes.shape, bool)
    order = np.argsort(-votes.votes, axis=1, kind="stable")
    for place in range(min(2, len(votes.voices))):
        rows = np.flatnonzero(votes.speaking > place)
        active[rows, order[rows, place]] = True
    return active & (votes.votes > 0)


def _seconds(frame: int) -> float:
    return max(0, frame * FRAME + FRAME_START) / SAMPLE_RATE if frame > 0 else 0.0
