"""Speakers and translations as each protocol tells them: real speech and sockets, scripted stages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import numpy as np
import pytest
from conftest import Clip
from scripted import ScriptedDiarizer, ScriptedStages, until
from serving import Server, all_messages, answer, say, serving, transcript
from websockets.asyncio.client import connect
from wyoming.asr import Transcribe
from wyoming.client import AsyncClient
from wyoming.event import Event

from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.vad import SileroVad

CLIP = "1688-142285-0003"
PAUSE = np.zeros(2 * 16000, np.float32)
Json = dict[str, Any]


@asynccontextmanager
async def staged(
    engine: Engine, vad: SileroVad, diarizer: ScriptedDiarizer | None = None, **stages: object
) -> AsyncIterator[Server]:
    async with serving(engine, vad) as server:
        server.services.stages = ScriptedStages(server.services.config, diarizer, **stages)
        yield server


@pytest.fixture
async def server(engine: Engine, vad: SileroVad) -> AsyncIterator[Server]:
    async with staged(engine, vad) as made:
        yield made


def pcm(samples: np.ndarray) -> bytes:
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def url(server: Server, path: str, **query: str) -> str:
    asked = "&".join(f"{name}={value}" for name, value in {"language": "en", **query}.items())
    return f"ws{server.url.removeprefix('http')}{path}?{asked}"


def speech(clips: dict[str, Clip]) -> np.ndarray:
    """One sentence twice, with a pause between."""
    clip = clips[CLIP].samples
    return np.concatenate([clip, PAUSE, clip, PAUSE])


async def talk(address: str, samples: np.ndarray, pace: float = 0.0) -> list[Json]:
    """All messages that an utterance brings."""
    async with connect(address) as socket:
        receiving = asyncio.create_task(all_messages(socket))
        for start in range(0, len(samples), 3200):
            await socket.send(pcm(samples[start : start + 3200]))
            await asyncio.sleep(pace)
        await socket.send(b"")
        return await receiving


# --- WhisperLiveKit ---------------------------------------------------------------------------------------------------


async def test_lines_have_speakers_and_translations(server: Server, clips: dict[str, Clip]) -> None:
    """Each line has one speaker and, once, its translation; silence is -2; nothing is left in the buffers."""
    address = url(server, "/asr", diarization="true", target_language="pt")
    found = await talk(address, np.concatenate([speech(clips), np.zeros(6 * 16000, np.float32)]), pace=0.01)
    last = [message for message in found if "lines" in message][-1]
    spoken = [line for line in last["lines"] if line["speaker"] != -2]
    assert {line["speaker"] for line in spoken} == {1, 2}
    assert all(line["translation"] == line["text"].upper() for line in spoken), spoken
    plain = await talk(url(server, "/asr"), speech(clips))
    said = " ".join(line["text"] for line in plain[-2]["lines"])
    assert " ".join(line["text"] for line in spoken).lower().replace(".", "") == said.lower().replace(".", "")
    assert not last["buffer_diarization"] and not last["buffer_translation"]


async def test_words_wait_for_their_speaker(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """What is said is shown in a buffer of its own until the diarizer has come so far, then in a line."""
    diarizer = ScriptedDiarizer()
    diarizer.gate.clear()
    samples = clips[CLIP].samples
    async with staged(engine, vad, diarizer) as server, connect(url(server, "/asr", diarization="true")) as socket:
        found: list[Json] = []

        async def receive() -> None:
            async for message in socket:
                found.append(json.loads(message))

        receiving = asyncio.create_task(receive())
        for start in range(0, len(samples), 3200):
            await socket.send(pcm(samples[start : start + 3200]))
            await asyncio.sleep(0.02)
        await until(lambda: found and found[-1].get("buffer_diarization"))
        assert found[-1]["remaining_time_diarization"] > 0 and not any(line["text"] for line in found[-1]["lines"])
        waiting = found[-1]["buffer_diarization"]
        diarizer.gate.set()
        await socket.send(b"")
        await receiving
    last = [message for message in found if "lines" in message][-1]
    assert not last["buffer_diarization"] and {line["speaker"] for line in last["lines"]} == {1, 2}
    assert " ".join(line["text"] for line in last["lines"]).startswith(waiting.strip()[:8])


async def test_differences_lead_to_the_same(server: Server, clips: dict[str, Clip]) -> None:
    """A client that drops and appends lines has what one has that gets all of them, translations too."""
    query = {"diarization": "online", "target_language": "pt"}
    full = await talk(url(server, "/asr", **query), speech(clips))
    lines: list[Json] = []
    for message in await talk(url(server, "/asr", mode="diff", **query), speech(clips)):
        if message["type"] == "snapshot":
            lines = message["lines"]
        elif message["type"] == "diff":
            lines = lines[message.get("lines_pruned", 0) :] + message.get("new_lines", [])
            assert len(lines) == message["n_lines"]
    expected = [message for message in full if "lines" in message][-1]["lines"]
    # Whose a word is that was said as the speaker changed may differ: when it was said, a step tells, and no two runs
    # have the same steps.
    assert [line["speaker"] for line in lines] == [line["speaker"] for line in expected]
    for field in ("text", "translation"):
        assert " ".join(line[field] for line in lines) == " ".join(line[field] for line in expected)
    assert all(line["translation"] == line["text"].upper() for line in lines)


async def test_a_failure_is_a_notice(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """The words go on without speakers, whose number is then -1."""
    async with staged(engine, vad, ScriptedDiarizer(fails_at=1.0)) as server:
        found = await talk(url(server, "/asr", diarization="true"), speech(clips))
    assert [message["notice"] for message in found if "notice" in message] == ["diarization has failed"]
    last = [message for message in found if "lines" in message][-1]
    assert len(last["lines"]) == 2 and {line["speaker"] for line in last["lines"]} == {-1}


# --- our own clients --------------------------------------------------------------------------------------------------


def segments(found: list[Json]) -> dict[int, Json]:
    """What a client of the rich form makes of its updates."""
    whole: dict[int, Json] = {}
    for message in found:
        for segment in message["segments"] if message["type"] == "transcript_update" else ():
            kept = whole.setdefault(segment["id"], {"text": "", "translation": "", "speakers": set()})
            kept["text"] += segment["text"]
            kept["translation"] += segment["translation"]
            kept["speakers"] |= {segment["speaker"]} if segment["text"] else set()
    return {number: segment for number, segment in whole.items() if segment["text"]}


async def test_segments_have_speakers_and_translations(server: Server, clips: dict[str, Clip]) -> None:
    """Every segment has one speaker and its own translation; words say that their speaker is known."""
    query = {"client_id": "anna", "format": "updates", "encoding": "s16le", "diarization": "1", "target_language": "pt"}
    found = await talk(url(server, "/ws/transcription", **query), speech(clips), pace=0.01)
    whole = segments(found)
    assert {len(segment["speakers"]) for segment in whole.values()} == {1}
    assert set.union(*(segment["speakers"] for segment in whole.values())) == {1, 2}
    for segment in whole.values():
        assert segment["translation"].strip() == segment["text"].upper().strip()
    words = [
        word for message in found if "segments" in message for part in message["segments"] for word in part["words"]
    ]
    assert words and all(word["validated"] == {"text": True, "speaker": True} for word in words)


async def test_nothing_is_lost_over_a_reconnect(server: Server, clips: dict[str, Clip]) -> None:
    """A client that comes back gets the speakers and translations of what was said before it left, once."""
    query = {"client_id": "anna", "format": "updates", "encoding": "s16le", "diarization": "1", "target_language": "pt"}
    samples = speech(clips)
    whole = segments(await talk(url(server, "/ws/transcription", **query), samples))
    query["client_id"] = "berta"
    first: list[Json] = []
    async with connect(url(server, "/ws/transcription", **query)) as socket:
        session = json.loads(await socket.recv())
        for start in range(0, len(samples) // 2, 3200):
            await socket.send(pcm(samples[start : start + 3200]))
        while not any(message.get("segments", [{}])[0].get("text") for message in first):
            first.append(json.loads(await asyncio.wait_for(socket.recv(), 30)))
        socket.transport.abort()
    seq = [message["seq"] for message in first if "seq" in message][-1]
    resumed = url(server, "/ws/transcription", **query, secret=session["secret"], resume_from=str(seq))
    async with connect(resumed) as socket:
        session = json.loads(await socket.recv())
        assert session["resumed"]
        for start in range(session["received_samples"], len(samples), 3200):
            await socket.send(pcm(samples[start : start + 3200]))
        await socket.send(b"")
        second = await all_messages(socket)
    resumed_segments = segments(first + second)
    for field in ("text", "translation"):
        joined = ["".join(segment[field] for segment in found.values()) for found in (resumed_segments, whole)]
        assert joined[0] == joined[1] != ""
    assert [segment["speakers"] for segment in resumed_segments.values()] == [
        segment["speakers"] for segment in whole.values()
    ]


# --- Wyoming ----------------------------------------------------------------------------------------------------------


def extras(events: list[Event]) -> Json:
    (found,) = [event.data for event in events if event.type == "user-event"]
    assert found["name"] == "wyoming-wlk"
    return dict(found["data"])


async def test_a_user_event_follows_the_transcript(server: Server, clips: dict[str, Clip]) -> None:
    """With who said what and its translation; the transcript comes before, complete, and does not wait for them."""
    context = {"diarization": True, "target_language": "Portuguese"}
    async with AsyncClient.from_uri(server.uri) as client:
        await say(client, pcm(speech(clips)), Transcribe(language="en", context=context), pace=0.01)
        events = await answer(client, "user-event")
    kinds = [event.type for event in events]
    assert kinds[-3:] == ["transcript", "transcript-stop", "user-event"]
    found = extras(events)
    assert {segment["speaker"] for segment in found["segments"]} == {1, 2}
    text = " ".join(segment["text"] for segment in found["segments"])
    assert text.split() == transcript(events).split()
    assert all(segment["translation"] == segment["text"].upper() for segment in found["segments"])
    assert found["target_language"] == "pt-Latn" and found["notices"] == []


async def test_who_does_not_ask_hears_nothing_of_it(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """A satellite gets its transcript and no work is done for it, whatever the server's defaults are."""
    async with staged(engine, vad, diarization="online", target_language="pt") as server:
        async with AsyncClient.from_uri(server.uri) as client:
            await say(client, clips[CLIP].pcm)
            events = await answer(client)
        library = server.services.stages
        assert isinstance(library, ScriptedStages)
        assert not library.diarizer.batches and not library.translator.begun
    assert "user-event" not in {event.type for event in events}


