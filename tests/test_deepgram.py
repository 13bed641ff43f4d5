"""Deepgram's streaming protocol with Deepgram's own library, and what strange messages get."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import warnings
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import Clip
from scripted import ScriptedDiarizer, ScriptedStages
from serving import Server, serving
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.vad import SileroVad

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # the library uses the legacy part of websockets
    from deepgram import AsyncDeepgramClient
    from deepgram.core.api_error import ApiError
    from deepgram.environment import DeepgramClientEnvironment

LAMP, GARAGE, DYING = "turn_on_the_lamp", "is_the_garage_door_closed", "1688-142285-0008"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:deepgram", "ignore::DeprecationWarning:websockets")


@pytest.fixture
async def server(engine: Engine, vad: SileroVad) -> AsyncIterator[Server]:
    async with serving(engine, vad) as made:
        yield made


def websocket(server: Server) -> str:
    return f"ws{server.url.removeprefix('http')}"


@asynccontextmanager
async def listening(server: Server, key: str = "none", **options: Any) -> AsyncIterator[Any]:
    """A connection of Deepgram's library; 16 kHz s16le unless told otherwise."""
    address = websocket(server)
    environment = DeepgramClientEnvironment(base=server.url, production=address, agent=address, agent_rest=server.url)
    client = AsyncDeepgramClient(api_key=key, environment=environment)
    wanted = {"model": "nova-3", "language": "en-US", "encoding": "linear16", "sample_rate": "16000", **options}
    async with client.listen.v1.connect(**{name: value for name, value in wanted.items() if value}) as connection:
        yield connection


def plain(server: Server, query: str, **options: Any) -> connect:
    return connect(f"{websocket(server)}/v1/listen?{query}", **options)


def pcm(clip: Clip, silence: float = 1.0) -> bytes:
    return clip.pcm + bytes(int(16000 * silence) * 2)


async def speak(connection: Any, data: bytes) -> None:
    for start in range(0, len(data), 3200):
        await connection.send_media(data[start : start + 3200])


async def rest(connection: Any) -> list[Any]:
    """Closes the stream and returns all that comes until the server closes the connection."""
    await connection.send_close_stream()
    async with asyncio.timeout(60):
        return [message async for message in connection]


def finals(messages: Sequence[Any]) -> list[Any]:
    return [message for message in messages if message.type == "Results" and message.is_final]


def said(results: Sequence[Any]) -> str:
    return " ".join(result.channel.alternatives[0].transcript for result in results)


async def test_final_results_and_metadata(server: Server, clips: dict[str, Clip]) -> None:
    """Two sentences give two final results with words, times and confidences; the metadata come last."""
    data = pcm(clips[LAMP]) + pcm(clips[DYING])
    async with listening(server) as connection:
        await speak(connection, pcm(clips[LAMP]))
        messages = [await asyncio.wait_for(connection.recv(), 30)]
        await speak(connection, pcm(clips[DYING]))
        messages += await rest(connection)
    assert {type(message).__name__ for message in messages} == {"ListenV1Results", "ListenV1Metadata"}
    results = finals(messages)
    assert results == messages[:-1] and len(results) == 2
    assert "lamp" in said(results[:1]).lower() and "dying" in said(results[1:]).lower()
    assert all(result.speech_final for result in results)
    end = 0.0
    for result in results:
        (found,) = result.channel.alternatives
        assert result.start == pytest.approx(end, abs=0.002)
        end = result.start + result.duration
        assert [word.punctuated_word for word in found.words] == found.transcript.split()
        assert found.words[0].word == found.words[0].punctuated_word.lower().strip(".,")
        assert all(result.start <= word.start <= word.end <= end + 0.002 for word in found.words)
        assert all(0 < word.confidence < 1 for word in found.words)
        assert found.confidence == pytest.approx(np.mean([word.confidence for word in found.words]), abs=0.001)
        assert result.metadata.model_info.name == "tiny.en" and result.channel_index == [0, 1]
    assert results[1].channel.alternatives[0].words[0].start > len(clips[LAMP].samples) / 16000
    metadata = messages[-1]
    assert metadata.duration == pytest.approx(len(data) / 32000, abs=0.001)
    assert metadata.request_id == results[0].metadata.request_id and len(metadata.sha256) == 64


async def test_interim_results(server: Server, clips: dict[str, Clip]) -> None:
    """Interim results grow while somebody speaks and are followed by a final one over the same time."""
    data, messages = pcm(clips["1688-142285-0001"]), []
    async with listening(server, interim_results="true", vad_events="true", endpointing="1000") as connection:
        for start in (0, 96000):  # the next piece only once the words of the one before are there
            await speak(connection, data[start : start + 96000])
            while not messages or messages[-1].type != "Results" or messages[-1].duration * 32000 < start:
                messages.append(await asyncio.wait_for(connection.recv(), 60))
        await speak(connection, data[192000:])
        messages += await rest(connection)
    assert messages[0].type == "SpeechStarted" and messages[0].timestamp < 2
    interim = [message for message in messages if message.type == "Results" and not message.is_final]
    assert len(interim) >= 2 and not any(message.speech_final for message in interim)
    assert interim[0].start == 0 and interim[0].channel.alternatives[0].words
    assert interim[-1].duration > 3
    assert "downstairs" in said(interim).lower() and "shop" in said(finals(messages)).lower()
    assert messages.index(interim[0]) < messages.index(finals(messages)[0])


