"""The model of cost against what torch counts while the real code runs, and against published figures."""

from __future__ import annotations

import pytest
import torch
from test_model import random_checkpoint
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.clips import DEFAULT_AUDIO, load_clips
from benchmarks.listening import listen
from benchmarks.operations import (
    FRAMES_PER_SECOND,
    H200,
    HALF,
    INT8,
    PADDING_SECONDS,
    SILENCE_STRIDE,
    SIZES,
    Cost,
    Device,
    Formats,
    Schedule,
    Steps,
    Whisper,
    encoded_frames,
    entries,
    floor,
    parts,
    per_second,
)
from wyoming_wlk.engine import model as network
from wyoming_wlk.engine import windows
from wyoming_wlk.engine.attention import KEY_BLOCK, DecoderInput
from wyoming_wlk.engine.layers import Precision
from wyoming_wlk.models import InstalledModel

FLOAT = Formats(4, 4, 4)
SCHEDULE = Schedule(Steps(2.5, 6.0, 2.1, 40, 35, 5, 2.0), Steps(0.2, 8.0, 9.0, 30, 0, 0, 20, beams=2))


@pytest.fixture(scope="module")
def real() -> network.Whisper:
    """A tiny Whisper with random weights, in float32."""
    cpu = torch.device("cpu")
    with torch.no_grad():
        return network.Whisper(random_checkpoint(), Precision.choose("float32", cpu), cpu)


@pytest.fixture
def formulas(real: network.Whisper) -> Whisper:
    return Whisper(real.dims, FLOAT)


def _mels(frames: int, windows: int) -> list[torch.Tensor]:
    return [torch.zeros(80, 2 * frames) for _ in range(windows)]


def _counted(counter: FlopCounterMode) -> int:
    return int(counter.get_total_flops())


@pytest.mark.parametrize(("frames", "windows"), [(50, 1), (500, 1), (1500, 1), (350, 3)])
def test_encoder_operations(real: network.Whisper, formulas: Whisper, frames: int, windows: int) -> None:
    """Encoder and cross-attention's keys and values take as many operations as torch counts, but for the keys that
    attention is filled up with."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        real.encode(_mels(frames, windows))
    expected = formulas.encoder(frames, windows) + formulas.cross(frames, windows)
    seen = int(entries(real.dims, frames))
    filling = windows * real.dims.n_audio_layer * 4 * frames * (-seen % KEY_BLOCK) * real.dims.n_audio_state
    assert expected.operations + filling == _counted(counter)


@pytest.mark.parametrize(("rows", "new", "earlier"), [(1, 1, 0), (1, 40, 0), (3, 1, 20), (2, 5, 7)])
def test_decoder_operations(real: network.Whisper, formulas: Whisper, rows: int, new: int, earlier: int) -> None:
    """A pass of several rows, behind earlier tokens, takes as many operations as torch counts; so do its logits."""
    frames = 300
    with torch.no_grad():
        cache = real.new_cache(rows)
        for slot, cross in enumerate(real.encode(_mels(frames, rows))):
            cache.set_audio(slot, cross)
            if earlier:
                real.decoder([DecoderInput(slot, [slot], [[1] * earlier])], cache)
        with FlopCounterMode(display=False) as counter:
            output = real.decoder([DecoderInput(slot, [slot], [[1] * new]) for slot in range(rows)], cache)
        assert formulas.decoder(rows, new, earlier, frames).operations == _counted(counter)
        with FlopCounterMode(display=False) as counter:
            real.decoder.logits(output.hidden)
    assert formulas.logits(rows * new).operations == _counted(counter)


def test_bytes_of_the_caches(real: network.Whisper, formulas: Whisper) -> None:
    """What a parked row holds is what a pass reads of keys and values: its own tokens' and its window's."""
    frames, tokens = 300, 20
    with torch.no_grad():
        cache = real.new_cache(1)
        cache.set_audio(0, real.encode(_mels(frames, 1))[0])
        real.decoder([DecoderInput(0, [0], [[1] * tokens])], cache)
    weights = formulas.decoder(0, 0, 0, frames).bytes
    assert formulas.decoder(1, 0, tokens, frames).bytes - weights == cache.park(0).nbytes


def test_bytes_of_the_weights() -> None:
    """A pass over encoder, cross-attention, decoder and logits reads the checkpoint's matrices once."""
    checkpoint = random_checkpoint()
    formulas = Whisper(checkpoint.dims, FLOAT)
    matrices = [tensor for name, tensor in checkpoint.tensors.items() if tensor.ndim > 1 and "position" not in name]
    assert formulas.weights == sum(tensor.nbytes for tensor in matrices)


