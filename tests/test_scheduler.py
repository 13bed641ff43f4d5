"""Who runs next: tables, without a model."""

from __future__ import annotations

import numpy as np

from wyoming_wlk.engine.context import ClientOptions, DecoderContext
from wyoming_wlk.engine.hypothesis import Attempt, Beam, Row, continuation, repeated_tail, was_spoken
from wyoming_wlk.engine.request import StepKind, StepRequest
from wyoming_wlk.engine.scheduler import Scheduler

PARTIAL, FINAL = StepKind.PARTIAL, StepKind.FINAL


def row(name: str, kind: StepKind = PARTIAL, deadline: float = 0.0, width: int = 1, seconds: float = 1.0) -> Row:
    context = DecoderContext(ClientOptions(), np.zeros(int(seconds * 16000), np.float32))
    made = Row(StepRequest(context, kind, deadline, name), (Attempt(width),), sequence=0)
    made.beams = [Beam(0)]
    return made


def names(rows: list[Row]) -> list[str]:
    return [row.request.client for row in rows]


def scheduler(*rows: Row, slots: int = 2, turn_tokens: int = 3, start_seconds: float = 100.0) -> Scheduler:
    made = Scheduler(slots, turn_tokens, start_seconds)
    for each in rows:
        made.add(each)
    return made


def test_the_oldest_audio_goes_first() -> None:
    """Slots go to the rows whose audio has waited longest."""
    plan = scheduler(row("late", deadline=3), row("early", deadline=1), row("middle", deadline=2)).plan()
    assert names(plan.start) == ["early", "middle"] or names(plan.start) == ["middle", "early"]
    assert plan.park == plan.restore == []


def test_finals_push_partials_off_the_device() -> None:
    """The end of an utterance takes the slot of a partial step, which is parked and comes back."""
    made = scheduler(row("a", deadline=1), row("b", deadline=2))
    made.plan()
    final = row("final", FINAL, deadline=9)
    made.add(final)
    plan = made.plan()
    assert names(plan.start) == ["final"]
    assert names(plan.park) == ["b"]
    made.remove(final)
    assert names(made.plan().restore) == ["b"]


def test_a_turn_lasts_a_while() -> None:
    """A row keeps its slot for its turn, then an older one of the same urgency takes it."""
    running = row("running", deadline=5)
    made = scheduler(running, slots=1)
    made.plan()
    made.add(row("older", deadline=1))
    assert made.plan().park == []
    running.turn_tokens = 3
    plan = made.plan()
    assert (names(plan.park), names(plan.start)) == (["running"], ["older"])


def test_wide_rows_are_not_starved() -> None:
    """A final with more beams than there are free slots is not overtaken by what is less urgent."""
    made = scheduler(row("a", deadline=1), row("b", deadline=2), row("c", deadline=3), slots=3)
    made.plan()
    made.add(row("wide", FINAL, width=3))
    plan = made.plan()
    assert names(plan.start) == ["wide"]
    assert sorted(names(plan.park)) == ["a", "b", "c"]


def test_newcomers_start_within_a_budget() -> None:
    """Only so much audio is encoded before a pass; one window always is, however long."""
    made = scheduler(
        row("long", deadline=1, seconds=20), row("longer", deadline=2, seconds=25), slots=4, start_seconds=10
    )
    assert names(made.plan().start) == ["long"]
    assert names(made.plan().start) == ["longer"]


def test_awaited_finals_are_rushed_but_nobody_starves() -> None:
    """While somebody waits for a final, partials take part in some passes only, and in some passes they do."""
    awaited = row("final", FINAL)
    awaited.request.awaited = True
    made = scheduler(awaited, row("partial"), slots=4)
    made.plan()
    made.add(row("newcomer"))
    passes = [names(made.plan().advance) for _ in range(64)]
    assert sum("partial" in each for each in passes) == 2
    assert sum("newcomer" in each for each in passes) >= 1
    assert all("final" in each for each in passes)


