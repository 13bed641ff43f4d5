"""The engine with real weights: what a client gets does not depend on who else is there."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from conftest import Clip, start_engine

from wyoming_wlk.engine.cache import CrossAttention
from wyoming_wlk.engine.checkpoint import load_checkpoint
from wyoming_wlk.engine.context import ClientOptions, DecoderContext
from wyoming_wlk.engine.engine import DecodingSettings, Engine, StepDropped, StepFailed
from wyoming_wlk.engine.hypothesis import Attempt, Beam, Row
from wyoming_wlk.engine.outcome import Interpreter, Quality
from wyoming_wlk.engine.request import StepKind, StepRequest, StepResult
from wyoming_wlk.engine.runner import DeviceSettings, Runner
from wyoming_wlk.engine.tokenizer import Tokenizer
from wyoming_wlk.errors import RequestError
from wyoming_wlk.models import InstalledModel

RATE = 16000
_ARRIVALS = itertools.count()


class SpyRunner(Runner):
    """Counts parking, and fails for clients called `bad`. Decodes slowly, so that the slots are full."""

    parked = 0

    def park(self, row: Row) -> None:
        self.parked += 1
        super().park(row)

    def advance(self, rows: Sequence[Row]) -> None:
        if any(row.request.client == "bad" for row in rows):
            raise RuntimeError("injected")
        time.sleep(0.04)
        super().advance(rows)


def spy(model: InstalledModel, slots: int) -> SpyRunner:
    runner = SpyRunner.load(load_checkpoint(model.folder), model.tokenizer, DeviceSettings(slots=slots))
    assert isinstance(runner, SpyRunner)
    return runner


async def step(engine: Engine, context: DecoderContext, kind: StepKind, client: str = "test") -> StepResult:
    # each newcomer is more urgent than those before it, so that rows push each other off the device
    return await engine.step(StepRequest(context, kind, -next(_ARRIVALS), client))


def text(result: StepResult) -> str:
    return "".join(word.text for word in result.words)


def context_of(samples: np.ndarray, language: str = "auto", **options: Any) -> DecoderContext:
    return DecoderContext(ClientOptions(language=language, **options), samples)


async def stream(engine: Engine, clip: Clip, language: str, first: float = 1.0, every: float = 0.8) -> list[object]:
    """All that a client gets from steps at fixed boundaries and a final: words with tokens, times, probabilities."""
    context = DecoderContext(ClientOptions(language=language, beam_size=2))
    got: list[object] = []
    position = 0
    for end in np.arange(first, len(clip.samples) / RATE, every):
        context.append(clip.samples[position : int(end * RATE)])
        position = int(end * RATE)
        result = await step(engine, context, StepKind.PARTIAL, clip.name)
        got.append((result.words, result.tentative, result.language))
    got.append((await step(engine, context, StepKind.FINAL, clip.name)).words)
    return got


async def test_a_final_hears_the_sentence(engine: Engine, clips: dict[str, Clip]) -> None:
    """A read sentence comes out right, with times inside the clip and on the client's clock."""
    clip = clips["1688-142285-0003"]
    context = context_of(clip.samples)
    context.offset = 100 * RATE
    result = await step(engine, context, StepKind.FINAL)
    assert "account of himself better than anything else he said" in text(result).lower().replace(",", "")
    starts = [word.start for word in result.words]
    assert starts == sorted(starts)
    assert 100.0 <= starts[0] < 101.0
    assert result.words[-1].end <= 100 + len(clip.samples) / RATE + 0.1
    assert all(0 < word.probability <= 1 for word in result.words)


@pytest.fixture(scope="module")
def crowded(base: InstalledModel) -> Iterator[tuple[Engine, SpyRunner]]:
    """`base` with room for four rows only and short turns."""
    made: list[SpyRunner] = []

    def load() -> Runner:
        made.append(spy(base, slots=4))
        return made[0]

    engine = Engine.start(load, DecodingSettings(turn_tokens=1))
    yield engine, made[0]
    engine.stop()


