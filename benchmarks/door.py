"""Figures of the WebSocket door: a mixed crowd, streams resumed after lost connections, diff mode's bytes, partials.

python -m benchmarks.door [--audio FOLDER] [--parts crowd resume diff partials] [-- OPTIONS OF wyoming-wlk serve]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from benchmarks.client import CHUNK_SECONDS, Answer, Microphone, ask_context, ask_wyoming, pcm
from benchmarks.clips import DEFAULT_AUDIO, SAMPLE_RATE, Clip, load_clips, normalize, word_error_rate
from benchmarks.report import percentage, percentile, print_machine, print_table, progress
from benchmarks.servers import Server, our_server

PARTS = ("crowd", "resume", "diff", "partials")
_WEBSOCKETS = 7
_CLIPS_PER_CLIENT = 5
_STAGGER_SECONDS = 0.37
_CUTS = 5
_AWAY_SECONDS = (0.1, 2.0)
_DIFF_SECONDS = 600.0
_FLOW_CHUNK = 1024
"""Samples of a message in whisper-flow's own benchmark."""


async def crowd(server: Server, clips: Sequence[Clip]) -> dict[str, list[Answer]]:
    """Seven WebSocket clients and a Wyoming client, each speaking clip after clip without a pause between them."""

    async def speak(number: int) -> list[Answer]:
        await asyncio.sleep(number * _STAGGER_SECONDS)
        mine = [clips[(number + i * (_WEBSOCKETS + 1)) % len(clips)] for i in range(_CLIPS_PER_CLIENT)]
        if number < _WEBSOCKETS:
            return [await ask_context(server.launch.http, clip, 0.0) for clip in mine]
        return [await ask_wyoming(server.launch.uri, clip, 0.0) for clip in mine]

    answers = await asyncio.gather(*(speak(number) for number in range(_WEBSOCKETS + 1)))
    return {"seven WebSocket": [a for part in answers[:-1] for a in part], "one Wyoming": answers[-1]}


# --- resume -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Streamed:
    """One long clip through a stream: committed text, text at full quality, and how often the connection was lost."""

    clip: Clip
    committed: str
    final: str
    cuts: int


async def stream_with_cuts(http: str, clip: Clip, cuts: Sequence[float]) -> Streamed:
    """Speaks a clip in real time, and loses the connection at these seconds."""
    name = f"{clip.path.stem}-{len(cuts)}-{time.monotonic_ns()}"
    query = f"client_id={name}&format=updates&encoding=s16le&language=en"
    committed = final = proof = ""
    seq, lost = 0, 0
    began = time.perf_counter()
    ends = [*cuts, float("inf")]
    rng = np.random.default_rng(len(cuts))
    for end in ends:
        async with connect(f"ws://{http}/ws/transcription?{query}{proof}", ping_interval=None) as socket:
            hello = json.loads(await socket.recv())
            speaking = asyncio.create_task(_speak(socket, clip, hello["received_samples"], began, end))
            try:
                async for data in socket:
                    message = json.loads(data)
                    seq = max(seq, message.get("seq", 0))
                    for segment in message.get("segments", ()):
                        committed += segment["text"]
                        final += " " + segment.get("final_text", "")
            except ConnectionClosed:
                lost += 1
            await speaking
        proof = f"&secret={hello['secret']}&resume_from={seq}"
        if end != float("inf"):
            await asyncio.sleep(float(rng.uniform(*_AWAY_SECONDS)))
    return Streamed(clip, committed, final, lost)


async def _speak(socket: Any, clip: Clip, sample: int, began: float, end: float) -> None:
    """Sends from `sample` on, what should have been spoken by now at once, until second `end`."""
    step = int(CHUNK_SECONDS * SAMPLE_RATE)
    while sample < len(clip.samples):
        chunk = clip.samples[sample : sample + step]
        sample += len(chunk)
        await asyncio.sleep(max(0.0, began + sample / SAMPLE_RATE - time.perf_counter()))
        if time.perf_counter() - began > end:
            socket.transport.abort()
            return
        await socket.send(pcm(chunk))
    await socket.send(json.dumps({"type": "stop"}))


async def resume(server: Server, clips: Sequence[Clip]) -> list[tuple[Streamed, Streamed, Streamed]]:
    """Each clip twice without and once with five lost connections; two clips at a time."""
    rng = np.random.default_rng(0)

    async def one(clip: Clip) -> tuple[Streamed, Streamed, Streamed]:
        seconds = len(clip.samples) / SAMPLE_RATE
        cuts = sorted(rng.uniform(2, seconds - 2, _CUTS).tolist())
        first = await stream_with_cuts(server.launch.http, clip, ())
        again = await stream_with_cuts(server.launch.http, clip, ())
        progress(f"{clip.path.stem}")
        return first, again, await stream_with_cuts(server.launch.http, clip, cuts)

    found: list[tuple[Streamed, Streamed, Streamed]] = []
    for start in range(0, len(clips), 2):
        found += await asyncio.gather(*(one(clip) for clip in clips[start : start + 2]))
    return found


# --- diff mode and partials -------------------------------------------------------------------------------------------


