"""The model of cost: what a device does at most, what our parts need beside it, and where the time of a client goes.

python -m benchmarks.cost [--models tiny.en base] [--audio FOLDER] [-- OPTIONS OF wyoming-wlk serve]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.clips import DEFAULT_AUDIO, load_clips
from benchmarks.engine import CONTEXT_TOKENS, ENCODED_SECONDS, fill, in_process, load_model, noise, timed
from benchmarks.listening import Client, listen
from benchmarks.operations import (
    FRAMES_PER_SECOND,
    H200,
    H200_INT8,
    HALF,
    INT8_ON_GPU,
    SIZES,
    Cost,
    Device,
    Formats,
    Schedule,
    Steps,
    Whisper,
    floor,
    per_second,
    total,
)
from benchmarks.report import print_machine, print_table, progress
from benchmarks.servers import our_config
from wyoming_wlk.engine import model as network
from wyoming_wlk.engine.attention import DecoderInput
from wyoming_wlk.engine.encoder import mel_start
from wyoming_wlk.loading import model_threads

_WINDOWS = (3, 5, 10, 20, 30)
_ADDED_FRAMES = 96
"""What a partial step encodes of a window that grows by 0.4 s."""

_ROWS = (1, 8, 24)
_PROMPT_TOKENS = 250
"""A prompt that is full, and what is committed."""

_BATCHES = (1, 64)
_INTERVALS = (0.4, 1.0)
_SIDES = (512, 1024, 2048)
_BESIDE = ["part", "G operations", "MB", "floor [ms]", "measured [ms]", "ratio"]
MONOLOGUE = Schedule(
    partial=Steps(rate=2.14, seconds=4.8, encoded=2.2, prefix=164, known=163, draft=2.3, passes=0.8),
    final=Steps(rate=0.23, seconds=6.0, encoded=7.1, prefix=154, known=152, draft=17.7, passes=7.9, beams=2),
)
"""Speech without long pauses, as measured with tiny.en (docs/cost.md): what the tables of all sizes are for."""


# --- the device -------------------------------------------------------------------------------------------------------


def measure_device(model: network.Whisper) -> Device:
    """The best rates of products on this thread as the model uses them, and of reading what is as large as it."""
    linear = max(_rate(_product(model.precision.linear, side), 2 * side**3) for side in _SIDES)
    other = max(_rate(_product(model.precision.attention, side), 2 * side**3) for side in _SIDES)
    whisper = Whisper(model.dims, _formats(model))
    name = f"this processor, threads: {torch.get_num_threads()}"
    return Device(name, linear, other, reading_rate(whisper.weights, torch.get_num_threads()))


def reading_rate(size: float, threads: int) -> float:
    """Bytes a second out of so many: a small model stays in the processor's cache, which is faster than memory."""
    torch.set_num_threads(threads)
    numbers = torch.ones(int(size) // 4)
    return max(_rate(run, numbers.nbytes) for run in (partial(torch.dot, numbers, numbers), numbers.max))


def _product(dtype: torch.dtype, side: int) -> Callable[[], object]:
    if dtype == torch.int8:
        a, b = (torch.randint(-100, 100, (side, side), dtype=torch.int8) for _ in range(2))
        return partial(torch._int_mm, a, b.t())
    a, b = (torch.randn(side, side, dtype=dtype) for _ in range(2))
    return partial(torch.mm, a, b.t())


def _rate(run: Callable[[], object], amount: float) -> float:
    """So much a second, at best."""
    return amount / (min(timed(torch.device("cpu"), run)) / 1000)


def _formats(model: network.Whisper) -> Formats:
    precision = model.precision
    return Formats(precision.linear.itemsize, precision.state.itemsize, precision.attention.itemsize)


# --- the parts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    name: str
    cost: Cost
    seconds: float
    """Median of many runs."""


@torch.inference_mode()
def measure_parts(options: Sequence[str]) -> tuple[Device, Whisper, list[Part]]:
    """The device as it is for this model, its formulas, and the parts of the model one by one. On the CPU."""
    config = our_config([*options, "--device", "cpu"])
    model = load_model(config)
    whisper = Whisper(model.dims, _formats(model))
    device = measure_device(model)
    found: list[Part] = []

    def measure(name: str, cost: Cost, run: Callable[[], object]) -> None:
        found.append(Part(name, cost, statistics.median(timed(model.device, run)) / 1000))

    for seconds in _WINDOWS:
        frames = seconds * FRAMES_PER_SECOND
        cost = whisper.encoder(frames) + whisper.cross(frames)
        measure(f"encoder, {seconds} s", cost, partial(model.encode, [noise(model, seconds)]))
    if (memory := model.new_memory()) is not None:
        mel, first = noise(model, ENCODED_SECONDS), ENCODED_SECONDS * FRAMES_PER_SECOND - _ADDED_FRAMES
        model.extend(mel, 0, memory)
        more = partial(model.extend, mel[:, mel_start(first) :], first, memory)
        cost = whisper.encoder(_ADDED_FRAMES, earlier=first) + whisper.cross(_ADDED_FRAMES, earlier=first)
        seconds = _ADDED_FRAMES / FRAMES_PER_SECOND
        measure(f"encoder, the last {seconds:.1f} s of a window of {ENCODED_SECONDS} s", cost, more)
    cache = model.new_cache(max(_ROWS))
    passes = model.passes(cache)
    fill(model, cache, passes, ENCODED_SECONDS)
    frames = ENCODED_SECONDS * FRAMES_PER_SECOND

    def one_pass(rows: int, new: int, earlier: int) -> None:
        cache.tokens[:] = [earlier] * cache.slots
        passes([DecoderInput(slot, [slot], [[1] * new]) for slot in range(rows)])

    for rows in _ROWS:
        cost = whisper.decoder(rows, 1, CONTEXT_TOKENS, frames)
        measure(f"token pass, rows: {rows}", cost, partial(one_pass, rows, 1, CONTEXT_TOKENS))
    cost = whisper.decoder(1, _PROMPT_TOKENS, 0, frames)
    measure(f"first pass, {_PROMPT_TOKENS} tokens", cost, partial(one_pass, 1, _PROMPT_TOKENS, 0))
    for rows in _ROWS:
        hidden = torch.randn(rows, model.dims.n_text_state, dtype=model.precision.state)
        measure(f"logits, rows: {rows}", whisper.logits(rows), partial(model.decoder.logits, hidden))
    return device, whisper, found


# --- the program ------------------------------------------------------------------------------------------------------


def print_parts(name: str, device: Device, found: Sequence[Part]) -> None:
    print(
        f"\n{name} on {device.name}; products with weights {device.linear / 1e9:.0f} G operations/s, "
        f"others {device.other / 1e9:.0f}, reads {device.bandwidth / 1e9:.1f} GB/s"
    )
    rows = [_beside(part.name, part.cost, device.floor(part.cost), part.seconds) for part in found]
    print_table(f"{name}, parts", _BESIDE, rows)


def print_client(name: str, device: Device, whisper: Whisper, client: Client) -> None:
    for kind, steps in (("partial", client.schedule.partial), ("final", client.schedule.final)):
        print(
            f"\n{name}, {kind} steps: {steps.rate:.2f} a second of speech, window {steps.seconds:.1f} s, encoded "
            f"{steps.encoded:.1f} s, prefix {steps.prefix:.0f} tokens, {steps.known:.0f} known, "
            f"draft {steps.draft:.1f}, {steps.passes:.1f} passes, {steps.beams:.0f} beams"
        )
    costs = per_second(whisper, client.schedule)
    rows = [_beside(part, cost, device.floor(cost), client.spent[part]) for part, cost in costs.items()]
    rows.append(["rest", "", "", "", f"{1000 * client.spent['rest']:.1f}", ""])
    everything = total(list(costs.values()))
    rows.append(_beside("all", everything, floor(device, costs), sum(client.spent.values())))
    print_table(f"{name}, a second of one client's speech", _BESIDE, rows)


def _beside(name: str, cost: Cost, least: float, seconds: float) -> list[str]:
    return [
        name,
        f"{cost.operations / 1e9:.3f}",
        f"{cost.bytes / 1e6:.1f}",
        f"{1000 * least:.2f}",
        f"{1000 * seconds:.2f}",
        f"{seconds / least:.1f}",
    ]


def print_sizes(title: str, devices: Mapping[str, Device], formats: Formats, schedule: Schedule) -> None:
    """Computed, not measured; each size on a device of its own, for what is small is read faster."""
    rows = []
    for (name, dims), interval in itertools.product(SIZES.items(), _INTERVALS):
        device = devices[name]
        costs = [per_second(Whisper(dims, formats), schedule.every(interval), batch) for batch in _BATCHES]
        floors = [floor(device, cost) for cost in costs]
        operations = [cost.operations / 1e9 for cost in costs[0].values()]
        rows.append(
            [
                f"{name}, {interval} s",
                *(f"{value:.1f}" for value in (*operations, sum(operations))),
                *(f"{1000 * seconds:.2f}" for seconds in floors),
                f"{1 / floors[-1]:.1f}",
            ]
        )
    header = [*costs[0], "all", *(f"floor, batch {batch} [ms]" for batch in _BATCHES), "clients at most"]
    print_table(
        f"Computed: G operations in a second of speech, and the floor on {title}", ["model, interval", *header], rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="folder with a manifest.jsonl")
    parser.add_argument("--limit", type=int, help="take only the first clips")
    parser.add_argument("--models", nargs="+", default=["tiny.en", "base"], help="to measure (default: tiny.en base)")
    parser.add_argument("options", nargs="*", help="after --: options of `wyoming-wlk serve`")
    arguments = parser.parse_args()
    print_machine()
    clips = load_clips(arguments.audio, "long", "en") or load_clips(arguments.audio, "short", "en")
    clips = clips[: arguments.limit]
    for name in arguments.models:
        options = [*arguments.options, "--model", name]
        progress(f"{name}: the parts")
        device, whisper, found = in_process(measure_parts, options)
        print_parts(name, device, found)
        progress(f"{name}: {len(clips)} clips")
        print_client(name, device, whisper, in_process(listen, options, clips))
    progress("reading memory")
    threads = model_threads(our_config(arguments.options))
    here = {
        size: replace(device, bandwidth=in_process(reading_rate, Whisper(dims, whisper.formats).weights, threads))
        for size, dims in SIZES.items()
    }
    print_sizes("this processor", here, whisper.formats, MONOLOGUE)
    print_sizes("an H200, 16 bits", dict.fromkeys(SIZES, H200), HALF, MONOLOGUE.whole())
    print_sizes("an H200, products in int8", dict.fromkeys(SIZES, H200_INT8), INT8_ON_GPU, MONOLOGUE.whole())


if __name__ == "__main__":
    main()