async def test_sixteen_clients_get_what_each_gets_alone(
    crowded: tuple[Engine, SpyRunner], clips: dict[str, Clip]
) -> None:
    """Sixteen interleaved clients, two languages, slots for four: tokens, times and probabilities as if alone."""
    engine, runner = crowded
    english = ["1688-142285-0002", "1688-142285-0008", "turn_on_the_lamp", "make_the_bedroom_light_blue"]
    chosen = [(clips[name], "en") for name in english] + [(clips["de_rhasspy-0060"], "auto")]
    alone = {clip.name: await stream(engine, clip, language) for clip, language in chosen}
    parked_before = runner.parked
    clients = [chosen[i % len(chosen)] for i in range(16)]
    together = await asyncio.gather(*(stream(engine, clip, language) for clip, language in clients))
    assert runner.parked > parked_before
    for (clip, _), got in zip(clients, together, strict=True):
        assert got == alone[clip.name]
    assert any("grenze" in word.text.lower() for word in alone["de_rhasspy-0060"][-1])  # type: ignore[attr-defined]


async def test_language_is_each_clients_own(crowded: tuple[Engine, SpyRunner], clips: dict[str, Clip]) -> None:
    """Detected and chosen languages of clients in one batch do not reach each other."""
    engine, _ = crowded
    german, english = clips["de_rhasspy-0060"], clips["1688-142285-0003"]
    requests = [(german, "auto"), (english, "auto"), (english, "de"), (german, "de")]
    results = await asyncio.gather(
        *(step(engine, context_of(clip.samples, language), StepKind.FINAL) for clip, language in requests)
    )
    assert [result.language for result in results] == ["de", "en", "de", "de"]
    assert "account of himself" in text(results[1])
    assert "grenze" in text(results[0]).lower()
    assert text(results[0]) == text(results[3])


async def test_translation_to_english(crowded: tuple[Engine, SpyRunner], clips: dict[str, Clip]) -> None:
    """The translate task turns German speech into English text, for the client that asked."""
    engine, _ = crowded
    german = clips["de_rhasspy-0060"].samples
    result = await step(engine, context_of(german, "de", task="translate"), StepKind.FINAL)
    assert "border" in text(result).lower()


def test_a_park_in_mid_decode_changes_nothing(tiny_en: InstalledModel, clips: dict[str, Clip]) -> None:
    """A row parked between two tokens, its slots used by another, ends with the same tokens and probabilities."""
    runner = spy(tiny_en, slots=5)
    for width in (1, 5):
        undisturbed, parked = (_row(clips["1688-142285-0004"], width, n) for n in (1, 2))
        runner.start([undisturbed])
        while not undisturbed.done:
            Runner.advance(runner, [undisturbed])
        runner.release(undisturbed)
        runner.start([parked])
        for _ in range(4):
            Runner.advance(runner, [parked])
        runner.park(parked)
        other = _row(clips["1688-142285-0006"], width, 3)
        runner.start([other])
        Runner.advance(runner, [other])
        runner.release(other)
        runner.restore(parked)
        while not parked.done:
            Runner.advance(runner, [parked])
        runner.release(parked)
        assert parked.best.tokens == undisturbed.best.tokens
        assert parked.best.logprobs == undisturbed.best.logprobs


def _row(clip: Clip, width: int, sequence: int) -> Row:
    request = StepRequest(context_of(clip.samples), StepKind.FINAL, 0.0, clip.name)
    return Row(request, (Attempt(width),), sequence, language="en")


def test_a_draft_changes_nothing(tiny_en: InstalledModel, clips: dict[str, Clip]) -> None:
    """A final that starts from an earlier hypothesis, right or wrong, ends with the same text as one that does not."""
    runner = spy(tiny_en, slots=1)
    found = []
    for draft in ([], runner.tokenizer.encode(" His statement of having been"), runner.tokenizer.encode(" Nonsense")):
        row = _row(clips["1688-142285-0004"], 1, 1)
        row.request.context.tentative = draft
        runner.start([row])
        while not row.done:
            Runner.advance(runner, [row])
        runner.release(row)
        found.append(row.best.tokens)
    assert found[0] == found[1] == found[2]


async def test_a_failing_client_fails_alone(tiny_en: InstalledModel, clips: dict[str, Clip]) -> None:
    """When a pass fails, the client it fails for gets the error and everybody else their text."""
    engine = Engine.start(lambda: spy(tiny_en, slots=4), DecodingSettings())
    try:
        good = [step(engine, context_of(clips["turn_on_the_lamp"].samples), StepKind.FINAL) for _ in range(3)]
        bad = step(engine, context_of(clips["turn_on_the_lamp"].samples), StepKind.FINAL, "bad")
        *results, failure = await asyncio.gather(*good, bad, return_exceptions=True)
        assert isinstance(failure, StepFailed)
        assert all(isinstance(r, StepResult) and "lamp" in text(r) for r in results)
        again = await step(engine, context_of(clips["turn_on_the_lamp"].samples), StepKind.FINAL)
        assert "lamp" in text(again)
    finally:
        engine.stop()


