"""Where Wyoming clients come in: TCP, Unix sockets and stdio; who may come, how many, and how everybody leaves."""

from __future__ import annotations

import asyncio
import logging
import sys

from wyoming_wlk.errors import ConfigError
from wyoming_wlk.frontends.gate import LOCAL, Gate
from wyoming_wlk.frontends.wyoming import WyomingConnection
from wyoming_wlk.services import Services

_LOG = logging.getLogger(__name__)
_MAX_REFUSALS = 64  # newcomers that are being told why they may not stay; beyond it the door just shuts


class Listeners:
    """The open doors of one server and the connections that came through them."""

    def __init__(self, services: Services, gate: Gate) -> None:
        self._services, self._gate = services, gate
        self._servers: list[asyncio.Server] = []
        self._connections: dict[WyomingConnection, asyncio.Task[None]] = {}
        self._refusals: set[asyncio.Task[None]] = set()
        self.stdio_closed = asyncio.Event()
        """Set when the one client on stdio has left."""

    async def start(self, uri: str) -> list[str]:
        """Opens one door; returns its addresses as URIs, with the real port. Raises `ConfigError` where it cannot."""
        scheme, _, rest = uri.partition("://")
        try:
            if scheme == "stdio":
                await self._open_stdio()
                return [uri]
            if scheme == "unix":
                self._servers.append(await asyncio.start_unix_server(self._accept, rest))
                return [uri]
            host, _, port = rest.rpartition(":")
            server = await asyncio.start_server(self._accept, host.strip("[]"), int(port), backlog=512)
        except OSError as err:
            raise ConfigError(f"cannot listen on {uri}: {err.strerror or err}") from err
        self._servers.append(server)
        return [f"tcp://{_join(*socket.getsockname()[:2])}" for socket in server.sockets]

    async def stop(self, grace: float) -> None:
        """Nobody new; turns in flight may end by themselves for half of `grace` seconds, then with what was heard."""
        for server in self._servers:
            server.close()
        for connection, task in self._connections.items():
            if not connection.busy:
                task.cancel()
        await self._wait(grace / 2)
        for connection in self._connections:
            connection.finish()
        await self._wait(grace / 2)
        for task in [*self._connections.values(), *self._refusals]:
            task.cancel()
        await self._wait(1)

    async def _wait(self, seconds: float) -> None:
        """Waits until no connection has an utterance under way, at most so long."""
        deadline = asyncio.get_running_loop().time() + seconds
        while any(c.busy for c in self._connections) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
        for connection, task in self._connections.items():
            if not connection.busy:
                task.cancel()
        await asyncio.sleep(0)

    # --- connections --------------------------------------------------------------------------------------------------

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) else LOCAL
        connection = WyomingConnection(
            self._services, reader, writer, f"wyoming-{self._services.next_number()} {address}"
        )
        if (error := self._gate.objection(address)) is not None:
            _LOG.warning("%s: refused: %s", connection.client, error)
            if len(self._refusals) >= _MAX_REFUSALS:
                writer.transport.abort()
                return
            refusal = asyncio.create_task(connection.refuse(error))
            self._refusals.add(refusal)
            refusal.add_done_callback(self._refusals.discard)
            return
        self._register(connection, address)

    def _register(self, connection: WyomingConnection, address: str) -> asyncio.Task[None]:
        _LOG.debug("%s: connected", connection.client)
        task = asyncio.create_task(connection.run())
        self._connections[connection] = task
        self._gate.enter(address)

        def leave(_: asyncio.Task[None]) -> None:
            del self._connections[connection]
            self._gate.leave(address)
            _LOG.debug("%s: disconnected", connection.client)

        task.add_done_callback(leave)
        return task

    async def _open_stdio(self) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            await loop.connect_read_pipe(lambda: protocol, sys.stdin)
            # of its own, because one that both pipes share would take the end of stdin for that of stdout
            flow = asyncio.StreamReaderProtocol(asyncio.StreamReader())
            transport, _ = await loop.connect_write_pipe(lambda: flow, sys.stdout)
        except ValueError as err:  # asyncio takes pipes, sockets and terminals
            raise ConfigError("stdio:// needs pipes, not files, as stdin and stdout") from err
        writer = asyncio.StreamWriter(transport, flow, None, loop)
        task = self._register(WyomingConnection(self._services, reader, writer, "wyoming-stdio"), LOCAL)
        task.add_done_callback(lambda _: self.stdio_closed.set())


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
