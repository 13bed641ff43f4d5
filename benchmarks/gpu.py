"""What a GPU does: transcripts beside the CPU's, how many clients it serves, parking, and passes by their size.

python -m benchmarks.gpu [--device cuda] [--clients N ...] [--seconds N] [--audio FOLDER] [--limit N] [--small]

Clients are served by a model with the dimensions of large-v3-turbo and random weights, which hears what tiny.en heard
in the clips (see schedule.py). Runs on any device that torch has; --small makes the model small enough for a CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.clips import DEFAULT_AUDIO, load_clips, word_error_rate
from benchmarks.engine import fill, in_process, noise
from benchmarks.report import percentage, percentile, print_machine, print_table, progress
from benchmarks.schedule import Script, ScriptedRunner, crowd, random_checkpoint, transcribe
from benchmarks.servers import our_config
from wyoming_wlk.engine.attention import DecoderInput
from wyoming_wlk.engine.cache import default_slots
from wyoming_wlk.engine.checkpoint import Dimensions
from wyoming_wlk.engine.engine import DecodingSettings, Engine
from wyoming_wlk.engine.layers import Precision
from wyoming_wlk.engine.model import Whisper
from wyoming_wlk.engine.runner import DeviceSettings, Runner
from wyoming_wlk.loading import find_model

_ENGLISH_VOCABULARY = 51864
TURBO = Dimensions(128, 1500, 1280, 20, 32, _ENGLISH_VOCABULARY, 448, 1280, 20, 4)
SMALL = Dimensions(80, 1500, 64, 4, 1, _ENGLISH_VOCABULARY, 448, 64, 4, 1)

_CLIENTS = (50, 100, 200, 300, 400)
_LIMIT_SECONDS = 1.0
"""A client that waits longer from one step to the next is served too slowly."""

_WINDOW_SECONDS = 10
_CONTEXT_TOKENS = 32
_REPEATS = 20


@dataclass(frozen=True)
class Crowd:
    """How `clients` were served: seconds between their steps, and for how much of the time
    there was a pass of the decoder, or it waited for the encoder."""

    clients: int
    intervals: list[float]
    busy: float
    steps: float
    """A second."""
    window: float
    """Mean seconds that a step heard."""


@dataclass(frozen=True)
class Kernels:
    """Milliseconds on the device, by number of rows; of parking and restoring one: alone, and beside other work."""

    encoder: dict[int, float]
    decoder: dict[int, float]
    megabytes: float
    compute: float
    switch: float
    both: float


# --- parts, each in a process of its own ------------------------------------------------------------------------------


def transcripts(device: str, compute_type: str, samples: Sequence[np.ndarray]) -> list[tuple[str, Script]]:
    """What tiny.en hears on a device."""
    model = find_model(our_config([]))
    engine = Engine.load(model.folder, model.tokenizer, DeviceSettings(device, compute_type), DecodingSettings())
    try:
        return asyncio.run(transcribe(engine, samples))
    finally:
        engine.stop()


def crowds(
    device: str, dims: Dimensions, scripts: Sequence[Script], sizes: Sequence[int], seconds: float
) -> list[Crowd]:
    """Serves ever more clients, until they wait too long."""
    runners: list[ScriptedRunner] = []

    def load() -> Runner:
        checkpoint = random_checkpoint(dims, torch.device(device))
        runner = ScriptedRunner.load(checkpoint, find_model(our_config([])).tokenizer, DeviceSettings(device))
        assert isinstance(runner, ScriptedRunner)
        runners.append(runner)
        return runner

    engine = Engine.start(load, DecodingSettings())
    progress(f"{runners[0].slots} slots")
    served = []
    try:
        for clients in sizes:
            progress(f"{clients} clients")
            busy, began = engine.statistics.decoder.total, time.monotonic()
            seen = asyncio.run(crowd(engine, runners[0], scripts, clients, seconds / 2, seconds))
            share = (engine.statistics.decoder.total - busy) / (time.monotonic() - began)
            window = seen.seconds / max(1, seen.steps)
            served.append(Crowd(clients, seen.intervals, share, seen.steps / seconds, window))
            if not seen.intervals or np.percentile(seen.intervals, 95) > 2 * _LIMIT_SECONDS:
                break
        return served
    finally:
        engine.stop()


@torch.inference_mode()
def measure_kernels(device_name: str, dims: Dimensions, batches: Sequence[int]) -> Kernels:
    """Encoder, decoder and parking by themselves."""
    device = torch.device(device_name)
    model = Whisper(random_checkpoint(dims, device), Precision.choose("auto", device), device)
    batches = [size for size in batches if size <= default_slots(dims, model.precision.state, device)]
    cache = model.new_cache(max(batches))
    passes = model.passes(cache)
    mel = noise(model, _WINDOW_SECONDS)
    encoder = {size: device_ms(device, partial(model.encode, [mel] * size)) for size in batches if size <= 64}
    fill(model, cache, passes, _WINDOW_SECONDS)

    def decode(rows: int) -> None:
        cache.tokens[:] = [_CONTEXT_TOKENS] * cache.slots
        found = passes([DecoderInput(slot, [slot], [[1]]) for slot in range(rows)])
        model.decoder.logits(found.hidden)

    decoder = {size: device_ms(device, partial(decode, size)) for size in batches}
    others, last = max(1, cache.slots - 1), cache.slots - 1

    def switch() -> None:
        cache.restore(last, cache.park(last))

    def both() -> None:
        switch()
        decode(others)
        cache.settle()

    def alone() -> None:
        switch()
        cache.settle()

    figures = [device_ms(device, run) for run in (partial(decode, others), alone, both)]
    return Kernels(encoder, decoder, cache.park(last).nbytes / 1e6, *figures)


def device_ms(device: torch.device, run: Callable[[], object]) -> float:
    """Milliseconds of one run among many: of the device's own clock where it has one."""
    for _ in range(3):
        run()
    if device.type != "cuda":
        began = time.perf_counter()
        for _ in range(_REPEATS):
            run()
        return 1000 * (time.perf_counter() - began) / _REPEATS
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(_REPEATS):
        run()
    last.record()
    torch.cuda.synchronize(device)
    return float(first.elapsed_time(last)) / _REPEATS


