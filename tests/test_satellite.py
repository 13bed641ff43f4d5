"""A real satellite, wyoming-satellite, against our server, with a stand-in for Home Assistant between them.

Home Assistant connects to the satellite and takes its audio; the satellite never sees the speech-to-text server.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from conftest import Clip
from serving import answer, serving, transcript
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.pipeline import PipelineStage, RunPipeline
from wyoming.satellite import RunSatellite
from wyoming.server import AsyncEventHandler, AsyncServer
from wyoming.wake import Detection

from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.vad import SileroVad

PYTHON = os.environ.get("WLK_SATELLITE_PYTHON")
FORM = {"rate": 16000, "width": 2, "channels": 1}

pytestmark = pytest.mark.skipif(
    PYTHON is None,
    reason="wyoming-satellite pins an old wyoming and needs an environment of its own: python3 -m venv DIR && "
    "DIR/bin/pip install wyoming-satellite, and WLK_SATELLITE_PYTHON=DIR/bin/python",
)


@asynccontextmanager
async def satellite(folder: Path, clip: Clip, *options: str) -> AsyncIterator[str]:
    """A satellite that writes each transcript to `heard`; gives its URI.

    Its microphone gives a moment of silence when there is a file `waking`, and plays the clip once it streams.
    """
    (folder / "silence.raw").write_bytes(bytes(4096))
    (folder / "clip.raw").write_bytes(clip.pcm + bytes(32000))
    with socket.create_server(("127.0.0.1", 0)) as free:
        uri = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    waiting = "until [ -e {0}/{1} ]; do sleep 0.05; done; cat {0}/{2}.raw; "
    playing = waiting.format(folder, "waking", "silence") + waiting.format(folder, "streaming", "clip") + "sleep 60"
    command = [str(PYTHON), "-m", "wyoming_satellite", "--name", "test", "--uri", uri, "--no-zeroconf"]
    command += ["--mic-command", f"sh -c '{playing}'"]
    command += ["--streaming-start-command", f"touch {folder}/waking {folder}/streaming"]
    command += ["--transcript-command", f"tee {folder}/heard", *options]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield uri
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with its microphone
        await process.wait()


class WakeWord(AsyncEventHandler):
    """Hears the wake word in whatever comes first."""

    detected = False

    async def handle_event(self, event: Event) -> bool:
        if AudioChunk.is_type(event.type) and not self.detected:
            self.detected = True
            await self.write_event(Detection(name="ok_nabu").event())
        return True


async def connected(uri: str) -> AsyncClient:
    """A client of a program that may still be starting."""
    async with asyncio.timeout(30):
        while True:
            client = AsyncClient.from_uri(uri)
            try:
                await client.connect()
                return client
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)


async def event_of(client: AsyncClient, kind: str) -> Event:
    """The next event of one kind."""
    async with asyncio.timeout(30):
        while (event := await client.read_event()) is not None:
            if event.type == kind:
                return event
    raise AssertionError(f"the satellite left before {kind}")


async def home_assistant(satellite_uri: str, server_uri: str, size: int) -> RunPipeline:
    """One turn: `size` bytes of the satellite's audio to the server, and the text back; gives what was asked for."""
    house, speech = await connected(satellite_uri), await connected(server_uri)
    try:
        await house.write_event(Describe().event())
        assert Info.from_event(await event_of(house, "info")).satellite is not None
        await house.write_event(RunSatellite().event())
        wanted = RunPipeline.from_event(await event_of(house, "run-pipeline"))
        await speech.write_event(Transcribe(language="en").event())
        await speech.write_event(AudioStart(**FORM).event())
        while size > 0:
            chunk = AudioChunk.from_event(await event_of(house, "audio-chunk"))
            size -= len(chunk.audio)
            await speech.write_event(chunk.event())
        await speech.write_event(AudioStop().event())
        text = transcript(await answer(speech))
        await house.write_event(Transcript(text=text).event())
        return wanted
    finally:
        await house.disconnect()
        await speech.disconnect()


async def heard(folder: Path) -> str:
    """What the satellite's own command for transcripts was given."""
    async with asyncio.timeout(30):
        while not (folder / "heard").exists() or not (text := (folder / "heard").read_text("utf-8")):
            await asyncio.sleep(0.05)
    return text


async def test_a_satellite_that_streams_all_the_time(
    engine: Engine, vad: SileroVad, clips: dict[str, Clip], tmp_path: Path
) -> None:
    """What its microphone hears comes back as text, over its own protocol."""
    clip = clips["turn_on_the_lamp"]
    async with serving(engine, vad) as server, satellite(tmp_path, clip) as uri:
        wanted = await home_assistant(uri, server.uri, len(clip.pcm))
        assert wanted.start_stage is PipelineStage.WAKE
        assert "turn on the lamp" in (await heard(tmp_path)).lower()


async def test_a_satellite_with_a_wake_word(
    engine: Engine, vad: SileroVad, clips: dict[str, Clip], tmp_path: Path
) -> None:
    """After the wake word on the satellite itself, speech-to-text is what it asks for first."""
    clip = clips["turn_on_the_lamp"]
    waking = AsyncServer.from_uri(f"unix://{tmp_path}/wake")
    listening = asyncio.create_task(waking.run(WakeWord))
    try:
        options = ["--wake-uri", f"unix://{tmp_path}/wake", "--wake-word-name", "ok_nabu"]
        options += ["--streaming-stop-command", f"touch {tmp_path}/waking"]  # run when Home Assistant is there
        async with serving(engine, vad) as server, satellite(tmp_path, clip, *options) as uri:
            wanted = await home_assistant(uri, server.uri, len(clip.pcm))
            assert wanted.start_stage is PipelineStage.ASR
            assert "lamp" in (await heard(tmp_path)).lower()
    finally:
        listening.cancel()
