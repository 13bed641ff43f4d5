"""Whose words: words and speaker turns as tables, without models."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wyoming_wlk.engine.request import Word
from wyoming_wlk.speakers import Attribution, Line
from wyoming_wlk.stages.diarizer import SpeakerTurn

Spoken = list[tuple[int | None, str]]


def words(text: str, start: float = 0.0, each: float = 1.0) -> tuple[Word, ...]:
    """Words of a second each, without gaps."""
    return tuple(
        Word(start + index * each, start + (index + 1) * each, f" {part}", 0.9)
        for index, part in enumerate(text.split())
    )


def turns(*spans: tuple[float, float, int]) -> list[SpeakerTurn]:
    return [SpeakerTurn(*span) for span in spans]


def lines(found: Iterable[Line]) -> Spoken:
    """Each line, whole."""
    spoken: Spoken = []
    text = ""
    for line in found:
        text += "".join(word.text for word in line.words)
        if line.ended:
            spoken.append((line.speaker, text.strip()))
            text = ""
    return [*spoken, (None, text.strip())] if text else spoken


def said(text: str, *spans: tuple[float, float, int]) -> Spoken:
    """What each speaker says in one segment, once all is known."""
    attribution = Attribution()
    attribution.say(words(text))
    attribution.pause(words(text), 0)
    attribution.hear(turns(*spans), math.inf)
    return lines(attribution.settle())


def new(attribution: Attribution) -> Spoken:
    """What has become known: words with their speaker."""
    return [(line.speaker, "".join(word.text for word in line.words).strip()) for line in attribution.settle()]


# --- all at once ------------------------------------------------------------------------------------------------------


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
    assert said("a b c d e f", (5, 6, 2)) == [(None, "a b c d"), (2, "e f")]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (2.0, [(1, "one two."), (2, "three four five six")]),
        (2.9, [(1, "one two."), (2, "three four five six")]),
        (1.1, [(1, "one two."), (2, "three four five six")]),
        (4.0, [(1, "one two. three four"), (2, "five six")]),
    ],
)
def test_a_change_near_the_end_of_a_sentence_is_at_its_end(change: float, expected: Spoken) -> None:
    """Up to a second; further away the turns are believed."""
    assert said("one two. three four five six", (0, change, 1), (change, 6, 2)) == expected


def test_a_short_answer_is_not_swallowed() -> None:
    """Between two sentences of another speaker it stays, though both its ends are near theirs."""
    found = said("are you there? yes. then come in", (0, 2.9, 1), (3.1, 3.9, 2), (4.1, 7, 1))
    assert found == [(1, "are you there?"), (2, "yes."), (1, "then come in")]


def test_a_pause_ends_a_line() -> None:
    """Though the same speaker goes on, and no word is lost or repeated."""
    attribution = Attribution()
    first, second = words("one two three"), words("four five six", start=10)
    for part in (first, second):
        attribution.say(part)
        attribution.pause(part, 0)
    attribution.hear(turns((0, 1.8, 1), (1.8, 14, 2)), math.inf)
    assert lines(attribution.settle()) == [(1, "one two"), (2, "three"), (2, "four five six")]


# --- one after the other ----------------------------------------------------------------------------------------------


def test_words_wait_for_the_turns() -> None:
    """Beyond the horizon they have no speaker; where nobody speaks a nearer turn may still come."""
    attribution = Attribution()
    attribution.say(words("a b c d"))
    assert new(attribution) == [] and len(attribution.waiting) == 4
    attribution.hear(turns((0, 2, 1)), 2.5)
    assert new(attribution) == [(1, "a b")]
    attribution.hear([], 3.5)
    assert new(attribution) == []
    attribution.hear(turns((3.5, 4, 2)), 4.0)
    assert new(attribution) == [(1, "c")]
    attribution.pause(words("a b c d"), 0)
    assert new(attribution) == [(1, ""), (2, "d"), (2, "")]


def test_change_and_end_of_sentence_in_one_update() -> None:
    """Words up to the end stay with the first speaker, the rest goes to the next."""
    attribution = Attribution()
    attribution.say(words("one two three four. five six seven eight", each=0.3))
    attribution.hear(turns((0, 0.9, 1), (0.9, 3, 2)), 2.4)
    assert new(attribution) == [(1, "one two three four."), (1, ""), (2, "five six seven eight")]


def test_the_change_comes_before_the_end_of_the_sentence() -> None:
    """The words behind it wait; when the end comes, those up to it go to the first speaker."""
    attribution = Attribution()
    attribution.say(words("one two three", each=0.3))
    attribution.hear(turns((0, 0.6, 1), (0.6, 3, 2)), 3.0)
    assert new(attribution) == [(1, "one two")]
    assert [word.text for word in attribution.waiting] == [" three"]
    attribution.say(words("four. five six seven", start=0.9, each=0.3))
    assert new(attribution) == [(1, "three four."), (1, ""), (2, "five six seven")]


def test_the_end_of_the_sentence_comes_before_the_change() -> None:
    """What precedes it is known, what follows waits until the turns have passed it by."""
    attribution = Attribution()
    attribution.say(words("one two. three four five six seven", each=0.3))
    attribution.hear(turns((0, 0.9, 1)), 0.9)
    assert new(attribution) == [(1, "one two.")]
    attribution.hear(turns((0.9, 3, 2)), 2.1)
    assert new(attribution) == [(1, ""), (2, "three four five six seven")]


def test_a_pause_brings_the_best_text() -> None:
    """Words without a speaker are replaced by those of full quality; those that have one stay."""
    attribution = Attribution()
    attribution.say(words("turn on a light please"))
    attribution.hear(turns((0, 2, 1)), 2.0)
    assert new(attribution) == [(1, "turn on")]
    attribution.pause(words("Turn on the lights, please."), 0)
    assert [word.text for word in attribution.waiting] == [" the", " lights,", " please."]
    attribution.hear([], math.inf)
    assert lines(attribution.settle()) == [(1, "the lights, please.")]


def test_words_of_the_next_segment() -> None:
    """Where a segment is cut off in mid-speech, its last words belong to the next."""
    attribution = Attribution()
    attribution.say(words("one two three four"))
    attribution.pause(words("one two"), 2)
    attribution.hear(turns((0, 4, 1)), math.inf)
    assert new(attribution) == [(1, "one two"), (1, ""), (1, "three four")]


def test_words_of_the_next_segment_that_have_a_speaker() -> None:
    """They are not told again when that segment ends."""
    attribution = Attribution()
    attribution.say(words("one two. three four five"))
    attribution.hear(turns((0, 20, 1)), 20)
    found = attribution.settle()
    attribution.pause(words("one two."), 3)
    found += attribution.settle()
    attribution.say(words("six", start=5))
    attribution.pause(words("three four five six.", start=2), 0)
    found += attribution.settle()
    assert lines(found) == [(1, "one two. three four five"), (1, "six.")]


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b.", "c", "d?"]), st.floats(0.05, 0.9), st.booleans()), max_size=30),
    st.lists(st.tuples(st.floats(0.05, 3), st.floats(0.05, 3), st.integers(1, 3)), max_size=10),
    st.lists(st.floats(0.05, 2), min_size=1, max_size=5),
    st.integers(1, 5),
)
def test_nothing_depends_on_how_it_comes(
    spoken: list[tuple[str, float, bool]],
    spans: list[tuple[float, float, int]],
    hops: list[float],
    portion: int,
) -> None:
    """Words in any portions and turns cut at any horizons have the speakers that they have all at once."""
    said_words, clock = [], 0.0
    for text, length, gap in spoken:
        start = clock + (0.4 if gap else 0.0)
        clock = start + length
        said_words.append(Word(start, clock, f" {text}", 0.9))
    all_turns, start = [], 0.0
    for step, length, speaker in spans:
        start += step
        all_turns.append(SpeakerTurn(start, start + length, speaker))

    attribution = Attribution()
    found: list[Line] = []
    horizon, place, number = 0.0, 0, 0
    while place < len(said_words) or horizon < clock + 5:
        attribution.say(said_words[place : place + portion])
        place += portion
        before, horizon = horizon, horizon + hops[number % len(hops)]
        number += 1
        attribution.hear(_between(all_turns, before, horizon), horizon)
        found += attribution.settle()
    attribution.hear([], math.inf)
    found += attribution.settle()

    whole = Attribution()
    whole.say(said_words)
    whole.hear(all_turns, math.inf)
    assert _speakers(found) == _speakers(whole.settle())


def _between(all_turns: Sequence[SpeakerTurn], before: float, horizon: float) -> list[SpeakerTurn]:
    return [
        SpeakerTurn(max(turn.start, before), min(turn.end, horizon), turn.speaker)
        for turn in all_turns
        if turn.start < horizon and turn.end > before
    ]


def _speakers(found: Sequence[Line]) -> list[tuple[int | None, Word]]:
    return [(line.speaker, word) for line in found for word in line.words]


def test_a_working_day_takes_no_more_than_an_hour() -> None:
    """Neither words nor turns of what is long told are kept."""
    attribution, sizes = Attribution(), []
    for second in range(8 * 3600):
        attribution.say(words("one two.", start=second, each=0.5))
        if second % 20 == 19:
            attribution.pause(words("one two.", start=second, each=0.5), 0)
        attribution.hear(turns((second, second + 1, second // 7 % 4)), second + 1)
        attribution.settle()
        if second % 3600 == 3599:
            sizes.append(len(pickle.dumps(attribution)))
    assert max(sizes) < 1.5 * sizes[0], sizes
