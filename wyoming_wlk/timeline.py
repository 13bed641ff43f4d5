"""One client's text in time: committed words, which never change, and tentative ones, which may.

The committed words and the transcript are two answers to two needs. Committed words are append-only and early. The
transcript is the text decoded once more with everything heard; where it differs from what was committed early, only
words after that are taken from it into the committed text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from wyoming_wlk.engine.request import Word


class Timeline:
    """Words of one utterance. Words of closed segments are not kept, so that a day's speech takes little memory."""

    def __init__(self) -> None:
        self.open_words: list[Word] = []
        """Committed words of the segment that is still open."""
        self.tentative: tuple[Word, ...] = ()
        self._closed: list[str] = []

    def commit(self, words: Sequence[Word], tentative: Sequence[Word]) -> None:
        """Appends words of a partial step; `tentative` replaces the earlier tentative ones."""
        self.open_words.extend(words)
        self.tentative = tuple(tentative)

    def close(self, words: Sequence[Word], kept: int = 0) -> tuple[Word, ...]:
        """Ends the open segment with the words that full quality found for it; returns those still to be committed.

        The last `kept` committed words are not part of the segment: they and the tentative ones begin the next. Without
        any, nothing is left.
        """
        self._closed.append("".join(word.text for word in words))
        if kept:
            self.open_words = self.open_words[-kept:]
            return ()
        fresh = tuple(unsaid(self.open_words, words))
        self.open_words, self.tentative = [], ()
        return fresh

    @property
    def begun(self) -> bool:
        """Whether a closed segment has any text."""
        return any(self._closed)

    def transcript(self) -> str:
        """The text at full quality of all closed segments."""
        return "".join(self._closed).strip()


def matches(committed: Sequence[Word], final: Sequence[Word]) -> list[tuple[int, int]]:
    """Pairs of indices of the words that both hypotheses over the same audio have in common, in order."""
    matcher = SequenceMatcher(None, [_bare(w) for w in committed], [_bare(w) for w in final], autojunk=False)
    return [(block.a + i, block.b + i) for block in matcher.get_matching_blocks() for i in range(block.size)]


def unsaid(committed: Sequence[Word], final: Sequence[Word]) -> Sequence[Word]:
    """The words of `final` that come after what `committed` says already.

    Both tell of the same audio but may spell it differently: behind their last common word, time decides.
    """
    if not committed:
        return final
    common = matches(committed, final)
    first = common[-1][1] + 1 if common else 0
    if common and common[-1][0] == len(committed) - 1:
        return final[first:]
    said = committed[-1].end
    return [word for word in final[first:] if (word.start + word.end) / 2 > said]


def _bare(word: Word) -> str:
    return re.sub(r"[^\w']", "", word.text.lower())
