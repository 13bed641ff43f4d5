"""Whose voice each piece is, and who the local speakers of each window are: online clustering.

As in Diart (arXiv 2109.06483) the local speakers of a window are assigned one to one to known voices. Other than there,
the pieces of the last minute are clustered anew at every step, so that an early mistake is mended in what has not been
told yet, and what the segmentation says of two pieces counts beside what they sound like.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wyoming_wlk.stages.diarization.clustering import assign, average_linkage, fill_gaps, inherit_labels, runs
from wyoming_wlk.stages.diarization.networks import LOCAL_SPEAKERS, WINDOW, WINDOW_FRAMES
from wyoming_wlk.stages.diarization.pieces import PAUSE, SECOND, alone
from wyoming_wlk.stages.diarization.state import HOP, DiarizationState

KEPT_PIECES = 100
"""A minute of speech; older pieces live on in the sum of their voice."""
HEAVIEST = 60.0
"""A voice weighs no more than a few minutes of speech, so that it follows a speaker whose voice changes."""
SPARE_VOICES = 20
"""Of voices that did not say enough yet, as many are kept."""
HALF_RELIABLE = 1.25
"""Seconds of speech after which half of an embedding's variance is the voice; the rest depends on what was said."""
SAME_VOICE = 0.55
"""Mean likeness, corrected for reliability, from which two clusters are one: 1 is expected of the same voice, 0.2 of
two voices, and up to 0.6 was seen of similar voices in one recording."""
APART, TOGETHER = 0.5, 0.2
"""What it costs two pieces in likeness that the segmentation hears two speakers, and what one speaker brings them."""
ENOUGH = 0.6
"""Evidence from which a voice counts as a speaker: somewhat more than one full piece."""
ALIKE = 0.35
"""Cosine from which a window's local speaker may be a voice: halfway between the same and another."""
CONTINUITY = 0.2
"""How much likeness it brings to have been that voice in the windows before."""
CONTINUED = 0.3
"""Without anything to go by but that, the share of its time in which it must have been."""
MUCH = 0.1
"""After a pause a local speaker may turn out to be another voice, if that is this much more alike."""
SPEAKING = 0.3
"""The share of windows that must hear one more voice in a frame: less than half, as overlap is missed more often than
imagined."""


@dataclass(frozen=True)
class Votes:
    """Who speaks, by the windows' majority. The first frame is `base`; the columns are the voices."""

    base: int
    voices: list[int]
    votes: np.ndarray
    """[frames, voices]: how many windows hear this voice."""
    speaking: np.ndarray
    """[frames]: how many voices are heard at once, as far as enough windows agree."""


class _Overlaps:
    """How the pieces lie in the pending windows."""

    def __init__(self, state: DiarizationState) -> None:
        count = len(state.windows)
        self.base = state.heard - WINDOW - (count - 1) * HOP
        starts = state.ends - WINDOW + state.masks.argmax(axis=1)
        self.rows = np.flatnonzero(starts >= self.base)
        """The pieces that lie in them as a whole."""
        frames = np.zeros((len(self.rows), state.heard - self.base), np.float32)
        for place, row in enumerate(self.rows):
            offset = max(0, int(state.ends[row]) - WINDOW - self.base)
            mask = state.masks[row][offset - (int(state.ends[row]) - WINDOW - self.base) :]
            frames[place, offset : offset + len(mask)] = mask
        self.frames = frames
        """[pieces, frames from `base` on]: what they are made of."""
        self.lengths = np.maximum(frames.sum(axis=1), 1)
        self.shares = np.zeros((count, LOCAL_SPEAKERS, len(self.rows)), np.float32)
        """Of each piece, how much is a local speaker alone."""
        self.inside = np.zeros((count, len(self.rows)), np.float32)
        for number, activity in enumerate(state.windows):
            part = frames[:, number * HOP : number * HOP + WINDOW_FRAMES]
            self.shares[number] = alone(activity).T.astype(np.float32) @ part.T / self.lengths
            self.inside[number] = part.sum(axis=1) >= self.lengths


def update_voices(state: DiarizationState, final: bool = False) -> Votes:
    """Clusters the pieces and identifies the local speakers of all pending windows.

    At the end of the audio (`final`) somebody who said but one word counts, if there is nobody else.
    """
    overlaps = _Overlaps(state)
    _judge_pieces(state, overlaps)
    voices, centroids = _cluster(state, final)
    return _identify(state, overlaps, voices, centroids)


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


def _judge_pieces(state: DiarizationState, overlaps: _Overlaps) -> None:
    """Purities and links, from the windows that hear a piece as a whole."""
    if not len(overlaps.rows):
        return
    shares = overlaps.shares * overlaps.inside[:, None]
    heard = overlaps.inside.sum(axis=0)
    known = heard > 0
    purities = (shares.max(axis=1).sum(axis=0)[known] / heard[known]) ** 2
    state.purities[overlaps.rows[known]] = np.maximum(purities, 1e-3)
    flat = shares.reshape(-1, len(overlaps.rows))
    together = flat.T @ flat
    total = shares.sum(axis=1)
    both = overlaps.inside.T @ overlaps.inside
    links = TOGETHER * together - APART * (total.T @ total - together)
    square = np.ix_(overlaps.rows, overlaps.rows)
    state.links[square] = np.where(both > 0, links / np.maximum(both, 1), state.links[square])
    np.fill_diagonal(state.links, 0)


