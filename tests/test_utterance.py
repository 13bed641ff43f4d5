"""The sans-I/O core of an utterance, with a pretended model: tables of audio, speech events and results."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wyoming_wlk.engine.context import SAMPLE_RATE, ClientOptions, DecoderContext
from wyoming_wlk.engine.request import StepKind, StepRequest, StepResult, Word
from wyoming_wlk.engine.window import TextMemory
from wyoming_wlk.events import Finished, Flushed, SegmentEnded, SpeechStarted, SpeechStopped, TextUpdate
from wyoming_wlk.utterance import Utterance, UtteranceSettings
from wyoming_wlk.vad import SpeechEnd, SpeechEvent, SpeechStart

PARTIAL, FINAL = StepKind.PARTIAL, StepKind.FINAL


class Talk:
    """Drives an utterance; every half second of speech is the word of its number.

    With `trim_sentences` every tenth word ends a sentence.
    """

    def __init__(self, **settings: float | bool) -> None:
        self.context = DecoderContext(ClientOptions())
        self.utterance = Utterance(self.context, UtteranceSettings(**({"max_window": 29.0} | settings)), "test")
        self.clock = 0.0
        self.sentences = bool(settings.get("trim_sentences"))
        self.windows: list[float] = []
        self.requests: list[StepRequest] = []
        self.events: list[object] = []

    def hear(self, seconds: float, *speech: SpeechEvent, answer: bool = True) -> None:
        samples = round(seconds * SAMPLE_RATE)
        self.utterance.push(np.full(samples, len(self.requests) % 7, np.float32), speech, self.clock)
        self.clock += seconds
        if answer:
            self.answer()

    def speak(self, seconds: float) -> None:
        """Speech in chunks of 0.1 s."""
        for _ in range(round(seconds * 10)):
            self.hear(0.1)

    def begin(self) -> None:
        """The beginning of speech, at the last sample heard."""
        self.hear(0.1, SpeechStart(round(self.clock * SAMPLE_RATE)))

    def pause(self, silence: float = 0.3) -> None:
        """Silence, noticed at its end."""
        began = self.clock
        self.hear(silence, SpeechEnd(round(began * SAMPLE_RATE), round((began + silence) * SAMPLE_RATE)))

    def answer(self) -> None:
        while (request := self.utterance.next_request()) is not None:
            request.fill()
            self.requests.append(request)
            self.windows.append(request.seconds)
            self.utterance.apply(self.result(request))
        self.events += self.utterance.events()

    def result(self, request: StepRequest) -> StepResult:
        context = request.context
        start, end = context.offset / SAMPLE_RATE, context.end / SAMPLE_RATE
        words = tuple(
            Word(i / 2, i / 2 + 0.4, f" w{i}" + "." * (self.sentences and i % 10 == 9), 0.9, (i,))
            for i in range(int(np.ceil(start * 2)), int(end * 2))
            if i / 2 + 0.4 <= end
        )
        if request.kind is FINAL:
            return StepResult(FINAL, words, (), "en", end)
        done = len(context.committed)
        context.committed = [word.tokens[0] for word in words[: max(done, len(words) - 2)]]
        context.tentative = [word.tokens[0] for word in words[len(context.committed) :]]
        return StepResult(PARTIAL, words[done : len(context.committed)], words[len(context.committed) :], "en", end)

    def stop(self) -> None:
        self.utterance.stop()
        self.answer()

    @property
    def finished(self) -> Finished:
        found = [event for event in self.events if isinstance(event, Finished)]
        assert len(found) == 1
        return found[0]

    @property
    def committed(self) -> str:
        return "".join(w.text for event in self.events if isinstance(event, TextUpdate) for w in event.committed)

    def kinds(self) -> list[StepKind]:
        return [request.kind for request in self.requests]


def test_silence_is_an_empty_transcript_and_no_work() -> None:
    """Without speech nothing is decoded, and the answer is there at once."""
    talk = Talk()
    talk.hear(5.0)
    talk.stop()
    assert talk.requests == []
    assert talk.finished == Finished("", None)


def test_no_audio_at_all() -> None:
    """An utterance of no samples ends with an empty transcript."""
    talk = Talk()
    talk.stop()
    assert talk.finished.text == ""


def test_the_answer_is_ready_when_the_client_stops() -> None:
    """The final runs in the pause before `stop`, which then needs no further step."""
    talk = Talk()
    talk.hear(1.0)
    talk.begin()
    talk.speak(2.9)
    talk.pause(0.3)
    before = len(talk.requests)
    assert talk.kinds()[-1] is FINAL
    talk.hear(0.4)
    talk.stop()
    assert len(talk.requests) == before
    assert talk.finished.text == talk.committed.strip()
    assert talk.finished.text.split()[-1] == "w7"


def test_a_partial_hears_what_came_while_it_waited() -> None:
    """Its window is filled when its turn comes, with all that has come by then; a cancelled one takes nothing."""
    talk = Talk()
    talk.begin()
    talk.hear(1.0, answer=False)
    request = talk.utterance.next_request()
    assert request is not None and not len(talk.context.audio)
    waiting = request.seconds
    assert waiting > 1.0
    talk.hear(0.5, answer=False)
    request.fill()
    assert request.seconds == pytest.approx(waiting + 0.5)
    talk.utterance.apply(talk.result(request))
    talk.hear(1.0, answer=False)
    late = talk.utterance.next_request()
    assert late is not None
    heard = len(talk.context.audio)
    talk.pause(0.3)
    assert late.cancelled
    late.fill()
    assert len(talk.context.audio) == heard


def test_what_was_read_of_a_prompt_goes_with_a_long_silence() -> None:
    """Clients that say nothing for ten seconds hold no keys and values; the text itself stays."""
    talk = Talk()
    talk.begin()
    talk.speak(2.0)
    talk.pause(0.3)
    talk.hear(2.0)
    talk.context.prompt = TextMemory([1], torch.empty(0))
    talk.hear(7.0)
    assert talk.context.prompt is not None
    talk.hear(2.0)
    assert talk.context.prompt is None and talk.context.previous_text


def test_stop_in_mid_speech_decodes_all_that_was_said() -> None:
    """Without a pause the final runs at `stop`, over every sample."""
    talk = Talk()
    talk.begin()
    talk.speak(2.95)
    talk.stop()
    assert talk.kinds()[-1] is FINAL
    assert talk.requests[-1].context is talk.context
    assert talk.finished.text.split() == [f"w{i}" for i in range(6)]


def test_a_final_is_thrown_away_when_speech_goes_on() -> None:
    """Words decoded ahead in a pause are not the transcript if more follows."""
    talk = Talk()
    talk.begin()
    talk.speak(2.0)
    talk.pause(0.3)
    talk.begin()
    talk.speak(2.0)
    talk.stop()
    assert talk.kinds().count(FINAL) == 2
    assert talk.finished.text.split() == [f"w{i}" for i in range(9)]
    assert talk.committed.split() == talk.finished.text.split()


def test_a_running_final_is_cancelled_by_speech_and_a_partial_by_a_pause() -> None:
    """What has become pointless is dropped, not waited for."""
    talk = Talk()
    talk.begin()
    talk.hear(0.9, answer=False)
    partial = talk.utterance.next_request()
    assert partial is not None and partial.kind is PARTIAL
    talk.hear(0.3, SpeechEnd(round((talk.clock - 0.1) * SAMPLE_RATE)), answer=False)
    assert talk.utterance.next_request() is None
    assert partial.cancelled
    talk.utterance.dropped()
    final = talk.utterance.next_request()
    assert final is not None and final.kind is FINAL
    talk.hear(0.2, SpeechStart(round((talk.clock - 0.1) * SAMPLE_RATE)), answer=False)
    assert talk.utterance.next_request() is None
    assert final.cancelled
    talk.utterance.dropped()
    talk.speak(1.0)
    talk.stop()
    assert talk.finished.text.split() == [f"w{i}" for i in range(5)]


def test_one_step_at_a_time_and_not_before_there_is_something_new() -> None:
    """Small frames do not make many steps: one per `step` seconds of new audio."""
    talk = Talk(step=0.5)
    talk.begin()
    for _ in range(1000):
        talk.hear(0.01)
    assert 18 <= len(talk.requests) <= 22
    assert set(talk.kinds()) == {PARTIAL}


def test_onsets_are_whole() -> None:
    """The window begins before speech was noticed, by the pre-roll and not more."""
    talk = Talk(pre_roll=0.4)
    talk.hear(3.0)
    talk.hear(0.1, SpeechStart(round(2.9 * SAMPLE_RATE)))
    talk.speak(1.0)
    assert talk.context.offset == pytest.approx(2.5 * SAMPLE_RATE, abs=160)


def test_a_long_pause_closes_the_segment() -> None:
    """After it a new window begins, and the text before becomes its prompt; the transcript holds both."""
    talk = Talk(close_pause=1.0)
    talk.begin()
    talk.speak(2.0)
    talk.pause(0.5)
    talk.hear(1.0)
    assert talk.context.previous_text.split() == [f"w{i}" for i in range(5)]
    assert len(talk.context.audio) == 0
    talk.begin()
    talk.speak(1.0)
    talk.stop()
    assert talk.context.offset >= 2.5 * SAMPLE_RATE
    assert talk.finished.text.startswith("w0 w1 w2 w3")
    assert len(set(talk.finished.text.split())) == len(talk.finished.text.split())


def test_an_hour_without_a_pause_loses_nothing() -> None:
    """Windows are cut at words while speech goes on: every word once, and memory stays small."""
    talk = Talk()
    talk.begin()
    talk.speak(300.0)
    talk.stop()
    expected = [f"w{i}" for i in range(600)]
    assert talk.finished.text.split() == expected
    assert talk.committed.split() == expected
    assert max(request.seconds for request in talk.requests) <= 29.0
    assert len(talk.context.previous_text) <= 1200


def test_long_windows_are_trimmed_behind_sentences() -> None:
    """Where it is asked for, a long window ends behind a committed sentence, and needs no full pass for it."""
    talk = Talk(trim_sentences=True, long_segment=8.0)
    talk.begin()
    talk.speak(120.0)
    assert FINAL not in talk.kinds()
    assert max(request.seconds for request in talk.requests) < 14.0
    assert talk.context.previous_text.split()[-1].endswith("9.")
    talk.stop()
    expected = [f"w{i}" + "." * (i % 10 == 9) for i in range(240)]
    assert talk.finished.text.split() == expected
    assert talk.committed.split() == expected


def test_segments_are_told_with_their_final_words() -> None:
    """Each word is in one segment, and what was committed beyond a segment's end is told with it."""
    talk = Talk()
    talk.begin()
    talk.speak(100.0)
    talk.stop()
    committed: list[str] = []
    ended: list[str] = []
    kept = []
    for event in talk.events:
        if isinstance(event, TextUpdate):
            committed += [word.text for word in event.committed]
        elif isinstance(event, SegmentEnded):
            ended += [word.text for word in event.words]
            kept.append(event.kept)
            assert committed[: len(committed) - event.kept] == ended
    assert len(kept) > 3 and kept[0] > 0 and kept[-1] == 0
    assert ended == [f" w{i}" for i in range(200)]


