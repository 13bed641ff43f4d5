"""A client's part in the stages: events in, events out, beside scripted models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from conftest import Clip, start_engine
from scripted import RATE, ScriptedDiarizer, ScriptedStages, until

from wyoming_wlk.config import Config
from wyoming_wlk.engine.context import ClientOptions, DecoderContext
from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.engine.request import Word
from wyoming_wlk.errors import RequestError
from wyoming_wlk.events import (
    Event,
    Finished,
    Flushed,
    SegmentEnded,
    SpeakersHeard,
    SpeechStarted,
    StageNotice,
    TextUpdate,
    TranslationUpdate,
)
from wyoming_wlk.models import InstalledModel
from wyoming_wlk.stages.client import ClientStage, Emit


def words(text: str, start: float = 0.0, each: float = 0.5) -> tuple[Word, ...]:
    return tuple(Word(start + i * each, start + (i + 1) * each, f" {part}", 0.9) for i, part in enumerate(text.split()))


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE), np.float32)


class Through:
    """A client's stages at work."""

    def __init__(self, stages: list[ClientStage], entry: Emit, out: list[Event]) -> None:
        self.stages, self.take, self.out = stages, entry, out
        self.tasks = [asyncio.create_task(stage.run()) for stage in stages]

    async def hear(self, seconds: float) -> None:
        for stage in self.stages:
            await stage.hear(silence(seconds))

    async def say(self, text: str, start: float = 0.0, tentative: str = "") -> None:
        await self.take(TextUpdate(words(text, start), words(tentative, start)))

    async def finish(self) -> None:
        await self.take(Finished("", None))
        for stage, task in zip(self.stages, self.tasks, strict=True):
            stage.stop()
            await task

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.out if isinstance(event, kind)]

    @property
    def spoken(self) -> list[tuple[int | None, str]]:
        """The lines that have ended: who, and what."""
        return [
            (event.speaker, "".join(word.text for word in event.words).strip())
            for event in self.out
            if isinstance(event, SegmentEnded)
        ]

    @property
    def committed(self) -> str:
        texts = [event for event in self.out if isinstance(event, TextUpdate)]
        return "".join(word.text for event in texts for word in event.committed).strip()


@asynccontextmanager
async def through(
    library: ScriptedStages, engine: Engine | None = None, language: str = "en", patient: bool = False, **wishes: str
) -> AsyncIterator[Through]:
    wanted = library.chosen(ClientOptions(language=language), wishes)
    out: list[Event] = []

    async def emit(event: Event) -> None:
        out.append(event)

    assert engine is not None or wanted.translation != "whisper"
    context = DecoderContext(wanted)
    stages, entry = library.of(context, engine, "test", emit, patient)
    work = Through(stages, entry, out)
    try:
        yield work
    finally:
        for task in work.tasks:
            task.cancel()
        await asyncio.gather(*work.tasks, return_exceptions=True)


@pytest.fixture
def library() -> ScriptedStages:
    return ScriptedStages(Config())


# --- what is asked for ------------------------------------------------------------------------------------------------


def test_nobody_who_asks_for_nothing_has_a_stage(library: ScriptedStages) -> None:
    """Events go straight to the client, and nothing is loaded."""

    async def emit(event: Event) -> None: ...

    context = DecoderContext(library.chosen(ClientOptions(), {}))
    assert library.of(context, None, "test", emit, False) == ([], emit)


@pytest.mark.parametrize(
    ("wish", "expected"),
    [("", ""), ("true", "online"), ("ON", "online"), ("diart", "online"), ("sortformer", "sortformer"), ("off", "")],
)
def test_wishes_for_speakers(library: ScriptedStages, wish: str, expected: str) -> None:
    """A name, its synonym, or a plain yes or no."""
    assert library.chosen(ClientOptions(), {"diarization": wish}).diarization == expected


def test_the_servers_defaults() -> None:
    """They hold for those who say nothing; a yes means them, and a no is heard."""
    library = ScriptedStages(Config(), diarization="sortformer", target_language="Portuguese")
    usual = library.usual(ClientOptions())
    assert (usual.diarization, usual.target_language, usual.translation) == ("sortformer", "pt-Latn", "bergamot")
    assert library.chosen(usual, {"diarization": "yes", "target_language": "de"}).target_language == "de-Latn"
    none = library.chosen(usual, {"diarization": "no", "target_language": "off"})
    assert none == ClientOptions()
    assert library.chosen(ClientOptions(), {"diarization": "yes"}).diarization == "sortformer"


def test_norwegian_is_a_language(library: ScriptedStages) -> None:
    """Its code is not taken for a no."""
    assert library.chosen(ClientOptions(), {"target_language": "no"}).target_language.startswith("n")