def _cluster(state: DiarizationState, final: bool) -> tuple[list[int], np.ndarray]:
    """Labels the pieces; the voices that count as speakers, and their directions [voices, d]."""
    if not len(state.voices) and not len(state.labels):
        return [], state.sums[:0]
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


def _admit(state: DiarizationState, voices: list[int], directions: list[np.ndarray]) -> tuple[list[int], np.ndarray]:
    """No more voices than the client wants: those it has heard of, then the first of the others."""
    heavy = state.weights > HEAVIEST
    state.sums[heavy] *= (HEAVIEST / state.weights[heavy])[:, None]
    state.weights[heavy] = HEAVIEST
    order = sorted(range(len(voices)), key=lambda row: (voices[row] not in state.speakers, voices[row]))
    alive = {*state.labels.tolist(), *state.voices.tolist()}
    room = state.options.max_speakers - sum(1 for voice in state.speakers if voice in alive)
    told = sum(1 for voice in voices if voice in state.speakers)
    admitted = order[: told + max(0, room)]
    state.crowded = state.crowded or len(admitted) < len(order)
    centroids = np.array([_unit(directions[row]) for row in admitted]).reshape(-1, state.sums.shape[1])
    return [voices[row] for row in admitted], centroids


def _identify(state: DiarizationState, overlaps: _Overlaps, voices: list[int], centroids: np.ndarray) -> Votes:
    """Each window's local speakers as voices, the oldest window first."""
    length = state.heard - overlaps.base
    votes, cover, count = np.zeros((length, len(voices))), np.zeros(length), np.zeros(length)
    for number, activity in enumerate(state.windows):
        here = slice(number * HOP, number * HOP + WINDOW_FRAMES)
        if voices and activity.any():
            likeness = _likeness(state, overlaps, number, centroids)
            found = _match(likeness, _continuity(activity, votes[here], cover[here]))
            heard = np.zeros((WINDOW_FRAMES, len(voices)), bool)
            for speaker, voice in enumerate(found):
                if voice >= 0:
                    heard[:, voice] = activity[:, speaker]
            _mend(state, overlaps, number, found, heard, centroids)
            votes[here] += heard
        cover[here] += 1
        count[here] += activity.sum(axis=1)
    return Votes(overlaps.base, voices, votes, np.floor(count / np.maximum(cover, 1) + 1 - SPEAKING).astype(int))


def _mend(
    state: DiarizationState,
    overlaps: _Overlaps,
    number: int,
    found: list[int],
    heard: np.ndarray,
    centroids: np.ndarray,
) -> None:
    """Moves what a local speaker says between two pauses to another voice where that is much more alike.

    The segmentation takes two similar speakers for one when the second begins after a pause. `heard` [frames, voices]
    is changed; nobody is given a voice that is heard at the same time.
    """
    for speaker, voice in enumerate(found):
        if voice < 0:
            continue
        activity = state.windows[number][:, speaker]
        for start, end in runs(fill_gaps(activity[:, None], PAUSE)[:, 0]):
            shares = overlaps.frames[:, number * HOP + start : number * HOP + end].sum(axis=1) / overlaps.lengths
            weights = _trusted(shares, overlaps)
            if not weights.any():
                continue
            cosines = centroids @ _unit(weights @ state.embeddings[overlaps.rows])
            best = int(cosines.argmax())
            if cosines[best] >= cosines[voice] + MUCH and not heard[start:end, best].any():
                heard[start:end, voice] &= ~activity[start:end]
                heard[start:end, best] |= activity[start:end]


def _trusted(shares: np.ndarray, overlaps: _Overlaps) -> np.ndarray:
    """How much each piece counts for somebody who has these shares of them: those that are mostly theirs."""
    return np.where(shares >= 0.5, shares**2 * overlaps.lengths, 0)


def _likeness(state: DiarizationState, overlaps: _Overlaps, number: int, centroids: np.ndarray) -> np.ndarray:
    """Cosines [local speakers, voices]; -1 where there is no piece of a local speaker."""
    weights = _trusted(overlaps.shares[number], overlaps)
    cosines = np.full((LOCAL_SPEAKERS, len(centroids)), -1.0)
    for speaker in np.flatnonzero(weights.any(axis=1)):
        cosines[speaker] = centroids @ _unit(weights[speaker] @ state.embeddings[overlaps.rows])
    return cosines


def _continuity(activity: np.ndarray, votes: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """How much of each local speaker's time earlier windows gave to each voice, [local speakers, voices]."""
    total = activity.T @ cover
    shares: np.ndarray = activity.T.astype(float) @ votes / np.maximum(total, 1)[:, None]
    return shares


def _match(likeness: np.ndarray, continuity: np.ndarray) -> list[int]:
    """A voice for each local speaker, never one for two; -1 where nothing speaks for any."""
    heard = likeness.max(axis=1) > -1
    scores = np.where(heard[:, None], likeness, ALIKE * continuity) + CONTINUITY * continuity
    allowed = np.where(heard[:, None], likeness >= ALIKE, continuity > CONTINUED)
    found = assign(scores, allowed)
    for speaker in np.flatnonzero(heard):
        nearest = int(likeness[speaker].argmax())
        if found[speaker] < 0 and nearest not in found:
            found[speaker] = nearest  # a guess is better than silence
    return found


def _unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-6))
