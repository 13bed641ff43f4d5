"""Committed, tentative and final text of one utterance."""

from __future__ import annotations

from wyoming_wlk.engine.request import Word
from wyoming_wlk.timeline import Timeline, unsaid


def words(text: str, start: float = 0.0) -> list[Word]:
    """Words of half a second each."""
    return [Word(start + i / 2, start + i / 2 + 0.5, f" {w}", 0.9) for i, w in enumerate(text.split())]


def joined(found: object) -> str:
    return "".join(word.text for word in found).strip()  # type: ignore[attr-defined]


def test_a_final_that_agrees_adds_its_tail() -> None:
    """What was committed early is not said again."""
    assert joined(unsaid(words("turn on the"), words("Turn on the kitchen lights."))) == "kitchen lights."


def test_a_final_that_corrects_adds_only_what_follows() -> None:
    """Committed words stay as they were, wrong or not; the transcript has them right."""
    timeline = Timeline()
    timeline.commit(words("turn of the"), words("kit"))
    fresh = timeline.close(words("Turn off the kitchen lights."))
    assert joined(fresh) == "kitchen lights."
    assert timeline.open_words == [] and timeline.tentative == ()
    assert timeline.transcript() == "Turn off the kitchen lights."


def test_words_that_differ_in_number_are_matched_by_time() -> None:
    """One word heard as two, at the end of what was committed, neither loses nor repeats its neighbours."""
    committed = words("sweet self too")
    final = [Word(0, 0.5, " sweet", 0.9), Word(0.5, 1.5, " self-too", 0.9), Word(1.5, 2.0, " cruel.", 0.9)]
    assert joined(unsaid(committed, final)) == "cruel."


def test_nothing_committed_or_nothing_final() -> None:
    """Either side may be empty."""
    assert joined(unsaid([], words("hello"))) == "hello"
    assert joined(unsaid(words("hello"), [])) == ""


def test_segments_follow_each_other() -> None:
    """A closed segment's words do not take part in matching the next one."""
    timeline = Timeline()
    timeline.commit(words("yes"), ())
    assert timeline.close(words("yes")) == ()
    assert joined(timeline.close(words("yes please", start=5))) == "yes please"
    assert timeline.transcript() == "yes yes please"


def test_kept_words_begin_the_next_segment() -> None:
    """Where a full window is cut, committed words behind the cut stay open."""
    timeline = Timeline()
    timeline.commit(words("one two three four"), ())
    assert timeline.close(words("one two"), kept=2) == ()
    assert joined(timeline.open_words) == "three four"
    assert joined(timeline.close(words("three four five", start=1))) == "five"
    assert timeline.transcript() == "one two three four five"
