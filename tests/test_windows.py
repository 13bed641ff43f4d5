"""Windows that grow: what is kept of them between steps, and that it is as good as computing it again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from conftest import Clip
from test_engine import context_of

from wyoming_wlk.engine.checkpoint import load_checkpoint
from wyoming_wlk.engine.context import DecoderContext
from wyoming_wlk.engine.encoder import Silence
from wyoming_wlk.engine.hypothesis import Attempt, Row
from wyoming_wlk.engine.mel import MelFrontend, MelWindow
from wyoming_wlk.engine.model import Precision, Whisper
from wyoming_wlk.engine.request import StepKind, StepRequest
from wyoming_wlk.engine.runner import Runner
from wyoming_wlk.engine.tokenizer import Tokenizer
from wyoming_wlk.engine.window import AudioMemory, TextMemory
from wyoming_wlk.engine.windows import WindowEncoder
from wyoming_wlk.models import InstalledModel

CPU = torch.device("cpu")
RATE = 16000


@pytest.fixture(scope="module", autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def model(tiny_en: InstalledModel) -> Whisper:
    return Whisper(load_checkpoint(tiny_en.folder), Precision.choose("float32", CPU), CPU)


def row(context: DecoderContext, kind: StepKind = StepKind.PARTIAL) -> Row:
    return Row(StepRequest(context, kind, 0.0, "client"), (Attempt(),), sequence=0, language="en")


def mel_of(model: Whisper, samples: np.ndarray, frames: int, first: int = 0) -> torch.Tensor:
    return MelWindow(MelFrontend(model.dims.n_mels, CPU)).update(samples, 2 * frames, first)


def test_a_window_goes_on_at_any_frame(model: Whisper, clips: dict[str, Clip]) -> None:
    """Frames encoded again beside their own predecessors are what they were: position, convolutions, keys and values
    fit together."""
    samples = clips["1688-142285-0003"].samples
    memory = model.new_memory()
    assert memory is not None
    first = model.extend(mel_of(model, samples, 300), 0, memory).keys_values.clone()
    for begin in (1, 120, 263):
        again = model.extend(mel_of(model, samples, 300, 2 * (begin - 1)), begin, memory)
        assert torch.allclose(again.keys_values, first, atol=2e-3)


def test_frames_that_are_settled_hardly_change(model: Whisper, clips: dict[str, Clip]) -> None:
    """A window that grew step by step is to the decoder nearly what it is when all of it is encoded at once."""
    samples = clips["1688-142285-0005"].samples[: 6 * RATE]
    context, encoder = context_of(samples[:0]), WindowEncoder(model)
    while len(context.audio) < len(samples):
        context.append(samples[len(context.audio) :][: int(0.4 * RATE)])
        step = row(context)
        (grown,) = encoder.encode([step])
        encoder.settle(step)
    (whole,) = model.encode([mel_of(model, samples, grown.frames)])
    assert grown.keys_values.shape == whole.keys_values.shape
    difference = (grown.keys_values - whole.keys_values)[:, :, :, : len(samples) // 320].norm()
    assert difference < 0.15 * whole.keys_values.norm()
    assert difference > 0  # it did not encode everything again


def test_a_step_encodes_what_is_new(model: Whisper, clips: dict[str, Clip], monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the window is, a partial step takes the new audio and about a second; a final takes all of it."""
    encoded: list[int] = []
    extend = model.encoder.extend

    def count(mel: torch.Tensor, first: int, silence: Silence, memory: AudioMemory) -> torch.Tensor:
        features = extend(mel, first, silence, memory)
        encoded.append(len(features))
        return features

    monkeypatch.setattr(model.encoder, "extend", count)
    samples = clips["1688-142285-0001"].samples
    context, encoder = context_of(samples[:0]), WindowEncoder(model)
    while len(context.audio) < 5 * RATE:
        context.append(samples[len(context.audio) :][: RATE // 2])
        step = row(context)
        encoder.encode([step])
        encoder.settle(step)
    assert max(encoded[2:]) <= 25 + 60 + 25 + 10 + 16  # new, unsettled, silence, and two roundings
    encoder.encode([row(context, StepKind.FINAL)])
    assert encoded[-1] == 300


def test_a_step_that_was_dropped_settles_nothing(model: Whisper, clips: dict[str, Clip]) -> None:
    """What a step leaves behind counts once its result is there: the one after a dropped one encodes it again."""
    samples = clips["1688-142285-0003"].samples
    results = []
    for dropped in (False, True):
        context, encoder = context_of(samples[:0]), WindowEncoder(model)
        context.append(samples[: 2 * RATE])
        step = row(context)
        encoder.encode([step])
        encoder.settle(step)
        if dropped:
            context.append(samples[2 * RATE : 3 * RATE])
            encoder.encode([row(context)])
        context.append(samples[len(context.audio) : 4 * RATE])
        results.append(encoder.encode([row(context)])[0].keys_values.clone())
    assert (results[0] - results[1]).norm() < 0.01 * results[0].norm()


def test_a_window_that_is_over_leaves_nothing(model: Whisper, clips: dict[str, Clip]) -> None:
    """When a window is closed or cut, what was computed of it goes, and idle clients hold nothing of the engine's."""
    samples = clips["1688-142285-0003"].samples
    for end in (lambda it: it.restart(RATE, ""), lambda it: it.cut(RATE, "", [])):
        context, encoder = context_of(samples[: 2 * RATE]), WindowEncoder(model)
        encoder.encode([row(context)])
        assert context.window is not None
        end(context)
        assert context.window is None


def test_how_much_of_a_prefix_is_known() -> None:
    """Tokens count as far as they are the same, and never all of a prefix: its last one has to be read."""
    memory = TextMemory([1, 2, 3, 4], torch.empty(0))
    assert memory.common([1, 2, 3, 4, 5]) == 4
    assert memory.common([1, 2, 3, 4]) == 3
    assert memory.common([1, 2, 9, 4, 5]) == 2
    assert memory.common([9]) == 0
    assert TextMemory([], torch.empty(0)).common([1, 2]) == 0


def test_a_prefix_that_is_known_is_not_read_again(tiny_en: InstalledModel, clips: dict[str, Clip]) -> None:
    """A prompt is read once, beside silence. A partial step puts keys and values of committed words in place, too;
    where nothing is committed it reads what tells of speech. A final reads all that follows the prompt."""
    model = Whisper(load_checkpoint(tiny_en.folder), Precision.choose("float32", CPU), CPU)
    runner = Runner(model, Tokenizer(tiny_en.tokenizer, model.dims.n_vocab), slots=2)
    context = context_of(clips["1688-142285-0004"].samples[: 3 * RATE])
    context.previous_text = " Something that was said before."

    def run(kind: StepKind) -> Row:
        step = row(context, kind)
        runner.start([step])
        while not step.done:
            runner.advance([step])
        if kind is StepKind.PARTIAL:
            runner.keep(step)
        runner.release(step)
        return step

    first = run(StepKind.PARTIAL)
    assert context.prompt is not None and context.prompt.tokens == first.prefix[: first.prompt_length]
    read = context.prompt
    second = run(StepKind.PARTIAL)
    assert second.known == second.prompt_length == first.prompt_length > 0
    assert second.best.tokens == first.best.tokens and second.no_speech > 0
    context.committed = first.best.tokens[:4]
    third = run(StepKind.PARTIAL)
    assert third.known == len(third.prefix) - 1
    assert third.best.tokens == first.best.tokens[4:]
    assert run(StepKind.FINAL).known == first.prompt_length and context.prompt is read
    context.restart(0, " And more.")
    context.append(clips["1688-142285-0004"].samples[: 3 * RATE])
    longer = run(StepKind.FINAL)
    assert longer.prompt_length > first.prompt_length and context.prompt.tokens[: first.prompt_length] == read.tokens
    assert torch.equal(context.prompt.self_kv[:, :, :, : first.prompt_length], read.self_kv)
