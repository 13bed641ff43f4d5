"""Connections that send no request, and what is no HTTP at all."""

from __future__ import annotations

import asyncio
from asyncio import Transport
from dataclasses import replace

import aiohttp
import pytest
from serving import serving

from wyoming_wlk.config import LimitsConfig
from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.frontends.doorkeeper import Doorkeeper
from wyoming_wlk.vad import SileroVad

LIMITS = replace(LimitsConfig(), max_connections=3, frame_timeout=10.0)


def test_who_says_nothing_has_to_go() -> None:
    """After the time that a message may take; a request that is answered takes as long as it likes."""
    doorkeeper, silent, served = Doorkeeper(LIMITS), Transport(), Transport()
    with doorkeeper.serving(served):
        assert doorkeeper.look([silent, served, None], 0.0) == []
        assert doorkeeper.look([silent, served], 10.0) == []
        assert doorkeeper.look([silent, served], 10.5) == [silent]
    assert doorkeeper.look([served], 11.0) == []
    assert doorkeeper.look([served], 22.0) == [served]


def test_where_there_are_too_many_the_longest_idle_go_first() -> None:
    """Those who are served stay."""
    doorkeeper = Doorkeeper(LIMITS)
    first, second, served, fourth, fifth = (Transport() for _ in range(5))
    with doorkeeper.serving(served):
        assert doorkeeper.look([first], 0.0) == []
        assert doorkeeper.look([first, second, served], 1.0) == []
        assert doorkeeper.look([first, second, served, fourth, fifth], 2.0) == [first, second]


async def test_silent_connections(engine: Engine, vad: SileroVad) -> None:
    """Connections beyond the limit are closed, whether they say nothing or half a request; requests get answers."""
    async with serving(engine, vad, max_connections=5) as server:
        host, _, port = server.url.removeprefix("http://").rpartition(":")
        streams = [await asyncio.open_connection(host, int(port)) for _ in range(20)]
        for _, writer in streams[::2]:
            writer.write(b"GET /health HTTP/1.1\r\nHost:")
        closed = asyncio.gather(*(reader.read() for reader, _ in streams[:15]), return_exceptions=True)
        async with asyncio.timeout(20):
            await closed
        async with aiohttp.ClientSession() as session, session.get(f"{server.url}/health") as response:
            assert response.status == 200
        for _, writer in streams:
            writer.close()


@pytest.mark.parametrize("data", [b"\xff\xfe\x00\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n", b"POST / HTTP/9\r\n\r\n"])
async def test_no_http(engine: Engine, vad: SileroVad, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """It gets an error and a close, and the log no traceback."""
    async with serving(engine, vad) as server:
        host, _, port = server.url.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(data)
        async with asyncio.timeout(20):
            assert b" 400 " in (await reader.read()).split(b"\r\n")[0]
        writer.close()
    assert not [record for record in caplog.records if record.exc_info]