async def diff(server: Server, clips: Sequence[Clip]) -> dict[str, int]:
    """Bytes of the updates over ten minutes of the same speech, in both modes at once."""
    samples = np.concatenate([clip.samples for clip in clips])
    samples = np.resize(samples, int(_DIFF_SECONDS * SAMPLE_RATE))
    speech = Clip(Path("ten-minutes"), samples, "")

    async def one(mode: str) -> int:
        async with connect(f"ws://{server.launch.http}/asr?mode={mode}", max_size=None, ping_interval=None) as socket:

            async def speak() -> None:
                async for chunk in Microphone(speech):
                    await socket.send(pcm(chunk))
                await socket.send(b"")

            speaking, total = asyncio.create_task(speak()), 0
            async for data in socket:
                total += len(data.encode() if isinstance(data, str) else data)
                if json.loads(data).get("type") == "ready_to_stop":
                    break
            await speaking
            return total

    full, short = await asyncio.gather(one("full"), one("diff"))
    return {"full": full, "diff": short}


async def partials(server: Server, clips: Sequence[Clip]) -> list[float]:
    """Delay of each partial of `/ws`, as whisper-flow counts it: its own `time`, in milliseconds."""
    times: list[float] = []
    for clip in clips:
        async with connect(f"ws://{server.launch.http}/ws", max_size=None, ping_interval=None) as socket:

            async def listen() -> None:
                async for data in socket:  # noqa: B023
                    times.append(float(json.loads(data)["time"]))

            listening = asyncio.create_task(listen())
            for start in range(0, len(clip.samples), _FLOW_CHUNK):
                await socket.send(pcm(clip.samples[start : start + _FLOW_CHUNK]))
                await asyncio.sleep(_FLOW_CHUNK / SAMPLE_RATE)
            await asyncio.sleep(2)
            listening.cancel()
    return times


# --- printing ---------------------------------------------------------------------------------------------------------


def print_crowd(results: dict[str, list[Answer]]) -> None:
    rows = []
    for name, answers in results.items():
        first = [a.first for a in answers if a.first is not None]
        final = [a.final for a in answers if a.final is not None]
        said = [a.clip.text for a in answers]
        row = [name, str(len(answers)), percentile(first, 50), percentile(first, 95)]
        row += [percentile(final, 50), percentile(final, 95)]
        row += [percentage(word_error_rate(said, [a.transcript for a in answers]))]
        row += [
            percentage(word_error_rate(said, [a.chunks for a in answers])),
            str(sum(bool(a.error) for a in answers)),
        ]
        rows.append(row)
    header = ["", "clips", "first words p50 [s]", "p95", "final p50 [s]", "p95", "WER", "WER of chunks", "failed"]
    print_table("Seven WebSocket clients and a Wyoming client that speak without pause", header, rows)


def print_resume(results: Sequence[tuple[Streamed, Streamed, Streamed]]) -> None:
    rows = []
    for first, again, resumed in results:
        said = first.clip.text
        row = [first.clip.path.stem, str(resumed.cuts)]
        for other in (again, resumed):
            row += [percentage(word_error_rate([first.final], [other.final])),
                    percentage(word_error_rate([first.committed], [other.committed]))]  # fmt: skip
        row += [percentage(word_error_rate([said], [text])) for text in (first.final, resumed.final)]
        rows.append([*row, "yes" if normalize(first.final) == normalize(resumed.final) else "no"])
    header = ["clip", "lost connections", "2nd run vs 1st", "committed", "resumed vs 1st", "committed"]
    print_table("Difference in words", [*header, "WER 1st", "WER resumed", "transcripts equal"], rows)


def print_bytes(sizes: dict[str, int]) -> None:
    rows = [[mode, f"{size / 1000:.0f}", f"{size / sizes['full']:.3f}"] for mode, size in sizes.items()]
    print_table("Bytes of /asr over ten minutes", ["mode", "kB", "of full"], rows)


def print_partials(times: Sequence[float]) -> None:
    row = [f"{np.mean(times):.0f}" if times else "–", percentile(times, 50, 0), percentile(times, 95, 0)]
    print_table("Partials of /ws", ["messages", "mean [ms]", "p50", "p95"], [[str(len(times)), *row]])


# --- the program ------------------------------------------------------------------------------------------------------


async def run(server: Server, arguments: argparse.Namespace) -> None:
    short = load_clips(arguments.audio, "short", "en")
    long = load_clips(arguments.audio, "long", "en", arguments.limit)
    long += sorted(short, key=lambda clip: -len(clip.samples))[: arguments.limit - len(long)]
    if "crowd" in arguments.parts:
        progress("crowd")
        print_crowd(await crowd(server, short))
    if "partials" in arguments.parts:
        progress("partials")
        print_partials(await partials(server, short[:10]))
    # These two measure no times, so they may go side by side.
    resumed, sizes = await asyncio.gather(
        resume(server, long if "resume" in arguments.parts else ()),
        diff(server, short) if "diff" in arguments.parts else _nothing(),
    )
    if resumed:
        print_resume(resumed)
    if sizes:
        print_bytes(sizes)


async def _nothing() -> dict[str, int]:
    return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="folder with a manifest.jsonl")
    parser.add_argument("--limit", type=int, default=10, help="long clips (default: 10)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    parser.add_argument("options", nargs="*", help="after --: options of `wyoming-wlk serve`")
    arguments = parser.parse_args()
    print_machine()
    with Server(our_server(arguments.options)) as server:
        asyncio.run(run(server, arguments))
        server.check()


if __name__ == "__main__":
    main()
