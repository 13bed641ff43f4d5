"""What bad input gets: an error and a close for its sender, nothing for anybody else, no traceback in the log."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from conftest import Clip
from serving import Server, answer, frame, say, serving, transcript
from wyoming.client import AsyncClient
from wyoming.info import Describe

from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.vad import SileroVad

START = frame("audio-start", {"rate": 16000, "width": 2, "channels": 1})
AUDIO = {"rate": 16000, "width": 2, "channels": 1}

HOSTILE = {
    "not json": b"hello\n",
    "list as header": b"[]\n",
    "empty header": b"{}\n",
    "type is a number": b'{"type": 5}\n',
    "deep nesting": b'{"type": "x", "data": ' + b"[" * 30000 + b"]" * 30000 + b"}\n",
    "endless header": b"x" * 70_000,
    "invalid utf-8": b'{"type": "\xff\xfe"}\n',
    "length is text": b'{"type": "ping", "data_length": "5"}\n',
    "length is negative": b'{"type": "ping", "payload_length": -1}\n',
    "length is true": b'{"type": "ping", "payload_length": true}\n',
    "ten gigabytes declared": b'{"type": "audio-chunk", "payload_length": 10000000000}\n',
    "big data declared": b'{"type": "ping", "data_length": 2000000}\n',
    "huge number": b'{"type": "ping", "data_length": ' + b"9" * 5000 + b"}\n",
    "data is a list": frame("ping", [1]),
    "data is text": frame("ping", "x"),
    "inline data is text": b'{"type": "ping", "data": "x"}\n',
    "ping text is a number": frame("ping", {"text": 5}),
    "chunk before start": frame("audio-chunk", AUDIO, b"\0\0"),
    "stop before start": frame("audio-stop"),
    "start without fields": frame("audio-start", {}),
    "rate 0": frame("audio-start", AUDIO | {"rate": 0}),
    "negative rate": frame("audio-start", AUDIO | {"rate": -16000}),
    "rate is text": frame("audio-start", AUDIO | {"rate": "16000"}),
    "width 7": frame("audio-start", AUDIO | {"width": 7}),
    "no channels": frame("audio-start", AUDIO | {"channels": 0}),
    "odd bytes": START + frame("audio-chunk", AUDIO, b"\0\0\0"),
    "chunk with rate 0": START + frame("audio-chunk", AUDIO | {"rate": 0}, b"\0\0"),
    "start twice": START + START,
    "unknown language": frame("transcribe", {"language": "klingon"}) + START,
    "language is a list": frame("transcribe", {"language": []}),
    "language the model lacks": frame("transcribe", {"language": "de"}) + START,
    "unknown model": frame("transcribe", {"name": "gpt-7"}),
    "unknown program": frame("select-program", {"name": "nope"}),
    "context is text": frame("transcribe", {"context": "x"}),
    "client_id is a number": frame("transcribe", {"context": {"client_id": 5}}) + START,
    "client_id is endless": frame("transcribe", {"context": {"client_id": "x" * 1000}}) + START,
    "names are numbers": frame("transcribe", {"transcript_names": [1, 2]}),
}


async def exchange(server: Server, data: bytes) -> list[dict[str, object]]:
    """Sends raw bytes and reads every event until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(data)
    received = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    events = []
    while received:
        line, _, received = received.partition(b"\n")
        header = json.loads(line)
        length = header.get("data_length", 0)
        events.append({"type": header["type"], **json.loads(received[:length] or b"{}")})
        received = received[length + header.get("payload_length", 0) :]
    return events


@pytest.mark.parametrize("name", HOSTILE)
async def test_bad_frames_get_an_error_and_a_close(
    name: str, engine: Engine, vad: SileroVad, caplog: pytest.LogCaptureFixture
) -> None:
    """One `error` with a code and readable text, then the end of the connection; the log names the client."""
    caplog.set_level(logging.INFO)
    async with serving(engine, vad) as server:
        events = await exchange(server, HOSTILE[name])
        assert [event["type"] for event in events] == ["error"], events
        assert events[0]["code"] in ("protocol", "audio", "request")
        assert len(str(events[0]["text"])) > 10
        assert await describes(server)
    assert any("wyoming-1" in record.getMessage() for record in caplog.records)
    assert not [record for record in caplog.records if record.exc_info]