async def test_speakers_keep_their_numbers_between_utterances(
    engine: Engine, vad: SileroVad, clips: dict[str, Clip]
) -> None:
    """For a client that names itself: the diarization of the second goes on where the first ended."""
    async with staged(engine, vad, ScriptedDiarizer(turn=len(clips[CLIP].samples) / 16000)) as server:
        heard = []
        for name in ("anna", "anna", "berta"):
            context = {"client_id": name, "diarization": "online"}
            async with AsyncClient.from_uri(server.uri) as client:
                await say(client, clips[CLIP].pcm, Transcribe(language="en", context=context))
                heard.append({segment["speaker"] for segment in extras(await answer(client, "user-event"))["segments"]})
    assert heard == [{1}, {2}, {1}]


@pytest.mark.parametrize(
    "context",
    [{"diarization": 7}, {"diarization": "pyannote"}, {"target_language": "klingonish"}, {"target_language": ["pt"]}],
)
async def test_bad_wishes_are_refused(server: Server, clips: dict[str, Clip], context: Json) -> None:
    """With one error that says what is wrong."""
    async with AsyncClient.from_uri(server.uri) as client:
        await say(client, clips[CLIP].pcm[:32000], Transcribe(language="en", context=context))
        (error,) = [event for event in await answer(client, "error") if event.type == "error"]
    assert any(word in error.data["text"] for word in ("diarization", "language")), error.data


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/asr", {"diarization": "pyannote"}),
        ("/asr", {"target_language": "klingonish"}),
        ("/asr", {"mode": "legacy", "diarization": "true"}),
        ("/ws/transcription", {"client_id": "a", "format": "updates", "target_language": "pt", "translation": "x"}),
        ("/ws/transcription", {"client_id": "a", "diarization": "true"}),
        ("/ws", {"target_language": "pt"}),
    ],
)
async def test_what_a_protocol_cannot_tell_is_refused(server: Server, path: str, query: dict[str, str]) -> None:
    """And so are wishes that nobody can meet; the reason is in the message."""
    async with connect(url(server, path, **query)) as socket:
        if path == "/ws":
            await socket.send(bytes(3200))
        messages = await all_messages(socket)
    assert any(word in str(messages[-1]) for word in ("diarization", "language", "translation", "speakers")), messages