def test_constants_are_the_engines() -> None:
    """The formulas speak of the padding, the thinning and the rounding that the engine has."""
    assert PADDING_SECONDS == windows.PADDING_SECONDS
    assert SILENCE_STRIDE == network.SILENCE_STRIDE
    assert FRAMES_PER_SECOND * windows.FRAME_SAMPLES == windows.SAMPLE_RATE
    assert [encoded_frames(seconds) for seconds in (0.2, 0.3, 0.4, 7, 29, 30)] == [50, 50, 100, 400, 1500, 1500]
    assert entries(SIZES["tiny"], 1500) == 1500 and entries(SIZES["tiny"], 0) == 150


def test_sizes_have_the_published_numbers_of_parameters() -> None:
    """39, 74, 244, 769, 1550 and 809 million, as OpenAI gives them, of which the matrices are nearly all."""
    published = {"tiny": 39, "base": 74, "small": 244, "medium": 769, "large-v3": 1550, "large-v3-turbo": 809}
    assert SIZES.keys() == published.keys()
    for name, millions in published.items():
        assert Whisper(SIZES[name], Formats(1, 1, 1)).weights == pytest.approx(millions * 1e6, rel=0.06)


def test_floor_is_what_takes_longest() -> None:
    """Operations follow each other; memory is read beside them."""
    device = Device("slow", linear=10, other=5, bandwidth=2)
    assert device.floor(Cost(linear=20, other=5, bytes=2)) == 3
    assert device.floor(Cost(linear=20, other=5, bytes=12)) == 6


def test_batches_share_the_weights() -> None:
    """Operations of a client do not depend on how many share a pass; bytes, and so the floor, become fewer."""
    whisper = Whisper(SIZES["large-v3-turbo"], HALF)
    alone, together = per_second(whisper, SCHEDULE), per_second(whisper, SCHEDULE, batch=64)
    for name, cost in alone.items():
        assert together[name].operations == pytest.approx(cost.operations)
        assert together[name].bytes < cost.bytes
    assert H200.floor(together["token passes"]) < H200.floor(alone["token passes"]) / 4
    assert floor(H200, together) < floor(H200, alone)


def encoding(whisper: Whisper, steps: Steps) -> float:
    return parts(whisper, steps)["encoder"].operations


def test_fewer_steps_cost_less() -> None:
    """With twice the time between partial steps there are half as many, each over as much more audio; the tokens stay.
    Where windows are encoded as a whole, that is half the work."""
    whisper = Whisper(SIZES["tiny"], INT8)
    often, rarely = SCHEDULE.every(0.4).partial, SCHEDULE.every(0.8).partial
    assert often == SCHEDULE.partial
    assert rarely.encoded == pytest.approx(often.encoded + 0.4)
    assert 1 < encoding(whisper, often) / encoding(whisper, rarely) < 2
    often, rarely = SCHEDULE.whole().partial, SCHEDULE.every(0.8).whole().partial
    assert encoding(whisper, often) / encoding(whisper, rarely) == pytest.approx(2)
    assert often.rate * often.passes == pytest.approx(rarely.rate * rarely.passes)


def test_what_a_client_asks_for(tiny_en: InstalledModel) -> None:
    """Noted while a real session listens: partial steps encode a part of their windows, finals all and the silence."""
    clip = max(load_clips(DEFAULT_AUDIO, "short", "en"), key=lambda clip: len(clip.samples))
    found = listen([], [clip])
    partial, final = found.schedule.partial, found.schedule.final
    assert 0 < final.rate < partial.rate < 3
    assert partial.encoded < partial.seconds and final.encoded > final.seconds
    assert partial.known <= partial.prefix
    assert min(found.spent.values()) >= 0 and found.spent["encoder"] > 0