async def describes(server: Server) -> bool:
    async with AsyncClient.from_uri(server.uri) as client:
        await client.write_event(Describe().event())
        event = await asyncio.wait_for(client.read_event(), 5)
        return event is not None and event.type == "info"


@pytest.mark.parametrize("data", [b"", b"{", START[:10], START + frame("audio-chunk", AUDIO, b"\0\0" * 500)[:-300]])
async def test_leaving_in_the_middle_is_no_drama(
    data: bytes, engine: Engine, vad: SileroVad, caplog: pytest.LogCaptureFixture
) -> None:
    """A truncated frame and an end of stream: the connection is dropped and forgotten."""
    async with serving(engine, vad) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(data)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        assert await describes(server)
    assert not [record for record in caplog.records if record.exc_info]


async def test_vanishing_in_mid_step_leaves_no_trace(
    engine: Engine, vad: SileroVad, clips: dict[str, Clip], caplog: pytest.LogCaptureFixture
) -> None:
    """Clients that are cut off while they speak free their place, and those beside them get their words."""
    async with serving(engine, vad, max_clients=6) as server:
        async with AsyncClient.from_uri(server.uri) as faithful:
            talking = asyncio.create_task(say(faithful, clips["1688-142285-0008"].pcm, pace=0.05))
            for _ in range(5):
                client = AsyncClient.from_uri(server.uri)
                await client.connect()
                await say(client, clips["1688-142285-0006"].pcm, stop=False)
                assert client._writer is not None
                client._writer.transport.abort()
            await talking
            assert "dying" in transcript(await answer(faithful))
        for _ in range(6):
            async with AsyncClient.from_uri(server.uri) as client:
                await say(client, b"")
                assert transcript(await answer(client)) == ""
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_client_that_never_reads_is_cut_off(engine: Engine, vad: SileroVad) -> None:
    """Answers that nobody reads do not pile up: the connection ends after the write timeout."""
    async with serving(engine, vad, write_timeout=0.3) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
        ping = frame("ping", {"text": "x" * 500_000})
        with pytest.raises((ConnectionError, TimeoutError)):
            for _ in range(200):
                writer.write(ping)
                await asyncio.wait_for(writer.drain(), 5)
        writer.transport.abort()
        assert await describes(server)


@pytest.mark.parametrize("data", [b"", b'{"type": "ping", '])
async def test_idle_and_slow_clients_are_closed(data: bytes, engine: Engine, vad: SileroVad) -> None:
    """No message, or one that never ends, is told so and closed."""
    async with serving(engine, vad, idle_timeout=0.3, frame_timeout=0.3) as server:
        events = await exchange(server, data)
        assert [(event["type"], event["code"]) for event in events] == [("error", "timeout")]


async def test_a_frame_that_drips_is_closed(engine: Engine, vad: SileroVad) -> None:
    """A byte now and then does not keep a frame alive beyond its time, and idle time before it does not count."""
    async with serving(engine, vad, idle_timeout=5, frame_timeout=0.6) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.sleep(1.0)
        received = asyncio.create_task(reader.readuntil(b"timeout"))
        for byte in b'{"type": "ping"':
            if not received.done():
                writer.write(bytes([byte]))
                await asyncio.sleep(0.1)
        assert await asyncio.wait_for(received, 2)
        writer.transport.abort()


async def test_a_client_that_falls_silent_in_mid_utterance(engine: Engine, vad: SileroVad) -> None:
    """Audio that stops coming without audio-stop ends the utterance long before the idle timeout."""
    async with serving(engine, vad, idle_timeout=60, frame_timeout=0.3) as server:
        events = await exchange(server, START + frame("audio-chunk", AUDIO, bytes(3200)))
        assert events[-1]["code"] == "timeout"


async def test_too_long_an_utterance(engine: Engine, vad: SileroVad) -> None:
    """More audio than an utterance may have ends it with an error."""
    async with serving(engine, vad, max_utterance=2.0) as server:
        chunk = frame("audio-chunk", AUDIO, bytes(32000))
        events = await exchange(server, START + chunk * 3)
        assert events[-1]["type"] == "error" and events[-1]["code"] == "audio"
