"""Whose voice each piece is: online clustering.

The pieces of the last minute are clustered anew at every step, so that an early mistake is mended in what has not been
told yet, and what the segmentation says of two pieces counts beside what they sound like. A voice that was heard before
that is the weighted sum of its pieces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wyoming_wlk.stages.diarization.clustering import average_linkage, inherit_labels
from wyoming_wlk.stages.diarization.pending import Pending
from wyoming_wlk.stages.diarization.pieces import SECOND
from wyoming_wlk.stages.diarization.state import DiarizationState

KEPT_PIECES = 100
"""A minute of speech; older pieces live on in the sum of their voice."""
HEAVIEST = 60.0
"""A voice weighs no more than a few minutes of speech, so that it follows a speaker whose voice changes."""
SPARE_VOICES = 20
"""Of voices that did not say enough yet, as many are kept."""
HALF_RELIABLE = 1.25
"""Seconds of speech after which half of an embedding's variance is the voice; the rest depends on what was said."""
SAME_VOICE = 0.5
"""Mean likeness, corrected for reliability, from which two clusters are one: 1 is expected of the same voice, 0.2 of
two voices, and up to 0.6 was seen of similar voices in one recording."""
APART, TOGETHER = 0.5, 0.2
"""What it costs two pieces in likeness that the segmentation hears two speakers, and what one speaker brings them."""
ENOUGH = 0.6
"""Evidence from which a voice counts as a speaker: somewhat more than one full piece."""


@dataclass(frozen=True)
class Voices:
    """Who may be told of."""

    names: list[int]
    directions: np.ndarray
    """[voices, d], of length 1."""
    strangers: list[int]
    """Who somebody is that cannot be heard alone: the voice to come, or none if the client wants no more."""


def update_voices(state: DiarizationState, pending: Pending, final: bool = False) -> Voices:
    """Clusters the pieces.

    At the end of the audio (`final`) somebody who said but one word counts, if there is nobody else.
    """
    _judge_pieces(state, pending)
    return _cluster(state, final)


def forget(state: DiarizationState) -> None:
    """Moves the oldest pieces into the sums of their voices."""
    surplus = len(state.ends) - KEPT_PIECES
    if surplus <= 0:
        return
    sums, weights = _weighted(state)
    for row in range(surplus):
        if state.labels[row] >= 0:
            _remember(state, int(state.labels[row]), sums[row], float(weights[row]))
    for name in ("embeddings", "masks", "ends", "purities", "labels"):
        setattr(state, name, vars(state)[name][surplus:])
    state.links = state.links[surplus:, surplus:]
    _prune(state)


def _prune(state: DiarizationState) -> None:
    """Forgets the lightest voices that no client heard of: over a day, single noises would fill the memory."""
    unheard = [row for row, voice in enumerate(state.voices) if voice not in state.speakers]
    unheard.sort(key=lambda row: (-state.weights[row], row))
    kept = np.ones(len(state.voices), bool)
    kept[unheard[SPARE_VOICES:]] = False
    state.voices, state.sums, state.weights = state.voices[kept], state.sums[kept], state.weights[kept]


def _remember(state: DiarizationState, voice: int, total: np.ndarray, weight: float) -> None:
    place = np.flatnonzero(state.voices == voice)
    if not len(place):
        state.voices = np.append(state.voices, voice)
        state.sums = np.concatenate([state.sums, total[None]])
        state.weights = np.append(state.weights, weight)
    else:
        state.sums[place[0]] += total
        state.weights[place[0]] += weight


def _weighted(state: DiarizationState) -> tuple[np.ndarray, np.ndarray]:
    """The pieces' weighted embeddings and weights, so that the mean product of two of one voice is expected to be 1.

    An embedding of d seconds points towards the voice with a cosine of about sqrt(d / (d + HALF_RELIABLE)).
    """
    seconds = state.masks.sum(axis=1) / SECOND
    reliable = seconds / (seconds + HALF_RELIABLE)
    return (state.purities * np.sqrt(reliable))[:, None] * state.embeddings, state.purities * reliable


def _judge_pieces(state: DiarizationState, pending: Pending) -> None:
    """Purities and links, from the windows that hear a piece as a whole."""
    rows, lengths = pending.rows, pending.lengths
    if not len(rows):
        return
    parts = [pending.frames[:, pending.here(number)] for number in range(len(pending.alone))]
    inside = np.stack([part.sum(axis=1) >= lengths for part in parts]).astype(np.float32)
    shares = np.stack([alone.T @ part.T / lengths for alone, part in zip(pending.alone, parts, strict=True)])
    shares *= inside[:, None]  # [windows, local speakers, pieces]: how much of a piece is a local speaker alone
    heard = inside.sum(axis=0)
    known = heard > 0
    purities = (shares.max(axis=1).sum(axis=0)[known] / heard[known]) ** 2
    state.purities[rows[known]] = np.maximum(purities, 1e-3)
    flat = shares.reshape(-1, len(rows))
    together = flat.T @ flat
    total = shares.sum(axis=1)
    both = inside.T @ inside
    links = TOGETHER * together - APART * (total.T @ total - together)
    square = np.ix_(rows, rows)
    state.links[square] = np.where(both > 0, links / np.maximum(both, 1), state.links[square])
    np.fill_diagonal(state.links, 0)


def _cluster(state: DiarizationState, final: bool) -> Voices:
    """Labels the pieces, and finds the voices that count as speakers."""
    if not len(state.voices) and not len(state.labels):
        return Voices([], state.sums[:0], [])
    sums, weights = _weighted(state)
    known = len(state.voices)
    sums, weights = np.concatenate([state.sums, sums]), np.concatenate([state.weights, weights])
    labels = np.concatenate([state.voices, state.labels])
    links = np.zeros((len(weights), len(weights)))
    links[known:, known:] = state.links
    clusters = average_linkage(sums, weights, links, SAME_VOICE)
    found, state.next_voice = inherit_labels(clusters, labels, weights, state.next_voice)
    old = state.sums, state.weights
    state.sums, state.weights, state.voices = state.sums[:0], state.weights[:0], state.voices[:0]
    totals = [float(weights[rows].sum()) for rows in clusters]
    enough = min(ENOUGH, max(totals)) if final else ENOUGH
    speakers, directions = [], []
    for voice, rows, total in zip(found, clusters, totals, strict=True):
        for row in rows:
            if row < known:
                _remember(state, voice, old[0][row], float(old[1][row]))
            else:
                state.labels[row - known] = voice
        if total >= enough:
            speakers.append(voice)
            directions.append(sums[rows].sum(axis=0))
    return _admit(state, speakers, directions)


def _admit(state: DiarizationState, voices: list[int], directions: list[np.ndarray]) -> Voices:
    """No more voices than the client wants: those it has heard of, then the first of the others."""
    heavy = state.weights > HEAVIEST
    state.sums[heavy] *= (HEAVIEST / state.weights[heavy])[:, None]
    state.weights[heavy] = HEAVIEST
    order = sorted(range(len(voices)), key=lambda row: (voices[row] not in state.speakers, voices[row]))
    told = sum(1 for voice in voices if voice in state.speakers)
    admitted = order[: told + max(0, state.room)]
    state.crowded = state.crowded or len(admitted) < len(order)
    centroids = np.array([_unit(directions[row]) for row in admitted]).reshape(-1, state.sums.shape[1])
    room = state.room > len(admitted) - told
    return Voices([voices[row] for row in admitted], centroids, (state.lost or [state.next_voice])[-1:] if room else [])


def _unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-6))
