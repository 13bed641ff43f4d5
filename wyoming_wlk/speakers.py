"""Whose words: words meet speaker turns by time, and sentences are not torn apart. Pure: no models, no I/O."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from wyoming_wlk.engine.request import Word
from wyoming_wlk.stages.diarizer import SpeakerTurn
from wyoming_wlk.transcription import Segment

_NEAR_SECONDS = 1.0
"""A word that no turn covers belongs to the nearest one, if it is no further away than that."""

_TORN_WORDS = 3
_TORN_SECONDS = 1.0
"""A change of speaker so near the end of a sentence was at that end: turns and times of words are not that exact."""

_SENTENCE_ENDS = (".", "?", "!", "。", "？", "！", "…")


def by_speaker(segments: Sequence[Segment], turns: Sequence[SpeakerTurn]) -> tuple[Segment, ...]:
    """The same words, with a segment for each stretch of one speaker. Without turns nobody is known."""
    if not turns:
        return tuple(segments)
    speakers = iter(speakers_of([word for segment in segments for word in segment.words], turns))
    found: list[Segment] = []
    for segment in segments:
        spoken = [(next(speakers), word) for word in segment.words]
        for speaker, pairs in itertools.groupby(spoken, key=lambda pair: pair[0]):
            found.append(Segment(tuple(word for _, word in pairs), speaker))
    return tuple(found)


def speakers_of(words: Sequence[Word], turns: Sequence[SpeakerTurn]) -> list[int | None]:
    """The speaker of each word, None where there is no turn near it."""
    speakers: list[int | None] = []
    first = 0
    for word in words:
        while first < len(turns) and turns[first].end < word.start - _NEAR_SECONDS:
            first += 1
        speakers.append(_speaker(word, turns[first:], speakers[-1] if speakers else None))
    _mend_sentences(words, speakers)
    return speakers


def _speaker(word: Word, turns: Sequence[SpeakerTurn], before: int | None) -> int | None:
    """Who speaks most of a word's time; where two speak all of it, who spoke before."""
    shares: defaultdict[int, float] = defaultdict(float)
    nearest: tuple[float, int | None] = (_NEAR_SECONDS, before)
    for turn in turns:
        if turn.start > word.end + _NEAR_SECONDS:
            break
        if (shared := min(turn.end, word.end) - max(turn.start, word.start)) > 0:
            shares[turn.speaker] += shared
        else:
            nearest = min(nearest, (-shared, turn.speaker), key=lambda pair: pair[0])
    if not shares:
        return nearest[1]
    return max(shares, key=lambda speaker: (shares[speaker], speaker == before))


def _mend_sentences(words: Sequence[Word], speakers: list[int | None]) -> None:
    """Moves each change of speaker to the end of a sentence, where there is one nearby."""
    changes = [index for index in range(1, len(words)) if speakers[index] != speakers[index - 1]]
    before = 0
    for change, after in itertools.zip_longest(changes, changes[1:], fillvalue=len(words)):
        ends = [
            end
            for end in range(max(before + 1, change - _TORN_WORDS), min(after, change + _TORN_WORDS + 1))
            if words[end - 1].text.rstrip().endswith(_SENTENCE_ENDS)
            and abs(words[end].start - words[change].start) <= _TORN_SECONDS
        ]
        end = min(ends, key=lambda end: abs(end - change), default=change)
        speakers[change:end] = [speakers[change - 1]] * max(0, end - change)
        speakers[end:change] = [speakers[change]] * max(0, change - end)
        before = end


def joined(segments: Sequence[Segment]) -> list[Segment]:
    """Neighbours of one speaker as one segment."""
    found: list[Segment] = []
    for segment in segments:
        if found and found[-1].speaker == segment.speaker:
            found[-1] = replace(found[-1], words=found[-1].words + segment.words)
        else:
            found.append(segment)
    return found
