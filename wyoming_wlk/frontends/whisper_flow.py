"""`/ws` and `/transcribe_pcm_chunk`: whisper-flow's protocol, version 1.

A client sends raw s16le at 16 kHz and gets the text of the open segment again and again, `is_partial`, until one
message with the whole segment ends it.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import BinaryIO, cast

import numpy as np
from aiohttp import web

from wyoming_wlk.audio.input import RawInput
from wyoming_wlk.audio.pcm import SAMPLE_RATE
from wyoming_wlk.captions import OpenSegment
from wyoming_wlk.engine.request import Word
from wyoming_wlk.errors import ProtocolError, RequestError, WlkError
from wyoming_wlk.events import SegmentEnded
from wyoming_wlk.frontends.door import Dialect, Door, Json, address_of, client_options, parse_json, socket_route
from wyoming_wlk.frontends.upload import read_form
from wyoming_wlk.services import Pace, Services
from wyoming_wlk.streams import Update
from wyoming_wlk.transcription import transcribe

_CLOSE_PAUSE = 0.8
_ARRIVALS = 1000
"""Messages whose arrival is remembered: those of the last minute."""

_IN_MEMORY = 2**20
"""Bytes of an upload that stay off the disk, and that are decoded at once."""

_BUNDLED_MODEL = "tiny.en"
"""What clients name that leave the choice to the server: the one model that is always there in whisper-flow."""


def flow_routes(door: Door) -> list[web.RouteDef]:
    services = door.services

    async def transcribe_chunk(request: web.Request) -> web.Response:
        client = f"flow-{services.next_number()} {address_of(request)}"
        with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as spool:
            file = cast(BinaryIO, spool)
            fields = (await read_form(door, request, "files", file)).fields
            if not fields.get("model_name"):
                raise RequestError("model_name is missing")
            _check_model(fields["model_name"], services)
            options = client_options({**request.query, **fields}, services)
            file.seek(0)
            found = await transcribe(services, client, options, _samples(file))
        segments = [
            {"id": number, "start": part.start, "end": part.end, "text": part.text}
            for number, part in enumerate(found.segments)
        ]
        return web.json_response({"text": found.text, "segments": segments, "language": found.language})

    return [
        socket_route("/ws", "flow", door, WhisperFlow),
        web.post("/transcribe_pcm_chunk", transcribe_chunk),
    ]


class WhisperFlow(Dialect):
    """One connection."""

    close_codes = {**Dialect.close_codes, RequestError: 4000}

    async def start(self) -> Iterable[Json]:
        self._segment = OpenSegment()
        self._shown = ""
        self._arrivals: deque[tuple[float, float]] = deque(maxlen=_ARRIVALS)
        """Ends of messages in the stream's time, and when they came (monotonic), both in seconds."""
        return ()

    async def receive(self, data: str | bytes) -> None:
        if isinstance(data, bytes):
            if not self.opened.done():
                self._begin({})
            arrived = time.monotonic()
            await self.stream.hear(data)
            self._arrivals.append((self.stream.received / SAMPLE_RATE, arrived))
            return
        try:
            message = parse_json(data)
        except ProtocolError:
            message = {"type": None}
        match message.get("type", "start"):
            case "start":
                if self.opened.done():
                    raise RequestError("start comes once, before any audio")
                self._begin(message)
            case "flush":
                if self.opened.done():
                    self.stream.flush()
            case "stop":
                if not self.opened.done():
                    self._begin({})
                await self.stream.finish()
            case _:
                await self.send({"type": "error", "message": "invalid control"})

    def _begin(self, wishes: Json) -> None:
        """Opens the stream. Raises `RequestError` for wishes that cannot be met."""
        services = self.door.services
        given = {name: wishes[name] for name in ("language", "prompt", "model") if wishes.get(name) is not None}
        for name, value in given.items():
            if not isinstance(value, str):
                raise RequestError(f"{name} is not a string")
        _check_model(given.get("model", ""), services)
        options = client_options({**self.request.query, **given}, services)
        self.open(options, Pace(close_pause=_CLOSE_PAUSE), RawInput(SAMPLE_RATE))

    def render(self, update: Update) -> Iterator[Json]:
        for entry in update.entries:
            self._segment.take(entry.event)
            if isinstance(entry.event, SegmentEnded):
                self._shown = ""
                yield self._result(entry.event.words, partial=False)
        words = self._segment.words(update.volatile.tentative)
        if (text := _text(words)) and text != self._shown:
            self._shown = text
            yield self._result(words, partial=True)

    def _result(self, words: Sequence[Word], partial: bool) -> Json:
        asked = self.stream.options.language
        language = self.stream.language or (asked if asked != "auto" else None)
        data: Json = {"text": _text(words), "segments": [], "language": language}
        return {"is_partial": partial, "data": data, "time": self._delay(words[-1].end)}

    def _delay(self, end: float) -> float:
        """Milliseconds since the audio came that ends at `end`: a result's way through the server."""
        now = time.monotonic()
        arrived = next((when for until, when in self._arrivals if until >= end), now)
        return round((now - arrived) * 1000, 1)

    def failure(self, error: WlkError) -> Json:
        return {"type": "error", "message": str(error)}


def _text(words: Iterable[Word]) -> str:
    return "".join(word.text for word in words).strip()


def _check_model(name: str, services: Services) -> None:
    """Raises `RequestError` for a model that is not this server's; the names of whisper-flow are those of files."""
    if name.removesuffix(".pt") not in ("", services.model.name, _BUNDLED_MODEL):
        raise RequestError(f"this server has no model {name[:40]!r}; it has {services.model.name}")


async def _samples(file: BinaryIO) -> AsyncIterator[np.ndarray]:
    """The samples of a raw file, as far as they are asked for."""
    audio = RawInput(SAMPLE_RATE)
    while data := await asyncio.to_thread(file.read, _IN_MEMORY):
        yield (await audio.decode(data))[0]
