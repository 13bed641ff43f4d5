"""The way of GPUs, on the CPU: all rows attend at once, and get what they get one by one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from unittest.mock import patch

import numpy as np
import pytest
import torch
from conftest import Clip
from test_model import random_checkpoint
from torch import Tensor

from wyoming_wlk.engine import runner as runner_module
from wyoming_wlk.engine.attention import DecoderInput
from wyoming_wlk.engine.biasing import NameTree
from wyoming_wlk.engine.cache import KVCache, slots_that_fit
from wyoming_wlk.engine.checkpoint import Dimensions, load_checkpoint
from wyoming_wlk.engine.context import ClientOptions, DecoderContext
from wyoming_wlk.engine.decoder import DecoderPass
from wyoming_wlk.engine.engine import DecodingSettings, Engine
from wyoming_wlk.engine.hypothesis import Attempt, Row
from wyoming_wlk.engine.layers import Precision
from wyoming_wlk.engine.model import Whisper
from wyoming_wlk.engine.passes import PaddedPasses, Passes, Step, bucket_of, buckets
from wyoming_wlk.engine.request import StepKind, StepRequest
from wyoming_wlk.engine.runner import Runner
from wyoming_wlk.engine.scheduler import Scheduler
from wyoming_wlk.engine.tokenizer import Tokenizer
from wyoming_wlk.engine.transfer import PlainParking, parks_exactly
from wyoming_wlk.models import InstalledModel

CPU = torch.device("cpu")
FLOAT32 = Precision.choose("float32", CPU)
FRAMES = (50, 300, 100, 1500, 150, 260)


@pytest.fixture(scope="module", autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def by_row() -> Whisper:
    return Whisper(random_checkpoint(), FLOAT32, CPU)


@pytest.fixture(scope="module")
def padded() -> Whisper:
    return Whisper(random_checkpoint(), FLOAT32, CPU, padded=True)


def mels(frames: Sequence[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(80, 2 * n, generator=generator) for n in frames]


def filled(model: Whisper, by_row: Whisper, frames: Sequence[int] = FRAMES) -> KVCache:
    """A cache with the same audio for either way of decoding."""
    cache = model.new_cache(len(frames))
    for slot, cross in enumerate(by_row.encode(mels(frames))):
        cache.set_audio(slot, cross)
    return cache


def close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, atol=1e-4, rtol=1e-4)


def assert_same(model: Whisper, one: DecoderPass, other: DecoderPass) -> None:
    """The same tokens; logits and attention to rounding."""
    logits = [model.decoder.logits(found.hidden) for found in (one, other)]
    assert close(*logits) and torch.equal(*(scores.argmax(dim=-1) for scores in logits))
    for mine, theirs in zip(one, other, strict=True):
        assert close(mine.attention, theirs.attention)


def test_windows_of_all_lengths(by_row: Whisper, padded: Whisper) -> None:
    """Windows encoded in groups, padded to the longest of each, equal those encoded one by one."""
    for one, other in zip(by_row.encode(mels(FRAMES)), padded.encode(mels(FRAMES)), strict=True):
        assert one.frames == other.frames and close(one.keys_values, other.keys_values)


def test_ragged_rows(by_row: Whisper, padded: Whisper) -> None:
    """Prefixes of different lengths, then single tokens for all and for some of the rows, then both in one pass."""
    caches = [filled(model, by_row) for model in (by_row, padded)]
    passes = [model.passes(cache) for model, cache in zip((by_row, padded), caches, strict=True)]
    everybody = range(len(FRAMES))
    rounds = [{slot: [50257, 50362, *range(5 * slot)] for slot in everybody}]
    rounds += [dict.fromkeys(everybody, [7]), dict.fromkeys((4, 0, 3), [8]), {2: [9], 5: [9, 10, 11]}, {1: [12]}]
    for tokens in rounds:
        batch = [DecoderInput(slot, [slot], [new]) for slot, new in tokens.items()]
        assert_same(by_row, *(run(batch) for run in passes))
    assert caches[0].tokens == caches[1].tokens


def test_beams(by_row: Whisper, padded: Whisper) -> None:
    """Beams over one audio beside a row of its own, one of them split in between."""
    caches = [filled(model, by_row) for model in (by_row, padded)]
    for model, cache in zip((by_row, padded), caches, strict=True):
        for slot in (1, 2):
            cache.clear(slot)
        model.passes(cache)([DecoderInput(0, [slot], [[50257, 50362, 3]]) for slot in (0, 1, 2)])
        model.passes(cache)([DecoderInput(4, [4], [[50257, 50362]])])
    for new in ([[400], [500], [600]], [[401], [501], [601]]):
        batch = [DecoderInput(0, [0, 1, 2], new), DecoderInput(4, [4], [[9]])]
        found = [model.passes(cache)(batch) for model, cache in zip((by_row, padded), caches, strict=True)]
        assert_same(by_row, *found)
        for cache in caches:
            cache.copy_tokens(2, 0)


def test_a_parked_row(by_row: Whisper, padded: Whisper) -> None:
    """A row that was parked, its slot used by another, and restored elsewhere decodes on as if nothing had happened."""
    stayed, moved = filled(by_row, by_row), filled(padded, by_row)
    for cache, model in ((stayed, by_row), (moved, padded)):
        model.passes(cache)([DecoderInput(1, [1], [[50257, 50362, 5]])])
    parked = moved.park(1)
    moved.set_audio(1, by_row.encode(mels((1500,)))[0])
    padded.passes(moved)([DecoderInput(1, [1], [[50257, 50362, 6, 7, 8]])])
    moved.restore(3, parked)
    moved.settle()
    batches = (
        ([DecoderInput(1, [1], [[9]])], by_row.passes(stayed)),
        ([DecoderInput(3, [3], [[9]])], padded.passes(moved)),
    )
    assert_same(by_row, *(run(batch) for batch, run in batches))


def test_numbers_that_overflow_stay_with_their_row(by_row: Whisper, padded: Whisper) -> None:
    """A slot whose last row was no number any more serves the next one as well as any."""
    clean, dirty = filled(padded, by_row), padded.new_cache(len(FRAMES))
    dirty.self_kv.fill_(float("nan"))
    dirty.cross_kv.fill_(float("inf"))
    for slot, cross in enumerate(by_row.encode(mels(FRAMES))):
        dirty.set_audio(slot, cross)
    batch = [DecoderInput(slot, [slot], [[50257, 50362, slot]]) for slot in range(len(FRAMES))]
    assert_same(padded, *(padded.passes(cache)(batch) for cache in (clean, dirty)))


# --- buckets and graphs -----------------------------------------------------------------------------------------------


def test_silence_for_prompts_is_left_alone(tiny_en: InstalledModel, padded: Whisper) -> None:
    """Captured passes try themselves out on noise in the slots; what prompts are read beside is silence afterwards."""
    plain = Runner(padded, Tokenizer(tiny_en.tokenizer, padded.dims.n_vocab), slots=2)

    def passes(cache: KVCache) -> PaddedPasses:
        return PaddedPasses(padded.decoder, cache, lambda step, example: step)

    with patch.object(padded, "passes", passes):
        captured = Runner(padded, Tokenizer(tiny_en.tokenizer, padded.dims.n_vocab), slots=2)
    slots = [runner._cache.cross_kv[:, :, 2, :, :150] for runner in (plain, captured)]
    assert torch.equal(*slots) and slots[0].abs().sum() > 0


def test_buckets() -> None:
    """Powers of two up to the slots there are, and never fewer places than rows."""
    assert buckets(1) == [1]
    assert buckets(16) == [1, 2, 4, 8, 16]
    assert buckets(20) == [1, 2, 4, 8, 16, 20]
    assert [bucket_of(rows, 20) for rows in (1, 2, 3, 9, 16, 17, 20)] == [1, 2, 4, 16, 16, 20, 20]


class Recorder:
    """Stands for the capture of graphs: remembers the shapes, and replays into the same tensors as graphs do."""

    def __init__(self, error: float = 0.0) -> None:
        self.replayed = 0
        self._error = error

    def __call__(self, step: Step, example: Tensor) -> Step:
        inputs, outputs = example.clone(), step(example)

        def replay(new: Tensor) -> tuple[Tensor, Tensor]:
            self.replayed += 1
            inputs.copy_(new)
            for kept, found in zip(outputs, step(inputs), strict=True):
                kept.copy_(found + self._error)
            return outputs

        return replay


def decode(passes: Passes) -> list[DecoderPass]:
    batch = [DecoderInput(slot, [slot], [[50257, 50362, slot]]) for slot in range(len(FRAMES))]
    return [
        passes(batch),
        *(passes([DecoderInput(slot, [slot], [[7]]) for slot in slots]) for slots in ([1], [0, 5, 3])),
    ]


def prepared(padded: Whisper, by_row: Whisper, capture: Recorder) -> PaddedPasses:
    """As a runner makes them: before there is any audio."""
    cache = padded.new_cache(len(FRAMES))
    passes = PaddedPasses(padded.decoder, cache, capture)
    for slot, cross in enumerate(by_row.encode(mels(FRAMES))):
        cache.set_audio(slot, cross)
    return passes


def test_captured_passes(padded: Whisper, by_row: Whisper, caplog: pytest.LogCaptureFixture) -> None:
    """Graphs are made for all buckets, compared once, and then used for passes of one token a row."""
    capture = Recorder()
    passes = prepared(padded, by_row, capture)
    assert capture.replayed == len(buckets(len(FRAMES))) * 3
    capture.replayed = 0
    found, expected = decode(passes), decode(padded.passes(filled(padded, by_row)))
    assert capture.replayed == 2
    assert_same(padded, found[-1], expected[-1])
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_graphs_that_compute_something_else(padded: Whisper, by_row: Whisper, caplog: pytest.LogCaptureFixture) -> None:
    """They are found out at the start, reported once, and not used."""
    capture = Recorder(error=0.01)
    passes = prepared(padded, by_row, capture)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    capture.replayed = 0
    for one, other in zip(decode(passes), decode(padded.passes(filled(padded, by_row))), strict=True):
        assert_same(padded, one, other)
    assert capture.replayed == 0


def test_graphs_that_cannot_be_made(padded: Whisper, by_row: Whisper, caplog: pytest.LogCaptureFixture) -> None:
    """A device that cannot capture decodes without, and says so once."""

    def fail(step: Step, example: Tensor) -> Step:
        raise RuntimeError("injected")

    cache = filled(padded, by_row)
    passes = PaddedPasses(padded.decoder, cache, fail)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    decode(passes)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_slots_that_fit() -> None:
    """Half of the free memory, at least one slot, and no more than are of use."""
    turbo = Dimensions(128, 1500, 1280, 20, 32, 51866, 448, 1280, 20, 4)
    slot = 2 * 4 * 1280 * (448 + 1500) * 2
    assert slots_that_fit(turbo, torch.float16, 20 * slot) == 10
    assert slots_that_fit(turbo, torch.float32, 20 * slot) == 5
    assert slots_that_fit(turbo, torch.float16, 0) == 1
    assert slots_that_fit(turbo, torch.float16, 10**12) == 512


class LateParking(PlainParking):
    """Brings nothing back before it must, as copies beside the computation may."""

    def __init__(self) -> None:
        self._arriving: list[tuple[Tensor, Tensor]] = []

    def back(self, parked: Tensor, target: Tensor) -> None:
        self._arriving.append((parked, target))

    def settle(self) -> None:
        for parked, target in self._arriving:
            target.copy_(parked)
        self._arriving.clear()


class ForgetfulParking(PlainParking):
    def back(self, parked: Tensor, target: Tensor) -> None:
        pass


def test_parking_checks_itself() -> None:
    """What brings something else back is found out."""
    assert parks_exactly(PlainParking(), CPU)
    assert parks_exactly(LateParking(), CPU)
    assert not parks_exactly(ForgetfulParking(), CPU)


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_the_host_waits_once_a_pass(tiny_en: InstalledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device whose tensors have no values, which nobody can therefore read, rows of all kinds advance with one
    read a pass, the one in which the chosen tokens come; those in their first pass have one of their own."""
    read: list[int] = []
    plain = Tensor.tolist

    def tolist(tensor: Tensor) -> list[float]:
        if not tensor.is_meta:
            return plain(tensor)
        read.append(tensor.numel())
        return [0.0] * tensor.numel()

    monkeypatch.setattr(Tensor, "tolist", tolist)
    monkeypatch.setattr(runner_module, "to_host", lambda tensor: torch.zeros(tensor.shape, dtype=tensor.dtype))
    model = Whisper(random_checkpoint(), FLOAT32, torch.device("meta"))
    runner = Runner(model, Tokenizer(tiny_en.tokenizer, model.dims.n_vocab), slots=8)
    rows = []
    for number, beams in enumerate((1, 3, 1)):
        context = DecoderContext(ClientOptions(), np.zeros(16000 * (1 + 2 * number), np.float32))
        context.tentative = [400, 401] * number
        request = StepRequest(context, StepKind.FINAL, 0.0, "client")
        names = NameTree([[440, 441]] if number else [])
        rows.append(Row(request, (Attempt(beams),), number, names, language="en"))
    runner.start(rows[:2])
    assert not read
    for passes in (1, 2):
        runner.advance(rows[:2])
        assert len(read) == passes
    runner.start(rows[2:])
    for passes in (4, 5):
        runner.advance(rows)
        assert len(read) == passes
    assert max(read) < 100


