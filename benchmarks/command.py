"""How long a command waits for its text: alone, and beside others who speak without pause.

python -m benchmarks.command [--audio FOLDER] [--others N ...] [-- OPTIONS OF wyoming-wlk serve]

One client gives commands over Wyoming, says stop 0.7 s after each, and waits 2 s before the next. The others speak over
both doors, as in `load`.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.clips import DEFAULT_AUDIO, load_clips, word_error_rate
from benchmarks.crowds import Load, crowd
from benchmarks.observed import of_server
from benchmarks.peers import DEFAULT_FOLDER
from benchmarks.report import percentage, percentile, print_machine, print_table, progress
from benchmarks.servers import Server, our_server
from benchmarks.talkers import COMMANDS, MONOLOGUE, Sound, Take, Talker, asr_door, wyoming_door
from benchmarks.words import said_words

_SEED = 0


async def measure(server: Server, sounds: Mapping[str, Sequence[Sound]], others: int, seconds: float) -> Load:
    launch = server.launch
    wyoming, socket = wyoming_door(launch.uri), asr_door(f"ws://{launch.http}/asr?audio=pcm&language=en")
    await wyoming(Take(sounds["command"][:1]))  # the first time always takes longer
    talkers = [Talker(wyoming, False, COMMANDS)]
    talkers += [Talker(*((socket, True) if number % 2 else (wyoming, False)), MONOLOGUE) for number in range(others)]
    progress(f"a command beside {others} others")
    return await crowd(launch.name, talkers, sounds, seconds, of_server(server))


def row(others: int, load: Load, commands: Sequence[Sound]) -> list[str]:
    texts = {sound.clip.text for sound in commands if sound.clip is not None}
    takes = [take for take in load.finished if take.clips and {clip.text for clip in take.clips} <= texts]
    waits = [take.final for take in takes if take.final is not None]
    errors = word_error_rate([take.text for take in takes], [take.transcript or "" for take in takes])
    words = [delay.committed for delay in load.delays]
    return [
        str(others),
        str(len(takes)),
        percentile(waits, 50, 3),
        percentile(waits, 95, 3),
        percentage(errors),
        percentile(words, 95),
        str(load.failed),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="folder with a manifest.jsonl")
    parser.add_argument("--others", type=int, nargs="+", default=[0, 19], help="how many others, one after the other")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long each is measured (default: 120)")
    parser.add_argument("options", nargs="*", help="after --: options of `wyoming-wlk serve`")
    arguments = parser.parse_args()
    print_machine()
    sounds: dict[str, list[Sound]] = {}
    for kind in ("short", "command"):
        clips = load_clips(arguments.audio, kind, "en", None)
        clips = random.Random(_SEED).sample(clips, len(clips))
        words = said_words(clips, DEFAULT_FOLDER)
        sounds[kind] = [Sound.of(clip, said) for clip, said in zip(clips, words, strict=True)]
    rows = []
    with Server(our_server(arguments.options)) as server:
        for others in arguments.others:
            load = asyncio.run(measure(server, sounds, others, arguments.seconds))
            rows.append(row(others, load, sounds["command"]))
    header = [
        "others",
        "commands",
        "text after stop p50 [s]",
        "p95",
        "WER",
        "words of all, committed p95 [s]",
        "failed",
    ]
    print_table("A command, 0.7 s of silence before stop", header, rows)


if __name__ == "__main__":
    main()