async def test_an_encoder_that_fails(
    tiny_en: InstalledModel, clips: dict[str, Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client whose window cannot be encoded gets an error, and the others go on."""
    encode = Runner.encode

    def fail(runner: Runner, rows: Sequence[Row]) -> list[CrossAttention]:
        if any(row.request.client == "bad" for row in rows):
            raise RuntimeError("injected")
        return encode(runner, rows)

    monkeypatch.setattr(Runner, "encode", fail)
    engine = start_engine(tiny_en)
    try:
        clients = ["good", "bad", "good"]
        steps = [step(engine, context_of(clips["turn_on_the_lamp"].samples), StepKind.FINAL, name) for name in clients]
        outcomes = await asyncio.gather(*steps, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StepResult, StepFailed, StepResult]
    finally:
        engine.stop()


async def test_dropped_while_encoding(
    tiny_en: InstalledModel, clips: dict[str, Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request cancelled while its window is encoded is dropped only then: until then its context is in use."""
    entered, go_on, encode = threading.Event(), threading.Event(), Runner.encode

    def wait(runner: Runner, rows: Sequence[Row]) -> list[CrossAttention]:
        entered.set()
        assert go_on.wait(30)
        return encode(runner, rows)

    monkeypatch.setattr(Runner, "encode", wait)
    engine = start_engine(tiny_en)
    try:
        request = StepRequest(context_of(clips["turn_on_the_lamp"].samples), StepKind.PARTIAL, 0.0, "leaver")
        leaving = asyncio.create_task(engine.step(request))
        await asyncio.to_thread(entered.wait, 30)
        other = asyncio.create_task(step(engine, context_of(clips["turn_on_the_lamp"].samples), StepKind.FINAL))
        request.cancelled = True
        assert not (await asyncio.wait([leaving], timeout=0.2))[0]
        go_on.set()
        with pytest.raises(StepDropped):
            await leaving
        assert "lamp" in text(await other)
    finally:
        go_on.set()
        engine.stop()


async def test_nothing_spins_while_the_encoder_works(
    tiny_en: InstalledModel, clips: dict[str, Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that has no room on the device yet waits without keeping a core busy."""
    go_on, encode = threading.Event(), Runner.encode

    def wait(runner: Runner, rows: Sequence[Row]) -> list[CrossAttention]:
        assert go_on.wait(30)
        return encode(runner, rows)

    monkeypatch.setattr(Runner, "encode", wait)
    engine = Engine.start(lambda: spy(tiny_en, slots=1), DecodingSettings())
    plan, plans = engine._scheduler.plan, itertools.count()
    monkeypatch.setattr(engine._scheduler, "plan", lambda may_start: (next(plans), plan(may_start))[1])
    try:
        steps = [step(engine, context_of(clips["turn_on_the_lamp"].samples), StepKind.FINAL) for _ in range(3)]
        waiting = asyncio.gather(*steps)
        await asyncio.sleep(0.3)
        assert next(plans) < 20
        go_on.set()
        assert all("lamp" in text(result) for result in await waiting)
    finally:
        go_on.set()
        engine.stop()


@pytest.mark.parametrize(
    ("options", "temperatures", "expected"),
    [
        ({"beam_size": 1}, (0.0,), [Attempt()]),
        ({"beam_size": 2}, (0.0,), [Attempt(), Attempt(2)]),
        ({"beam_size": 2}, (0.0, 0.4), [Attempt(), Attempt(2), Attempt(1, 0.4)]),
        ({"beam_size": 9}, (0.4, 0.0), [Attempt(1, 0.4), Attempt(), Attempt(9)]),
        ({"beam_size": 2, "hotwords": ("EcoBee",)}, (0.0,), [Attempt(5)]),
        ({"beam_size": 100}, (0.0,), [Attempt(), Attempt(16)]),
    ],
)
def test_attempts_of_a_final(
    tiny_en: InstalledModel, options: dict[str, Any], temperatures: tuple[float, ...], expected: list[Attempt]
) -> None:
    """One beam comes before several, but not where names are looked for, and never more than there are slots."""
    engine = Engine.start(lambda: spy(tiny_en, slots=16), DecodingSettings(temperatures))
    assert engine._attempts(ClientOptions(**options)) == expected
    engine.stop()


@pytest.mark.parametrize(
    ("attempts", "attempt", "logprob", "again"),
    [
        ([Attempt(), Attempt(2)], 0, -0.2, False),
        ([Attempt(), Attempt(2)], 0, -0.3, True),
        ([Attempt(), Attempt(2)], 1, -3.0, False),
        ([Attempt(2), Attempt(1, 0.4)], 0, -0.9, False),
        ([Attempt(2), Attempt(1, 0.4)], 0, -1.1, True),
        ([Attempt()], 0, -3.0, False),
    ],
)
def test_when_a_final_is_tried_again(
    tiny_en: InstalledModel, attempts: list[Attempt], attempt: int, logprob: float, again: bool
) -> None:
    """With more beams where the model is unsure, at a temperature where the text is poor."""
    request = StepRequest(context_of(np.zeros(RATE, np.float32)), StepKind.FINAL, 0.0, "test")
    row = Row(request, attempts, sequence=1, frames=50, attempt=attempt)
    row.finished = [Beam(0, [1000, 2000, 3000], [logprob] * 3).ended(logprob)]
    interpreter = Interpreter(Tokenizer(tiny_en.tokenizer, load_checkpoint(tiny_en.folder).dims.n_vocab), {}, Quality())
    assert interpreter.wants_retry(row) is again


async def test_a_dead_engine_says_so(
    tiny_en: InstalledModel, clips: dict[str, Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the engine itself fails, everybody who waits and everybody who comes later gets an error."""
    engine = start_engine(tiny_en)
    monkeypatch.setattr(engine._scheduler, "plan", lambda may_start: 1 / 0)
    contexts = [context_of(clips["1688-142285-0004"].samples) for _ in range(3)]
    steps = [step(engine, context, StepKind.FINAL) for context in contexts]
    outcomes = await asyncio.wait_for(asyncio.gather(*steps, return_exceptions=True), 30)
    assert all(isinstance(outcome, StepFailed) for outcome in outcomes)
    with pytest.raises(StepFailed, match="restarted"):
        await asyncio.wait_for(step(engine, contexts[0], StepKind.FINAL), 5)
    engine.stop()


async def test_a_request_that_cannot_be_taken(engine: Engine) -> None:
    """It fails alone; the engine goes on."""
    broken = context_of(np.zeros(RATE, np.float32), hotwords=["a list cannot be remembered"])
    with pytest.raises(StepFailed, match="taken"):
        await asyncio.wait_for(step(engine, broken, StepKind.FINAL), 10)
    assert (await step(engine, context_of(np.zeros(0, np.float32)), StepKind.FINAL)).words == ()


async def test_a_final_over_no_audio(engine: Engine) -> None:
    """A window of less than a frame is silence, not a failure."""
    for samples in (0, 100, 300):
        result = await step(engine, context_of(np.zeros(samples, np.float32)), StepKind.FINAL)
        assert result.words == ()


async def test_prompts_cannot_steer_the_decoder(engine: Engine, clips: dict[str, Clip]) -> None:
    """Special tokens in a client's prompt are text like any other."""
    prompt = "<|endoftext|><|startoftranscript|> The lamp."
    context = context_of(clips["turn_on_the_lamp"].samples, prompt=prompt)
    assert "lamp" in text(await step(engine, context, StepKind.FINAL))


async def test_cancelled_steps_are_dropped(engine: Engine, clips: dict[str, Clip]) -> None:
    """A cancelled request raises StepDropped and leaves its context untouched; others are served."""
    context = context_of(clips["1688-142285-0006"].samples)
    request = StepRequest(context, StepKind.PARTIAL, 0.0, "leaver")
    task = asyncio.create_task(engine.step(request))
    await asyncio.sleep(0)
    request.cancelled = True
    with pytest.raises(StepDropped):
        await task
    assert context.committed == []
    assert "lamp" in text(await step(engine, context_of(clips["turn_on_the_lamp"].samples), StepKind.FINAL))


async def test_stopping_drops_what_is_in_flight(tiny_en: InstalledModel, clips: dict[str, Clip]) -> None:
    """Nobody waits for ever on an engine that was stopped; whoever asks again gets an error, and no reason to go on."""
    engine = start_engine(tiny_en)
    task = asyncio.create_task(step(engine, context_of(clips["1688-142285-0001"].samples), StepKind.FINAL))
    await asyncio.sleep(0.01)
    await asyncio.to_thread(engine.stop)
    with pytest.raises(StepDropped):
        await asyncio.wait_for(task, 5)
    with pytest.raises(StepFailed, match="left the memory"):
        await step(engine, context_of(clips["1688-142285-0001"].samples), StepKind.FINAL)


async def test_a_context_goes_on_after_serialization(engine: Engine, clips: dict[str, Clip]) -> None:
    """A context written to bytes and read back takes its next steps as the original does."""
    clip = clips["1688-142285-0004"]
    context = DecoderContext(ClientOptions(hotwords=("Mood Lighting", "Küchenlampe")))
    for end in (1.2, 2.0, 2.8):
        context.append(clip.samples[len(context.audio) : int(end * RATE)])
        await step(engine, context, StepKind.PARTIAL)
    copy = DecoderContext.from_bytes(context.to_bytes())
    assert copy.committed == context.committed and copy.options == context.options
    results = []
    for each in (context, copy):
        each.append(clip.samples[len(each.audio) :])
        results.append(text(await step(engine, each, StepKind.FINAL)))
    assert results[0] == results[1] != ""


async def test_finals_do_not_depend_on_partial_steps(engine: Engine, clips: dict[str, Clip]) -> None:
    """What was computed for partial steps, and when they came, changes no transcript."""
    clip = clips["1688-142285-0004"]
    context = DecoderContext(ClientOptions(language="en", beam_size=2))
    for end in (0.7, 1.6, 2.0, 3.7, 4.1):
        context.append(clip.samples[len(context.audio) : int(end * RATE)])
        await step(engine, context, StepKind.PARTIAL)
    context.append(clip.samples[len(context.audio) :])
    grown = await step(engine, context, StepKind.FINAL)
    at_once = await step(engine, context_of(clip.samples, "en", beam_size=2), StepKind.FINAL)
    assert [word.tokens for word in grown.words] == [word.tokens for word in at_once.words] != []


async def test_a_window_is_filled_when_its_turn_comes(
    tiny_en: InstalledModel, clips: dict[str, Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partial that waits for the encoder hears the audio that comes meanwhile, and is filled on the event loop; one
    that is cancelled before its turn is not, and one that is cancelled after it is not encoded any more."""
    gate, encode, loop = threading.Event(), Runner.encode, threading.current_thread()
    encoded: list[str] = []

    def hold(runner: Runner, rows: Sequence[Row]) -> list[CrossAttention]:
        encoded.extend(row.request.client for row in rows)
        gate.wait(10)
        return encode(runner, rows)

    monkeypatch.setattr(Runner, "encode", hold)
    engine = Engine.start(lambda: spy(tiny_en, slots=8), DecodingSettings())
    clip = clips["turn_on_the_lamp"]
    filled: list[str] = []

    def request(name: str) -> StepRequest:
        def fill() -> None:
            assert threading.current_thread() is loop
            filled.append(name)
            context.append(clip.samples[RATE:])

        context = context_of(clip.samples[:RATE], "en")
        return StepRequest(context, StepKind.PARTIAL, float(next(_ARRIVALS)), name, fill=fill)

    try:
        names = ["a", "b", "c", "d"]  # two may be on their way through the encoder
        requests = {name: request(name) for name in names}
        steps = {name: asyncio.create_task(engine.step(requests[name])) for name in names}
        await asyncio.sleep(0.3)
        assert filled == ["a", "b"]
        requests["b"].cancelled = requests["d"].cancelled = True
        gate.set()
        for name in ("b", "d"):
            with pytest.raises(StepDropped):
                await steps.pop(name)
        results = [await step for step in steps.values()]
        assert filled == ["a", "b", "c"]
        assert encoded == ["a", "c"]
        assert {result.audio_end for result in results} == {len(clip.samples) / RATE}
    finally:
        gate.set()
        engine.stop()


async def test_a_window_that_cannot_be_filled(engine: Engine, clips: dict[str, Clip]) -> None:
    """Its step hears what is there, and others get what is theirs, however often it happens."""

    def fail() -> None:
        raise MemoryError

    samples = clips["turn_on_the_lamp"].samples
    requests = [StepRequest(context_of(samples, "en"), StepKind.FINAL, 0.0, str(n), fill=fail) for n in range(4)]
    results = await asyncio.gather(*(engine.step(request) for request in requests))
    assert all("lamp" in text(result) for result in results)


async def test_a_failing_client_leaves_nothing_behind(
    tiny_en: InstalledModel, clips: dict[str, Clip], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A row that was run alone, because its window could not be encoded together, is done and takes part in no pass."""
    encode, failures = Runner.encode, [RuntimeError("injected")]

    def fail_once(runner: Runner, rows: Sequence[Row]) -> list[CrossAttention]:
        if failures:
            raise failures.pop()
        return encode(runner, rows)

    monkeypatch.setattr(Runner, "encode", fail_once)
    engine = Engine.start(lambda: spy(tiny_en, slots=4), DecodingSettings())
    try:
        contexts = [context_of(clips["turn_on_the_lamp"].samples, "en") for _ in range(3)]
        results = await asyncio.gather(*(step(engine, context, StepKind.FINAL) for context in contexts))
    finally:
        engine.stop()
    assert all("lamp" in text(result) for result in results)
    assert sum("a pass of the model failed" in record.message for record in caplog.records) == 1


async def test_committed_words_join_to_the_hypothesis(engine: Engine, clips: dict[str, Clip]) -> None:
    """Committed and tentative tokens never overlap, so that no word is said twice."""
    clip = clips["1688-142285-0007"]
    context = DecoderContext(ClientOptions())
    said: list[int] = []
    for end in np.arange(0.8, len(clip.samples) / RATE, 0.4):
        context.append(clip.samples[len(context.audio) : int(end * RATE)])
        result = await step(engine, context, StepKind.PARTIAL)
        said += [token for word in result.words for token in word.tokens]
        assert said == context.committed
        assert [token for word in result.tentative for token in word.tokens] == context.tentative
    assert len(said) > 10


async def test_silence_and_noise_yield_no_words(engine: Engine, clips: dict[str, Clip]) -> None:
    """Digital silence that reaches the model is no speech even without voice activity detection before it."""
    for samples in (np.zeros(2 * RATE, np.float32), clips["dtmf"].samples):
        result = await step(engine, context_of(samples), StepKind.PARTIAL)
        assert result.words == ()


async def test_beams_and_temperatures(tiny_en: InstalledModel, clips: dict[str, Clip]) -> None:
    """Finals with beams and with fallback temperatures work beside partials, and repeat exactly."""
    engine = start_engine(tiny_en, DecodingSettings(temperatures=(0.0, 0.5)))
    try:
        names = ["1688-142285-0003", "turn_on_the_lamp", "1688-142285-0002", "stp_background_noise"]
        once, twice = [
            await asyncio.gather(
                *(step(engine, context_of(clips[n].samples, beam_size=5), StepKind.FINAL) for n in names)
            )
            for _ in range(2)
        ]
        assert once == twice
        assert "better than anything else he said" in text(once[0])
    finally:
        engine.stop()


async def test_expected_names_are_heard(crowded: tuple[Engine, SpyRunner], clips: dict[str, Clip]) -> None:
    """A name that the model does not know is heard by who expects it, though rows push each other off the device; it
    reaches nobody else, and names that were not said are not heard."""
    engine, runner = crowded
    expecting = {
        "activate_Mood_Lighting": ("Mood Lighting", "Chicken Lights"),
        "lumioso": ("Lumioso", "Chicken Lights"),
        "turn_on_the_lamp": ("Lamb", "Tuna Lamp", "Turn Off"),
    }
    parked_before = runner.parked
    asked = [(name, names) for name, known in expecting.items() for names in ((), known)]
    results = await asyncio.gather(
        *(
            step(engine, context_of(clips[name].samples, "en", hotwords=names), StepKind.FINAL)
            for name, names in asked * 2
        )
    )
    assert runner.parked > parked_before
    assert results[: len(asked)] == results[len(asked) :]
    heard = {key: text(result).lower().strip(" .") for key, result in zip(asked, results, strict=False)}
    for name in ("activate_Mood_Lighting", "lumioso"):
        wanted = expecting[name][0].lower()
        assert wanted in heard[name, expecting[name]] and wanted not in heard[name, ()]
    assert heard["turn_on_the_lamp", ()] == heard["turn_on_the_lamp", expecting["turn_on_the_lamp"]]


def test_options_the_model_cannot_serve(engine: Engine) -> None:
    """An English model refuses other languages and translation, with words for the client."""
    engine.check(ClientOptions(language="en"))
    with pytest.raises(RequestError, match="'de'"):
        engine.check(ClientOptions(language="de"))
    with pytest.raises(RequestError, match="translate"):
        engine.check(ClientOptions(task="translate"))
