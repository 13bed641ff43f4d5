"""Figures of the engine inside one process: parking, encoder, decoder, and the first words a session hears of.

python -m benchmarks.engine [--audio FOLDER] [--limit N] [-- OPTIONS OF wyoming-wlk serve]
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from benchmarks.client import PATIENCE_SECONDS, Answer, Microphone
from benchmarks.clips import DEFAULT_AUDIO, Clip, load_clips, word_error_rate
from benchmarks.report import percentage, percentile, print_machine, print_table, progress
from benchmarks.servers import our_config
from wyoming_wlk.config import Config
from wyoming_wlk.engine.attention import DecoderInput
from wyoming_wlk.engine.cache import KVCache, ParkedRow
from wyoming_wlk.engine.checkpoint import load_checkpoint
from wyoming_wlk.engine.layers import Precision
from wyoming_wlk.engine.model import Whisper
from wyoming_wlk.engine.passes import Passes
from wyoming_wlk.events import Event, Finished, TextUpdate
from wyoming_wlk.hosting import ModelInfo
from wyoming_wlk.loading import choose_device, expected_model, find_model, load_speech, model_threads
from wyoming_wlk.services import Pace, Services
from wyoming_wlk.session import Speech

P = ParamSpec("P")
T = TypeVar("T")

_REPEATS = 50
_WARM_UP = 5
_WINDOWS = (2, 3, 5, 7, 10, 15, 20, 25, 30)
_BATCHES = (1, 4, 8, 16)
_BEAMS = 5
_PARKED_SECONDS = 7
ENCODED_SECONDS = 8
"""A window of 7 s as the runner encodes it: with padding, in whole seconds."""

CONTEXT_TOKENS = 32
_MEL_FRAMES = 100
"""A second."""


@dataclass(frozen=True)
class Parking:
    """Times in milliseconds; `exact` where the restored row is the parked one bit for bit and decodes like it."""

    megabytes: float
    park: list[float]
    restore: list[float]
    exact: bool


@dataclass(frozen=True)
class Kernels:
    """Milliseconds: of the encoder by seconds of window, of a decoder pass by what it decodes."""

    parking: Parking
    encoder: dict[int, list[float]]
    decoder: dict[str, list[float]]


def in_process(run: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs in a fresh process: two threads that use torch in one process slow each other down for good."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")  # as `serve` does
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run, *args, **kwargs).result()


# --- the session ------------------------------------------------------------------------------------------------------


def tentative_words(options: Sequence[str], clips: Sequence[Clip], quiet: float) -> list[Answer]:
    """Speaks the clips to sessions in real time. `first` are the first words of any kind, tentative ones too."""

    async def run() -> list[Answer]:
        async with open_services(our_config(options)) as services:
            await _converse(services, clips[0], quiet)  # the first time always takes longer
            return [await _converse(services, clip, quiet) for clip in clips]

    return asyncio.run(run())


@asynccontextmanager
async def open_services(config: Config) -> AsyncIterator[Services]:
    """What a server's frontends share, without a server; the model is loaded."""
    with ThreadPoolExecutor(1, "vad") as executor:

        async def load(config: Config) -> tuple[Speech, ModelInfo]:
            return await asyncio.to_thread(load_speech, config, executor)

        services = Services(config, expected_model(config), load)
        await services.host.borrow()
        try:
            yield services
        finally:
            await services.host.close()
            services.stages.close()


async def _converse(services: Services, clip: Clip, quiet: float) -> Answer:
    answer, microphone = Answer(clip), Microphone(clip, quiet)

    async def note(event: Event) -> None:
        if isinstance(event, TextUpdate):
            answer.chunks += "".join(word.text for word in event.committed)
            if answer.first is None and (event.committed or event.tentative):
                answer.first = microphone.elapsed
        elif isinstance(event, Finished):
            answer.transcript, answer.final = event.text, microphone.overtime

    with services.context(None, services.defaults) as context:
        session = await services.session(context, clip.path.name, note, Pace())
        running = asyncio.create_task(session.run())
        async for chunk in microphone:
            await session.feed(chunk)
        session.stop()
        await asyncio.wait_for(running, PATIENCE_SECONDS)
    return answer


# --- the model --------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def measure_kernels(options: Sequence[str]) -> Kernels:
    """The parts of the model one by one, on this thread."""
    model = load_model(our_config(options))
    cache = model.new_cache(max(_BATCHES))
    passes = model.passes(cache)
    encoder = {seconds: timed(model.device, partial(model.encode, [noise(model, seconds)])) for seconds in _WINDOWS}
    return Kernels(_measure_parking(model, cache, passes), encoder, _measure_decoder(model, cache, passes))


def load_model(config: Config) -> Whisper:
    """The model that a server with this configuration would have, to be run on this thread."""
    torch.set_num_threads(model_threads(config))
    device = torch.device(choose_device(config))
    checkpoint = load_checkpoint(find_model(config).folder)
    return Whisper(checkpoint, Precision.choose(config.model.compute_type, device), device)


