"""Whose words: committed words meet speaker turns by time, and sentences are not torn apart. Pure: no models, no I/O.

Turns are known some seconds behind the audio, words a second or two: each waits for the other. A change of speaker near
the end of a sentence was at that end, wherever the turns say it was; so words near a change, or behind the end of a
sentence, wait until no later word can move them to the other speaker.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from wyoming_wlk.engine.request import Word
from wyoming_wlk.stages.diarizer import SpeakerTurn
from wyoming_wlk.timeline import unsaid

_NEAR_SECONDS = 1.0
"""A word that no turn covers belongs to the nearest one, if it is no further away than that."""

_TORN_WORDS = 3
_TORN_SECONDS = 1.0
"""So far apart a change and the end of a sentence may be one: neither turns nor words are that exact."""

_KEPT_SECONDS = 30.0
"""So long after it was said a word may be committed and still find its speaker."""

_SENTENCE_ENDS = (".", "?", "!", "。", "？", "！", "…")


@dataclass(frozen=True)
class Line:
    """New words of what one speaker says without a pause; `ended` where no more will come, possibly without words."""

    speaker: int | None
    words: tuple[Word, ...] = ()
    ended: bool = False


@dataclass(eq=False)
class _Stretch:
    """The words between two pauses: those that have no speaker yet, and those that have."""

    waiting: list[Word] = field(default_factory=list)
    told: list[Word] = field(default_factory=list)
    closed: bool = False


class Attribution:
    """The words of one client on their way to their speakers."""

    def __init__(self) -> None:
        self._stretches: deque[_Stretch] = deque([_Stretch()])
        self._turns: list[SpeakerTurn] = []
        self._horizon = 0.0
        self._nearest: int | None = None
        """Who spoke the last word according to the turns alone."""
        self._speaker: int | None = None
        """Whose the last word is."""
        self._line_open = False

    @property
    def waiting(self) -> tuple[Word, ...]:
        """Words without a speaker yet."""
        return tuple(word for stretch in self._stretches for word in stretch.waiting)

    def say(self, words: Sequence[Word]) -> None:
        """Newly committed words."""
        self._stretches[-1].waiting.extend(words)

    def pause(self, words: Sequence[Word], kept: int) -> None:
        """A segment has ended, whose words at full quality are `words`; the last `kept` committed ones belong to the
        next. Those that have no speaker yet are replaced by words of full quality."""
        stretch, following = self._stretches[-1], _Stretch()
        stretch.closed = True
        self._stretches.append(following)
        if (known := kept - len(stretch.waiting)) > 0:  # so many of the next segment's words have their speaker already
            following.waiting, following.told = stretch.waiting, stretch.told[-known:]
            stretch.waiting = []
            return
        following.waiting = stretch.waiting[-kept:] if kept else []
        stretch.waiting = list(unsaid(stretch.told, words))

    def hear(self, turns: Sequence[SpeakerTurn], horizon: float) -> None:
        """Who spoke up to `horizon`, in seconds; infinite where nobody will tell more."""
        self._turns.extend(turns)
        self._horizon = horizon

    def give_up(self) -> None:
        """Nobody will tell more: of whom the words are from now on is not known."""
        self._turns, self._horizon, self._nearest = [], math.inf, None

    def settle(self) -> list[Line]:
        """The words whose speaker is now known for good, in order."""
        found: list[Line] = []
        while True:
            stretch = self._stretches[0]
            found += self._settle(stretch)
            if stretch.waiting or not stretch.closed:
                break
            self._stretches.popleft()
            if self._line_open:
                found.append(Line(self._speaker, ended=True))
                self._line_open = False
        self._forget_turns()
        return found

    def _settle(self, stretch: _Stretch) -> list[Line]:
        nearest = self._known(stretch.waiting)
        words = stretch.told[-1:] + stretch.waiting[: len(nearest)]
        first = len(stretch.told[-1:])  # the word before tells whether a sentence has ended
        speakers = [self._speaker] * first + nearest
        safe = _mend_sentences(words, speakers)
        if self._horizon == math.inf or (stretch.closed and len(nearest) == len(stretch.waiting)):
            safe = len(words)
        told = words[first:safe]
        if not told:
            return []
        stretch.told.extend(told)
        del stretch.waiting[: len(told)]
        self._nearest = nearest[len(told) - 1]
        found = []
        for speaker, pairs in itertools.groupby(zip(speakers[first:safe], told, strict=True), key=lambda pair: pair[0]):
            if self._line_open and speaker != self._speaker:
                found.append(Line(self._speaker, ended=True))
            found.append(Line(speaker, tuple(word for _, word in pairs)))
            self._line_open, self._speaker = True, speaker
        return found

    def _known(self, words: Sequence[Word]) -> list[int | None]:
        """Who says the words according to the turns alone, as far as the turns are known."""
        found: list[int | None] = []
        for word in words:
            covered = any(turn.start < word.end and turn.end > word.start for turn in self._turns)
            if word.end + (0 if covered else _NEAR_SECONDS) > self._horizon:
                break
            found.append(_speaker(word, self._turns, found[-1] if found else self._nearest))
        return found

    def _forget_turns(self) -> None:
        waiting = next((stretch.waiting[0] for stretch in self._stretches if stretch.waiting), None)
        oldest = min(self._horizon, waiting.start if waiting else math.inf) - _KEPT_SECONDS
        self._turns = [turn for turn in self._turns if turn.end >= oldest]


def _speaker(word: Word, turns: Sequence[SpeakerTurn], before: int | None) -> int | None:
    """Who speaks most of a word's time; where two speak all of it, who spoke before."""
    shares: defaultdict[int, float] = defaultdict(float)
    nearest: tuple[float, int | None] = (_NEAR_SECONDS, before)
    for turn in turns:
        if (shared := min(turn.end, word.end) - max(turn.start, word.start)) > 0:
            shares[turn.speaker] += shared
        else:
            nearest = min(nearest, (-shared, turn.speaker), key=lambda pair: pair[0])
    if not shares:
        return nearest[1]
    return max(shares, key=lambda speaker: (shares[speaker], speaker == before))


