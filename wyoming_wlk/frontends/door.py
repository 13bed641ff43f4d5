"""What the protocols of the HTTP door share: options out of a query, and the life of a WebSocket connection.

A protocol is a `Dialect`: it turns a client's messages into audio and wishes, and updates into messages. All the rest
(who may come, slow readers, ends, errors) happens here once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from aiohttp import WSMsgType, web

from wyoming_wlk.audio.input import AudioInput
from wyoming_wlk.config import DecodingConfig
from wyoming_wlk.engine.context import ClientOptions
from wyoming_wlk.errors import (
    AccessError,
    AudioError,
    BusyError,
    ClientTimeoutError,
    ProtocolError,
    RequestError,
    TakenError,
    WlkError,
)
from wyoming_wlk.frontends.gate import LOCAL, Gate
from wyoming_wlk.frontends.security import check_origin, check_token, offered_protocols
from wyoming_wlk.options import parse_option
from wyoming_wlk.services import Pace, Services
from wyoming_wlk.streams import Identity, Stream, Streams, Update

_LOG = logging.getLogger(__name__)

Json = dict[str, Any]

_MAX_MESSAGE = 4 * 2**20
_MAX_PROMPT = 1000
"""Characters of a client's prompt, of whose end the model reads some 200 tokens at every step, and of its hotwords."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_MAX_REASON = 120  # bytes that a close frame has room for


@dataclass(frozen=True)
class Door:
    """What every handler needs."""

    services: Services
    streams: Streams
    gate: Gate
    connections: set[Connection] = field(default_factory=set)
    named: dict[Identity, Dialect] = field(default_factory=dict)
    """Named clients that are connected."""
    sockets: set[str] = field(default_factory=set)
    """The paths of the routes that speak WebSocket."""


def address_of(request: web.Request) -> str:
    return request.remote or LOCAL


# --- what clients ask for ---------------------------------------------------------------------------------------------


def client_options(query: Mapping[str, str], services: Services, stages: bool = False) -> ClientOptions:
    """What a client chose for itself, by the names that all protocols share. Raises `RequestError` for a wrong value.

    `prompt` is text that shows names and style, `hotwords` a list of words that are likely to be said. `stages`: the
    protocol can tell of speakers and translations; a client of another one must not ask for them, and gets none.
    """
    defaults = services.defaults
    chosen: dict[str, Any] = {}
    for name in ("language", "task", "policy", "frame_threshold"):
        if query.get(name):
            chosen[name] = parse_option(DecodingConfig, name, query[name])
    prompt, hotwords = query.get("prompt", ""), query.get("hotwords", "")
    for name, text in (("prompt", prompt), ("hotwords", hotwords)):
        if len(text) > _MAX_PROMPT:
            raise RequestError(f"{name} is longer than {_MAX_PROMPT} characters")
    if prompt:
        chosen["prompt"] = f"{defaults.prompt} {prompt}".strip()
    if hotwords:
        chosen["hotwords"] = (*parse_option(DecodingConfig, "hotwords", hotwords), *defaults.hotwords)
    options = replace(defaults, **chosen)
    if stages:
        return services.stages.chosen(services.stages.usual(options), query)
    if services.stages.chosen(options, query) != options:
        raise RequestError("this protocol cannot tell of speakers and translations")
    return options


def flag(query: Mapping[str, str], name: str, default: bool = False) -> bool:
    """A yes or no of a query. Raises `RequestError` for anything else."""
    value = query.get(name, "").lower()
    if value in ("", "true", "1", "yes", "on"):
        return default if not value else True
    if value in ("false", "0", "no", "off"):
        return False
    raise RequestError(f"{name} is neither true nor false: {value[:40]!r}")


