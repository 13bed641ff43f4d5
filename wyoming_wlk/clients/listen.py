"""`wyoming-wlk listen`: streams sound to a server as it is recorded, and shows the words as they come.

A connection that is lost is made again, and goes on where it was: what the server has not got is kept here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import signal
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from wyoming_wlk.clients.capture import Source
from wyoming_wlk.clients.screen import Screen
from wyoming_wlk.config import Config
from wyoming_wlk.errors import RequestError

_KEPT_SECONDS = 120
_MESSAGE_SECONDS = 1.0
"""Sound goes out as soon as it is there, and what has piled up in messages of this length."""

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0
_LAST_WORDS_SECONDS = 15.0
_PASSING = ("busy", "taken", "timeout")
"""Errors of the server that another try may not meet."""


class Tape:
    """The last sound of a source, for a server that comes back. Positions are samples since the beginning."""

    def __init__(self, limit: int) -> None:
        self.start = 0
        """The oldest sample still here."""
        self.ended = False
        self.grown = asyncio.Event()
        self._limit = limit
        self._data = bytearray()

    def append(self, data: bytes) -> None:
        self._data += data
        surplus = len(self._data) // 2 - self._limit
        if surplus > 0:
            del self._data[: 2 * surplus]
            self.start += surplus
        self.grown.set()

    def end(self) -> None:
        self.ended = True
        self.grown.set()

    def read(self, position: int, count: int) -> bytes:
        """At most `count` samples from `position` on."""
        first = 2 * (position - self.start)
        whole = len(self._data) // 2 * 2
        return bytes(self._data[first : min(first + 2 * count, whole)])


class Listener:
    """One source on its way to the server and onto the screen."""

    def __init__(self, source: Source, server: str, config: Config, screen: Screen) -> None:
        decoding, stages, token = config.decoding, config.stages, config.http.token
        self._source, self._screen = source, screen
        self._url = f"{server.rstrip('/')}/ws/transcription"
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._query = {
            "client_id": f"{source.name}-{secrets.token_hex(6)}",
            "format": "updates",
            "encoding": "s16le",
            "sample_rate": str(source.rate),
            "task": decoding.task,
            "language": decoding.language,
            "prompt": decoding.prompt,
            "hotwords": ",".join(decoding.hotwords),
        }
        if stages.diarization != "off":
            self._query["diarization"] = stages.diarization
        if stages.target_language:
            self._query |= {"target_language": stages.target_language, "translation": stages.translation}
        self._tape = Tape(_KEPT_SECONDS * source.rate)
        self._sent = 0
        self._origin: int | None = None
        """The sample that the server's stream began with; None before the first connection."""
        self._seq = 0
        self._recording: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Until the source ends or `stop`, and the server has answered. Raises `WlkError` for what cannot go on."""
        self._recording = asyncio.create_task(self._record())
        wait = _FIRST_WAIT
        try:
            async with aiohttp.ClientSession() as http:
                while (reason := await self._connection(http)) is not None:
                    self._screen.note(f"{self._source.name}: {reason}; trying again in {wait:g} s")
                    await asyncio.sleep(wait)
                    wait = min(2 * wait, _LONGEST_WAIT)
            await self._recording
        finally:
            self._recording.cancel()
            await asyncio.gather(self._recording, return_exceptions=True)
            self._screen.end_all(self._source.name)

    def stop(self) -> None:
        """No more sound; the server is asked for the rest of the words."""
        if self._recording is not None:
            self._recording.cancel()

    async def _record(self) -> None:
        try:
            async for chunk in self._source.chunks():
                self._tape.append(chunk)
        except asyncio.CancelledError:
            pass  # by `stop`
        finally:
            self._tape.end()

    async def _connection(self, http: aiohttp.ClientSession) -> str | None:
        """One connection to its end: why it was lost, None where everything is said."""
        query = dict(self._query)
        if self._origin is not None:
            query["resume_from"] = str(self._seq)
        try:
            async with http.ws_connect(self._url, params=query, headers=self._headers, heartbeat=15.0) as socket:
                return await self._converse(socket)
        except aiohttp.WSServerHandshakeError as err:
            if self._origin is None or err.status < 500:
                raise RequestError(f"the server refuses the connection: {err.status} {err.message}") from err
            return str(err.status)
        except (aiohttp.ClientError, OSError) as err:
            if self._origin is None:
                raise RequestError(f"cannot connect to {self._url}: {err or type(err).__name__}") from err
            return str(err) or type(err).__name__

    async def _converse(self, socket: aiohttp.ClientWebSocketResponse) -> str | None:
        sending: asyncio.Task[None] | None = None
        try:
            async for received in socket:
                if received.type is not aiohttp.WSMsgType.TEXT:
                    break
                message = json.loads(received.data)
                if message["type"] == "session":
                    self._begin(message)
                    sending = asyncio.create_task(self._send(socket))
                elif message["type"] == "transcript_update":
                    self._show(message)
                elif message["type"] == "notice":
                    self._screen.note(f"{self._source.name}: {message['text']}")
                elif message["type"] == "end":
                    return None
                elif message["type"] == "error":
                    if message["code"] not in _PASSING:
                        raise RequestError(f"the server says: {message['error']}")
                    return str(message["error"])
            return "connection lost"
        except (ValueError, LookupError, TypeError) as err:
            raise RequestError("the server speaks another protocol") from err
        finally:
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    def _begin(self, session: Mapping[str, Any]) -> None:
        """Finds out where to go on."""
        if session["secret"]:
            self._query["secret"] = session["secret"]
        if self._origin is None or not session["resumed"]:
            if self._origin is not None:
                self._screen.end_all(self._source.name)
                self._screen.note(f"{self._source.name}: the server has begun anew")
            self._origin = self._sent
        self._seq = int(session["seq"])
        self._sent = self._origin + int(session["received_samples"])
        if self._sent < self._tape.start:  # it was away for too long
            self._origin += self._tape.start - self._sent
            self._sent = self._tape.start

    async def _send(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        most = int(_MESSAGE_SECONDS * self._source.rate)
        while True:
            self._tape.grown.clear()
            if data := self._tape.read(self._sent, most):
                await socket.send_bytes(data)
                self._sent += len(data) // 2
            elif self._tape.ended:
                await socket.send_json({"type": "stop"})
                return
            else:
                await self._tape.grown.wait()

    def _show(self, update: Mapping[str, Any]) -> None:
        self._seq = int(update["seq"])
        name, segments = self._source.name, update["segments"]
        # One of them has what still changes, not always the last.
        changing = "".join(part["buffer"]["diarization"] + part["buffer"]["transcription"] for part in segments)
        for segment in segments:
            speaker = f"Speaker {segment['speaker']}: " if segment["speaker"] is not None else ""
            if segment["ended"]:
                self._screen.end(name, segment["id"], speaker + segment["final_text"])
            else:
                self._screen.add(name, segment["id"], segment["text"], changing)
            if segment["translation"]:
                self._screen.translate(name, segment["id"], segment["translation"])


async def listen(sources: Sequence[Source], server: str, config: Config, screen: Screen) -> None:
    """Until all sources end, or ctrl-C. Raises `WlkError`."""
    listeners = [Listener(source, server, config, screen) for source in sources]
    running = [asyncio.create_task(listener.run()) for listener in listeners]
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for listener in listeners:
            listener.stop()
        for task in running:
            loop.call_later(_LAST_WORDS_SECONDS, task.cancel)
        loop.remove_signal_handler(signal.SIGINT)  # the next one ends it at once

    loop.add_signal_handler(signal.SIGINT, stop)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*running)
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
