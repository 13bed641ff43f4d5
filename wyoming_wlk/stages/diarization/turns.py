"""Who the local speakers of each window are, and what the client is told of it.

As in Diart (arXiv 2109.06483) windows overlap, and what they say of a moment is averaged. Other than there a local
speaker is not one voice for the whole window: within seven seconds the segmentation mixes up people too often. What it
hears without a pause is cut into stretches of a second, and each is the voice that its own pieces are most like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wyoming_wlk.stages.diarization.clustering import fill_gaps, runs
from wyoming_wlk.stages.diarization.networks import FRAME, FRAME_START, LOCAL_SPEAKERS, WINDOW_FRAMES
from wyoming_wlk.stages.diarization.pending import Pending
from wyoming_wlk.stages.diarization.pieces import PAUSE, SECOND
from wyoming_wlk.stages.diarization.state import DiarizationState
from wyoming_wlk.stages.diarization.voices import Voices
from wyoming_wlk.stages.diarizer import SpeakerTurn

STRETCH = round(SECOND)
REST = 0.03
"""What else is said without a pause counts little for a stretch: for those in which nobody is heard alone."""
SPEECH, OVERLAP = 0.4, 0.35
"""How likely it must be, on the windows' average, that somebody speaks, and that two do at once: both, and overlap more
so, are missed more often than imagined."""
FAINT = 0.1
"""A voice that is less likely on the windows' average is not heard."""
BUSY = 0.3
"""The share of a stretch in which a voice may be given to two local speakers by mistake."""
STRANGER = round(0.5 * SECOND)
"""Who is heard only through others is somebody new if there is nobody else, and not for a shorter word."""
GAP = round(0.75 * SECOND)
"""A shorter pause does not end a turn."""


@dataclass(frozen=True)
class Votes:
    """Who speaks, on the windows' average. The first frame is `base`; the columns are the voices."""

    base: int
    voices: list[int]
    votes: np.ndarray
    """[frames, voices]: how likely a voice is heard."""
    speaking: np.ndarray
    """[frames]: how many voices are heard at once, up to two."""


@dataclass(frozen=True)
class _Stretch:
    """What a local speaker says from frame `start` to `end` of a window, a part of `first` to `last`."""

    speaker: int
    start: int
    end: int
    first: int
    last: int


def identify(state: DiarizationState, pending: Pending, voices: Voices) -> Votes:
    """Names what all pending windows hear after the horizon."""
    names = [*voices.names, *voices.strangers]
    votes, speaking, cover = np.zeros((pending.length, len(names))), np.zeros((pending.length, 2)), pending.cover
    cosines = state.embeddings[pending.rows] @ voices.directions.T
    for number in range(len(state.windows)):
        here = pending.here(number)
        speaking[here, 0] += 1 - pending.silence[number]
        speaking[here, 1] += pending.overlap[number]
        if names:
            votes[here] += _name(pending, number, state.told - GAP - pending.base, cosines, votes)
    enough = speaking / cover[:, None] > (SPEECH, OVERLAP)
    return Votes(pending.base, names, votes / cover[:, None], enough.sum(axis=1))