def number(query: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    """A whole number of a query. Raises `RequestError` for anything else."""
    value = query.get(name, "")
    if not value:
        return default
    if not value.isascii() or not value.isdigit() or len(value) > 12 or not low <= int(value) <= high:
        raise RequestError(f"{name} is not a whole number from {low} to {high}")
    return int(value)


def parse_json(text: str) -> Json:
    """A JSON object. Raises `ProtocolError` for anything else."""
    try:
        value = json.loads(text)
        if _SURROGATE.search(text):  # half of a character, which neither the model nor an answer can take
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as err:
        raise ProtocolError("the message is not valid JSON") from err
    if not isinstance(value, dict):
        raise ProtocolError("the message is not a JSON object")
    return value


# --- WebSocket --------------------------------------------------------------------------------------------------------


class Dialect(ABC):
    """One protocol's side of one connection."""

    close_codes: ClassVar[Mapping[type[WlkError], int]] = {
        BusyError: 1013,
        AccessError: 1008,
        TakenError: 1008,
        RequestError: 1008,
        ClientTimeoutError: 1008,
        ProtocolError: 1003,
        AudioError: 1003,
    }

    refuses_handshake: ClassVar[bool] = False
    """Whether a client without the right token gets a plain 401; a page in a browser could not see why."""

    send: Callable[[Json], Awaitable[None]]
    """Sends a message beside the updates, as an answer to one of the client's. Set by the connection."""

    def __init__(self, door: Door, request: web.Request, client: str) -> None:
        self.door, self.request, self.client = door, request, client
        self.opened: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()
        """Resolved by the protocol once it knows what the client wants."""
        self.after = 0
        """The last event that the client has got already."""
        self.evicted, self.gone = asyncio.Event(), asyncio.Event()
        """Set to make the connection leave, and when it has left."""

    @abstractmethod
    async def start(self) -> Iterable[Json]:
        """Reads the request; returns what is sent first. Opens the stream, unless a message is to come before."""

    @abstractmethod
    async def receive(self, data: str | bytes) -> None:
        """One message of the client. Raises `WlkError` for a bad one, which ends the connection."""

    async def updates(self) -> AsyncIterator[Update]:
        """What is rendered, to the end. A protocol whose options change on the way goes through several streams."""
        stream = await self.opened
        async for update in stream.updates(self.after):
            yield update
            stream.delivered = update.seq

    @abstractmethod
    def render(self, update: Update) -> Iterable[Json]:
        """What the client is told."""

    def farewell(self) -> Iterable[Json]:
        """Sent after everything else, when the stream has ended in peace."""
        return ()

    def failure(self, error: WlkError) -> Json:
        """Sent before a close for an error."""
        return {"type": "error", "code": error.code, "error": str(error)}

    async def left(self, done: bool) -> None:
        """The connection is gone; `done` where the client has got everything."""
        if self.opened.done():
            await self.opened.result().cancel()

    # --- for protocols ------------------------------------------------------------------------------------------------

    def open(self, options: ClientOptions, pace: Pace, audio: AudioInput) -> None:
        """Begins a stream that lives as long as the connection."""
        self.opened.set_result(self.door.streams.anonymous(self.client, options, pace, audio))

    @property
    def stream(self) -> Stream:
        """Raises `ProtocolError` where it is not open yet."""
        if not self.opened.done():
            raise ProtocolError("this message comes too early")
        return self.opened.result()


class Connection:
    """One WebSocket from its handshake to its close."""

    def __init__(self, door: Door, request: web.Request, client: str) -> None:
        self._door, self._request, self.client = door, request, client
        self._dialect: Dialect | None = None

        # One of the offered subprotocols must be chosen, or browsers hang up; those that carry a key choose the first.
        offered = offered_protocols(request)[:1]
        self._socket = web.WebSocketResponse(max_msg_size=_MAX_MESSAGE, protocols=offered, compress=False)

    async def run(self, make: type[Dialect]) -> web.StreamResponse:
        """Serves the client until it leaves or breaks the rules. Raises for a request that is no handshake alone."""
        dialect = self._dialect = make(self._door, self._request, self.client)
        dialect.send = self._send
        config = self._door.services.config
        self._door.connections.add(self)
        done = False
        try:
            check_origin(self._request, config.http)  # before the handshake: a browser is told nothing
            if dialect.refuses_handshake:
                check_token(self._request, config.http)
            await self._socket.prepare(self._request)
            check_token(self._request, config.http)
            with self._door.gate.inside(address_of(self._request)), self._door.services.admitted():
                await self._converse(dialect)
            done = True
        except WlkError as err:
            _LOG.warning("%s: %s", self.client, err)
            if not self._socket.prepared:
                return web.json_response(dialect.failure(err), status=401)
            await self._refuse(dialect, err)
        except web.HTTPException:  # it is no WebSocket handshake
            raise
        except OSError as err:
            _LOG.info("%s: connection lost: %s", self.client, type(err).__name__)
        except _Gone:
            _LOG.debug("%s: disconnected", self.client)
        except Exception:
            _LOG.exception("%s: internal error", self.client)
            await self._refuse(dialect, WlkError("internal error"))
        finally:
            self._door.connections.discard(self)
            await dialect.left(done)
            dialect.gone.set()
        return self._socket

    def finish(self) -> None:
        """The server is stopping: the stream ends with what was heard so far."""
        dialect = self._dialect
        if dialect is not None and dialect.opened.done() and dialect.stream.ready:
            dialect.stream.stop()
        elif dialect is not None:
            dialect.evicted.set()

    async def _converse(self, dialect: Dialect) -> None:
        """Reads and writes until the stream has ended. Raises `_Gone` where the client leaves before."""
        for message in await dialect.start():
            await self._send(message)
        reading = asyncio.create_task(self._read(dialect))
        writing = asyncio.create_task(self._write(dialect))
        evicted = asyncio.create_task(dialect.evicted.wait())
        tasks: set[asyncio.Task[Any]] = {reading, writing, evicted}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if evicted.done():
                await self._close(1001, "another connection has taken over, or the server stops")
                raise _Gone
            if not writing.done():
                reading.result()
                raise _Gone
            writing.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for message in dialect.farewell():
            await self._send(message)
        await self._close(1000, "")

    async def _read(self, dialect: Dialect) -> None:
        limit = self._door.services.config.limits.idle_timeout
        while True:
            try:
                message = await self._socket.receive(timeout=limit)
            except TimeoutError as err:
                raise ClientTimeoutError(f"no message for {limit:g} seconds") from err
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                await dialect.receive(message.data)
            else:
                if message.type is WSMsgType.ERROR:
                    _LOG.warning("%s: %s", self.client, self._socket.exception())
                return

    async def _write(self, dialect: Dialect) -> None:
        async for update in dialect.updates():
            for message in dialect.render(update):
                await self._send(message)

    async def _send(self, message: Json) -> None:
        limit = self._door.services.config.limits.write_timeout
        try:
            async with asyncio.timeout(limit):
                await self._socket.send_str(json.dumps(message, ensure_ascii=False))
        except TimeoutError as err:
            _LOG.warning("%s: does not read its answers", self.client)  # now: the abort ends this task, too
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ClientTimeoutError("the client does not read its answers") from err

    async def _refuse(self, dialect: Dialect, error: WlkError) -> None:
        code = next((code for kind, code in dialect.close_codes.items() if isinstance(error, kind)), 1011)
        with contextlib.suppress(WlkError, OSError):
            await self._send(dialect.failure(error))
            await self._close(code, str(error))

    async def _close(self, code: int, reason: str) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(2):
                await self._socket.close(code=code, message=reason.encode()[:_MAX_REASON])


class _Gone(Exception):
    """The client has left."""


def socket_route(path: str, name: str, door: Door, make: type[Dialect]) -> web.RouteDef:
    """A route whose connections speak one protocol; `name` stands in the log."""

    async def handle(request: web.Request) -> web.StreamResponse:
        client = f"{name}-{door.services.next_number()} {address_of(request)}"
        return await Connection(door, request, client).run(make)

    door.sockets.add(path)
    return web.get(path, handle)
