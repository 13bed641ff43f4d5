"""`/ws/transcription`: both forms, coming back after a lost connection, and what bad input gets."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import pytest
from conftest import Clip
from scripted import ScriptedStages, ScriptedText, ScriptedTranslator
from serving import Server, all_messages, serving
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.stages.translator import Said, Translated
from wyoming_wlk.vad import SileroVad

CLIP = "1688-142285-0001"
PIECE = 3200


@pytest.fixture
async def server(engine: Engine, vad: SileroVad) -> AsyncIterator[Server]:
    async with serving(engine, vad) as made:
        yield made


def url(server: Server, **query: object) -> str:
    asked = "&".join(f"{name}={value}" for name, value in {"client_id": "anna", "language": "en", **query}.items())
    return f"ws{server.url.removeprefix('http')}/ws/transcription?{asked}"


def saved(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, samples)
    return file.getvalue()


def pcm(samples: np.ndarray) -> bytes:
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


async def plain_words(server: Server, clip: Clip, **query: object) -> str:
    async with connect(url(server, **query)) as socket:
        for start in range(0, len(clip.samples), PIECE):
            await socket.send(saved(clip.samples[start : start + PIECE]))
        await socket.send(b"")
        return "".join(message["text"] for message in await all_messages(socket))


def committed(found: list[dict[str, Any]]) -> str:
    """What a client of the rich form has firmly got."""
    updates = [message for message in found if message["type"] == "transcript_update"]
    return "".join(segment["text"] for update in updates for segment in update["segments"])


async def test_the_context_switching_servers_own_messages(server: Server, clips: dict[str, Clip]) -> None:
    """A client of that server needs no change: arrays in, transcript messages with new text out."""
    async with connect(url(server)) as socket:
        for start in range(0, len(clips[CLIP].samples), PIECE):
            await socket.send(saved(clips[CLIP].samples[start : start + PIECE]))
        await socket.send(b"")
        found = await all_messages(socket)
    assert {message["type"] for message in found} == {"transcript"}
    assert {message["client_id"] for message in found} == {"anna"}
    assert all(isinstance(message["timestamp"], float) for message in found)
    assert "thornton made his confession" in "".join(m["text"] for m in found).lower()
    assert socket.close_code == 1000


@pytest.mark.parametrize("encoding", ["s16le", "float32"])
async def test_every_encoding_and_rate(server: Server, clips: dict[str, Clip], encoding: str) -> None:
    """Raw samples of any rate give the words, and messages may end within a sample."""
    doubled = np.repeat(clips[CLIP].samples, 2)
    data = pcm(doubled) if encoding == "s16le" else doubled.astype("<f4").tobytes()
    async with connect(url(server, encoding=encoding, sample_rate=32000)) as socket:
        for start in range(0, len(data), 9999):
            await socket.send(data[start : start + 9999])
        await socket.send(b"")
        text = "".join(message["text"] for message in await all_messages(socket))
    assert "thornton made his confession" in text.lower()


async def test_rich_updates(server: Server, clips: dict[str, Clip]) -> None:
    """Words with times and probabilities, tentative text apart, the full-quality text at the segment's end."""
    async with connect(url(server, format="updates", encoding="s16le")) as socket:
        for start in range(0, len(clips[CLIP].samples), PIECE):
            await socket.send(pcm(clips[CLIP].samples[start : start + PIECE]))
            await asyncio.sleep(0.02)
        await socket.send(json.dumps({"type": "stop"}))
        found = await all_messages(socket)
    assert found[0]["type"] == "session" and found[0]["secret"] and not found[0]["resumed"]
    assert found[-1]["type"] == "end"
    segments = [segment for m in found if m["type"] == "transcript_update" for segment in m["segments"]]
    words = [word for segment in segments for word in segment["words"]]
    assert "".join(word["text"] for word in words) == committed(found)
    assert "thornton made his confession" in committed(found).lower()
    assert all(0 <= word["probability"] <= 1 and word["start"] <= word["end"] for word in words)
    assert any(segment["buffer"]["transcription"] for segment in segments)
    ended = [segment for segment in segments if segment["ended"]]
    assert "confession" in ended[-1]["final_text"].lower()
    assert segments[-1]["buffer"]["transcription"] == ""
    sequence = [m["seq"] for m in found if m["type"] == "transcript_update"]
    assert sequence == sorted(sequence)