def _name(pending: Pending, number: int, since: int, cosines: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """How likely each voice is heard in a window [frames, voices], in stretches that end after the frame `since`.

    Those come first of which the pieces say most. Nobody is heard twice at once.
    """
    active = (pending.likely[number] > OVERLAP) | pending.alone[number]
    begin = pending.here(number).start
    stretches = [stretch for stretch in _stretches(active) if begin + stretch.end > since]
    weights = _weights(pending, number, stretches)
    scores, evidence = weights @ cosines, weights.sum(axis=1)
    heard, likely = np.zeros((WINDOW_FRAMES, votes.shape[1]), bool), np.zeros((WINDOW_FRAMES, votes.shape[1]))
    presence = votes.sum(axis=0)
    owned: dict[int, int] = {}
    for place in sorted(range(len(stretches)), key=lambda place: -evidence[place]):
        speaker, start, end = stretches[place].speaker, stretches[place].start, stretches[place].end
        said = active[start:end, speaker]
        busy = (heard[start:end] & said[:, None]).sum(axis=0) > BUSY * said.sum()
        score = scores[place] if evidence[place] > 0 else None
        voice = _choose(score, busy, owned.get(speaker), presence[: scores.shape[1]], said.sum() >= STRANGER)
        if voice is not None:
            owned.setdefault(speaker, voice)
            heard[start:end, voice] |= said
            likely[start:end, voice] += pending.likely[number, start:end, speaker]
            presence[voice] += said.sum()
    return likely


def _choose(
    scores: np.ndarray | None, busy: np.ndarray, own: int | None, presence: np.ndarray, long: bool
) -> int | None:
    """The voice of a stretch: the most alike of those that are not busy [voices].

    Without a likeness it is the local speaker's `own` voice at another time, or else the one that was heard most in
    these seconds [known voices], or else a stranger; the last two are guesses, better than silence.
    """
    known = len(presence)
    if scores is None and own is not None and not busy[own]:
        return own
    if not busy[:known].all():
        return int(np.where(busy[:known], -np.inf, presence if scores is None else scores).argmax())
    return known if long and known and not busy[known:].all() else None


def _stretches(active: np.ndarray) -> list[_Stretch]:
    """What the local speakers [frames, 3] say without a pause, in parts of about a second, the longest first."""
    found = []
    for speaker in range(LOCAL_SPEAKERS):
        for start, end in runs(fill_gaps(active[:, [speaker]], PAUSE)[:, 0]):
            cuts = np.linspace(start, end, max(1, round((end - start) / STRETCH)) + 1).round().astype(int).tolist()
            parts = zip(cuts[:-1], cuts[1:], strict=True)
            found += [_Stretch(speaker, a, b, start, end) for a, b in parts if active[a:b, speaker].any()]
    return sorted(found, key=lambda stretch: stretch.start - stretch.end)


def _weights(pending: Pending, number: int, stretches: Sequence[_Stretch]) -> np.ndarray:
    """How much each piece says of each stretch [stretches, pieces]: as far as the local speaker is alone in both."""
    masks = np.zeros((2, len(stretches), WINDOW_FRAMES), np.float32)
    for place, stretch in enumerate(stretches):
        alone = pending.alone[number, :, stretch.speaker]
        masks[0, place, stretch.start : stretch.end] = alone[stretch.start : stretch.end]
        masks[1, place, stretch.first : stretch.last] = alone[stretch.first : stretch.last]
    near, whole = (masks @ pending.frames[:, pending.here(number)].T) ** 2 / pending.lengths
    weights: np.ndarray = near + REST * (whole - near)
    return weights


# --- what is told -----------------------------------------------------------------------------------------------------


def tell(state: DiarizationState, votes: Votes, until: int) -> list[SpeakerTurn]:
    """The turns from the horizon to a sample, which is the horizon from now on."""
    first, past = state.told, -((FRAME_START - until) // FRAME)
    active = fill_gaps(_loudest(votes), GAP)[first - votes.base : past - votes.base]
    found = []
    for column in np.flatnonzero(active.any(axis=0)):
        speaker = state.number(votes.voices[column])
        for start, end in runs(active[:, column]):
            begin, stop = (FRAME * (first + frame) + FRAME_START for frame in (start, end))
            if (begin := max(begin, state.horizon)) < (stop := min(stop, until)):
                found.append(SpeakerTurn(state.seconds(begin), state.seconds(stop), speaker))
    state.horizon = until
    return found


def _loudest(votes: Votes) -> np.ndarray:
    """[frames, voices]: in each frame as many voices as speak at once, the likeliest."""
    active = np.zeros(votes.votes.shape, bool)
    order = np.argsort(-votes.votes, axis=1, kind="stable")
    for place in range(min(2, len(votes.voices))):
        rows = np.flatnonzero(votes.speaking > place)
        active[rows, order[rows, place]] = True
    return active & (votes.votes > FAINT)
