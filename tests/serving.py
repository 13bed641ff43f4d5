"""A server in this process, and what tests say to it over a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed
from wyoming.asr import Transcribe
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.event import Event

from wyoming_wlk.config import Config, DecodingConfig, HttpConfig
from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.frontends.gate import Gate
from wyoming_wlk.frontends.http import HttpServer
from wyoming_wlk.frontends.listeners import Listeners
from wyoming_wlk.hosting import ModelInfo
from wyoming_wlk.options import Address
from wyoming_wlk.services import Services
from wyoming_wlk.session import Speech
from wyoming_wlk.vad import SileroVad


@dataclass(frozen=True)
class Server:
    port: int
    services: Services
    listeners: Listeners
    http: HttpServer
    url: str
    """The HTTP door, without a slash at the end."""
    speech: asyncio.Future[Speech]
    """Set by those who start a server that is not `loaded`."""
    loading: asyncio.Task[Speech]

    @property
    def uri(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"


@asynccontextmanager
async def serving(
    engine: Engine,
    vad: SileroVad,
    loaded: bool = True,
    others: Mapping[str, Engine] = MappingProxyType({}),
    **changes: object,
) -> AsyncIterator[Server]:
    """A server on free ports, with greedy finals; `others` can be changed to, `changes` are options of any section, by
    name."""
    config = Config(http=HttpConfig(http=Address("127.0.0.1", 0)), decoding=DecodingConfig(beam_size=1))
    for section in ("server", "http", "voice", "limits", "decoding", "programs", "home", "model", "stages"):
        known = {name: value for name, value in changes.items() if hasattr(getattr(config, section), name)}
        config = replace(config, **{section: replace(getattr(config, section), **known)})
    speech: asyncio.Future[Speech] = asyncio.get_running_loop().create_future()
    model = ModelInfo("tiny.en", ("en",))

    async def load(wanted: Config) -> tuple[Speech, ModelInfo]:
        name = wanted.model.model
        if name in others:
            return Speech(others[name], vad, executor), ModelInfo(name, others[name].languages)
        return await speech, model

    services = Services(config, model, load)
    gate = Gate(config)
    listeners, http = Listeners(services, gate), HttpServer(services, gate)
    with ThreadPoolExecutor(1) as executor:
        if loaded:
            speech.set_result(Speech(engine, vad, executor))
        (url,) = await http.start()
        (address,) = await listeners.start("tcp://127.0.0.1:0")
        loading = asyncio.create_task(services.host.borrow())
        try:
            yield Server(int(address.rpartition(":")[2]), services, listeners, http, url, speech, loading)
        finally:
            await asyncio.gather(listeners.stop(1.0), http.stop(1.0))
            loading.cancel()


async def say(
    client: AsyncClient, pcm: bytes, transcribe: Transcribe | None = None, pace: float = 0.0, stop: bool = True
) -> None:
    """Sends one utterance, 16 kHz mono s16le, in chunks of 0.1 s."""
    await client.write_event((transcribe or Transcribe(language="en")).event())
    await client.write_event(AudioStart(rate=16000, width=2, channels=1).event())
    for start in range(0, len(pcm), 3200):
        chunk = pcm[start : start + 3200]
        await client.write_event(AudioChunk(rate=16000, width=2, channels=1, audio=chunk).event())
        await asyncio.sleep(pace)
    if stop:
        await client.write_event(AudioStop().event())


async def answer(client: AsyncClient, until: str = "transcript-stop") -> list[Event]:
    """All events up to and with `until`, or up to the end of the connection."""
    events: list[Event] = []
    while (event := await asyncio.wait_for(client.read_event(), 30)) is not None:
        events.append(event)
        if event.type == until:
            break
    return events


def transcript(events: list[Event]) -> str:
    found = [event.data["text"] for event in events if event.type == "transcript"]
    assert len(found) == 1, events
    return str(found[0])


def frame(kind: str, data: object = None, payload: bytes = b"", **header: object) -> bytes:
    """A frame as bytes, which may be as wrong as a test wants."""
    body = b"" if data is None else json.dumps(data).encode()
    lengths = {"data_length": len(body), "payload_length": len(payload)}
    return json.dumps({"type": kind} | lengths | header).encode() + b"\n" + body + payload


async def all_messages(socket: ClientConnection) -> list[dict[str, Any]]:
    """All messages until the server closes."""
    found = []
    try:
        while True:
            found.append(json.loads(await asyncio.wait_for(socket.recv(), 30)))
    except ConnectionClosed:
        return found