# --- real speech ------------------------------------------------------------------------------------------------------


class SpyParking(LateParking):
    """Counts what is parked."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def away(self, tensor: Tensor) -> Tensor:
        self.count += 1
        return super().away(tensor)


class RestlessScheduler(Scheduler):
    """Gives the slots to others at each pass, so that rows push each other off the device at any speed."""

    def _urgency(self, row: Row) -> tuple[bool, int, bool, float, int]:
        return not row.encoding, (row.sequence + self._passes) % 5, False, 0.0, 0


async def transcripts(
    tiny_en: InstalledModel, clips: Sequence[Clip], parking: SpyParking, padded: bool, slots: int
) -> list[list[list[str]]]:
    """What clients who speak at the same time get from two partial steps and a final, some with beams and names."""

    def load() -> Runner:
        checkpoint = load_checkpoint(tiny_en.folder)
        runner = Runner(
            Whisper(checkpoint, FLOAT32, CPU, padded), Tokenizer(tiny_en.tokenizer, checkpoint.dims.n_vocab), slots
        )
        runner._cache._parking = parking
        return runner

    engine = await asyncio.to_thread(Engine.start, load, DecodingSettings())
    engine._scheduler = RestlessScheduler(slots, 1, 0.0)

    async def speak(number: int, clip: Clip) -> list[list[str]]:
        names = ("Mood Lighting",) if number == 2 else ()
        context = DecoderContext(ClientOptions(language="en", beam_size=1 + 2 * (number % 2), hotwords=names))
        got = []
        for end in (16000, 32000, len(clip.samples)):
            context.append(clip.samples[len(context.audio) : end])
            kind = StepKind.FINAL if end == len(clip.samples) else StepKind.PARTIAL
            result = await engine.step(StepRequest(context, kind, 0.0, clip.name))
            got.append([word.text for word in (*result.words, *result.tentative)])
        return got

    try:
        return list(await asyncio.gather(*(speak(number, clip) for number, clip in enumerate(clips))))
    finally:
        await asyncio.to_thread(engine.stop)


def letters(clients: list[list[list[str]]]) -> list[list[str]]:
    return [["".join(filter(str.isalpha, "".join(step).casefold())) for step in steps] for steps in clients]


async def test_real_speech(tiny_en: InstalledModel, clips: dict[str, Clip]) -> None:
    """Clients get the same words in either way, though with few slots they push each other off the device."""
    names = ["1688-142285-0003", "turn_on_the_lamp", "activate_Mood_Lighting", "1688-142285-0004", "lumioso"]
    chosen = [clips[name] for name in names]
    alone, together = [
        await transcripts(tiny_en, chosen, parking := SpyParking(), padded, slots)
        for padded, slots in ((False, 16), (True, 3))
    ]
    assert [got[-1] for got in together] == [got[-1] for got in alone]
    assert letters(together) == letters(alone)  # partials encode another part of their windows in either way
    assert parking.count > 0