async def test_defaults_are_for_those_who_can_be_told(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """Of the server's defaults a client of a plain protocol gets nothing, and one of a rich one can do without."""
    async with staged(engine, vad, diarization="online", target_language="pt") as server:
        found = await talk(url(server, "/asr"), speech(clips))
        assert {line["speaker"] for line in found[-2]["lines"]} == {1, 2} and found[-2]["lines"][0]["translation"]
        found = await talk(url(server, "/asr", diarization="off", target_language="off"), speech(clips))
        assert {line["speaker"] for line in found[-2]["lines"]} == {1}
        assert "translation" not in found[-2]["lines"][0]
        plain = await talk(url(server, "/ws/transcription", client_id="a", encoding="s16le"), speech(clips))
        assert {message["type"] for message in plain} == {"transcript"}


def shape(found: list[Json]) -> list[tuple[int, bool]]:
    """Who spoke, and whether it was translated."""
    return [(line["speaker"], "translation" in line) for line in found[-2]["lines"]]


def words(found: list[Json]) -> list[str]:
    return " ".join(line["text"] for line in found[-2]["lines"]).split()


async def test_clients_do_not_mix(server: Server, clips: dict[str, Clip]) -> None:
    """Several at once with other wishes each get the words they get alone.

    All lines together: a word near a change of speakers may go to either, by the step that commits it.
    """
    wishes: list[dict[str, str]] = [{"diarization": "1"}, {"target_language": "pt"}, {}]
    alone = [await talk(url(server, "/asr", **wish), speech(clips)) for wish in wishes]
    together = await asyncio.gather(*(talk(url(server, "/asr", **wish), speech(clips)) for wish in wishes))
    for found, expected in zip(together, alone, strict=True):
        assert shape(found) == shape(expected)
        assert words(found) == words(expected)


async def test_clients_that_vanish_leave_nothing(server: Server, clips: dict[str, Clip]) -> None:
    """Their stages end with them; the next client is served."""
    before = len(asyncio.all_tasks())
    for _ in range(3):
        async with connect(url(server, "/asr", diarization="1", target_language="pt")) as socket:
            await socket.send(pcm(clips[CLIP].samples))
            await socket.recv()
            socket.transport.abort()
    async with asyncio.timeout(20):
        while server.services.clients or len(asyncio.all_tasks()) > before:
            await asyncio.sleep(0.01)
    async with aiohttp.ClientSession() as http, http.get(f"{server.url}/health") as response:
        assert response.status == 200
