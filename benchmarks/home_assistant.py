"""From the end of a spoken command to Home Assistant's result, with our server and with wyoming-faster-whisper.

Home Assistant's own integration speaks: satellites talk in real time, its voice activity detection ends each command,
its provider uploads the audio and waits for the text. The servers run one after the other.

python -m benchmarks.home_assistant [--audio FOLDER] [--satellites N ...] [--no-peer] [-- OPTIONS OF wyoming-wlk serve]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.client import pcm
from benchmarks.clips import DEFAULT_AUDIO, SAMPLE_RATE, Clip, load_clips, normalize, word_error_rate
from benchmarks.peers import DEFAULT_FOLDER, Peers
from benchmarks.report import percentage, percentile, print_machine, print_table, progress
from benchmarks.servers import Launch, Server, our_config, our_server
from tests.home_assistant import ROOT, Heard, Probe, probe
from wyoming_wlk.models import ModelStore

MODEL = "base"
SILENCE = 0.7
"""Seconds that Home Assistant's voice activity detection waits for behind a command."""

_ROOM_SECONDS, _ROOM_TONE, _SEED = 3.0, 1e-4, 0
_STAGGER_SECONDS = 0.37
_CLIPS_PER_SATELLITE = 5
_SETTLE_SECONDS = 4.0
_DEFAULT_BEAMS = 0
_OFFLINE_BEAMS = 5


@dataclass(frozen=True)
class Command:
    """A clip and what Home Assistant heard in it."""

    clip: Clip
    heard: Heard

    @property
    def text(self) -> str:
        """Empty for a failure, too."""
        return self.heard.text or ""


@dataclass
class Figures:
    """Everything about one server."""

    name: str
    commands: dict[int, list[Command]]
    """By the number of satellites that spoke at once."""
    disturbance: float = 0.0
    """Processor seconds per second that other programs took meanwhile, Home Assistant among them."""


# --- measuring --------------------------------------------------------------------------------------------------------


async def measure(launch: Launch, clips: Sequence[Clip], crowds: Sequence[int], silence: float) -> Figures:
    """Raises RuntimeError where the server does not start, or ends before it should."""
    figures = Figures(launch.name, {})
    progress(f"starting {launch.name}")
    with Server(launch) as server:
        async with probe() as home:
            port = int(launch.uri.rpartition(":")[2])
            await home.describe(port)
            await asyncio.sleep(_SETTLE_SECONDS)
            await speak(home, port, clips[0], silence)  # the first time always takes longer
            began, foreign = time.perf_counter(), server.foreign_seconds
            for satellites in crowds:
                progress(f"{launch.name}: {satellites} at once")
                figures.commands[satellites] = await crowd(home, port, clips, satellites, silence)
            figures.disturbance = (server.foreign_seconds - foreign) / (time.perf_counter() - began)
        server.check()
    return figures


async def crowd(home: Probe, port: int, clips: Sequence[Clip], satellites: int, silence: float) -> list[Command]:
    """Each satellite speaks its share of the clips, the next as soon as it has the text of the last."""
    total = len(clips) if satellites == 1 else max(len(clips), satellites * _CLIPS_PER_SATELLITE)
    spoken = list(itertools.islice(itertools.cycle(clips), total))

    async def satellite(number: int) -> list[Command]:
        await asyncio.sleep(number * _STAGGER_SECONDS)
        return [await speak(home, port, clip, silence) for clip in spoken[number::satellites]]

    answers = await asyncio.gather(*(satellite(number) for number in range(satellites)))
    return list(itertools.chain(*answers))


async def speak(home: Probe, port: int, clip: Clip, silence: float) -> Command:
    tone = np.random.default_rng(_SEED).normal(0, _ROOM_TONE, int(_ROOM_SECONDS * SAMPLE_RATE))
    audio = np.concatenate([clip.samples, tone.astype(np.float32)])
    return Command(clip, await home.speak(port, pcm(audio), pace=1.0, silence=silence))


