"""Speakers and translations through the running server: whose words, how late, and what the others notice of it.

python -m benchmarks.stages [--audio FOLDER] [--parts words delay beside] [-- OPTIONS OF wyoming-wlk serve]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import signal
import statistics
import sys
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jiwer
import soundfile
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from benchmarks.client import Microphone, pcm
from benchmarks.clips import DEFAULT_AUDIO, Clip, load_clips, normalize, word_error_rate
from benchmarks.main_job import Crowd, Job, crowd
from benchmarks.report import percentage, percentile, print_machine, print_table, progress
from benchmarks.servers import Server, our_server

PARTS = ("words", "delay", "beside")
TARGET = "pt"
_BOTH = {"diarization": "online", "target_language": TARGET}
_CLIENTS = 8
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class SpokenClip:
    """A clip of several speakers, and what each of them says."""

    clip: Clip
    said: Mapping[str, str]


@dataclass
class Heard:
    """What one stream of `/ws/transcription` brought, with the seconds since its clip began."""

    segments: dict[int, tuple[int | None, str]] = field(default_factory=dict)
    """Speaker and text, by number."""
    certain: list[tuple[float, int]] = field(default_factory=list)
    """How many characters were certain, with or without a speaker, at which time."""
    committed: list[float] = field(default_factory=list)
    """When words were committed."""
    shown: list[float] = field(default_factory=list)
    """How long after that a translation was there that has them, tentative or not."""
    notices: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def text(self) -> str:
        return " ".join(text for _, text in self.segments.values())

    def take(self, message: Mapping[str, Any], now: float) -> None:
        if message["type"] in ("error", "notice"):
            self.notices.append(str(message.get("text") or message["error"]))
        if message["type"] != "transcript_update":
            return
        translated = fresh = False
        waiting = 0
        for segment in message["segments"]:
            _, text = self.segments.get(segment["id"], (None, ""))
            fresh = fresh or bool(segment["text"].strip())
            if segment["text"]:
                self.segments[segment["id"]] = segment["speaker"], text + segment["text"]
            waiting += len(segment["buffer"]["diarization"])
            translated = translated or bool(segment["translation"] or segment["buffer"]["translation"])
        self.certain.append((now, waiting + sum(len(text) for _, text in self.segments.values())))
        if translated:
            self.shown += [now - then for then in self.committed]
            self.committed = []
        if fresh:
            self.committed.append(now)


# --- measuring --------------------------------------------------------------------------------------------------------


async def stream(http: str, clip: Clip, **wishes: str) -> Heard:
    """One clip in real time over a WebSocket."""
    heard, microphone = Heard(), Microphone(clip)
    query = {"client_id": str(uuid.uuid4()), "format": "updates", "encoding": "s16le", **wishes}
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    try:
        async with (
            asyncio.timeout(microphone.seconds + _PATIENCE_SECONDS),
            connect(f"ws://{http}/ws/transcription?{asked}", max_size=None, ping_interval=None) as socket,
        ):
            listening = asyncio.create_task(_listen(socket, microphone, heard))
            async for chunk in microphone:
                await socket.send(pcm(chunk))
            await socket.send('{"type": "stop"}')
            await listening
    except (OSError, TimeoutError, WebSocketException) as err:
        heard.error = repr(err)
    return heard


async def _listen(socket: ClientConnection, microphone: Microphone, heard: Heard) -> None:
    async for data in socket:
        heard.take(json.loads(data), microphone.elapsed)


async def beside(server: Server, job: Job, long: Clip) -> tuple[Crowd, Crowd, Heard]:
    """A crowd without stages, the same crowd while one more client has both, and what that one got."""
    plain = await crowd(server, job)
    heard: list[Heard] = []

    async def talk_on() -> None:
        while True:
            heard.append(await stream(server.launch.http, long, **_BOTH))

    talking = asyncio.create_task(talk_on())
    await asyncio.sleep(5)
    disturbed = await crowd(server, job)
    while not heard:
        await asyncio.sleep(0.1)
    talking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await talking
    return plain, disturbed, heard[0]


def speaker_attributed_error_rate(said: Mapping[str, str], heard: Heard) -> float:
    """cpWER: each speaker's words joined, under the mapping of speakers that has the fewest errors (CHiME-6)."""
    texts: defaultdict[int | None, list[str]] = defaultdict(list)
    for speaker, text in heard.segments.values():
        texts[speaker].append(text)
    references = [normalize(text) for text in said.values()]
    hypotheses = [normalize(" ".join(parts)) for parts in texts.values()]
    size = max(len(references), len(hypotheses))
    references += [""] * (size - len(references))
    hypotheses += [""] * (size - len(hypotheses))
    errors = [[_errors(reference, hypothesis) for hypothesis in hypotheses] for reference in references]
    best = min(
        sum(errors[row][column] for row, column in enumerate(order)) for order in itertools.permutations(range(size))
    )
    return best / sum(len(reference.split()) for reference in references)


def _errors(reference: str, hypothesis: str) -> int:
    if not reference:
        return len(hypothesis.split())
    counts = jiwer.process_words(reference, hypothesis)
    return int(counts.substitutions + counts.deletions + counts.insertions)


