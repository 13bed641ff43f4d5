"""Where words may be cut for translation: after sentences, and where one becomes too long. Pure: no models, no I/O."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import sentencex

MAX_WORDS = 40
MAX_SECONDS = 15.0
MAX_CHARACTERS = 300
"""Whoever says more than this without the end of a sentence is translated in pieces."""

_CLAUSE_ENDS = (",", ";", ":", "–", "—", "،", "؛", "、", "，", "；", "：")
_PAUSE_SECONDS = 0.25
_FUNCTION_WORD = 3
"""Most articles, conjunctions and prepositions have no more letters than this; nothing is cut behind one."""

_GOES_ON = " x"
"""A beginning in lower case. What ends a sentence even before this ends it whatever comes; after an abbreviation or an
ellipsis, the next word decides."""


class TimedWord(NamedTuple):
    """A word that waits for its translation, cleaned. Texts join as they are."""

    start: float
    end: float
    text: str


def clean(text: str) -> str:
    """Without control characters, lone surrogates and runs of white space, which translate to nonsense.

    A space at either end stays one space.
    """
    seen = "".join(" " if unicodedata.category(letter) in ("Cc", "Cs") else letter for letter in text)
    inside = " ".join(seen.split())
    if not inside:
        return ""
    return " " * seen[0].isspace() + inside + " " * seen[-1].isspace()


def join(words: Sequence[TimedWord]) -> str:
    """What was said, as one text."""
    return "".join(word.text for word in words).strip()


def split(words: Sequence[TimedWord], language: str, last: bool) -> tuple[list[list[TimedWord]], list[TimedWord]]:
    """Words in order as pieces that will not change, and the open rest.

    `language` is that of the words, as an ISO 639 code. After `last` nothing stays open. No piece is longer than the
    limits above, except by a single word.
    """
    pieces: list[list[TimedWord]] = []
    rest = list(words)
    for length in _sentences(words, language):
        pieces += _bounded(rest[:length])
        rest = rest[length:]
    if last:
        return pieces + (_bounded(rest) if rest else []), []
    while rest and _too_long(rest):
        cut = _cut(rest)
        pieces.append(rest[:cut])
        rest = rest[cut:]
    return pieces, rest


def _sentences(words: Sequence[TimedWord], language: str) -> list[int]:
    """The lengths, in words, of the sentences that are complete."""
    text = "".join(word.text for word in words)
    ends, position = set(), 0
    for sentence in sentencex.segment(language, text + _GOES_ON):
        position += len(sentence)
        ends.add(len((text + _GOES_ON)[:position].rstrip()))
    lengths, position, since = [], 0, 0
    for number, word in enumerate(words, start=1):
        position += len(word.text)
        if position - len(word.text) + len(word.text.rstrip()) in ends:
            lengths.append(number - since)
            since = number
    return lengths


def _bounded(sentence: list[TimedWord]) -> list[list[TimedWord]]:
    pieces = []
    while _too_long(sentence) and len(sentence) > 1:
        cut = _cut(sentence)
        pieces.append(sentence[:cut])
        sentence = sentence[cut:]
    return [*pieces, sentence]


def _too_long(words: Sequence[TimedWord]) -> bool:
    return (
        len(words) > MAX_WORDS
        or words[-1].end - words[0].start > MAX_SECONDS
        or sum(len(word.text) for word in words) > MAX_CHARACTERS
    )


def _cut(words: Sequence[TimedWord]) -> int:
    """The best length of a first piece within the limits: rather late, up to a comma or a pause if there is one."""
    longest = next((n for n in range(1, len(words)) if _too_long(words[: n + 1])), 1)
    return max(range(max(1, longest // 3), longest + 1), key=lambda place: (*_merits(words, place), place))


def _merits(words: Sequence[TimedWord], place: int) -> tuple[bool, bool, bool, bool]:
    """What speaks for a cut before `words[place]`, the weightiest first."""
    if place == len(words):
        return (True, True, True, True)
    before, after = words[place - 1], words[place]
    return (
        after.text.startswith(" "),
        before.text.rstrip().endswith(_CLAUSE_ENDS),
        after.start - before.end >= _PAUSE_SECONDS,
        len(before.text.strip()) > _FUNCTION_WORD,
    )