def test_a_flush_in_mid_speech() -> None:
    """What was said so far comes out at once as a segment; speech goes on in the next one, nothing twice."""
    talk = Talk()
    talk.begin()
    talk.speak(1.8)
    talk.hear(0.1, answer=False)
    talk.utterance.flush()
    talk.hear(0.5, answer=False)
    talk.answer()
    assert isinstance(talk.events[-1], Flushed) and isinstance(talk.events[-2], SegmentEnded)
    assert len(talk.events[-2].words) == 4
    talk.speak(2.0)
    talk.stop()
    assert talk.finished.text.split() == [f"w{i}" for i in range(9)]
    assert talk.committed.split() == [f"w{i}" for i in range(9)]


def test_a_flush_in_a_pause_or_in_silence() -> None:
    """In a pause the segment does not wait for the pause's end; where nothing is open the answer comes at once."""
    talk = Talk()
    talk.hear(1.0)
    talk.utterance.flush()
    talk.answer()
    assert [type(event) for event in talk.events] == [Flushed]
    talk.begin()
    talk.speak(1.0)
    talk.pause(0.3)
    talk.utterance.flush()
    talk.answer()
    assert [type(event) for event in talk.events[-2:]] == [SegmentEnded, Flushed]
    talk.stop()
    assert len(talk.finished.text.split()) == len(talk.committed.split()) > 1