async def test_a_client_that_comes_back_goes_on(server: Server, clips: dict[str, Clip]) -> None:
    """After five lost connections the client has every word once, as if it had never been away."""
    samples = np.concatenate([clips[CLIP].samples, np.zeros(8000, np.float32), clips[CLIP].samples])
    query: dict[str, object] = {"format": "updates", "encoding": "s16le"}
    found: list[dict[str, Any]] = []
    received, rng = 0, np.random.default_rng(1)
    cuts = [*sorted(rng.integers(20_000, len(samples) - 20_000, 5).tolist()), len(samples)]
    for cut in cuts:
        async with connect(url(server, **query)) as socket:
            hello = json.loads(await socket.recv())
            assert hello["resumed"] is bool(found)
            received = hello["received_samples"]
            assert received <= cut
            for start in range(received, cut, PIECE):
                await socket.send(pcm(samples[start : min(cut, start + PIECE)]))
                await asyncio.sleep(0.01)
            if cut == len(samples):
                await socket.send(json.dumps({"type": "stop"}))
                found += await all_messages(socket)
            else:
                while not found or found[-1].get("seq", 0) < 1 + 2 * cuts.index(cut):
                    found.append(json.loads(await asyncio.wait_for(socket.recv(), 30)))
                socket.transport.abort()
        seq = max((m["seq"] for m in found if "seq" in m), default=0)
        query |= {"secret": hello["secret"], "resume_from": seq}
    sequence = [m["seq"] for m in found if m["type"] == "transcript_update" and m["seq"]]
    assert sequence == sorted(sequence)
    text = committed(found).lower()
    assert text.count("thornton made his confession") == 2
    assert len(text.split()) == pytest.approx(2 * len(clips[CLIP].text.split()), abs=6)


async def say_and_vanish(socket: ClientConnection, samples: np.ndarray) -> None:
    """Speaks, waits for the first committed words, and loses the connection."""
    await socket.send(pcm(samples))
    await socket.send(json.dumps({"type": "flush"}))
    while not committed([json.loads(await asyncio.wait_for(socket.recv(), 30))]):
        pass
    socket.transport.abort()


async def test_missed_updates_are_replayed(server: Server, clips: dict[str, Clip]) -> None:
    """What was said while the client was away is told when it comes back, from where it asks."""
    async with connect(url(server, format="updates", encoding="s16le")) as socket:
        hello = json.loads(await socket.recv())
        await say_and_vanish(socket, clips[CLIP].samples)
    again = url(server, format="updates", encoding="s16le", secret=hello["secret"], resume_from=0)
    async with connect(again) as socket:
        await socket.send(json.dumps({"type": "stop"}))
        found = await all_messages(socket)
    assert found[0]["resumed"] and found[0]["received_samples"] == len(clips[CLIP].samples)
    assert "thornton made his confession" in committed(found).lower()


async def test_one_live_connection_for_a_name(server: Server) -> None:
    """A second client of the same name is closed with 1008 and does not touch the first."""
    async with connect(url(server, format="updates")) as first:
        await first.recv()
        async with connect(url(server)) as second:
            found = await all_messages(second)
        assert (second.close_code, second.close_reason) == (1008, "Client already connected")
        assert found[0]["type"] == "error"
        await first.send(json.dumps({"type": "stop"}))
        assert (await all_messages(first))[-1]["type"] == "end"


async def test_the_owner_may_replace_its_own_connection(server: Server) -> None:
    """A half-open connection does not keep its client out: with the secret a new one takes its place."""
    async with connect(url(server, format="updates")) as first:
        hello = json.loads(await first.recv())
        async with connect(url(server, format="updates", secret=hello["secret"], resume_from=0)) as second:
            assert json.loads(await second.recv())["resumed"]
            await all_messages(first)
            assert first.close_code == 1001