def test_rows_in_the_encoder_keep_their_place() -> None:
    """They are neither advanced nor parked for anybody, and no more rows start than the encoder takes."""
    encoding = row("encoding", deadline=9)
    made = scheduler(encoding, slots=2)
    assert names(made.plan().start) == ["encoding"]
    encoding.encoding = True
    made.add(row("older", deadline=1))
    made.add(row("final", FINAL))
    plan = made.plan(may_start=False)
    assert plan.start == plan.park == plan.advance == []
    assert names(made.plan().start) == ["final"]
    encoding.encoding = False
    plan = made.plan()
    assert not plan.park and sorted(names(plan.advance)) == ["encoding", "final"]


def test_a_final_that_is_awaited_goes_before_one_that_may_be_needed() -> None:
    """Somebody waits for the first; the second is decoded in a pause and may yet be thrown away."""
    pause, stop = row("pause", FINAL), row("stop", FINAL, deadline=5)
    stop.request.awaited = True
    made = scheduler(pause, stop, slots=4)
    made.plan()
    assert names(made.plan().advance) == ["stop"]
    pause.request.awaited = True
    assert sorted(names(made.plan().advance)) == ["pause", "stop"]


def test_a_thousand_rows_all_get_their_turn() -> None:
    """Whatever the mix, every row runs and no more rows than slots are on the device."""
    made = Scheduler(8, 4, 30.0)
    rng = np.random.default_rng(0)
    todo = {f"r{i}" for i in range(300)}
    for i in range(300):
        final = bool(rng.integers(2))
        made.add(row(f"r{i}", FINAL if final else PARTIAL, float(rng.random()), 5 if final else 1))
    for _ in range(5000):
        made.plan()
        assert sum(each.width for each in made.running) <= 8
        for each in list(made.running):
            each.turn_tokens += 1
            if rng.random() < 0.3:
                todo.discard(each.request.client)
                made.remove(each)
        if not made:
            break
    assert not todo


def drop(tokens: list[int], strict: bool) -> int:
    repeat = repeated_tail(tokens, strict)
    return repeat.drop if repeat else 0


def test_loops_are_found_and_speech_is_not() -> None:
    """Repeated phrases are cut to one; lists, counting and natural repetition stay."""
    assert drop([1, 2, 3, 7, 8, 9, 7, 8, 9, 7, 8, 9], strict=False) == 6
    assert drop([5, 5, 5, 5], strict=False) == 0
    assert drop([5] * 6, strict=False) == 5
    assert drop([1, 2, 3, 4, 9, 1, 2, 3, 4], strict=True) == 4
    assert drop([1, 2, 3, 4, 9, 1, 2, 3, 4], strict=False) == 0
    assert drop([1, 2, 3, 4, 5, 6, 7, 8], strict=True) == 0


def test_a_phrase_that_was_spoken_again_is_no_loop() -> None:
    """Where attention has moved on, the repetition is the speaker's."""
    phrase = repeated_tail([7, 8, 9] * 3, strict=False)
    assert phrase is not None
    assert was_spoken(phrase, [10, 20, 30, 60, 70, 80, 110, 120, 130], attended=0)
    assert not was_spoken(phrase, [10, 20, 30, 31, 31, 32, 32, 32, 33], attended=0)
    again = repeated_tail([1, 2, 3, 4, 9, 1, 2, 3, 4], strict=True)
    assert again is not None
    assert was_spoken(again, [200, 210, 220, 230], attended=150)
    assert not was_spoken(again, [100, 110, 120, 130], attended=150)


def test_what_a_draft_says_next() -> None:
    """A draft goes on behind the last two tokens, at the place nearest to where they stand, and as far as is asked."""
    draft = [1, 2, 3, 4, 1, 2, 9, 8]
    assert continuation(draft, [1, 2], most=8) == [3, 4, 1, 2, 9, 8]
    assert continuation(draft, [7, 7, 7, 1, 2], most=1) == [9]
    assert continuation(draft, [9, 8], most=8) == []
    assert continuation(draft, [2], most=8) == []
    assert continuation(draft, [5, 6], most=8) == continuation([], [1, 2], most=8) == []