async def test_finalize(server: Server, clips: dict[str, Clip]) -> None:
    """Finalize gives what was heard so far at once, marked; without anything to give the answer is empty."""
    async with listening(server, endpointing="false") as connection:
        await speak(connection, pcm(clips[GARAGE], silence=0.2))
        await connection.send_finalize()
        result = await asyncio.wait_for(connection.recv(), 60)
        assert result.is_final and result.from_finalize and not result.speech_final
        assert "garage" in said([result]).lower()
        await connection.send_finalize()
        empty = await asyncio.wait_for(connection.recv(), 60)
        assert empty.is_final and empty.from_finalize and said([empty]) == ""
        await connection.send_keep_alive()
        await speak(connection, pcm(clips[LAMP]))
        results = finals(await rest(connection))
    assert "lamp" in said(results).lower() and "garage" not in said(results).lower()
    assert not any(result.from_finalize or result.speech_final for result in results)


async def test_the_end_of_an_utterance(server: Server, clips: dict[str, Clip]) -> None:
    """UtteranceEnd comes once for each utterance, behind its final result, with the end of its last word."""
    async with listening(server, interim_results="true", utterance_end_ms="1000") as connection:
        for name in (LAMP, GARAGE):
            await speak(connection, pcm(clips[name], silence=1.5))
            messages = []
            async with asyncio.timeout(60):
                while not (messages and messages[-1].type == "UtteranceEnd"):
                    await connection.send_media(bytes(3200))
                    try:
                        messages.append(await asyncio.wait_for(connection.recv(), 0.05))
                    except TimeoutError:
                        continue
            last = finals(messages)[-1].channel.alternatives[0].words[-1]
            assert messages[-1].last_word_end == pytest.approx(last.end, abs=0.002)
            assert sum(message.type == "UtteranceEnd" for message in messages) == 1
        assert not [message for message in await rest(connection) if message.type == "UtteranceEnd"]


@pytest.mark.parametrize("encoding", ["linear32", "mulaw", "flac", None])
async def test_encodings(server: Server, clips: dict[str, Clip], encoding: str | None) -> None:
    """Floats, a telephone's codec, FLAC, and without an encoding any container."""
    samples = np.concatenate([clips[LAMP].samples, np.zeros(8000, np.float32)])
    if encoding == "linear32":
        data = samples.astype("<f4").tobytes()
    else:
        file = io.BytesIO()
        kind, subtype = {"mulaw": ("RAW", "ULAW"), "flac": ("FLAC", None)}.get(encoding or "", ("WAV", None))
        soundfile.write(file, samples, 16000, format=kind, subtype=subtype)
        data = file.getvalue()
    async with listening(server, encoding=encoding, sample_rate="16000" if encoding else None) as connection:
        await speak(connection, data)
        messages = await rest(connection)
    assert "lamp" in said(finals(messages)).lower()
    assert messages[-1].duration == pytest.approx(len(samples) / 16000, abs=0.1)


async def test_without_punctuation(server: Server, clips: dict[str, Clip]) -> None:
    """`punctuate=false` gives bare words."""
    async with listening(server, punctuate="false", keywords=["lamp:2"], keyterm=["Margaret Hale"]) as connection:
        await speak(connection, pcm(clips[LAMP]))
        found = said(finals(await rest(connection)))
    assert "lamp" in found and found == found.lower() and "." not in found


@pytest.mark.parametrize("wish", ["diarize", "diarize_model"])
async def test_speakers(server: Server, clips: dict[str, Clip], wish: str) -> None:
    """Each final result is of one speaker, counted from 0; interim words have none yet."""
    once, messages = pcm(clips[DYING]), []
    data = once * 2
    server.services.stages = ScriptedStages(server.services.config, ScriptedDiarizer(turn=len(once) / 32000))
    async with listening(server, interim_results="true", **{wish: "true"}) as connection:
        await speak(connection, data[:96000])
        messages.append(await asyncio.wait_for(connection.recv(), 60))
        await speak(connection, data[96000:])
        messages += await rest(connection)
    final = finals(messages)
    words = [result.channel.alternatives[0].words for result in final]
    assert [{word.speaker for word in found} for found in words] == [{0}, {1}]
    assert said(final).lower().count("dying") == 2
    interim = [message for message in messages[:-1] if not message.is_final]
    assert None in {word.speaker for result in interim for word in result.channel.alternatives[0].words}