def added_delay(plain: Heard, staged: Heard) -> list[float]:
    """By how many seconds the same amount of certain text came later, at each update of the plain stream."""
    found = []
    for now, characters in plain.certain:
        later = next((then for then, count in staged.certain if count >= characters), None)
        if characters and later is not None:
            found.append(later - now)
    return found


# --- the program ------------------------------------------------------------------------------------------------------


def load_spoken(folder: Path) -> list[SpokenClip]:
    """The clips whose manifest entry tells who says what."""
    found = []
    for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines():
        entry = json.loads(line)
        if entry["kind"] == "multispeaker" and entry.get("segments"):
            said: defaultdict[str, list[str]] = defaultdict(list)
            for segment in entry["segments"]:
                said[segment["speaker"]].append(segment["text"])
            samples, _ = soundfile.read(folder / entry["file"], dtype="float32")
            text = " ".join(segment["text"] for segment in sorted(entry["segments"], key=lambda part: part["start"]))
            clip = Clip(folder / entry["file"], samples, text)
            found.append(SpokenClip(clip, {speaker: " ".join(parts) for speaker, parts in said.items()}))
    return found


async def measure_words(server: Server, clips: Sequence[SpokenClip]) -> None:
    rows = []
    for spoken in clips:
        progress(f"{spoken.clip.path.name}: whose words")
        plain = await stream(server.launch.http, spoken.clip)
        staged = await stream(server.launch.http, spoken.clip, diarization="online")
        errors = word_error_rate([spoken.clip.text], [staged.text])
        attributed = speaker_attributed_error_rate(spoken.said, staged)
        delays = added_delay(plain, staged)
        rows.append(
            [
                spoken.clip.path.stem,
                percentage(word_error_rate([spoken.clip.text], [plain.text])),
                percentage(errors),
                percentage(attributed),
                f"{attributed / errors:.2f}",
                f"{len({speaker for speaker, _ in staged.segments.values()})} / {len(spoken.said)}",
                f"{statistics.median(delays):.2f}" if delays else "–",
                staged.error or "; ".join(staged.notices) or "–",
            ]
        )
    header = ["clip", "WER without speakers", "WER", "cpWER", "cpWER / WER", "speakers", "added delay p50 [s]"]
    print_table("Whose words, in real time", [*header, "notices"], rows)


async def measure_delay(server: Server, clips: Sequence[SpokenClip], short: Sequence[Clip]) -> None:
    heard = []
    for clip in (*(spoken.clip for spoken in clips), *short):
        progress(f"{clip.path.name}: translation")
        heard.append(await stream(server.launch.http, clip, target_language=TARGET))
    delays = [delay for part in heard for delay in part.shown]
    missing = sum(len(part.committed) for part in heard)
    row = [str(len(delays)), percentile(delays, 50, 3), percentile(delays, 95, 3), str(missing)]
    print_table(
        f"Translation into {TARGET} behind committed words",
        ["updates", "p50 [s]", "p95 [s]", "without translation"],
        [row],
    )


def print_beside(plain: Crowd, disturbed: Crowd, heard: Heard) -> None:
    rows = []
    for name, found in (("alone", plain), ("beside one with both stages", disturbed)):
        first = [answer.first for answer in found.answers if answer.first is not None]
        final = [answer.final for answer in found.answers if answer.final is not None]
        said = [answer.clip.text for answer in found.answers]
        rows.append(
            [
                name,
                percentile(first, 50),
                percentile(first, 95),
                percentile(final, 50),
                percentile(final, 95),
                percentage(word_error_rate(said, [answer.transcript for answer in found.answers])),
                str(sum(bool(answer.error) for answer in found.answers)),
                f"{found.cpu_seconds:.0f} of {found.seconds:.0f}",
            ]
        )
    header = ["", "first words p50 [s]", "p95", "final p50 [s]", "p95", "WER", "failed", "CPU seconds of seconds"]
    print_table(f"{_CLIENTS} clients without stages", header, rows)
    print(f"\nThe one with stages: {len(heard.segments)} segments, notices: {heard.notices or 'none'} {heard.error}")


async def run(arguments: argparse.Namespace) -> None:
    spoken, short = load_spoken(arguments.audio), load_clips(arguments.audio, "short", "en", arguments.limit)
    launch = our_server(arguments.options)
    with Server(launch) as server:
        progress("loading the stages' models")
        await stream(launch.http, short[0], **_BOTH)
        if "words" in arguments.parts:
            await measure_words(server, spoken)
        if "delay" in arguments.parts:
            await measure_delay(server, spoken, short[:10])
        if "beside" in arguments.parts:
            job = Job((), _CLIENTS, short, ())
            print_beside(*await beside(server, job, spoken[0].clip))
        server.check()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="folder with a manifest.jsonl")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (default: all)")
    parser.add_argument("--limit", type=int, help="take only the first short clips")
    parser.add_argument("options", nargs="*", help="after --: options of `wyoming-wlk serve`")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # takes the server down with it
    print_machine()
    asyncio.run(run(arguments))


if __name__ == "__main__":
    main()
