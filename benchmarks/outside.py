"""What a container under test meets outside: a Supervisor, Home Assistant's requests, programs on the network.

Addresses are those of Home Assistant's internal network.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import soundfile
from aiohttp import ClientSession, TCPConnector, web
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.info import Describe, Info
from zeroconf import IPVersion, ServiceStateChange
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

SUPERVISOR, CONTAINER, NEIGHBOUR, PREFIX = "172.30.32.2", "172.30.33.7", "172.30.33.8", 23
URI = f"tcp://{CONTAINER}:10300"
CLIP = Path(__file__).parent.parent / "tests" / "audio" / "turn_on_the_lamp.flac"
WORDS = "turn on the lamp"


class Supervisor:
    """The Supervisor's discovery, as far as an add-on uses it: notes messages, and asks the service there at once."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, dict[str, Any], bool]] = []
        self.told = asyncio.Event()

    async def __aenter__(self) -> Supervisor:
        application = web.Application()
        application.router.add_post("/discovery", self._discovery)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        await web.TCPSite(self._runner, SUPERVISOR, 80).start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._runner.cleanup()

    async def _discovery(self, request: web.Request) -> web.Response:
        answered = await describe() is not None
        self.messages.append((request.headers.get("Authorization", ""), await request.json(), answered))
        self.told.set()
        return web.json_response({"result": "ok", "data": {"uuid": "0" * 32}})


async def describe(seconds: float = 5) -> Info | None:
    """What the server says of itself, or None where nobody answers."""
    try:
        async with asyncio.timeout(seconds), AsyncClient.from_uri(URI) as client:
            await client.write_event(Describe().event())
            event = await client.read_event()
            return Info.from_event(event) if event is not None and Info.is_type(event.type) else None
    except (OSError, TimeoutError):
        return None


async def transcribe(pause: float = 0.0) -> str:
    """The clip's text, as Home Assistant would get it."""
    samples, rate = soundfile.read(CLIP, dtype="int16")
    async with asyncio.timeout(60), AsyncClient.from_uri(URI) as client:
        await client.write_event(Transcribe(language="en").event())
        await client.write_event(AudioStart(rate, 2, 1).event())
        for start in range(0, len(samples), rate // 10):
            await client.write_event(AudioChunk(rate, 2, 1, samples[start : start + rate // 10].tobytes()).event())
            await asyncio.sleep(pause)
        await client.write_event(AudioStop().event())
        while (event := await client.read_event()) is not None:
            if Transcript.is_type(event.type):
                return Transcript.from_event(event).text
    return "(no transcript)"


def said(text: str) -> str:
    return re.sub(r"[^a-z ]", "", text.lower()).strip()


async def status(path: str, token: str = "", source: str = NEIGHBOUR) -> int | None:
    """The HTTP status of a page, asked from an address of this side, or None where nobody listens."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connector = TCPConnector(local_addr=(source, 0))
    try:
        async with ClientSession(headers=headers, connector=connector) as session:
            async with session.get(f"http://{CONTAINER}:10380{path}") as answer:
                return answer.status
    except OSError:
        return None


async def browse() -> list[str]:
    """Wyoming services on the network, as Home Assistant finds them."""
    names: asyncio.Queue[str] = asyncio.Queue()

    def changed(zeroconf: object, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Added:
            names.put_nowait(name)

    zeroconf = AsyncZeroconf(interfaces=[SUPERVISOR], ip_version=IPVersion.V4Only)
    browser = AsyncServiceBrowser(zeroconf.zeroconf, ["_wyoming._tcp.local."], handlers=[changed])
    try:
        info = AsyncServiceInfo("_wyoming._tcp.local.", await asyncio.wait_for(names.get(), 15))
        await info.async_request(zeroconf.zeroconf, 3000)
        return [f"{address}:{info.port}" for address in info.parsed_addresses()]
    except TimeoutError:
        return []
    finally:
        await browser.async_cancel()
        await zeroconf.async_close()