def test_a_flush_before_the_pause_is_decoded() -> None:
    """The final of the pause answers it, though more silence has come since."""
    talk = Talk()
    talk.begin()
    talk.speak(1.9)
    quiet = round(talk.clock * SAMPLE_RATE)
    talk.hear(0.5, SpeechEnd(quiet, quiet + 4800), answer=False)
    talk.utterance.flush()
    talk.answer()
    assert [type(event) for event in talk.events[-2:]] == [SegmentEnded, Flushed]
    assert talk.kinds().count(FINAL) == 1


def test_a_flush_while_a_step_runs() -> None:
    """A partial step is dropped for it, and speech that begins again meanwhile does not get lost."""
    talk = Talk()
    talk.begin()
    talk.hear(0.9, answer=False)
    partial = talk.utterance.next_request()
    assert partial is not None and partial.kind is PARTIAL
    talk.utterance.flush()
    assert talk.utterance.next_request() is None and partial.cancelled
    talk.utterance.dropped()
    talk.speak(1.0)
    talk.stop()
    assert [type(event) for event in talk.events].count(Flushed) == 1
    assert talk.finished.text.split() == talk.committed.split() == [f"w{i}" for i in range(4)]


def test_without_partial_steps_long_speech_is_cut_at_words() -> None:
    """A recording is decoded by finals alone: each word once, cut where nothing is committed yet."""
    talk = Talk(step=float("inf"))
    talk.begin()
    talk.speak(100.0)
    talk.stop()
    assert set(talk.kinds()) == {FINAL}
    assert talk.finished.text.split() == talk.committed.split() == [f"w{i}" for i in range(200)]