def _mend_sentences(words: Sequence[Word], speakers: list[int | None]) -> int:
    """Moves each change of speaker to the end of a sentence, where there is one nearby; nobody loses all words.

    Returns how many of the words cannot change any more, whatever follows.
    """
    count = safe = len(words)
    changes = [index for index in range(1, count) if speakers[index] != speakers[index - 1]]
    before = 0
    for change, after in itertools.zip_longest(changes, changes[1:], fillvalue=count):
        nearby = range(max(before + 1, change - _TORN_WORDS), min(after, change + _TORN_WORDS + 1))
        ends = [end for end in nearby if _ends_sentence(words, end) and _seconds(words, change, end) <= _TORN_SECONDS]
        end = min(ends, key=lambda end: abs(end - change), default=change)
        out_of_sight = count > change + _TORN_WORDS or _seconds(words, change, count - 1) > _TORN_SECONDS
        if change not in ends and not out_of_sight:
            safe = min(safe, change, end)
        elif end < safe < change:
            safe = end
        speakers[change:end] = [speakers[change - 1]] * max(0, end - change)
        speakers[end:change] = [speakers[change]] * max(0, change - end)
        before = end
    for end in range(max(before + 1, count - _TORN_WORDS), count):  # a change that follows may have been here
        if _ends_sentence(words, end) and _seconds(words, end, count - 1) <= _TORN_SECONDS:
            safe = min(safe, end)
    return safe


def _ends_sentence(words: Sequence[Word], end: int) -> bool:
    return words[end - 1].text.rstrip().endswith(_SENTENCE_ENDS)


def _seconds(words: Sequence[Word], one: int, other: int) -> float:
    return abs(words[one].start - words[other].start)