# --- printing ---------------------------------------------------------------------------------------------------------


def print_figures(results: Sequence[Figures], satellites: int) -> None:
    rows = []
    ours = np.median(_seconds(results[0].commands[satellites]))
    for figures in results:
        commands = figures.commands[satellites]
        seconds = _seconds(commands)
        errors = word_error_rate([command.clip.text for command in commands], [command.text for command in commands])
        row = [figures.name, str(len(commands)), percentile(seconds, 50, 3), percentile(seconds, 95, 3)]
        failed = sum(command.heard.state != "success" for command in commands)
        rows.append([*row, f"{np.median(seconds) / ours:.1f}", percentage(errors), str(failed)])
    header = ["", "commands", "result p50 [s]", "p95 [s]", "p50 to ours", "WER", "failed"]
    print_table(f"{satellites} {'satellite' if satellites == 1 else 'satellites at once'}", header, rows)


def _seconds(commands: Sequence[Command]) -> list[float]:
    return [command.heard.seconds for command in commands if command.heard.state == "success"]


def print_texts(results: Sequence[Figures], satellites: int, offline: Sequence[str], clips: Sequence[Clip]) -> None:
    """The clips that somebody got wrong."""
    names, texts = [figures.name for figures in results], []
    for figures in results:
        heard = {command.clip.path: command.text for command in figures.commands[satellites]}
        texts.append([heard[clip.path] for clip in clips])
    if offline:
        names.append("faster-whisper offline, whole clips")
        texts.append(list(offline))
    rows = []
    for clip, *heard in zip(clips, *texts, strict=True):
        wrong = [normalize(text) != normalize(clip.text) for text in heard]
        if any(wrong):
            cells = [text.strip() or "–" if bad else "right" for text, bad in zip(heard, wrong, strict=True)]
            rows.append([clip.text, *cells])
    if rows:
        print_table(f"What was heard wrong, {satellites} at once", ["said", *names], rows)


# --- the program ------------------------------------------------------------------------------------------------------


def main() -> None:
    arguments = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # takes the server down with it
    subprocess.run([ROOT / "script" / "setup-home-assistant"], check=True)
    clips = load_clips(arguments.audio, "command", "en", arguments.limit)
    if not clips:
        raise SystemExit(f"{arguments.audio}: no English clips of the kind command")
    options = ["--model", MODEL, *arguments.options]
    launches, peers = [our_server(options)], None
    if not arguments.no_peer:
        peers = Peers(arguments.peers, ModelStore(our_config(options).model.data_dir), MODEL)
        launches.append(peers.faster_whisper(_DEFAULT_BEAMS))
    print_machine()
    results = [asyncio.run(measure(launch, clips, arguments.satellites, arguments.silence)) for launch in launches]
    for satellites in arguments.satellites:
        print_figures(results, satellites)
    progress("faster-whisper offline")
    offline = [result.text for result in peers.offline(clips, [_OFFLINE_BEAMS])[0]] if peers else []
    print_texts(results, arguments.satellites[0], offline, clips)
    rows = [[figures.name, f"{figures.disturbance:.2f}"] for figures in results]
    print_table("Cores that other programs took meanwhile, Home Assistant among them", ["", "cores"], rows)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="folder with a manifest.jsonl")
    parser.add_argument("--limit", type=int, help="take only the first clips")
    parser.add_argument("--satellites", type=int, nargs="+", default=[1, 8], help="how many at once (default: 1 8)")
    parser.add_argument("--silence", type=float, default=SILENCE, help=f"seconds that end a command ({SILENCE})")
    parser.add_argument("--peers", type=Path, default=DEFAULT_FOLDER, help=f"where the peer is ({DEFAULT_FOLDER})")
    parser.add_argument("--no-peer", action="store_true", help="our server only")
    parser.add_argument("options", nargs="*", help="after --: options of `wyoming-wlk serve`")
    return parser.parse_args()


if __name__ == "__main__":
    main()