@dataclass(frozen=True)
class Script:
    """Speech and silence in turn, in pieces of 0.1 s; `late` tells behind which pieces the model has not answered."""

    turns: tuple[tuple[int, int], ...]
    late: tuple[bool, ...]


def segments(script: Script) -> list[tuple[str, ...]]:
    """The words of each segment."""
    talk = Talk(close_pause=1.0)
    late = cycle(script.late)
    for speech, silence in script.turns:
        talk.hear(0.1, SpeechStart(round(talk.clock * SAMPLE_RATE)), answer=not next(late))
        for _ in range(speech):
            talk.hear(0.1, answer=not next(late))
        began = round(talk.clock * SAMPLE_RATE)
        for piece in range(silence):
            noticed = [SpeechEnd(began, round((talk.clock + 0.1) * SAMPLE_RATE))] if piece == 2 else []
            talk.hear(0.1, *noticed, answer=not next(late))
    talk.stop()
    return [tuple(w.text for w in event.words) for event in talk.events if isinstance(event, SegmentEnded)]


@given(
    st.lists(st.tuples(st.integers(10, 60), st.integers(4, 25)), min_size=1, max_size=5),
    st.lists(st.integers(0, 8), min_size=1, max_size=20),
)
def test_final_text_does_not_depend_on_how_fast_the_model_is(turns: list[tuple[int, int]], waits: list[int]) -> None:
    """Segments begin and end where the speech does, however late (up to 0.8 s) each step is answered."""
    late = tuple(flag for wait in waits for flag in (*[True] * wait, False))
    assert segments(Script(tuple(turns), late)) == segments(Script(tuple(turns), (False,)))


def test_a_pause_that_is_over_before_its_final_is_there() -> None:
    """The segment ends at the pause all the same, and what was said after it is the next one's."""
    talk = Talk(close_pause=1.0)
    talk.begin()
    talk.speak(1.9)
    quiet = round(talk.clock * SAMPLE_RATE)
    talk.hear(0.5, SpeechEnd(quiet, quiet + 4800), answer=False)
    talk.hear(1.5, answer=False)
    talk.hear(0.1, SpeechStart(round(talk.clock * SAMPLE_RATE)), answer=False)
    talk.hear(1.9, answer=False)
    talk.answer()
    talk.stop()
    ended = [[word.text for word in event.words] for event in talk.events if isinstance(event, SegmentEnded)]
    assert ended == [[" w0", " w1", " w2", " w3"], [" w8", " w9", " w10", " w11"]]
    assert talk.finished.text.split() == talk.committed.split()