@pytest.mark.parametrize(
    ("wishes", "reason"),
    [
        ({"diarization": "pyannote"}, "diarization is none of"),
        ({"target_language": "klingonish"}, "unknown language"),
        ({"target_language": "pt", "translation": "babelfish"}, "translation is none of"),
        ({"target_language": "pt", "translation": "whisper"}, "English only"),
    ],
)
def test_wishes_that_cannot_be(library: ScriptedStages, wishes: dict[str, str], reason: str) -> None:
    """Each is refused with the reason."""
    with pytest.raises(RequestError, match=reason):
        library.chosen(ClientOptions(), wishes)


# --- speakers ---------------------------------------------------------------------------------------------------------


async def test_words_wait_for_their_speakers(library: ScriptedStages) -> None:
    """They are shown at once, as waiting; lines follow, each of one speaker, and the end comes last."""
    async with through(library, diarization="online") as work:
        await work.take(SpeechStarted(0.0))
        await work.say("one two three four five six", tentative="seven")
        assert work.out[0] == SpeechStarted(0.0)
        shown = work.out[-1]
        assert isinstance(shown, TextUpdate) and not shown.committed
        assert (len(shown.waiting), len(shown.tentative)) == (6, 1)
        await work.hear(2.5)
        await until(lambda: work.committed)
        assert work.committed == "one two three"
        await work.hear(0.5)
        await work.take(SegmentEnded(words("one two three four five six")))
        await work.finish()
    assert work.spoken == [(1, "one two three four"), (2, "five six")]
    assert work.committed == "one two three four five six"
    assert work.out[-1] == Finished("", None)
    heard = [event for event in work.out if isinstance(event, SpeakersHeard)]
    assert heard[-1].horizon == 3.0


async def test_a_flush_settles_the_speakers(library: ScriptedStages) -> None:
    """What was said so far gets its speakers without waiting, before the flush is told; then all goes on."""
    async with through(library, diarization="online") as work:
        await work.hear(1.0)
        await work.say("one two")
        await work.take(SegmentEnded(words("one two")))
        await work.take(Flushed())
        await until(lambda: Flushed() in work.out)
        assert work.out[-1] == Flushed() and work.spoken == [(1, "one two")]
        await work.hear(2.0)
        await work.say("three four", start=2.0)
        await work.finish()
    assert work.committed == "one two three four"
    assert {event.speaker for event in work.of(TextUpdate) if event.committed} == {1, 2}


async def test_a_diarizer_that_fails() -> None:
    """The client hears of it once, gets the words that waited, and those that follow as if there were none."""
    library = ScriptedStages(Config(), ScriptedDiarizer(fails_at=2.0))
    async with through(library, diarization="online") as work:
        await work.hear(1.0)
        await work.say("one two three")
        await work.hear(2.0)
        await until(lambda: work.of(StageNotice))
        assert work.of(StageNotice) == [StageNotice("diarization", "diarization has failed", failed=True)]
        assert work.committed == "one two three"
        await work.hear(200.0)
        await work.say("four", start=3.0, tentative="five")
        assert work.out[-1] == TextUpdate(words("four", 3.0), words("five", 3.0))
        await work.finish()
    assert len(work.of(StageNotice)) == 1 and work.out[-1] == Finished("", None)


async def test_a_failure_repeats_nothing() -> None:
    """Of a segment whose beginning has a speaker, only the rest follows, without one."""
    library = ScriptedStages(Config(), ScriptedDiarizer(fails_at=4.0))
    async with through(library, diarization="online") as work:
        await work.say("one two three four five six seven eight nine ten")
        await work.hear(3.9)
        await until(lambda: work.committed)
        await work.hear(1.0)
        await until(lambda: work.of(StageNotice))
        await work.take(SegmentEnded(words("one two three four five six seven eight nine ten")))
        await work.finish()
    assert work.spoken == [(1, "one two three four"), (None, "five six seven eight nine ten")]


async def test_what_has_failed_is_not_parked() -> None:
    """The client's next utterance begins anew, instead of failing again."""
    library = ScriptedStages(Config(), ScriptedDiarizer(fails_at=1.0))
    async with through(library, diarization="online") as work:
        await work.hear(2.0)
        await until(lambda: work.of(StageNotice))
        await work.finish()
        parked = {"diarization online": b"of an earlier utterance"}
        work.stages[0].park(parked)
    assert parked == {}


async def test_a_diarizer_that_falls_behind() -> None:
    """It gives up with a notice, rather than fill the memory; nobody waits for it."""
    diarizer = ScriptedDiarizer()
    diarizer.gate.clear()
    library = ScriptedStages(Config(), diarizer)
    async with through(library, diarization="online") as work:
        await work.say("one")
        for _ in range(130):
            await work.hear(1.0)
        diarizer.gate.set()
        await until(lambda: work.of(StageNotice))
        assert "too far behind" in work.of(StageNotice)[0].text
        assert work.committed == "one"