@pytest.mark.parametrize("secret", ["", "guess"])
async def test_strangers_get_nothing(server: Server, clips: dict[str, Clip], secret: str) -> None:
    """Who does not know the secret begins anew under a name that somebody left, and sees nothing of what was said."""
    async with connect(url(server, format="updates", encoding="s16le")) as socket:
        hello = json.loads(await socket.recv())
        await say_and_vanish(socket, clips[CLIP].samples)
    stranger = url(server, format="updates", resume_from=0, **({"secret": secret} if secret else {}))
    async with connect(stranger) as socket:
        assert not json.loads(await socket.recv())["resumed"]
        await socket.send(json.dumps({"type": "stop"}))
        assert committed(await all_messages(socket)) == ""
    owner = url(server, format="updates", encoding="s16le", secret=hello["secret"], resume_from=0)
    async with connect(owner) as socket:
        assert json.loads(await socket.recv())["resumed"]


async def test_a_token_is_proof_enough(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """With the server's token a plain client that reconnects by name alone goes on and loses no text."""
    half = len(clips[CLIP].samples) // 2
    async with serving(engine, vad, token="sesame") as server:
        async with connect(url(server, encoding="s16le", token="sesame")) as socket:
            await socket.send(pcm(clips[CLIP].samples[:half]))
            text = json.loads(await asyncio.wait_for(socket.recv(), 30))["text"]
            socket.transport.abort()
        async with connect(
            url(server, encoding="s16le"), additional_headers={"Authorization": "Bearer sesame"}
        ) as socket:
            await socket.send(pcm(clips[CLIP].samples[half:]))
            await socket.send(b"")
            text += "".join(message["text"] for message in await all_messages(socket))
    assert "thornton made his confession" in text.lower()
    assert len(text.split()) == pytest.approx(len(clips[CLIP].text.split()), abs=4)


async def test_who_stays_away_is_let_go(engine: Engine, vad: SileroVad) -> None:
    """After `--resume-seconds` the stream is gone, and its owner begins anew."""
    async with serving(engine, vad, resume_seconds=0.0) as server:
        async with connect(url(server, format="updates")) as socket:
            hello = json.loads(await socket.recv())
        for _ in range(200):
            if not server.services.clients:
                break
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        async with connect(url(server, format="updates", secret=hello["secret"], resume_from=0)) as socket:
            assert not json.loads(await socket.recv())["resumed"]


async def test_clients_do_not_mix(server: Server, clips: dict[str, Clip]) -> None:
    """Two clients at once, each with its own clip, get their own words."""
    other = "1998-15444-0000"
    one, two = await asyncio.gather(
        plain_words(server, clips[CLIP], client_id="one"), plain_words(server, clips[other], client_id="two")
    )
    assert "thornton" in one.lower() and "thornton" not in two.lower()
    assert "medical man" in two.lower() and "medical" not in one.lower()


# --- speakers and translations ----------------------------------------------------------------------------------------


async def test_a_stream_tells_what_it_has(engine: Engine, vad: SileroVad) -> None:
    """The wishes that are met are in the session message, also the server's own, and also after a resume."""
    async with serving(engine, vad, diarization="diart") as server:
        for wishes, told in [
            ({"target_language": "por"}, {"diarization": "online", "target_language": "pt-Latn"}),
            ({"diarization": "off"}, {}),
        ]:
            async with connect(url(server, format="updates", **wishes)) as socket:
                first = json.loads(await socket.recv())
                again = url(server, format="updates", secret=first["secret"], resume_from=0)
                async with connect(again) as second:
                    session = json.loads(await second.recv())
                    await second.send(json.dumps({"type": "stop"}))
                    await all_messages(second)
            assert session["resumed"]
            for message in (first, session):
                assert {name: message[name] for name in message.keys() & {"diarization", "target_language"}} == told


class HeldTranslator(ScriptedTranslator):
    """Finishes no segment before it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_finish = threading.Event()

    def step(self, items: Sequence[Said[ScriptedText]]) -> list[Translated | Exception]:
        if any(item.last for item in items):
            self.may_finish.wait(60)
        return super().step(items)


async def test_a_translation_belongs_to_its_segment(server: Server, clips: dict[str, Clip]) -> None:
    """Where translations are behind, a tentative one stays with the words that it translates."""
    stages, translator = ScriptedStages(server.services.config), HeldTranslator()
    stages.translator, server.services.stages = translator, stages
    half, pause = 7 * len(clips[CLIP].samples) // 10, np.zeros(48000, np.float32)
    segments: list[dict[str, Any]] = []

    async def until(number: int, what: str) -> None:
        """Reads until something is told of a segment."""
        while not any(one["id"] == number and (one.get(what) or one["buffer"].get(what)) for one in segments):
            segments.extend(json.loads(await asyncio.wait_for(socket.recv(), 30)).get("segments", ()))

    async with connect(url(server, format="updates", encoding="s16le", target_language="pt")) as socket:
        await socket.send(pcm(clips[CLIP].samples[:half]))
        await until(1, "translation")
        await socket.send(pcm(np.concatenate([clips[CLIP].samples[half:], pause, clips[CLIP].samples[:half]])))
        await until(2, "words")
        late = [one for one in segments if one["buffer"]["translation"]]
        assert late and {one["id"] for one in late} == {1} and not any("translated" in one for one in segments)
        translator.may_finish.set()
        await socket.send(json.dumps({"type": "stop"}))
        segments = [one for message in await all_messages(socket) for one in message.get("segments", ())]
    assert [one["id"] for one in segments if one.get("translated")] == [1, 2]
    assert not any(one["buffer"]["translation"] for one in segments if one["id"] == 1)


HOSTILE: dict[str, tuple[dict[str, object], str | bytes | None, int]] = {
    "text where audio is due": ({}, "hello", 1003),
    "a JSON list": ({}, "[]", 1003),
    "an unknown wish": ({}, '{"type": "dance"}', 1008),
    "a pickled array": ({}, b"\x93NUMPY\x01\x00\x46\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", 1003),
    "no array at all": ({}, b"\x00" * 100, 1003),
    "an array of integers": ({}, saved(np.zeros(10, np.int16)), 1003),
    "an array of two dimensions": ({}, saved(np.zeros((2, 5), np.float32)), 1003),
    "samples that are no numbers": ({}, saved(np.full(10, np.nan, np.float32)), 1003),
    "half a WebM": ({"encoding": "container"}, b"\x1a\x45\xdf\xa3" + b"\x00\x17" * 5000, 1003),
    "an unknown encoding": ({"encoding": "mp4"}, None, 1008),
    "a rate of zero": ({"sample_rate": 0}, None, 1008),
    "a rate that is no number": ({"sample_rate": "fast"}, None, 1008),
    "an unknown language": ({"language": "xx"}, None, 1008),
    "a language this model lacks": ({"language": "de"}, None, 1008),
    "an unknown policy": ({"policy": "greedy"}, None, 1008),
    "a threshold out of range": ({"frame_threshold": 0}, None, 1008),
    "an unknown form": ({"format": "xml"}, None, 1008),
    "a name that is too long": ({"client_id": "x" * 201}, None, 1008),
    "no name": ({"client_id": ""}, None, 1008),
    "a prompt that is too long": ({"prompt": "x" * 1001}, None, 1008),
    "diarization, which there is none of": ({"diarization": "true"}, None, 1008),
    "updates from the future": ({"resume_from": "9" * 30}, None, 1008),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_bad_input_gets_an_error_and_a_close(server: Server, case: str, caplog: pytest.LogCaptureFixture) -> None:
    """The client is told what is wrong, and nothing of it reaches the log as a traceback."""
    query, message, code = HOSTILE[case]
    if case == "updates from the future":
        async with connect(url(server, format="updates")) as socket:
            query = query | {"format": "updates", "secret": json.loads(await socket.recv())["secret"]}
    async with connect(url(server, **query)) as socket:
        if message is not None:
            await socket.send(message)
            if case == "half a WebM":
                await socket.send(b"")
        found = await all_messages(socket)
    errors = [m for m in found if m["type"] == "error"]
    assert len(errors) == 1 and len(errors[0]["error"]) > 10
    assert socket.close_code == code
    assert "Traceback" not in caplog.text and not [r for r in caplog.records if r.exc_info]
    assert server.services.clients == 0


async def test_a_huge_message_is_refused(server: Server) -> None:
    """A message beyond the limit closes that connection with 1009 and is never held in memory whole."""
    async with connect(url(server), max_size=None) as socket:
        with pytest.raises(ConnectionClosed):
            for _ in range(100):
                await socket.send([b"\x00" * 1_000_000] * 16)
        assert socket.close_code == 1009


async def test_tokens_and_origins(engine: Engine, vad: SileroVad) -> None:
    """No token, a wrong one or a page of somebody else's gets no stream."""
    async with serving(engine, vad, token="sesame") as server:
        for shown in ("", "&token=wrong"):
            async with connect(url(server) + shown) as socket:
                assert (await all_messages(socket))[0]["code"] == "access"
            assert socket.close_code == 1008
        with pytest.raises(InvalidStatus):
            async with connect(url(server, token="sesame"), additional_headers={"Origin": "https://evil.example"}):
                pass
        ours = {"Origin": server.url}
        async with connect(url(server, token="sesame", format="updates"), additional_headers=ours) as socket:
            assert json.loads(await socket.recv())["type"] == "session"


async def test_a_busy_server_says_so(engine: Engine, vad: SileroVad) -> None:
    """Beyond the limit a client is told to come later, and those who are there are not disturbed."""
    async with serving(engine, vad, max_clients=1) as server, connect(url(server, format="updates")) as first:
        await first.recv()
        async with connect(url(server, client_id="second")) as second:
            assert (await all_messages(second))[0]["code"] == "busy"
        assert second.close_code == 1013
        await first.send(json.dumps({"type": "stop"}))
        assert (await all_messages(first))[-1]["type"] == "end"


async def test_a_slow_reader_gets_everything_in_larger_pieces(server: Server, clips: dict[str, Clip]) -> None:
    """A client that reads only at the end has all the words; nothing piled up for it but the words."""
    async with connect(url(server, encoding="s16le"), max_queue=1) as socket:
        for start in range(0, len(clips[CLIP].samples), PIECE):
            await socket.send(pcm(clips[CLIP].samples[start : start + PIECE]))
        await socket.send(b"")
        await asyncio.sleep(1.0)
        text = "".join(message["text"] for message in await all_messages(socket))
    assert "thornton made his confession" in text.lower()


async def test_a_torn_sample_does_not_shift_what_follows(server: Server, clips: dict[str, Clip]) -> None:
    """A connection lost in the middle of a sample: the next one begins with a whole sample, at the first's rate."""
    data = clips["turn_on_the_lamp"].pcm
    async with connect(url(server, format="updates", encoding="s16le")) as socket:
        hello = json.loads(await socket.recv())
        await socket.send(data[:20001])
        await socket.ping()
        socket.transport.abort()
    again = url(server, format="updates", encoding="s16le", secret=hello["secret"], resume_from=0, sample_rate=8000)
    async with connect(again) as socket:
        hello = json.loads(await socket.recv())
        assert hello["resumed"] and hello["sample_rate"] == 16000 and hello["received_samples"] <= 10000
        await socket.send(data[2 * hello["received_samples"] :])
        await socket.send(json.dumps({"type": "stop"}))
        assert "turn on the lamp" in committed(await all_messages(socket)).lower()


async def test_nobody_can_keep_an_owner_out(server: Server) -> None:
    """A stranger who takes the name of a stream whose client is away does not stop the client from coming back."""
    async with connect(url(server, format="updates")) as socket:
        hello = json.loads(await socket.recv())
        socket.transport.abort()
    async with connect(url(server, format="updates")) as stranger:
        assert not json.loads(await stranger.recv())["resumed"]
        async with connect(url(server, format="updates", secret=hello["secret"], resume_from=0)) as owner:
            assert json.loads(await owner.recv())["resumed"]
            await owner.send(json.dumps({"type": "stop"}))
            assert (await all_messages(owner))[-1]["type"] == "end"
        await stranger.send(json.dumps({"type": "stop"}))
        assert (await all_messages(stranger))[-1]["type"] == "end"


async def test_a_server_that_stops_while_it_loads(engine: Engine, vad: SileroVad) -> None:
    """Audio that nobody could hear yet is not answered as if it had been silence."""
    async with serving(engine, vad, loaded=False) as server:
        async with connect(url(server)) as socket:
            await socket.send(saved(np.zeros(16000, np.float32)))
            stopping = asyncio.create_task(server.http.stop(5.0))
            assert await all_messages(socket) == []
            assert socket.close_code == 1001
            await stopping
