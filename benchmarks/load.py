"""Many clients at once: how late words come, how good they are and what that costs, over the number of clients.

python -m benchmarks.load [--audio FOLDER] [--clients N ...] [--mix] [--virtual] [-- OPTIONS OF wyoming-wlk serve]

Clients speak without pause: half of them over WebSocket, all the time on one connection, half over Wyoming, with a
connection for each clip. With --mix some give commands, make pauses, or are gone in mid-speech.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import virtual
from benchmarks.clips import DEFAULT_AUDIO, SAMPLE_RATE, Clip, load_clips, word_error_rate
from benchmarks.crowds import Load, crowd
from benchmarks.engine import local_services
from benchmarks.load_tables import Texts, plots, print_loads
from benchmarks.observed import Observe, of_server, of_services
from benchmarks.peers import DEFAULT_FOLDER, Peers
from benchmarks.report import percentage, print_machine, print_table, progress
from benchmarks.servers import MODEL, Server, our_config, our_server
from benchmarks.talkers import (
    COMMANDS,
    LEAVES,
    MONOLOGUE,
    PAUSES,
    Door,
    Sound,
    Take,
    Talker,
    asr_door,
    session_door,
    wyoming_door,
)
from benchmarks.words import said_words
from wyoming_wlk.models import ModelStore

CLIENTS = (1, 2, 4, 8, 16, 24)
PEER_CLIENTS = (1, 2)
_SETTLE_SECONDS = 4.0
_SEED = 0
_MIX = (MONOLOGUE, MONOLOGUE, COMMANDS, COMMANDS, PAUSES, PAUSES, MONOLOGUE, LEAVES, MONOLOGUE)
"""Habits of clients in turn. An odd number, so that each comes through every door."""

Way = tuple[Door, bool]
"""A door, and whether clients stay on one connection."""


@dataclass(frozen=True)
class Job:
    """What every server is asked."""

    sounds: Mapping[str, Sequence[Sound]]
    """By kind of clip."""
    mix: bool
    seconds: float


@dataclass(frozen=True)
class Offline:
    """faster-whisper over whole clips; `speed` in seconds of audio per second of all cores."""

    texts: Texts
    errors: float
    speed: float


# --- measuring --------------------------------------------------------------------------------------------------------


async def sweep(name: str, ways: Sequence[Way], clients: Sequence[int], observe: Observe, job: Job) -> list[Load]:
    """One crowd after the other, as long as the server lives."""
    await ways[0][0](Take(job.sounds["short"][:1]))  # the first time always takes longer
    loads = []
    for count in clients:
        await asyncio.sleep(_SETTLE_SECONDS)
        progress(f"{name}: {count} clients")
        talkers = [
            Talker(*ways[number % len(ways)], _MIX[number % len(_MIX)] if job.mix else MONOLOGUE)
            for number in range(count)
        ]
        try:
            loads.append(await crowd(name, talkers, job.sounds, job.seconds, observe))
        except RuntimeError as err:
            progress(str(err))
            break
    return loads


def at_sockets(options: Sequence[str], clients: Sequence[int], job: Job) -> list[Load]:
    with Server(our_server(options)) as server:
        launch = server.launch
        ways = [(asr_door(f"ws://{launch.http}/asr?audio=pcm&language=en"), True), (wyoming_door(launch.uri), False)]
        return asyncio.run(sweep(launch.name, ways, clients, of_server(server), job))


def live_kit(peers: Peers, clients: Sequence[int], job: Job) -> list[Load]:
    """Nothing where it does not start: ours is worth having all the same."""
    try:
        with Server(peers.live_kit()) as server:
            launch = server.launch
            return asyncio.run(sweep(launch.name, [(asr_door(launch.uri), True)], clients, of_server(server), job))
    except RuntimeError as err:
        progress(str(err))
        return []


def in_virtual_time(options: Sequence[str], clients: Sequence[int], job: Job) -> list[Load]:
    """Without sockets and without waiting."""

    async def run(clock: virtual.Clock) -> list[Load]:
        async with local_services(options) as services:
            door = session_door(services)
            ways = [(door, True), (door, False)]
            return await sweep("wyoming-wlk, virtual time", ways, clients, of_services(services), job)

    return virtual.run(run)


def offline(peers: Peers, clips: Mapping[str, Sequence[Clip]]) -> Offline:
    whole = [clip for kind in clips.values() for clip in kind]
    progress(f"faster-whisper offline, {len(whole)} clips")
    (results,) = peers.offline(whole, [1])
    texts = {clip.path: result.text for clip, result in zip(whole, results, strict=True)}
    short = clips["short"]
    errors = word_error_rate([clip.text for clip in short], [texts[clip.path] for clip in short])
    heard = sum(len(clip.samples) for clip in whole) / SAMPLE_RATE
    return Offline(texts, errors, heard / sum(result.seconds for result in results))


# --- the program ------------------------------------------------------------------------------------------------------


def main() -> None:
    arguments = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # takes the server down with it
    kinds = ("short", "command") if arguments.mix else ("short",)
    shuffle = random.Random(_SEED).sample  # neighbours are of one speaker, and clients say few clips
    found = {kind: load_clips(arguments.audio, kind, "en", arguments.limit) for kind in kinds}
    clips = {kind: shuffle(some, len(some)) for kind, some in found.items()}
    if not all(clips.values()):
        raise SystemExit(f"{arguments.audio}: no English clips of the kinds {' and '.join(kinds)}")
    print_machine()
    sounds = {
        kind: [Sound.of(clip, words) for clip, words in zip(some, said_words(some, arguments.peers), strict=True)]
        for kind, some in clips.items()
    }
    job = Job(sounds, arguments.mix, arguments.seconds)
    measure = in_virtual_time if arguments.virtual else at_sockets
    loads = measure(arguments.options, arguments.clients, job)
    whole = Offline({}, float("nan"), float("nan"))
    if not arguments.no_peers:
        model = our_config(arguments.options).model
        peers = Peers(arguments.peers, ModelStore(model.data_dir), model.model)
        if model.model == MODEL:  # the only one that WhisperLiveKit can be given
            loads += live_kit(peers, arguments.peer_clients, job)
        whole = offline(peers, clips)
        row = [percentage(whole.errors), f"{whole.speed:.1f}"]
        print_table("faster-whisper, whole clips, one beam", ["WER", "seconds of audio per second"], [row])
    print_loads(loads, whole.texts, "mixed behaviour" if arguments.mix else "speaking without pause")
    if arguments.plot is not None and loads:
        arguments.plot.mkdir(parents=True, exist_ok=True)
        for name, svg in plots(loads, whole.texts).items():
            (arguments.plot / name).write_text(svg, "utf-8")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="folder with a manifest.jsonl")
    parser.add_argument("--limit", type=int, help="take only the first clips of each kind")
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS, help="how many at once, one after the other")
    parser.add_argument("--peer-clients", type=int, nargs="+", default=PEER_CLIENTS, help="the same for WhisperLiveKit")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each is measured (default: 60)")
    parser.add_argument("--mix", action="store_true", help="commands, pauses and lost connections besides monologues")
    parser.add_argument("--virtual", action="store_true", help="in one process, without sockets and without waiting")
    parser.add_argument("--plot", type=Path, help="folder for SVGs")
    parser.add_argument("--peers", type=Path, default=DEFAULT_FOLDER, help=f"where peers are ({DEFAULT_FOLDER})")
    parser.add_argument("--no-peers", action="store_true", help="our server only")
    parser.add_argument("options", nargs="*", help="after --: options of `wyoming-wlk serve`")
    return parser.parse_args()


if __name__ == "__main__":
    main()