async def test_a_recording_waits() -> None:
    """What comes faster than it is spoken waits for the diarizer, and all of it is heard."""
    diarizer = ScriptedDiarizer()
    diarizer.gate.clear()
    library = ScriptedStages(Config(), diarizer)
    async with through(library, patient=True, diarization="online") as work:

        async def feed() -> None:
            for _ in range(300):
                await work.hear(1.0)

        feeding = asyncio.create_task(feed())
        await asyncio.sleep(0.2)
        assert not feeding.done()
        diarizer.gate.set()
        await feeding
        await work.finish()
    heard = [event for event in work.out if isinstance(event, SpeakersHeard)]
    assert heard[-1].horizon == 300.0 and not work.of(StageNotice)


async def test_too_many_speakers_are_told_once() -> None:
    """However often the diarizer says so."""
    library = ScriptedStages(Config(), ScriptedDiarizer(crowded_at=1.0))
    async with through(library, diarization="online") as work:
        for _ in range(6):
            await work.hear(0.5)
            await asyncio.sleep(0.02)
        await work.finish()
    (notice,) = work.of(StageNotice)
    assert isinstance(notice, StageNotice) and "more speakers" in notice.text and not notice.failed


async def test_speakers_keep_their_numbers(library: ScriptedStages) -> None:
    """What is parked at the end of an utterance is restored in the next, whose clock begins anew."""
    async with through(library, diarization="online") as first:
        await first.hear(3.0)
        await first.finish()
        parked: dict[str, bytes] = {}
        first.stages[0].park(parked)
    assert parked
    options = library.chosen(ClientOptions(language="en"), {"diarization": "online"})
    context = DecoderContext.from_bytes(DecoderContext(options, stages=parked).to_bytes())
    out: list[Event] = []

    async def emit(event: Event) -> None:
        out.append(event)

    stages, entry = library.of(context, None, "test", emit, False)
    work = Through(stages, entry, out)
    await work.hear(2.0)
    await work.say("one two three four")
    await work.finish()
    assert [event.speaker for event in out if isinstance(event, TextUpdate) and event.committed] == [2, 1]
    turns = [turn for event in out if isinstance(event, SpeakersHeard) for turn in event.turns]
    assert (turns[0].start, turns[0].speaker) == (0.0, 2)


async def test_clients_share_a_batch() -> None:
    """What several clients hear meanwhile is one visit to the thread."""
    diarizer = ScriptedDiarizer()
    library = ScriptedStages(Config(), diarizer)
    async with (
        through(library, diarization="online") as one,
        through(library, diarization="online") as two,
        through(library, diarization="online") as three,
    ):
        await one.hear(0.5)
        await until(lambda: diarizer.batches)
        diarizer.gate.clear()
        await one.hear(0.5)
        await asyncio.sleep(0.05)
        for work in (two, three):
            await work.hear(0.5)
        await asyncio.sleep(0.05)
        diarizer.gate.set()
        await asyncio.gather(*(work.finish() for work in (one, two, three)))
    assert max(diarizer.batches) >= 2


# --- translations -----------------------------------------------------------------------------------------------------


def translated(work: Through) -> dict[int, str]:
    found: dict[int, str] = {}
    for event in work.of(TranslationUpdate):
        assert isinstance(event, TranslationUpdate)
        found[event.segment] = found.get(event.segment, "") + "".join(part.text for part in event.stable)
    return found


async def test_translations_follow_the_words(library: ScriptedStages) -> None:
    """Each belongs to a segment: finished sentences for good, the rest tentatively until the segment ends."""
    async with through(library, target_language="pt") as work:
        await work.say("Hello there. How are")
        assert work.committed == "Hello there. How are"
        await until(lambda: work.of(TranslationUpdate))
        update = work.of(TranslationUpdate)[-1]
        assert isinstance(update, TranslationUpdate)
        assert (update.segment, [part.text for part in update.stable]) == (1, [" HELLO THERE."])
        assert update.tentative == " HOW ARE" and not update.complete
        await work.say("you", start=2.0)
        await work.take(SegmentEnded(words("Hello there. How are you")))
        await work.say("Fine", start=5.0)
        await work.take(SegmentEnded(words("Fine", 5.0)))
        await work.finish()
    assert translated(work) == {1: " HELLO THERE. HOW ARE YOU", 2: " FINE"}
    complete = [event.segment for event in work.of(TranslationUpdate) if event.complete]
    assert complete == [1, 2]
    assert library.translator.begun == [("en", "pt-Latn")]