# --- the program ------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda, mps or cpu")
    parser.add_argument("--clients", type=int, nargs="+", default=_CLIENTS, help="numbers to try, in ascending order")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each number is observed")
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="folder with a manifest.jsonl")
    parser.add_argument("--limit", type=int, help="take only the first clips")
    parser.add_argument("--small", action="store_true", help="a model of one small layer instead of large-v3-turbo's")
    arguments = parser.parse_args()
    print_machine()
    if arguments.device == "cuda":
        print(f"- {torch.cuda.get_device_name()}, CUDA or ROCm {torch.version.cuda or torch.version.hip}")
    clips = load_clips(arguments.audio, "short", "en", arguments.limit)
    samples, said = [clip.samples for clip in clips], [clip.text for clip in clips]
    progress("transcripts on the CPU")
    expected = in_process(transcripts, "cpu", "float32", samples)
    progress(f"transcripts on {arguments.device}")
    heard = in_process(transcripts, arguments.device, "auto", samples)
    _print_transcripts(arguments.device, said, [text for text, _ in expected], [text for text, _ in heard])
    dims, batches = (SMALL, (1, 2, 4)) if arguments.small else (TURBO, (1, 2, 4, 8, 16, 32, 64, 128, 256, 400))
    progress("passes and parking")
    _print_kernels(in_process(measure_kernels, arguments.device, dims, batches))
    scripts = [script for _, script in expected]
    sizes = sorted(arguments.clients)
    _print_crowds(in_process(crowds, arguments.device, dims, scripts, sizes, arguments.seconds))


def _print_transcripts(device: str, said: Sequence[str], expected: Sequence[str], heard: Sequence[str]) -> None:
    errors = [word_error_rate(said, texts) for texts in (expected, heard)]
    same = sum(one == other for one, other in zip(expected, heard, strict=True))
    print_table(
        f"tiny.en, {len(said)} clips: {same} transcripts are the same",
        ["", "WER"],
        [
            ["cpu, float32", percentage(errors[0])],
            [f"{device}, auto", percentage(errors[1])],
            ["difference", percentage(abs(errors[1] - errors[0]))],
        ],
    )


def _print_kernels(kernels: Kernels) -> None:
    rows = [[str(size), f"{ms:.2f}", f"{ms / size:.3f}"] for size, ms in kernels.encoder.items()]
    print_table(f"Encoder, windows of {_WINDOW_SECONDS} s", ["windows", "ms", "ms per window"], rows)
    rows = [[str(size), f"{ms:.2f}", f"{ms / size:.3f}"] for size, ms in kernels.decoder.items()]
    print_table("Decoder, one token for each row, with logits", ["rows", "ms", "ms per row"], rows)
    added = max(0.0, kernels.both - kernels.compute)
    print_table(
        f"Parking and restoring a row of {kernels.megabytes:.1f} MB",
        ["alone, ms", "a pass, ms", "both, ms", "hidden"],
        [
            [
                f"{kernels.switch:.3f}",
                f"{kernels.compute:.3f}",
                f"{kernels.both:.3f}",
                percentage(max(0.0, 1 - added / kernels.switch)),
            ]
        ],
    )


def _print_crowds(served: Sequence[Crowd]) -> None:
    rows = [
        [
            str(crowd.clients),
            percentile(crowd.intervals, 50),
            percentile(crowd.intervals, 95),
            f"{crowd.steps:.1f}",
            f"{crowd.window:.1f}",
            percentage(crowd.busy),
            f"{1000 * crowd.busy / crowd.steps:.2f}" if crowd.steps else "–",
            "–",  # to come: time over the floor of the cost model (benchmarks.cost)
        ]
        for crowd in served
    ]
    header = [
        "clients",
        "interval p50 [s]",
        "p95",
        "steps a second",
        "window [s]",
        "busy",
        "busy a step [ms]",
        "over the floor",
    ]
    print_table("Clients who speak without pause", header, rows)
    enough = [c.clients for c in served if c.intervals and np.percentile(c.intervals, 95) <= _LIMIT_SECONDS]
    most = max(enough, default=0)
    print(f"\nAt most {_LIMIT_SECONDS:g} s between the steps of a client (p95): up to {most} clients of those tried.")


if __name__ == "__main__":
    main()
