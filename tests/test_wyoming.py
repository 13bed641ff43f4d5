"""Wyoming over real sockets, with the ecosystem's own client and real speech."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence

import numpy as np
import pytest
from conftest import Clip
from serving import answer, say, serving, transcript
from wyoming.asr import Transcribe
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.event import Event
from wyoming.info import Describe, Info, SelectProgram
from wyoming.ping import Ping

from wyoming_wlk.config import ProgramsConfig
from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.frontends.messages import describe
from wyoming_wlk.options import parse_option
from wyoming_wlk.vad import SileroVad

QUIET = bytes(2 * 16000)


def kinds(events: Sequence[Event]) -> list[str]:
    return [event.type for event in events if not event.type.startswith("voice-")]


def chunks(events: Sequence[Event]) -> str:
    return "".join(event.data["text"] for event in events if event.type == "transcript-chunk")


async def test_describe_tells_what_we_are(engine: Engine, vad: SileroVad) -> None:
    """One program with one model, streaming, leaving the end of speech to the client."""
    async with serving(engine, vad) as server, AsyncClient.from_uri(server.uri) as client:
        await client.write_event(Describe().event())
        event = await client.read_event()
        assert event is not None
        program = Info.from_event(event).asr[0]
        assert program.supports_transcript_streaming and program.requires_external_vad
        assert (program.models[0].name, program.models[0].languages) == ("tiny.en", ["en"])


async def test_words_come_while_speaking_and_the_sentence_at_the_end(
    engine: Engine, vad: SileroVad, clips: dict[str, Clip]
) -> None:
    """Streamed in real time: start, chunks before audio-stop, then exactly one transcript and the stop."""
    async with serving(engine, vad) as server, AsyncClient.from_uri(server.uri) as client:
        pcm = clips["1688-142285-0003"].pcm + QUIET
        await say(client, pcm, pace=0.1, stop=False)
        early = await answer(client, "transcript-chunk")
        assert kinds(early) == ["transcript-start", "transcript-chunk"]
        await client.write_event(AudioStop().event())
        events = early + await answer(client)
    assert kinds(events)[-2:] == ["transcript", "transcript-stop"]
    assert transcript(events).startswith("I really like")
    assert chunks(events).split()[-5:] == ["than", "anything", "else", "he", "said."]
    speech = [event for event in events if event.type == "voice-started"]
    assert speech and 0 <= speech[0].data["timestamp"] < 1000


async def test_many_utterances_on_one_connection(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """Each audio-stop gets its own transcript, also when the next utterance is sent before the answer is read."""
    async with serving(engine, vad) as server, AsyncClient.from_uri(server.uri) as client:
        for name in ("turn_on_the_lamp", "whats-the-date", "turn_on_the_lamp"):
            await say(client, clips[name].pcm)
        answers = [transcript(await answer(client)) for _ in range(3)]
    assert "lamp" in answers[0] and "date" in answers[1] and answers[2] == answers[0]


@pytest.mark.parametrize(("rate", "width", "channels"), [(48000, 2, 2), (8000, 2, 1), (44100, 4, 1), (16000, 3, 2)])
async def test_any_pcm(
    engine: Engine, vad: SileroVad, clips: dict[str, Clip], rate: int, width: int, channels: int
) -> None:
    """Other rates, widths and channel counts are understood as well."""
    samples = clips["turn_on_the_lamp"].samples
    grid = np.arange(0, len(samples) - 1, 16000 / rate)
    wide = np.interp(grid, np.arange(len(samples)), samples)
    pcm = (np.repeat(wide[:, None], channels, axis=1) * (2**31 - 1)).astype("<i4")
    data = pcm.view(np.uint8).reshape(-1, 4)[:, 4 - width :].tobytes()
    async with serving(engine, vad) as server, AsyncClient.from_uri(server.uri) as client:
        await client.write_event(AudioStart(rate=rate, width=width, channels=channels).event())
        step = rate // 10 * width * channels
        for start in range(0, len(data), step):
            chunk = AudioChunk(rate=rate, width=width, channels=channels, audio=data[start : start + step])
            await client.write_event(chunk.event())
        await client.write_event(AudioStop().event())
        assert "lamp" in transcript(await answer(client)).lower()


async def test_silence_and_no_audio(engine: Engine, vad: SileroVad) -> None:
    """Silence, and an utterance of nothing, get an empty transcript and no chunk."""
    async with serving(engine, vad) as server, AsyncClient.from_uri(server.uri) as client:
        for pcm in (QUIET * 3, b""):
            await say(client, pcm)
            assert kinds(events := await answer(client)) == ["transcript-start", "transcript", "transcript-stop"]
            assert transcript(events) == ""


async def test_noise_is_not_heard_as_words(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """Hum, tones and background noise yield nothing."""
    async with serving(engine, vad) as server, AsyncClient.from_uri(server.uri) as client:
        for clip in clips.values():
            if clip.kind == "noise":
                await say(client, clip.pcm)
                assert transcript(await answer(client)) == "", clip.name


async def test_eight_clients_at_once(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """Clients that speak at the same time get their own words."""
    expected = {
        "turn_on_the_lamp": "lamp",
        "whats-the-date": "date",
        "1688-142285-0008": "dying",
        "how_cold_is_it": "cold",
    }

    async def one(uri: str, name: str) -> str:
        async with AsyncClient.from_uri(uri) as client:
            await say(client, clips[name].pcm, pace=0.02)
            return transcript(await answer(client)).lower()

    async with serving(engine, vad) as server:
        names = [*expected, *expected]
        heard = await asyncio.gather(*(one(server.uri, name) for name in names))
    assert all(expected[name] in text for name, text in zip(names, heard, strict=True)), heard


async def test_context_comes_back_and_keys_the_clients_state(
    engine: Engine, vad: SileroVad, clips: dict[str, Clip]
) -> None:
    """`context` is returned; its client_id finds the client's earlier text, and only one may use it at a time."""
    context = {"client_id": "kitchen", "room": 7}
    async with serving(engine, vad) as server:
        for _ in range(2):
            async with AsyncClient.from_uri(server.uri) as client:
                await say(client, clips["turn_on_the_lamp"].pcm, Transcribe(context=context))
                events = await answer(client)
                assert [e.data.get("context") for e in events if e.type == "transcript"] == [context]
        async with AsyncClient.from_uri(server.uri) as first, AsyncClient.from_uri(server.uri) as second:
            await say(first, QUIET, Transcribe(context=context), stop=False)
            await asyncio.sleep(0.2)
            await say(second, b"", Transcribe(context=context))
            refused = await answer(second)
            assert refused[-1].type == "error" and refused[-1].data["code"] == "busy"
            await first.write_event(AudioStop().event())
            assert transcript(await answer(first)) == ""
        with server.services.context("kitchen", server.services.defaults) as kept:
            assert "lamp" in kept.previous_text.lower()


