"""`wyoming-wlk health`, as container engines run it."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Iterator
from ipaddress import ip_network

import pytest
from serving import serving
from wyoming.error import Error
from wyoming.event import async_write_event

from wyoming_wlk.clients.health import health
from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.vad import SileroVad


@pytest.fixture
def silent() -> Iterator[int]:
    """A port where nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


async def run(*arguments: str, **environment: str) -> tuple[int | None, str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WLK_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wyoming_wlk", "health", *arguments),
        env=clean | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_well(engine: Engine, vad: SileroVad) -> None:
    """A server that answers is well, and the line says what it runs; the variable names it as well as the flag."""
    async with serving(engine, vad) as server:
        for arguments, environment in ((["--uri", server.uri], {}), ([], {"WLK_URI": server.uri})):
            code, out, err = await run(*arguments, **environment)
            assert (code, err) == (0, "")
            assert out == f"{server.uri} is well: wyoming-wlk, tiny.en\n"


async def test_loading(engine: Engine, vad: SileroVad) -> None:
    """A server that is still loading its model is well: nobody should end it for that."""
    async with serving(engine, vad, loaded=False) as server:
        assert (await health(server.uri))[0]


async def test_everywhere(engine: Engine, vad: SileroVad) -> None:
    """A server that listens on all addresses is asked on this machine."""
    async with serving(engine, vad) as server:
        assert await health(f"tcp://0.0.0.0:{server.port}") == (True, f"{server.uri} is well: wyoming-wlk, tiny.en")


async def test_refused(engine: Engine, vad: SileroVad) -> None:
    """A server that lets other networks in only tells us what it is all the same, so it is well."""
    async with serving(engine, vad, allow=(ip_network("192.0.2.0/24"),)) as server:
        assert (await health(server.uri))[0]


async def test_nobody() -> None:
    """Nobody there: exit code 1 and one line."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code, out, err = await run("--uri", f"tcp://127.0.0.1:{port}")
    assert (code, err, out.count("\n")) == (1, "", 1)
    assert "refused" in out or "Connect call failed" in out


async def test_silence(silent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who takes connections and never answers is not well."""
    monkeypatch.setattr("wyoming_wlk.clients.health._SECONDS", 0.3)
    assert await health(f"tcp://127.0.0.1:{silent}") == (
        False,
        f"tcp://127.0.0.1:{silent} does not answer within 0 s",
    )


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"[]\n", b"{}\n", b'{"type": "info", "data_length": 9}\n']
)
async def test_stranger(said: bytes) -> None:
    """What speaks another protocol is not well, and no reason for a traceback."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(said)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        well, line = await health(f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert not well and ("does not speak Wyoming" in line or "closes the connection" in line)


async def test_error() -> None:
    """A server that answers with an error is not well, and the line says why."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        await async_write_event(Error("out of order").event(), writer)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        uri = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert await health(uri) == (False, f"{uri}: out of order")


async def test_stdio() -> None:
    """A server on stdio has no address to ask."""
    code, out, err = await run("--uri", "stdio://")
    assert (code, out) == (2, "") and "stdio" in err