def test_the_first_words_are_looked_for_early() -> None:
    """In the first second the steps are short, later they have the length that was asked for."""
    talk = Talk(step=0.6, pre_roll=0.4)
    talk.hear(2.0)
    talk.begin()
    talk.speak(6.0)
    steps = np.diff(talk.windows)
    early = [step for step, window in zip(steps, talk.windows, strict=False) if window < 1.3]
    late = [step for step, window in zip(steps, talk.windows, strict=False) if window >= 1.3]
    assert early and max(early) < 0.45
    assert late and min(late) > 0.55


def test_a_step_becomes_awaited_when_the_client_stops() -> None:
    """The scheduler sees for which answers somebody waits, also in the middle of a step."""
    talk = Talk()
    talk.begin()
    talk.speak(2.0)
    talk.hear(0.5, SpeechEnd(round(2.1 * SAMPLE_RATE)), answer=False)
    final = talk.utterance.next_request()
    assert final is not None and final.kind is FINAL and not final.awaited
    talk.utterance.stop()
    assert final.awaited
    talk.utterance.apply(talk.result(final))
    assert talk.utterance.finished


def test_audio_that_comes_faster_than_it_is_decoded_is_not_lost() -> None:
    """A backlog longer than a window is worked off in several cuts."""
    talk = Talk()
    talk.hear(0.1, SpeechStart(0), answer=False)
    talk.hear(69.95, answer=False)
    assert talk.utterance.backlog > 60
    talk.stop()
    assert talk.finished.text.split() == [f"w{i}" for i in range(140)]


def test_dense_text_cuts_the_window_early() -> None:
    """Where tokens get many, the window is cut before Whisper's context is full."""
    talk = Talk()
    talk.begin()
    talk.context.committed = []
    talk.speak(3.0)
    talk.context.tentative = list(range(200))
    talk.speak(1.0)
    assert FINAL in talk.kinds()


def test_the_server_ends_the_utterance_where_that_is_its_task() -> None:
    """With an endpoint, silence after speech finishes without `stop`, and so does silence without any speech."""
    talk = Talk(endpoint=0.7, no_speech=3.0)
    talk.begin()
    talk.speak(2.0)
    talk.pause(0.3)
    assert not talk.utterance.finished
    talk.hear(0.5)
    assert talk.finished.text.split() == [f"w{i}" for i in range(4)]
    silent = Talk(endpoint=0.7, no_speech=3.0)
    silent.hear(2.9)
    assert not silent.utterance.finished
    silent.hear(0.2)
    assert silent.finished.text == ""


def test_an_endless_utterance_is_ended_by_the_server() -> None:
    """With an endpoint, `max_utterance` ends speech that never pauses."""
    talk = Talk(endpoint=0.7, max_utterance=5.0)
    talk.begin()
    talk.speak(6.0)
    assert talk.finished.text.split() == [f"w{i}" for i in range(10)]


def test_events_tell_of_speech_in_the_clients_time() -> None:
    """Starts and stops carry the sample clock, not the time they were noticed."""
    talk = Talk()
    talk.hear(1.0)
    talk.begin()
    talk.speak(1.0)
    talk.pause(0.3)
    assert [event for event in talk.events if isinstance(event, SpeechStarted | SpeechStopped)] == [
        SpeechStarted(pytest.approx(1.0)),
        SpeechStopped(pytest.approx(2.1)),
    ]


def test_tentative_words_are_taken_back_openly() -> None:
    """When tentative words vanish, an update says so."""
    talk = Talk()
    talk.begin()
    talk.hear(1.0, answer=False)
    request = talk.utterance.next_request()
    assert request is not None
    talk.utterance.apply(StepResult(PARTIAL, (), (Word(0, 1, " hm", 0.4),), "en", 1.0))
    talk.hear(1.0, answer=False)
    assert talk.utterance.next_request() is not None
    talk.utterance.apply(StepResult(PARTIAL, (), (), None, 2.0))
    updates = [event for event in talk.utterance.events() if isinstance(event, TextUpdate)]
    assert [len(update.tentative) for update in updates] == [1, 0]