def _measure_parking(model: Whisper, cache: KVCache, passes: Passes) -> Parking:
    fill(model, cache, passes, ENCODED_SECONDS)
    first, second = 0, 1
    parked = cache.park(first)
    park = timed(model.device, partial(cache.park, first))
    restore = timed(model.device, partial(_restore, cache, second, parked))
    again = cache.park(second)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    exact = _same_bits(parked, again)
    hidden = [passes([DecoderInput(slot, [slot], [[1]])])[0].hidden for slot in (first, second)]
    return Parking(parked.nbytes / 1e6, park, restore, exact and _same(*hidden))


def _restore(cache: KVCache, slot: int, parked: ParkedRow) -> None:
    cache.restore(slot, parked)
    cache.settle()


def _measure_decoder(model: Whisper, cache: KVCache, passes: Passes) -> dict[str, list[float]]:
    batches = {f"{n} rows": [DecoderInput(slot, [slot], [[1]]) for slot in range(n)] for n in _BATCHES}
    batches[f"{_BEAMS} beams"] = [DecoderInput(0, list(range(_BEAMS)), [[1]] * _BEAMS)]
    fill(model, cache, passes, ENCODED_SECONDS)

    def one_pass(batch: list[DecoderInput]) -> None:
        cache.tokens[:] = [CONTEXT_TOKENS] * cache.slots
        model.decoder.logits(passes(batch).hidden)

    return {name: timed(model.device, partial(one_pass, batch)) for name, batch in batches.items()}


def fill(model: Whisper, cache: KVCache, passes: Passes, seconds: int) -> None:
    """Gives every slot the same window and so many tokens."""
    cross = model.encode([noise(model, seconds)])[0]
    for slot in range(cache.slots):
        cache.set_audio(slot, cross)
        passes([DecoderInput(slot, [slot], [list(range(CONTEXT_TOKENS))])])


def noise(model: Whisper, seconds: int) -> Tensor:
    """Noise: what is in a window does not change how long it takes."""
    generator = torch.Generator().manual_seed(seconds)
    return torch.randn(model.dims.n_mels, seconds * _MEL_FRAMES, generator=generator).to(model.device)


def timed(device: torch.device, run: Callable[[], object]) -> list[float]:
    """Milliseconds of each of many runs."""
    times = []
    for number in range(_WARM_UP + _REPEATS):
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= _WARM_UP:
            times.append(1000 * (time.perf_counter() - began))
    return times


def _same_bits(one: ParkedRow, other: ParkedRow) -> bool:
    return _same(one.self_kv, other.self_kv) and _same(one.cross.keys_values, other.cross.keys_values)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


# --- the program ------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="folder with a manifest.jsonl")
    parser.add_argument("--limit", type=int, help="take only the first clips")
    parser.add_argument("options", nargs="*", help="after --: options of `wyoming-wlk serve`")
    arguments = parser.parse_args()
    print_machine()
    progress("encoder, decoder and parking")
    _print_kernels(in_process(measure_kernels, arguments.options))
    clips = load_clips(arguments.audio, "short", "en", arguments.limit)
    progress(f"first words of {len(clips)} clips")
    _print_words(in_process(tentative_words, arguments.options, clips, 0.0))


def _print_kernels(kernels: Kernels) -> None:
    parking = kernels.parking
    rows = [
        ["park", percentile(parking.park, 50, 3), percentile(parking.park, 95, 3)],
        ["restore", percentile(parking.restore, 50, 3), percentile(parking.restore, 95, 3)],
    ]
    exact = "bit for bit" if parking.exact else "NOT EXACT"
    title = f"A context of {_PARKED_SECONDS} s, {parking.megabytes:.1f} MB, restored {exact}"
    print_table(title, ["", "ms p50", "ms p95"], rows)
    rows = [[f"{name} s", percentile(ms, 50), percentile(ms, 95)] for name, ms in kernels.encoder.items()]
    print_table("Encoder, one window", ["window", "ms p50", "ms p95"], rows)
    rows = [[name, percentile(ms, 50), percentile(ms, 95)] for name, ms in kernels.decoder.items()]
    print_table("Decoder, one pass with logits", ["batch", "ms p50", "ms p95"], rows)


def _print_words(answers: Sequence[Answer]) -> None:
    first = [answer.first for answer in answers if answer.first is not None]
    final = [answer.final for answer in answers if answer.final is not None]
    errors = word_error_rate([a.clip.text for a in answers], [a.transcript for a in answers])
    print_table(
        f"Sessions in process, {len(answers)} clips, tentative words count",
        ["first words p50 [s]", "p95", "final p50", "p95", "WER"],
        [[percentile(first, 50), percentile(first, 95), percentile(final, 50), percentile(final, 95),
          percentage(errors)]],
    )  # fmt: skip


if __name__ == "__main__":
    main()
