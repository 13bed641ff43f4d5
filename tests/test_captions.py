"""Captions: lines, silences, what is tentative, and differences as a client of the diff protocol applies them."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from wyoming_wlk.captions import SILENCE_SECONDS, Captions, Line, OpenSegment, View, change
from wyoming_wlk.engine.request import Word
from wyoming_wlk.events import Event, Finished, SegmentEnded, SpeechStarted, TextUpdate
from wyoming_wlk.streams import Entry, Update, Volatile


def words(text: str, start: float) -> tuple[Word, ...]:
    """Words of half a second each."""
    return tuple(Word(start + i / 2, start + i / 2 + 0.5, " " + word, 0.9) for i, word in enumerate(text.split()))


def said(text: str, start: float, tentative: str = "") -> TextUpdate:
    return TextUpdate(words(text, start), words(tentative, start))


def update(*events: Event, tentative: str = "") -> Update:
    return Update(1, 1, tuple(Entry(1, 1, event) for event in events), Volatile(tentative=words(tentative, 0)))


def ended(text: str = "anything", kept: int = 0) -> SegmentEnded:
    return SegmentEnded(words(text, 0), kept)


def test_committed_words_grow_a_line_and_tentative_ones_stand_behind_it() -> None:
    """The line has the committed words with their times; the buffer joins it as it is."""
    captions = Captions()
    captions.take(update(said("hello there", 1.0), tentative="my fiend"))
    assert captions.view() == View((Line("hello there", 1.0, 2.0),), " my fiend")
    captions.take(update(said("my friend", 2.0)))
    assert captions.view() == View((Line("hello there my friend", 1.0, 3.0),), "")


def test_a_segment_is_a_line() -> None:
    """What comes after a segment's end begins a new line, also within one update."""
    captions = Captions()
    captions.take(update(said("one", 0), ended(), SpeechStarted(2.0), said("two", 2.0), ended(), said("three", 4.0)))
    assert [line.text for line in captions.view().lines] == ["one", "two", "three"]


def test_long_silence_has_its_own_line() -> None:
    """A gap of several seconds is a line without text, at the beginning as well; a shorter one is none."""
    captions = Captions()
    captions.take(update(said("one", SILENCE_SECONDS), ended(), said("two", 8.0), ended(), said("three", 20.0)))
    lines = captions.view().lines
    assert [(line.silent, line.start, line.end) for line in lines] == [
        (True, 0.0, 5.0),
        (False, 5.0, 5.5),
        (False, 8.0, 8.5),
        (True, 8.5, 20.0),
        (False, 20.0, 20.5),
    ]


def test_lines_know_their_language() -> None:
    """The language that is told with an update is that of its words."""
    captions = Captions()
    captions.take(update(said("one", 0), ended()), "en")
    captions.take(update(said("zwei", 2.0)), "de")
    assert [line.language for line in captions.view().lines] == ["en", "de"]


def test_complete_lines_do_not_change() -> None:
    """The words of the open segment stand in the buffer before the tentative ones, and in a line once it has ended."""
    captions = Captions()
    captions.take(update(said("one", 0), ended(), said("two", 1.0), tentative="tree"))
    assert captions.complete() == View((Line("one", 0.0, 0.5),), "two tree")
    captions.take(update(said("three", 1.5), Finished("", None)))
    assert captions.complete() == captions.view()


def test_old_lines_are_dropped() -> None:
    """A day's speech takes no more lines than the bound."""
    captions = Captions(max_lines=3)
    for number in range(500):
        captions.take(update(said(str(number), number), ended()))
    assert [line.text for line in captions.view().lines] == ["497", "498", "499"]
    captions.take(update(said("500", 500)))
    assert [line.text for line in captions.view().lines] == ["498", "499", "500"]
    assert [line.text for line in captions.complete().lines] == ["497", "498", "499"]


class Follower:
    """A client that does what the diff protocol's documentation says."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def apply(self, dropped: int, added: Sequence[Line]) -> None:
        del self.lines[:dropped]
        self.lines.extend(added)


LINES = st.lists(st.sampled_from("abc").map(lambda text: Line(text, 0, 1)), max_size=6).map(tuple)


@given(LINES, LINES)
def test_a_change_leads_from_any_lines_to_any_others(before: tuple[Line, ...], after: tuple[Line, ...]) -> None:
    """Dropping and appending as told gives the new lines, whatever they are."""
    follower = Follower()
    follower.apply(0, before)
    follower.apply(*change(before, after))
    assert tuple(follower.lines) == after


SPOKEN = st.tuples(st.sampled_from(["yes", "no no", "well well well"]), st.sampled_from([0.0, 1.0, 7.0]))
STEPS = st.lists(st.one_of(SPOKEN, st.just("end"), st.just("")), max_size=30)


@given(STEPS, st.integers(2, 5))
def test_diffs_end_up_with_the_same_lines(steps: list[tuple[str, float] | str], max_lines: int) -> None:
    """Whatever is said, a follower of diffs has the complete lines at each step, and in the end those of full mode.

    Nothing is sent twice, and lines with their buffer say the same in both modes at every moment.
    """
    captions, follower, before, clock, sent = Captions(max_lines), Follower(), View(), 0.0, 0
    for step in [*steps, "finish"]:
        if isinstance(step, tuple):
            text, gap = step
            event: Event = said(text, clock := clock + gap)
            clock += len(text.split()) / 2
        else:
            event = Finished("", None) if step == "finish" else ended() if step == "end" else SpeechStarted(clock)
        captions.take(update(event, tentative="perhaps" if step == "" else ""))
        after = captions.complete()
        dropped, added = change(before.lines, after.lines)
        follower.apply(dropped, added)
        sent, before = sent + len(added), after
        assert tuple(follower.lines) == after.lines
        if sent < max_lines:
            assert shown(after) == shown(captions.view())
    assert tuple(follower.lines) == captions.view().lines
    assert sent <= 2 * len(steps)  # a line, and perhaps a silence before it


def shown(view: View) -> list[str]:
    return [word for text in (*(line.text for line in view.lines), view.buffer) for word in text.split()]


def open_text(segment: OpenSegment, tentative: str = "") -> str:
    return "".join(word.text for word in segment.words(words(tentative, 9))).strip()


def test_words_of_the_open_segment() -> None:
    """Committed and tentative words until the segment ends, after that only those of the next one."""
    segment = OpenSegment()
    segment.take(said("hello there ghost", 0))
    assert open_text(segment, "you") == "hello there ghost you"
    segment.take(ended("hello there"))
    assert open_text(segment) == ""
    assert open_text(segment, "good") == "good"


def test_words_behind_a_cut_belong_to_the_next_segment() -> None:
    """A segment cut off in mid-speech ends before its last committed words; with them the next one goes on."""
    segment = OpenSegment()
    segment.take(said("first sentence. Then comes", 0))
    segment.take(ended("first sentence.", kept=2))
    assert open_text(segment, "more") == "Then comes more"
    segment.take(said("another", 2.0))
    segment.take(ended("Then comes", kept=1))
    assert open_text(segment, "day") == "another day"
