"""`/ws` and `/transcribe_pcm_chunk` as whisper-flow's clients use them, and with bad input."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession, FormData
from conftest import Clip
from serving import Server, all_messages, serving
from websockets.asyncio.client import ClientConnection, connect

from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.vad import SileroVad

CLIP, OTHER = "1688-142285-0003", "turn_on_the_lamp"
QUIET = bytes(2 * 16000 * 3 // 2)
CHUNK = 4096
STOP = json.dumps({"type": "stop"})


@pytest.fixture
async def server(engine: Engine, vad: SileroVad) -> AsyncIterator[Server]:
    async with serving(engine, vad) as made:
        yield made


def url(server: Server) -> str:
    return f"ws{server.url.removeprefix('http')}/ws"


async def send(socket: ClientConnection, pcm: bytes, size: int = CHUNK) -> None:
    for start in range(0, len(pcm), size):
        await socket.send(pcm[start : start + size])


async def until_final(socket: ClientConnection) -> list[dict[str, Any]]:
    found = [json.loads(await asyncio.wait_for(socket.recv(), 30))]
    while found[-1]["is_partial"]:
        found.append(json.loads(await asyncio.wait_for(socket.recv(), 30)))
    return found


def finals(found: list[dict[str, Any]]) -> list[str]:
    return [message["data"]["text"] for message in found if not message["is_partial"]]


# --- WebSocket --------------------------------------------------------------------------------------------------------


async def test_audio_alone(server: Server, clips: dict[str, Clip]) -> None:
    """A client that only sends audio gets each segment's text so far, and a final message after a pause."""
    async with connect(url(server)) as socket:
        await send(socket, clips[CLIP].pcm[:64000])
        first = [json.loads(await asyncio.wait_for(socket.recv(), 30))]
        await send(socket, clips[CLIP].pcm[64000:] + QUIET)
        first += await until_final(socket)
        await send(socket, clips[OTHER].pcm + QUIET)
        second = await until_final(socket)
    assert first[0]["is_partial"] and "really" in finals(first)[0] and "he said" in finals(first)[0]
    assert "lamp" in finals(second)[0].lower()
    assert all(set(message) == {"is_partial", "data", "time"} for message in first)
    assert all(isinstance(message["time"], float) and message["time"] >= 0 for message in first)
    texts = [message["data"]["text"] for message in first[:-1]]
    assert all(texts) and all(one != two for one, two in zip(texts, texts[1:], strict=False))
    assert first[-1]["data"]["language"] == "en"
    assert not any("really" in message["data"]["text"] for message in second)


async def test_stop(server: Server, clips: dict[str, Clip]) -> None:
    """Stop brings the last words as a final message and closes; frames may end within a sample."""
    async with connect(url(server)) as socket:
        await socket.send(json.dumps({"type": "start", "language": "en", "prompt": "lamps", "model": "tiny.en.pt"}))
        await send(socket, clips[OTHER].pcm, 1001)
        await socket.send(STOP)
        found = await all_messages(socket)
    assert [message["is_partial"] for message in found].count(False) == 1 and not found[-1]["is_partial"]
    assert "lamp" in finals(found)[0].lower() and socket.close_code == 1000
    assert {message["data"]["language"] for message in found} == {"en"}


async def test_flush(server: Server, clips: dict[str, Clip]) -> None:
    """Flush brings a final message without a pause, and the connection goes on."""
    async with connect(url(server)) as socket:
        await socket.send('{"type": "flush"}')  # nothing was said yet
        for name, word in ((OTHER, "lamp"), ("whats-the-date", "date")):
            await send(socket, clips[name].pcm)
            await socket.send('{"type": "flush"}')
            assert word in finals(await until_final(socket))[0].lower()
        await socket.send(STOP)
        assert await all_messages(socket) == [] and socket.close_code == 1000


async def test_silence(server: Server) -> None:
    """Silence has no text, and a stop without any audio is answered by a close."""
    for pcm in (QUIET * 2, b""):
        async with connect(url(server)) as socket:
            await send(socket, pcm)
            await socket.send(STOP)
            assert await all_messages(socket) == [] and socket.close_code == 1000


async def test_clients_do_not_mix(server: Server, clips: dict[str, Clip]) -> None:
    """Clients at the same time get their own words, each with its own options."""

    async def one(name: str) -> str:
        async with connect(url(server)) as socket:
            await socket.send(json.dumps({"language": "en", "prompt": name}))
            await send(socket, clips[name].pcm)
            await socket.send(STOP)
            return " ".join(finals(await all_messages(socket))).lower()

    lamp, date = await asyncio.gather(one(OTHER), one("whats-the-date"))
    assert "lamp" in lamp and "date" in date and "date" not in lamp and "lamp" not in date


@pytest.mark.parametrize(
    "start",
    [
        {"type": "start", "model": "missing.pt"},
        {"type": "start", "model": "../evil.pt"},
        {"type": "start", "language": "klingon"},
        {"type": "start", "language": "de"},
        {"type": "start", "prompt": 42},
        {"type": "start", "prompt": "x" * 5000},
        {"language": ["en"]},
    ],
)
async def test_wrong_options(server: Server, start: dict[str, object]) -> None:
    """Options that cannot be met are named in an error and close the connection with code 4000."""
    async with connect(url(server)) as socket:
        await socket.send(json.dumps(start))
        (error,) = await all_messages(socket)
    assert error["type"] == "error" and error["message"]
    assert socket.close_code == 4000 and socket.close_reason


