"""Streams clips to our server and to its peers in real time, one server after the other, and prints what came back.

python -m benchmarks.main_job [--audio FOLDER] [--clients N] [--no-peers] [-- OPTIONS OF wyoming-wlk serve]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wyoming.client import AsyncClient
from wyoming.info import Describe

from benchmarks.client import Answer, ask_wyoming
from benchmarks.clips import DEFAULT_AUDIO, Clip, load_clips, normalize, word_error_rate
from benchmarks.engine import in_process, tentative_words
from benchmarks.peers import DEFAULT_FOLDER, Peers
from benchmarks.report import percentage, percentile, print_machine, print_table, progress
from benchmarks.servers import Launch, Server, our_config, our_server
from wyoming_wlk.models import ModelStore

PARTS = ("alone", "crowd", "noise", "memory")
QUIETS = (0.0, 0.7)
"""Seconds of silence before the client says stop: none, and what a voice satellite waits."""

_OFFLINE_BEAMS = (1, 5)
_STAGGER_SECONDS = 0.37
_CLIPS_PER_CLIENT = 5
_IDLE_CONNECTIONS = 100
_SETTLE_SECONDS = 4.0


@dataclass(frozen=True)
class Job:
    """What is measured, of every server."""

    parts: Sequence[str]
    clients: int
    short: Sequence[Clip]
    noise: Sequence[Clip]


@dataclass(frozen=True)
class Crowd:
    """Many clients at once: their answers, and what the server needed."""

    answers: list[Answer]
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Memory:
    """Resident megabytes: with the model loaded and nobody there, for each idle connection, at the worst moment of the
    crowd and some seconds after it."""

    loaded: float
    connection: float
    peak: float
    after: float


@dataclass
class Figures:
    """Everything about one server; parts that were not measured are empty."""

    name: str
    alone: dict[float, list[Answer]] = field(default_factory=dict)
    """By seconds of silence before the stop."""
    crowd: Crowd | None = None
    noise: list[Answer] = field(default_factory=list)
    memory: Memory | None = None
    disturbance: float = 0.0
    """Processor seconds per second that other programs took meanwhile."""


# --- measuring --------------------------------------------------------------------------------------------------------


async def measure(launch: Launch, job: Job) -> Figures:
    """All parts on one running server. Raises RuntimeError where it does not start, or ends before it should."""
    figures = Figures(launch.name)
    progress(f"starting {launch.name}")
    with Server(launch) as server:
        await asyncio.sleep(_SETTLE_SECONDS)
        began, foreign = time.perf_counter(), server.foreign_seconds
        loaded = server.memory_mb
        connection = await _connection_memory(server) if "memory" in job.parts else 0.0
        await launch.ask(launch.uri, job.short[0], 0.0)  # the first time always takes longer
        if "alone" in job.parts:
            for quiet in QUIETS:
                progress(f"{launch.name}: {len(job.short)} clips, {quiet} s of silence")
                figures.alone[quiet] = [await launch.ask(launch.uri, clip, quiet) for clip in job.short]
        if "noise" in job.parts and launch.ask is ask_wyoming:
            progress(f"{launch.name}: noise")
            figures.noise = [await launch.ask(launch.uri, clip, 0.0) for clip in job.noise]
        if "crowd" in job.parts or "memory" in job.parts:
            progress(f"{launch.name}: {job.clients} clients")
            server.reset_peak()
            figures.crowd = await crowd(server, job)
            peak = server.peak_memory_mb
            await asyncio.sleep(_SETTLE_SECONDS)
            figures.memory = Memory(loaded, connection, peak, server.memory_mb)
        server.check()
        figures.disturbance = (server.foreign_seconds - foreign) / (time.perf_counter() - began)
    return figures


async def crowd(server: Server, job: Job) -> Crowd:
    """Each client speaks its share of the clips, the next as soon as it has the transcript of the last."""
    total = max(len(job.short), job.clients * _CLIPS_PER_CLIENT)
    clips = list(itertools.islice(itertools.cycle(job.short), total))
    launch = server.launch

    async def speak(number: int) -> list[Answer]:
        await asyncio.sleep(number * _STAGGER_SECONDS)
        return [await launch.ask(launch.uri, clip, 0.0) for clip in clips[number :: job.clients]]

    began, cpu = time.perf_counter(), server.cpu_seconds
    answers = await asyncio.gather(*(speak(number) for number in range(job.clients)))
    return Crowd(list(itertools.chain(*answers)), time.perf_counter() - began, server.cpu_seconds - cpu)


async def _connection_memory(server: Server) -> float:
    """Resident megabytes per connection that has said `describe` and is silent since; 0 for a server without."""
    if server.launch.ask is not ask_wyoming:
        return 0.0
    before = server.memory_mb
    clients = [AsyncClient.from_uri(server.launch.uri) for _ in range(_IDLE_CONNECTIONS)]
    for client in clients:
        await client.connect()
        await client.write_event(Describe().event())
        await client.read_event()
    await asyncio.sleep(1)
    after = server.memory_mb
    for client in clients:
        await client.disconnect()
    return (after - before) / _IDLE_CONNECTIONS


# --- printing ---------------------------------------------------------------------------------------------------------


def print_alone(results: Sequence[Figures], tentative: Sequence[Answer], job: Job) -> None:
    rows = [_alone_row("wyoming-wlk in process, tentative words", QUIETS[0], tentative)]
    rows += [_alone_row(figures.name, quiet, done) for figures in results for quiet, done in figures.alone.items()]
    header = ["", "silence [s]", "first words p50 [s]", "final p50 [s]", "final p95 [s]", "WER", "WER of chunks"]
    print_table(f"One client, {len(job.short)} clips", [*header, "failed"], rows)


def _alone_row(name: str, quiet: float, answers: Sequence[Answer]) -> list[str]:
    final = [answer.final for answer in answers if answer.final is not None]
    row = [name, f"{quiet:g}", _first_words(answers, 50), percentile(final, 50), percentile(final, 95)]
    return [*row, *_error_rates(answers), _failures(answers)]


def print_offline(peers: Peers, clips: Sequence[Clip]) -> None:
    rows = []
    for beams, results in zip(_OFFLINE_BEAMS, peers.offline(clips, _OFFLINE_BEAMS), strict=True):
        seconds = [result.seconds for result in results]
        errors = word_error_rate([clip.text for clip in clips], [result.text for result in results])
        rows.append([f"beam {beams}", percentile(seconds, 50), percentile(seconds, 95), percentage(errors)])
    print_table("The same clips offline, faster-whisper int8", ["", "p50 [s]", "p95 [s]", "WER"], rows)


def print_crowd(results: Sequence[Figures], job: Job) -> None:
    rows = []
    for figures in results:
        if figures.crowd is None or figures.memory is None:
            continue
        answers = figures.crowd.answers
        final = [answer.final for answer in answers if answer.final is not None]
        row = [figures.name, str(len(answers)), _first_words(answers, 50), _first_words(answers, 95)]
        row += [percentile(final, 50), percentile(final, 95), *_error_rates(answers)]
        row += [_failures(answers), str(sum(_lost(answer) for answer in answers))]
        row += [f"{figures.crowd.cpu_seconds:.0f} of {figures.crowd.seconds:.0f}", f"{figures.memory.peak:.0f}"]
        rows.append(row)
    header = ["", "clips", "first words p50 [s]", "p95", "final p50 [s]", "p95", "WER", "WER of chunks", "failed"]
    header += ["lost", "CPU seconds of seconds", "peak RSS [MB]"]
    print_table(f"{job.clients} clients that speak without pause", header, rows)


def print_noise(results: Sequence[Figures]) -> None:
    rows = []
    for figures in results:
        heard = [answer for answer in figures.noise if any(map(str.isalnum, answer.transcript + answer.chunks))]
        texts = ", ".join(f"{answer.clip.path.stem}: {answer.transcript.strip()!r:.60}" for answer in heard)
        if figures.noise:
            rows.append([figures.name, f"{len(heard)} of {len(figures.noise)}", _failures(figures.noise), texts or "–"])
    print_table("Noise, music and silence", ["", "clips with words", "failed", "heard"], rows)


def print_memory(results: Sequence[Figures], job: Job) -> None:
    rows = []
    for figures in results:
        if (memory := figures.memory) is not None:
            connection = f"{1024 * memory.connection:.0f}" if memory.connection else "–"
            row = [figures.name, f"{memory.loaded:.0f}", connection]
            rows.append([*row, f"{memory.peak:.0f}", f"{memory.after:.0f}"])
    header = [
        "",
        "loaded, idle [MB]",
        "idle connection [KB]",
        f"peak with {job.clients} clients [MB]",
        "4 s later [MB]",
    ]
    print_table("Resident memory", header, rows)


def print_disturbance(results: Sequence[Figures]) -> None:
    rows = [[figures.name, f"{figures.disturbance:.2f}"] for figures in results]
    print_table("Cores that other programs took meanwhile (a few hundredths are normal)", ["", "cores"], rows)


def _first_words(answers: Sequence[Answer], percent: float) -> str:
    first = [answer.first for answer in answers if answer.first is not None]
    return percentile(first, percent) if first else "none before the end"


def _error_rates(answers: Sequence[Answer]) -> list[str]:
    """Of the transcripts, and of the chunks where there are any. Failures count as silence."""
    said = [answer.clip.text for answer in answers]
    rates = [percentage(word_error_rate(said, [answer.transcript for answer in answers]))]
    streamed = any(answer.chunks for answer in answers)
    return [*rates, percentage(word_error_rate(said, [a.chunks for a in answers])) if streamed else "–"]


def _failures(answers: Sequence[Answer]) -> str:
    return str(sum(bool(answer.error) for answer in answers))


def _lost(answer: Answer) -> bool:
    """Answered, but not with a single word of what was said."""
    return not answer.error and bool(normalize(answer.clip.text)) and not normalize(answer.transcript)


# --- the program ------------------------------------------------------------------------------------------------------


def main() -> None:
    arguments = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # takes the server down with it
    short = load_clips(arguments.audio, "short", "en", arguments.limit)
    noise = load_clips(arguments.audio, "noise", limit=arguments.limit)
    if not short:
        raise SystemExit(f"{arguments.audio}: no English clips of the kind short")
    job = Job(arguments.parts, arguments.clients, short, noise)
    config = our_config(arguments.options)
    peers = None if arguments.no_peers else Peers(arguments.peers, ModelStore(config.model.data_dir))
    print_machine()
    launches = [our_server(arguments.options)]
    if peers is not None:
        launches += [peers.faster_whisper(), peers.live_kit()]
    results = []
    for launch in launches:
        try:
            results.append(asyncio.run(measure(launch, job)))
        except RuntimeError as err:  # the others are worth having all the same
            progress(str(err))
    if "alone" in job.parts:
        progress("wyoming-wlk in process")
        tentative = in_process(tentative_words, arguments.options, short, QUIETS[0])
        print_alone(results, tentative, job)
    if peers is not None and {"alone", "crowd"} & set(job.parts):
        progress("faster-whisper offline")
        print_offline(peers, short)
    if "crowd" in job.parts:
        print_crowd(results, job)
    if "noise" in job.parts:
        print_noise(results)
    if "memory" in job.parts:
        print_memory(results, job)
    print_disturbance(results)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="folder with a manifest.jsonl")
    parser.add_argument("--clients", type=int, default=8, help="clients that speak at once (default: 8)")
    parser.add_argument("--limit", type=int, help="take only the first clips of each kind")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    parser.add_argument("--peers", type=Path, default=DEFAULT_FOLDER, help=f"where peers are ({DEFAULT_FOLDER})")
    parser.add_argument("--no-peers", action="store_true", help="our server only")
    parser.add_argument("options", nargs="*", help="after --: options of `wyoming-wlk serve`")
    return parser.parse_args()


if __name__ == "__main__":
    main()
