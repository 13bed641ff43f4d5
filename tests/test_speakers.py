"""Whose words: words and speaker turns as tables, without models."""

from __future__ import annotations

import itertools

import pytest

from wyoming_wlk.engine.request import Word
from wyoming_wlk.speakers import by_speaker, speakers_of
from wyoming_wlk.stages.diarizer import SpeakerTurn
from wyoming_wlk.transcription import Segment


def words(text: str, start: float = 0.0, each: float = 1.0) -> tuple[Word, ...]:
    """Words of a second each, without gaps."""
    return tuple(
        Word(start + index * each, start + (index + 1) * each, f" {part}", 0.9)
        for index, part in enumerate(text.split())
    )


def turns(*spans: tuple[float, float, int]) -> list[SpeakerTurn]:
    return [SpeakerTurn(*span) for span in spans]


def said(text: str, *spans: tuple[float, float, int]) -> list[tuple[int | None, str]]:
    """What each speaker says in one segment."""
    found = by_speaker([Segment(words(text))], turns(*spans))
    return [(segment.speaker, segment.text.strip()) for segment in found]


def test_words_belong_to_who_speaks_most_of_them() -> None:
    """A turn that ends within a word takes it only with the larger half."""
    assert said("a b c d", (0, 1.6, 1), (1.6, 4, 2)) == [(1, "a b"), (2, "c d")]
    assert said("a b c d", (0, 1.4, 1), (1.4, 4, 2)) == [(1, "a"), (2, "b c d")]


def test_two_who_speak_at_once() -> None:
    """The words are those of who spoke before."""
    assert said("a b c d", (0, 4, 1), (1, 3, 2)) == [(1, "a b c d")]
    assert said("a b c d", (0, 2, 1), (1, 4, 2)) == [(1, "a b"), (2, "c d")]


def test_words_outside_of_all_turns() -> None:
    """They belong to the nearest turn, else to who spoke before, and to nobody where nobody did."""
    assert said("a b c", (0, 1, 1), (2.2, 3, 2)) == [(1, "a b"), (2, "c")]
    assert said("a b c d e f", (0, 1, 1)) == [(1, "a b c d e f")]
    assert speakers_of(words("a b c d e f"), turns((5, 6, 2)))[0] is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (2.0, [(1, "one two."), (2, "three four five six")]),
        (2.9, [(1, "one two."), (2, "three four five six")]),
        (1.1, [(1, "one two."), (2, "three four five six")]),
        (4.0, [(1, "one two. three four"), (2, "five six")]),
    ],
)
def test_a_change_near_the_end_of_a_sentence_is_at_its_end(change: float, expected: list[tuple[int, str]]) -> None:
    """Up to a second; further away the turns are believed."""
    assert said("one two. three four five six", (0, change, 1), (change, 6, 2)) == expected


def test_a_short_answer_is_not_swallowed() -> None:
    """Between two sentences of another speaker it stays, though both its ends are near theirs."""
    assert said("are you there? yes. then come in", (0, 2.9, 1), (3.1, 3.9, 2), (4.1, 7, 1)) == [
        (1, "are you there?"),
        (2, "yes."),
        (1, "then come in"),
    ]


def test_segments_stay_apart() -> None:
    """A pause within one speaker's words keeps ending a segment, and no word is lost or repeated."""
    first, second = words("one two three"), words("four five six", start=10)
    found = by_speaker([Segment(first), Segment(second)], turns((0, 1.8, 1), (1.8, 14, 2)))
    assert [(segment.speaker, len(segment.words)) for segment in found] == [(1, 2), (2, 1), (2, 3)]
    assert tuple(itertools.chain(*(segment.words for segment in found))) == first + second


def test_without_turns() -> None:
    """Nobody is known."""
    segments = (Segment(words("one two")),)
    assert by_speaker(segments, []) == segments