async def test_the_server_can_end_the_utterance(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """With an endpoint the transcript comes without audio-stop; late audio is ignored; the next utterance works."""
    async with serving(engine, vad, endpoint=0.5) as server, AsyncClient.from_uri(server.uri) as client:
        for _ in range(2):
            await say(
                client, clips["turn_on_the_lamp"].pcm + QUIET * 2, Transcribe(vad_sensitivity="default"), stop=False
            )
            assert "lamp" in transcript(await answer(client))
            await client.write_event(AudioChunk(rate=16000, width=2, channels=1, audio=QUIET).event())
            await client.write_event(AudioStop().event())


async def test_ping_programs_and_unknown_events(engine: Engine, vad: SileroVad) -> None:
    """Ping echoes its text; our program can be selected; events that are not for us are ignored."""
    async with serving(engine, vad) as server, AsyncClient.from_uri(server.uri) as client:
        await client.write_event(SelectProgram(name="wyoming-wlk").event())
        await client.write_event(Event(type="run-satellite"))
        await client.write_event(Ping(text="hello").event())
        event = await client.read_event()
        assert event is not None
        assert (event.type, event.data) == ("pong", {"text": "hello"})


async def test_programs(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """Programs are other options on the same model: selected for the connection, or named for one utterance."""
    quick = parse_option(ProgramsConfig, "program", "quick: beam_size=1 endpoint=0.5")
    async with serving(engine, vad, program=quick) as server, AsyncClient.from_uri(server.uri) as client:
        info = describe(server.services)
        assert [(program.name, program.requires_external_vad) for program in info.asr] == [
            ("wyoming-wlk", True),
            ("quick", False),
        ]
        speech = clips["turn_on_the_lamp"].pcm + QUIET * 2
        await say(client, speech, Transcribe(name="quick"), stop=False)
        assert "lamp" in transcript(await answer(client))
        await client.write_event(SelectProgram(name="quick").event())
        await say(client, speech, Transcribe(), stop=False)
        assert "lamp" in transcript(await answer(client))
        await say(client, speech, Transcribe(name="wyoming-wlk"), stop=False)
        await client.write_event(Ping(text="still listening").event())
        assert "transcript" not in kinds(await answer(client, "pong"))
        await client.write_event(AudioStop().event())
        assert "lamp" in transcript(await answer(client))


@pytest.mark.parametrize("event", [SelectProgram(name="slow").event(), Transcribe(name="slow").event()])
async def test_unknown_programs(engine: Engine, vad: SileroVad, event: Event) -> None:
    """Whoever asks for one is told which there are."""
    async with serving(engine, vad) as server, AsyncClient.from_uri(server.uri) as client:
        await client.write_event(event)
        [refused] = await answer(client)
        assert refused.type == "error" and refused.data["code"] == "request"
        assert "'slow'" in refused.data["text"] and "accurate" in refused.data["text"]


async def test_names_that_a_client_expects(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """Names of the request, of the server and of the home are heard; those of the home in its languages."""
    clip = clips["activate_Mood_Lighting"].pcm
    async with serving(engine, vad) as server, AsyncClient.from_uri(server.uri) as client:

        async def hear(request: Transcribe) -> bool:
            await say(client, clip, request)
            return "mood lighting" in transcript(await answer(client)).lower()

        assert not await hear(Transcribe(language="en"))
        assert await hear(Transcribe(language="en", transcript_names=["Mood Lighting"]))
        assert await hear(Transcribe(language="en", transcript_terms=["mood lighting"]))
        server.services.home.learn(["Lamp", "Mood Lighting"], ["de"])
        assert not await hear(Transcribe(language="en"))
        server.services.home.learn(["Lamp", "Mood Lighting"], ["en"])
        assert await hear(Transcribe(language="en"))
        assert server.services.home.expected("en") == ("Mood Lighting", "Lamp")
        await client.write_event(Transcribe(transcript_names=["x" * 10_001]).event())
        assert (await answer(client))[-1].data["code"] == "request"
    async with serving(engine, vad, hotwords=("Mood Lighting",)) as server, AsyncClient.from_uri(server.uri) as client:
        assert await hear(Transcribe(language="en"))


async def test_busy_tells_newcomers_and_still_describes(engine: Engine, vad: SileroVad) -> None:
    """At the limit of utterances a new one gets `busy` and a close, while describe is answered."""
    async with serving(engine, vad, max_clients=1) as server, AsyncClient.from_uri(server.uri) as first:
        await say(first, QUIET, stop=False)
        await asyncio.sleep(0.2)
        async with AsyncClient.from_uri(server.uri) as second:
            await second.write_event(Describe().event())
            assert (await answer(second, "info"))[-1].type == "info"
            await say(second, QUIET)
            events = await answer(second)
            assert (events[-1].type, events[-1].data["code"]) == ("error", "busy")
        await first.write_event(AudioStop().event())
        assert transcript(await answer(first)) == ""


async def test_connection_limits_and_networks(engine: Engine, vad: SileroVad) -> None:
    """Over the limit of connections, or from a network that is not allowed: describe, a reason, a close."""
    elsewhere = (ipaddress.ip_network("10.0.0.0/8"),)
    for changes, code in (({"max_connections": 0}, "busy"), ({"allow": elsewhere}, "access")):
        async with serving(engine, vad, **changes) as server, AsyncClient.from_uri(server.uri) as client:
            await client.write_event(Describe().event())
            events = await answer(client)
            assert kinds(events) == ["info", "error"]
            assert events[-1].data["code"] == code


async def test_describe_while_the_model_loads(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """Before the model is there describe is answered, and speech waits for it and is not lost."""
    async with serving(engine, vad) as loaded, serving(engine, vad, loaded=False) as server:
        async with AsyncClient.from_uri(server.uri) as client, AsyncClient.from_uri(server.uri) as other:
            talking = asyncio.create_task(say(client, clips["turn_on_the_lamp"].pcm))
            await other.write_event(Describe().event())
            assert (await answer(other, "info"))[-1].type == "info"
            server.speech.set_result(await loaded.speech)
            await talking
            assert "lamp" in transcript(await answer(client))


async def test_stopping_finishes_turns_in_flight(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """A client in the middle of an utterance gets a transcript of what was heard when the server stops."""
    async with serving(engine, vad) as server, AsyncClient.from_uri(server.uri) as client:
        await say(client, clips["turn_on_the_lamp"].pcm, stop=False)
        await asyncio.sleep(0.3)
        stopping = asyncio.create_task(server.listeners.stop(20.0))
        assert "lamp" in transcript(await answer(client))
        await stopping
        assert await client.read_event() is None


async def test_a_client_that_half_closes_gets_its_answer(
    engine: Engine, vad: SileroVad, clips: dict[str, Clip]
) -> None:
    """End of stream right after audio-stop is no reason to throw the answer away."""
    async with serving(engine, vad) as server, AsyncClient.from_uri(server.uri) as client:
        await say(client, clips["turn_on_the_lamp"].pcm)
        assert client._writer is not None
        client._writer.write_eof()
        assert "lamp" in transcript(await answer(client))