async def test_a_late_start(server: Server, clips: dict[str, Clip]) -> None:
    """Options are fixed once there is audio."""
    async with connect(url(server)) as socket:
        await socket.send(bytes(CHUNK))
        await socket.send('{"type": "start"}')
        assert "start" in (await all_messages(socket))[-1]["message"] and socket.close_code == 4000


async def test_invalid_control(server: Server, clips: dict[str, Clip], caplog: pytest.LogCaptureFixture) -> None:
    """A text message that is none of the protocol's is answered, and the connection goes on."""
    caplog.set_level(logging.DEBUG, "wyoming_wlk")
    async with connect(url(server)) as socket:
        for text in ("", "no json", "[1]", '{"type": "nope"}', '{"type": {}}', "[" * 10_000, '{"type": null}'):
            await socket.send(text)
            assert json.loads(await socket.recv()) == {"type": "error", "message": "invalid control"}
        await send(socket, clips[OTHER].pcm)
        await socket.send(STOP)
        assert "lamp" in finals(await all_messages(socket))[0].lower()
    assert not [record for record in caplog.records if record.exc_info]


async def test_keys(engine: Engine, vad: SileroVad) -> None:
    """The key comes in `x-api-key`, for WebSocket and HTTP; without it the codes are theirs."""
    async with serving(engine, vad, token="secret") as server, ClientSession() as http:
        async with connect(url(server)) as socket:
            assert (await all_messages(socket))[0]["type"] == "error"
        assert socket.close_code == 1008
        async with connect(url(server), additional_headers={"x-api-key": "secret"}) as socket:
            await socket.send(STOP)
            assert await all_messages(socket) == []
        assert (await http.post(f"{server.url}/transcribe_pcm_chunk", data=chunk(bytes(3200)))).status == 401
        headers = {"x-api-key": "secret"}
        answer = await http.post(f"{server.url}/transcribe_pcm_chunk", data=chunk(bytes(3200)), headers=headers)
        assert answer.status == 200


# --- HTTP -------------------------------------------------------------------------------------------------------------


def chunk(pcm: bytes, **fields: str) -> FormData:
    form = FormData({"model_name": "tiny.en.pt", **fields})
    form.add_field("files", io.BytesIO(pcm), filename="chunk.pcm", content_type="application/octet-stream")
    return form


async def test_a_whole_chunk(server: Server, clips: dict[str, Clip]) -> None:
    """A form with raw samples is answered with their text."""
    async with ClientSession() as http:
        answer = await http.post(
            f"{server.url}/transcribe_pcm_chunk", data=chunk(clips[CLIP].pcm + b"\0", prompt="a shop boy")
        )
        found = await answer.json()
    assert answer.status == 200 and "he said" in found["text"]
    assert found["language"] == "en" and found["segments"][0]["end"] > found["segments"][0]["start"] >= 0


BOUNDARY = "multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"{}", "application/json"),
        (b"model_name=tiny.en", "application/x-www-form-urlencoded"),
        (b"", BOUNDARY),
        (b"nonsense", BOUNDARY),
        (PART, BOUNDARY),
        (PART + b"\0\0\r\n--x--\r\n", BOUNDARY),
        (PART + bytes(50_000), BOUNDARY),
        (b"--x\r\n\xff\xfe: ?\r\n\r\n--x--\r\n", BOUNDARY),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n", BOUNDARY),
        (b"--x\r\nContent-Transfer-Encoding: rot13\r\n" + PART[5:] + b"1\r\n--x--\r\n", BOUNDARY),
        (b"--x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--y\r\n\r\n1\r\n--y--\r\n--x--\r\n", BOUNDARY),
        (PART + b"\0\0\r\n--x--\r\n", "multipart/form-data"),
        (PART + b"\0\0\r\n--x--\r\n", "multipart/form-data; boundary=" + "x" * 200),
    ],
)
async def test_wrong_forms(server: Server, body: bytes, content_type: str, caplog: pytest.LogCaptureFixture) -> None:
    """What is no such form is answered with 400 and a reason, and no traceback stands in the log."""
    async with ClientSession() as http:
        headers = {"Content-Type": content_type}
        answer = await http.post(f"{server.url}/transcribe_pcm_chunk", data=body, headers=headers)
        assert answer.status == 400 and (await answer.json())["error"]["message"]
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("fields", [{"model_name": "../evil.pt"}, {"language": "klingon"}, {"prompt": "x" * 5000}])
async def test_wrong_fields(server: Server, fields: dict[str, str]) -> None:
    """A model, language or prompt that cannot be had is an error of the client's."""
    async with ClientSession() as http:
        form = chunk(bytes(3200), **fields)
        assert (await http.post(f"{server.url}/transcribe_pcm_chunk", data=form)).status == 400


async def test_too_large(engine: Engine, vad: SileroVad) -> None:
    """More than the server takes is refused with 413."""
    async with serving(engine, vad, max_upload=1) as server, ClientSession() as http:
        form = chunk(bytes(2 * 2**20))
        assert (await http.post(f"{server.url}/transcribe_pcm_chunk", data=form)).status == 413