async def test_a_segment_of_words_told_before(library: ScriptedStages) -> None:
    """One that was cut off leaves words to the next; if nothing follows, that one still has a number of its own."""
    async with through(library, target_language="pt") as work:
        await work.say("One two. Three")
        await work.take(SegmentEnded(words("One two."), kept=1))
        await work.take(SegmentEnded(words("Three", 1.0)))
        await work.finish()
    assert translated(work) == {1: " ONE TWO. THREE", 2: ""}
    assert [event.segment for event in work.of(TranslationUpdate) if event.complete] == [1, 2]


async def test_nothing_is_translated_into_its_own_language(library: ScriptedStages) -> None:
    """The segments are complete, without a translation, and no model is asked."""
    async with through(library, target_language="english") as work:
        await work.say("Hello.")
        await work.take(SegmentEnded(words("Hello.")))
        await work.finish()
    assert work.of(TranslationUpdate)[-1] == TranslationUpdate(1, (), "", complete=True)
    assert library.translator.begun == []


@pytest.mark.parametrize(
    ("text", "target", "reason"),
    [("hello", "cy", "no translation from en to cy-Latn"), ("boom", "pt", "translation has failed")],
)
async def test_a_translation_that_fails(library: ScriptedStages, text: str, target: str, reason: str) -> None:
    """The client hears why, once, and the words go on."""
    async with through(library, target_language=target) as work:
        await work.say(text)
        await until(lambda: work.of(StageNotice))
        await work.say("again", start=1.0)
        await work.finish()
    assert work.of(StageNotice) == [StageNotice("translation", reason, failed=True)]
    assert work.committed == f"{text} again" and work.out[-1] == Finished("", None)


async def test_one_clients_failure_is_not_anothers(library: ScriptedStages) -> None:
    """Two that share a translator: one gets its notice, the other its translation."""
    async with through(library, target_language="pt") as bad, through(library, target_language="pt") as good:
        await asyncio.gather(bad.say("boom"), good.say("Fine."))
        await asyncio.gather(bad.finish(), good.finish())
    assert bad.of(StageNotice) and not good.of(StageNotice)
    assert translated(good) == {1: " FINE."}


async def test_both_stages(library: ScriptedStages) -> None:
    """Words are translated when they have their speaker; no translation reaches from one speaker to the next."""
    async with through(library, diarization="online", target_language="pt") as work:
        await work.say("one two three four five six")
        await work.take(SegmentEnded(words("one two three four five six")))
        await work.hear(3.0)
        await work.finish()
    assert work.spoken == [(1, "one two three four"), (2, "five six")]
    assert translated(work) == {1: " ONE TWO THREE FOUR", 2: " FIVE SIX"}


async def test_a_stage_that_cannot_be_loaded() -> None:
    """The client hears why, and its words go on."""

    class Missing(ScriptedStages):
        def _load_online(self) -> ScriptedDiarizer:
            raise RequestError("it is not here")

    async with through(Missing(Config()), diarization="online") as work:
        await work.say("one")
        await until(lambda: work.of(StageNotice))
        assert work.of(StageNotice) == [StageNotice("diarization", "it is not here", failed=True)]
        assert work.committed == "one"


@pytest.fixture(scope="module")
def multilingual(base: InstalledModel) -> Iterator[Engine]:
    engine = start_engine(base)
    yield engine
    engine.stop()


async def test_whisper_translates(multilingual: Engine, clips: dict[str, Clip], library: ScriptedStages) -> None:
    """German speech in English, once its segment has ended; what follows is not part of it."""
    clip = clips["de_rhasspy-0060"]
    said = words(clip.text, 0.2, (len(clip.samples) / RATE - 0.3) / len(clip.text.split()))
    async with through(library, multilingual, "de", target_language="en", translation="whisper") as work:
        for stage in work.stages:
            await stage.hear(clip.samples)
        await work.take(TextUpdate(said, ()))
        assert work.committed == clip.text
        await work.take(SegmentEnded(said))
        await work.hear(30.0)
        await work.finish()
    (update,) = work.of(TranslationUpdate)
    assert isinstance(update, TranslationUpdate) and update.complete and update.segment == 1
    assert "border" in update.stable[0].text.lower(), update


async def test_whisper_does_not_translate_english(multilingual: Engine, library: ScriptedStages) -> None:
    """It is left as it is."""
    async with through(library, multilingual, target_language="en", translation="whisper") as work:
        await work.hear(2.0)
        await work.say("one two")
        await work.take(SegmentEnded(words("one two")))
        await work.finish()
    assert work.of(TranslationUpdate) == [TranslationUpdate(1, (), "", complete=True)]