async def test_who_does_not_ask_gets_no_speakers(server: Server, clips: dict[str, Clip]) -> None:
    """Whatever the server's default is: the library's clients say it themselves."""
    server.services.stages = ScriptedStages(server.services.config, diarization="online")
    async with listening(server) as connection:
        await speak(connection, pcm(clips[LAMP]))
        (result,) = finals(await rest(connection))
    assert all(word.speaker is None for word in result.channel.alternatives[0].words)


async def test_silence(server: Server) -> None:
    """Where nothing is said there is nothing but metadata, and so for no audio at all."""
    for data in (bytes(64000), b""):
        async with listening(server) as connection:
            await speak(connection, data)
            (metadata,) = await rest(connection)
        assert metadata.type == "Metadata" and metadata.duration == len(data) / 32000


async def test_two_clients_do_not_mix(server: Server, clips: dict[str, Clip]) -> None:
    """Clients that speak at the same time get their own words in their own form."""

    async def one(name: str, **options: str) -> str:
        async with listening(server, **options) as connection:
            await speak(connection, pcm(clips[name]))
            return said(finals(await rest(connection)))

    lamp, garage = await asyncio.gather(one(LAMP, punctuate="false"), one(GARAGE, interim_results="true"))
    assert "lamp" in lamp and "garage" not in lamp and lamp == lamp.lower()
    assert "garage door closed" in garage.lower() and "lamp" not in garage.lower() and garage[-1] in ".?"


REFUSED = [
    "encoding=linear16&sample_rate=0",
    "encoding=linear16&sample_rate=-16000",
    "encoding=linear16&sample_rate=99999999999999999999",
    f"encoding=linear16&sample_rate=000000016000{'0' * 5000}",
    "encoding=linear16&sample_rate=16000&channels=0",
    "encoding=linear16&sample_rate=16000&channels=1000000",
    "encoding=speex&sample_rate=16000",
    "endpointing=soon",
    "endpointing=1e9",
    "utterance_end_ms=x",
    "interim_results=perhaps",
    "language=klingon",
    "diarize=perhaps",
    "diarization=online",
    "target_language=pt",
    "redact=pci",
    "callback=http://localhost/",
    "multichannel=true&channels=2",
    "keyterm=" + "x" * 2000,
]


async def errors(socket: ClientConnection) -> dict[str, Any]:
    """The error before the server's close."""
    found: dict[str, Any] = json.loads(await asyncio.wait_for(socket.recv(), 60))
    assert found["type"] == "Error" and found["description"], found
    with pytest.raises(ConnectionClosed):
        await asyncio.wait_for(socket.recv(), 60)
    return found


async def test_wrong_parameters(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever cannot be done is told, and ends the connection; the log stays clean."""
    for query in REFUSED:
        async with plain(server, query) as socket:
            await errors(socket)
        assert socket.close_code == 1008, query
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_wrong_messages(server: Server, clips: dict[str, Clip], caplog: pytest.LogCaptureFixture) -> None:
    """Text that is no message, and bytes that are no audio, end the connection of who sent them and no other's."""
    async with listening(server) as connection:
        for message in ("hello", "[]", '{"type": 3}', '{"type": "Speak"}', "[" * 100_000):
            async with plain(server, "encoding=linear16&sample_rate=16000") as socket:
                await socket.send(message)
                await errors(socket)
            assert socket.close_code == 1008, message[:20]
        async with plain(server, "") as socket:
            await socket.send(bytes(range(256)) * 100)
            await socket.send('{"type": "CloseStream"}')
            assert "audio" in (await errors(socket))["description"]
        async with plain(server, "encoding=linear16&language=de") as socket:
            await socket.send(bytes(3200))
            assert "de" in (await errors(socket))["description"]
        async with plain(server, "encoding=linear32&sample_rate=16000") as socket:
            await socket.send(np.full(100, np.nan, "<f4").tobytes())
            await errors(socket)
        await speak(connection, pcm(clips[LAMP]))
        assert "lamp" in said(finals(await rest(connection))).lower()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_options_cannot_be_changed(server: Server) -> None:
    """Configure is refused as Deepgram refuses it, and the stream goes on."""
    async with plain(server, "encoding=linear16") as socket:
        await socket.send('{"type": "Configure", "keyterms": ["lamp"]}')
        assert json.loads(await socket.recv())["type"] == "ConfigureFailure"
        await socket.send(b"")
        assert json.loads(await socket.recv())["type"] == "Metadata"


async def test_who_has_no_key_is_told(engine: Engine, vad: SileroVad) -> None:
    """With a server token the library's key must be it; browsers may send it as a subprotocol."""
    async with serving(engine, vad, token="secret") as server:
        with pytest.raises(ApiError) as refused:
            async with listening(server, "wrong"):
                pass
        assert refused.value.status_code == 401
        async with listening(server, "secret") as connection:
            assert (await rest(connection))[-1].type == "Metadata"
        offered = [Subprotocol("token"), Subprotocol("secret")]
        async with plain(server, "encoding=linear16", subprotocols=offered) as socket:
            assert socket.subprotocol == "token"
            await socket.send('{"type": "CloseStream"}')
            assert json.loads(await socket.recv())["type"] == "Metadata"
