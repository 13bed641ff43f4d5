"""OpenAI's Realtime API with OpenAI's own library, and what strange messages get."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import soxr
from conftest import Clip
from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection
from serving import Server, serving
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.vad import SileroVad

LAMP, GARAGE, DYING = "turn_on_the_lamp", "is_the_garage_door_closed", "1688-142285-0008"
DELTA = "conversation.item.input_audio_transcription.delta"
COMPLETED = "conversation.item.input_audio_transcription.completed"


@pytest.fixture
async def server(engine: Engine, vad: SileroVad) -> AsyncIterator[Server]:
    async with serving(engine, vad) as made:
        yield made


@asynccontextmanager
async def realtime(server: Server, key: str = "none") -> AsyncIterator[AsyncRealtimeConnection]:
    async with AsyncOpenAI(api_key=key, base_url=f"{server.url}/v1") as client:
        async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
            yield connection


def plain(server: Server, query: str = "intent=transcription", **options: Any) -> connect:
    return connect(f"ws{server.url.removeprefix('http')}/v1/realtime?{query}", **options)


def pcm(clip: Clip, rate: int = 24000, silence: float = 2.0) -> bytes:
    """The clip at another rate with some silence behind it, so that the pause is heard."""
    samples = np.concatenate([clip.samples, np.zeros(int(16000 * silence), np.float32)])
    return (np.clip(soxr.resample(samples, 16000, rate), -1, 1) * 32767).astype("<i2").tobytes()


def session(turns: dict[str, object] | None, **transcription: object) -> dict[str, Any]:
    wanted = {"model": "whisper-1", "language": "en", **transcription}
    return {"type": "transcription", "audio": {"input": {"transcription": wanted, "turn_detection": turns}}}


async def speak(connection: Any, data: bytes) -> None:
    for start in range(0, len(data), 9600):
        await connection.input_audio_buffer.append(audio=base64.b64encode(data[start : start + 9600]).decode())


async def heard(connection: Any, until: str, count: int = 1) -> list[Any]:
    """Events up to and with the given number of those of the type `until`."""
    events: list[Any] = []
    async with asyncio.timeout(60):
        while count:
            events.append(await connection.recv())
            count -= events[-1].type == until
    return events


def kinds(events: Sequence[Any]) -> list[str]:
    return [event.type for event in events]


def text(events: Sequence[Any]) -> str:
    return "".join(event.delta for event in events if event.type == DELTA)


def transcripts(events: Sequence[Any]) -> list[str]:
    return [event.transcript for event in events if event.type == COMPLETED]


def words(found: str) -> list[str]:
    return "".join(c for c in found.lower() if c.isalnum() or c.isspace()).split()


async def ask(socket: ClientConnection, message: object) -> dict[str, Any]:
    await socket.send(message if isinstance(message, str | bytes) else json.dumps(message))
    answer: dict[str, Any] = json.loads(await asyncio.wait_for(socket.recv(), 30))
    return answer


async def test_a_turn_ends_at_a_pause(server: Server, clips: dict[str, Clip]) -> None:
    """Two sentences with a pause between become two items, each announced, shown in deltas, committed and completed."""
    async with realtime(server) as connection:
        assert (await connection.recv()).type == "session.created"
        await connection.session.update(session=session({"type": "server_vad", "silence_duration_ms": 700}))
        updated = await connection.recv()
        assert updated.type == "session.updated"
        assert updated.session.audio.input.turn_detection.silence_duration_ms == 700
        assert updated.session.audio.input.transcription.model == "tiny.en"
        events = []
        for name in (LAMP, DYING):
            await speak(connection, pcm(clips[name]))
            events += await heard(connection, "conversation.item.done")
    assert "lamp" in transcripts(events)[0].lower() and "dying" in transcripts(events)[1].lower()
    first, second = [event.item_id for event in events if event.type == "input_audio_buffer.committed"]
    assert [event.previous_item_id for event in events if event.type == "conversation.item.added"] == [None, first]
    for item, transcript in zip((first, second), transcripts(events), strict=True):
        mine = [event for event in events if getattr(event, "item_id", None) == item or item_of(event) == item]
        order = list(dict.fromkeys(kinds(mine)))
        speech = ["input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped"]
        assert [kind for kind in order if kind in speech] == speech
        assert [kind for kind in order if kind not in speech] == [
            "conversation.item.added",
            DELTA,
            "input_audio_buffer.committed",
            COMPLETED,
            "conversation.item.done",
        ]
        assert len(set(words(transcript)) - set(words(text(mine)))) <= 1  # full quality may correct a word
        assert 0.5 < next(event for event in mine if event.type == COMPLETED).usage.seconds < 6
    started = [event for event in events if event.type == "input_audio_buffer.speech_started"]
    assert started[-1].audio_start_ms > 1000 * len(clips[LAMP].samples) / 16000


def item_of(event: Any) -> str | None:
    return event.item.id if event.type in ("conversation.item.added", "conversation.item.done") else None


async def test_without_turn_detection_the_commit_completes(server: Server, clips: dict[str, Clip]) -> None:
    """Pauses complete nothing; one commit makes one item of both sentences, and the next one begins anew."""
    async with realtime(server) as connection:
        await connection.session.update(session=session(None))
        await speak(connection, pcm(clips[LAMP]) + pcm(clips[DYING]))
        before = await heard(connection, DELTA)
        while "circumstances" not in text(before).lower():
            before += await heard(connection, DELTA)
        assert not transcripts(before)
        assert "input_audio_buffer.speech_started" not in kinds(before)
        await connection.input_audio_buffer.commit()
        (both,) = transcripts(await heard(connection, "conversation.item.done"))
        await speak(connection, pcm(clips[GARAGE]))
        await connection.input_audio_buffer.commit()
        (next_one,) = transcripts(await heard(connection, "conversation.item.done"))
    assert "lamp" in both.lower() and "dying" in both.lower()
    assert "garage" in next_one.lower() and "lamp" not in next_one.lower()


async def test_commits_in_a_row_make_an_item_each(server: Server, clips: dict[str, Clip]) -> None:
    """Audio behind a commit is not taken into its item, however fast it comes; silence makes an empty item."""
    async with realtime(server) as connection:
        await connection.session.update(session=session(None))
        for data in (pcm(clips[LAMP], silence=0), pcm(clips[GARAGE], silence=0), bytes(24000)):
            await speak(connection, data)
            await connection.input_audio_buffer.commit()
        found = transcripts(await heard(connection, "conversation.item.done", 3))
    assert "lamp" in found[0].lower() and "garage" not in found[0].lower()
    assert "garage" in found[1].lower() and "lamp" not in found[1].lower()
    assert found[2] == ""


async def test_what_is_cleared_is_forgotten(server: Server, clips: dict[str, Clip]) -> None:
    """After a clear only what is said then is transcribed; what was committed before it is answered."""
    async with realtime(server) as connection:
        await connection.session.update(session=session(None))
        await speak(connection, pcm(clips[GARAGE]))
        await connection.input_audio_buffer.commit()
        await connection.input_audio_buffer.clear()
        await speak(connection, pcm(clips[DYING]))
        await connection.input_audio_buffer.clear()
        await speak(connection, pcm(clips[LAMP]))
        await connection.input_audio_buffer.commit()
        events = await heard(connection, "conversation.item.done", 2)
    first, second = transcripts(events)
    assert "garage" in first.lower()
    assert "lamp" in second.lower() and "dying" not in second.lower()
    last_clear = max(i for i, kind in enumerate(kinds(events)) if kind == "input_audio_buffer.cleared")
    assert "dying" not in text(events[last_clear:]).lower()


async def test_a_change_applies_to_what_follows(server: Server, clips: dict[str, Clip]) -> None:
    """Audio before a changed session is completed before the change is confirmed, audio after it in the new way."""
    async with realtime(server) as connection:
        await connection.session.update(session=session(None))
        await heard(connection, "session.updated")
        await speak(connection, pcm(clips[LAMP]))
        await connection.session.update(session=session({"type": "server_vad"}, prompt="garage"))
        before = await heard(connection, "session.updated")
        assert "lamp" in transcripts(before)[0].lower()
        assert before[-1].session.audio.input.transcription.prompt == "garage"
        await speak(connection, pcm(clips[GARAGE]))
        events = await heard(connection, "conversation.item.done")
    assert "garage" in transcripts(events)[0].lower()
    started = next(event for event in events if event.type == "input_audio_buffer.speech_started")
    assert started.audio_start_ms > 1000 * len(clips[LAMP].samples) / 16000 + 2000


async def test_the_beta_shape(server: Server, clips: dict[str, Clip]) -> None:
    """Clients of the beta keep their field names and events."""
    address = f"ws{server.url.removeprefix('http')}/v1"
    async with AsyncOpenAI(api_key="none", base_url=f"{server.url}/v1", websocket_base_url=address) as client:
        query = {"intent": "transcription"}
        async with client.beta.realtime.connect(model="whisper-1", extra_query=query) as connection:
            assert (await connection.recv()).type == "transcription_session.created"
            await connection.transcription_session.update(
                session={
                    "input_audio_format": "g711_ulaw",
                    "input_audio_transcription": {"model": "gpt-4o-transcribe", "language": "en", "prompt": ""},
                    "turn_detection": {"type": "server_vad", "threshold": 0.5, "silence_duration_ms": 500},
                }
            )
            updated = await connection.recv()
            assert updated.type == "transcription_session.updated"
            assert updated.session.input_audio_format == "g711_ulaw"
            assert updated.session.turn_detection.silence_duration_ms == 500
            await speak(connection, mu_law(clips[LAMP]))
            events = await heard(connection, COMPLETED)
    assert "lamp" in transcripts(events)[0].lower()
    assert "conversation.item.created" in kinds(events) and "conversation.item.added" not in kinds(events)


def mu_law(clip: Clip) -> bytes:
    """The clip at 8 kHz by the formula of G.711."""
    samples = np.frombuffer(pcm(clip, 8000), "<i2").astype(np.int32)
    size = np.minimum(np.abs(samples), 32635) + 0x84
    exponent = np.log2(size).astype(np.int32) - 7
    code = (samples < 0) * 0x80 | exponent << 4 | (size >> (exponent + 3)) & 0x0F
    return (~code.astype(np.uint8)).tobytes()


async def test_logprobs(server: Server, clips: dict[str, Clip]) -> None:
    """Where asked for, each word comes with the logarithm of its probability."""
    async with realtime(server) as connection:
        wanted = session({"type": "server_vad"}) | {"include": ["item.input_audio_transcription.logprobs"]}
        await connection.session.update(session=wanted)
        await speak(connection, pcm(clips[LAMP]))
        completed = (await heard(connection, COMPLETED))[-1]
    assert "".join(entry.token for entry in completed.logprobs).strip() == completed.transcript
    assert all(entry.logprob <= 0 for entry in completed.logprobs)


async def test_two_clients_do_not_mix(server: Server, clips: dict[str, Clip]) -> None:
    """Clients that speak at the same time get their own words and keep their own choices."""

    async def one(name: str, turns: dict[str, object] | None) -> str:
        async with realtime(server) as connection:
            await connection.session.update(session=session(turns))
            await speak(connection, pcm(clips[name]))
            if turns is None:
                await connection.input_audio_buffer.commit()
            return transcripts(await heard(connection, COMPLETED))[0].lower()

    lamp, garage = await asyncio.gather(one(LAMP, None), one(GARAGE, {"type": "server_vad"}))
    assert "lamp" in lamp and "garage" not in lamp
    assert "garage" in garage and "lamp" not in garage


def update(**fields: object) -> dict[str, object]:
    return {"type": "session.update", "event_id": "mine", "session": fields}


def given(**fields: object) -> dict[str, object]:
    return update(audio={"input": fields})


MISTAKES: list[object] = [
    {"type": "response.create", "event_id": "mine"},
    {"type": ["session.update"], "event_id": "mine"},
    {"type": "input_audio_buffer.append", "event_id": "mine", "audio": "@@@"},
    {"type": "input_audio_buffer.append", "event_id": "mine", "audio": "üüüü"},
    {"type": "input_audio_buffer.append", "event_id": "mine", "audio": 7},
    {"type": "input_audio_buffer.append", "event_id": "mine"},
    {"type": "input_audio_buffer.commit", "event_id": "mine"},
    {"type": "session.update", "event_id": "mine"},
    {"type": "session.update", "event_id": "mine", "session": [1]},
    update(type="realtime"),
    update(audio=[]),
    update(audio={"input": "x"}),
    update(include="logprobs"),
    update(input_audio_format="mp3"),
    update(turn_detection={"type": "semantic_vad"}),
    given(format={"type": "audio/pcm", "rate": 10**30}),
    given(format={"type": "audio/pcm", "rate": True}),
    given(format={"type": {}}),
    given(format=3),
    given(transcription={"language": "klingon"}),
    given(transcription={"language": "de"}),
    given(transcription={"language": 3}),
    given(transcription={"prompt": "x" * 5000}),
    given(transcription={"keywords": [1]}),
    given(transcription={"model": {}}),
    given(turn_detection=7),
    given(turn_detection={"type": "server_vad", "silence_duration_ms": 1e300}),
    given(turn_detection={"type": "server_vad", "silence_duration_ms": "500"}),
    given(turn_detection={"type": "server_vad", "threshold": float("nan")}),
    given(turn_detection={"type": "server_vad", "threshold": -1}),
]


async def test_mistakes_are_answered_and_forgiven(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Every wrong message gets an error that names it, and the connection goes on; the log stays clean."""
    async with plain(server) as socket:
        await socket.recv()
        for mistake in MISTAKES:
            answer = await ask(socket, mistake)
            assert answer["type"] == "error", mistake
            assert answer["error"]["type"] == "invalid_request_error" and answer["error"]["message"], mistake
            assert answer["error"]["event_id"] == "mine", mistake
        half = '{"event_id": "\\ud800"}'
        for mistake in ("no json", "[1]", "[" * 100_000, '{"a": ' + "9" * 10_000 + "}", half, b"\0\1"):
            assert (await ask(socket, mistake))["type"] == "error", mistake[:20]
        assert (await ask(socket, given(transcription={"language": "en"})))["type"] == "session.updated"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_who_has_no_key_is_told(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """With a server token the library's key must be it; browsers may send it as a subprotocol."""
    async with serving(engine, vad, token="secret") as server:
        async with realtime(server, "wrong") as connection:
            refused = await connection.recv()
            assert refused.type == "error" and refused.error.code == "invalid_api_key"
            with pytest.raises(ConnectionClosed):
                await connection.recv()
        async with realtime(server, "secret") as connection:
            assert (await connection.recv()).type == "session.created"
        offered = [Subprotocol("realtime"), Subprotocol("openai-insecure-api-key.secret")]
        async with plain(server, subprotocols=offered) as socket:
            assert socket.subprotocol == "realtime"
            assert json.loads(await socket.recv())["type"] == "session.created"


async def test_another_intent_is_refused(server: Server) -> None:
    """A conversation is not to be had here."""
    async with plain(server, "intent=conversation") as socket:
        assert "only transcribes" in json.loads(await socket.recv())["error"]["message"]
        with pytest.raises(ConnectionClosed):
            await socket.recv()
    assert socket.close_code == 1008


async def test_who_leaves_is_forgotten(server: Server, clips: dict[str, Clip]) -> None:
    """A client that goes in the middle of a sentence leaves nothing behind."""
    async with realtime(server) as connection:
        await speak(connection, pcm(clips[DYING]))
        await heard(connection, "input_audio_buffer.speech_started")
    async with asyncio.timeout(10):
        while server.services.clients:
            await asyncio.sleep(0.01)
