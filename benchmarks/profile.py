"""Where the processor's time goes while some clients speak without pause: by thread, and by torch's operations.

python -m benchmarks.profile [--audio FOLDER] [--clients 8] [--seconds 30] [-- OPTIONS OF wyoming-wlk serve]

In one process and in virtual time, so that nothing but the computation takes any. Threads are measured undisturbed;
then, for some seconds, torch writes down its operations, which makes small ones dearer than they are.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile

from benchmarks import virtual
from benchmarks.clips import DEFAULT_AUDIO, load_clips
from benchmarks.crowds import RAMP_SECONDS, crowd
from benchmarks.engine import open_services
from benchmarks.observed import of_services
from benchmarks.report import print_machine, print_table, progress
from benchmarks.servers import our_config
from benchmarks.talkers import MONOLOGUE, Sound, Take, Talker, session_door

_WRITTEN_SECONDS = 3.0
"""To sum up all that is written of a second takes torch several."""

_OPERATIONS = 16
_LOOP = "event loop, clients and libraries' threads"
_THREADS = {"engine": "decoder", "encoder": "encoder", "vad": "voice activity"}
"""Ours, by the beginnings of their names."""


@dataclass(frozen=True)
class Operation:
    """One of torch's, over all calls."""

    name: str
    calls: int
    seconds: float
    """Without those that it calls."""


@dataclass(frozen=True)
class Profile:
    """Processor seconds of each thread, and torch's operations."""

    threads: dict[str, float]
    operations: Sequence[Operation]


def measure(options: Sequence[str], sounds: Sequence[Sound], clients: int, seconds: float) -> Profile:
    async def run(clock: virtual.Clock) -> Profile:
        async with open_services(our_config(options)) as services:
            door = session_door(services)
            await door(Take(sounds[:1]))  # the first time always takes longer

            talkers = [Talker(door, number % 2 == 0, MONOLOGUE) for number in range(clients)]
            length = seconds + _WRITTEN_SECONDS
            talking = asyncio.create_task(crowd("", talkers, {"short": sounds}, length, of_services(services)))
            await asyncio.sleep(RAMP_SECONDS)
            progress("threads")
            before = thread_seconds()
            await asyncio.sleep(seconds)
            threads = {name: spent - before.get(name, 0.0) for name, spent in thread_seconds().items()}
            progress("operations")
            everywhere = _ExperimentalConfig(profile_all_threads=True)
            with profile(activities=[ProfilerActivity.CPU], experimental_config=everywhere) as profiler:
                await asyncio.sleep(_WRITTEN_SECONDS)
            await talking
            found = profiler.key_averages()
            return Profile(threads, [Operation(each.key, each.count, each.self_cpu_time_total / 1e6) for each in found])

    return virtual.run(run)


def thread_seconds() -> dict[str, float]:
    """Processor seconds of this process so far."""
    names = {str(thread.native_id): thread.name for thread in threading.enumerate()}
    spent: dict[str, float] = {}
    for task in Path("/proc/self/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        own = names.get(task.name, "")
        name = next((name for begin, name in _THREADS.items() if own.startswith(begin)), _LOOP)
        spent[name] = spent.get(name, 0.0) + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return spent


def print_profile(found: Profile, heard: float, written: float) -> None:
    """For a second of speech; so many were `heard` while threads were measured, and `written` while operations were."""
    total = sum(found.threads.values())
    by_time = sorted(found.threads.items(), key=lambda item: -item[1])
    rows = [[name, f"{1000 * spent / heard:.1f}", f"{100 * spent / total:.0f} %"] for name, spent in by_time]
    rows.append(["all", f"{1000 * total / heard:.1f}", ""])
    print_table("Threads", ["", "ms a second", "share"], rows)
    operations = sorted(found.operations, key=lambda operation: -operation.seconds)
    total = sum(operation.seconds for operation in operations)
    rows = [
        [
            operation.name,
            f"{operation.calls / written:.0f}",
            f"{1000 * operation.seconds / written:.2f}",
            f"{100 * operation.seconds / total:.1f} %",
        ]
        for operation in operations[:_OPERATIONS]
    ]
    rows.append(["all", "", f"{1000 * total / written:.2f}", ""])
    print_table("torch's operations", ["", "calls a second", "ms a second", "share"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="folder with a manifest.jsonl")
    parser.add_argument("--clients", type=int, default=8, help="how many speak at once (default: 8)")
    parser.add_argument("--seconds", type=float, default=30.0, help="for how long (default: 30)")
    parser.add_argument("options", nargs="*", help="after --: options of `wyoming-wlk serve`")
    arguments = parser.parse_args()
    print_machine()
    sounds = [Sound.of(clip, ()) for clip in load_clips(arguments.audio, "short", "en")]
    clients, seconds = arguments.clients, arguments.seconds
    print_profile(measure(arguments.options, sounds, clients, seconds), clients * seconds, clients * _WRITTEN_SECONDS)


if __name__ == "__main__":
    main()
