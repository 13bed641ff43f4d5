"""OpenAI's transcription interface with the `openai` library and real speech, and what strangers send to it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import openai
import pytest
from conftest import AUDIO, start_engine
from openai import AsyncOpenAI
from openai.types.audio import TranscriptionDiarized
from scripted import ScriptedDiarizer, ScriptedStages
from serving import Server, serving

from benchmarks.speakers import read_rttm
from wyoming_wlk.catalogue import VAD
from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.models import InstalledModel, ModelStore
from wyoming_wlk.vad import SileroVad

LAMP, STORY = AUDIO / "turn_on_the_lamp.flac", AUDIO / "1688-142285-0001.flac"


@asynccontextmanager
async def library(
    engine: Engine, vad: SileroVad, key: str = "any", **changes: object
) -> AsyncIterator[tuple[AsyncOpenAI, Server]]:
    async with serving(engine, vad, **changes) as server:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
            yield client, server


def form(data: bytes = b"", **fields: str) -> aiohttp.FormData:
    body = aiohttp.FormData(fields)
    body.add_field("file", data or LAMP.read_bytes(), filename="lamp.flac")
    return body


async def refusal(server: Server, body: aiohttp.FormData | bytes, path: str = "transcriptions") -> tuple[int, str]:
    """Status and message of an answer that is an error in OpenAI's shape."""
    async with aiohttp.ClientSession() as http, http.post(f"{server.url}/v1/audio/{path}", data=body) as answer:
        error = (await answer.json())["error"]
        assert error["type"] and error["code"]
        return answer.status, error["message"]


async def test_json(engine: Engine, vad: SileroVad) -> None:
    """The plain answer, by any of the names that the library knows, with fields that change nothing."""
    async with library(engine, vad) as (client, _):
        for model in ("whisper-1", "gpt-4o-mini-transcribe", "gpt-4o-transcribe-diarize", "tiny.en"):
            found = await client.audio.transcriptions.create(
                file=LAMP,
                model=model,
                language="en",
                prompt="Lights. " * 500,
                temperature=0.2,
                chunking_strategy="auto",
            )
            assert found.text == "Turn on the lamp."


async def test_verbose_json(engine: Engine, vad: SileroVad) -> None:
    """Words and segments with their times, each where it was asked for."""
    async with library(engine, vad) as (client, _):
        both = await client.audio.transcriptions.create(
            file=STORY, model="whisper-1", response_format="verbose_json", timestamp_granularities=["word", "segment"]
        )
        plain = await client.audio.transcriptions.create(file=LAMP, model="whisper-1", response_format="verbose_json")
    assert both.language == "english" and both.duration == pytest.approx(12.62, abs=0.01)
    assert both.words is not None and both.segments is not None
    assert both.words[0].word == "Margaret" and 0 <= both.words[0].start < both.words[-1].end <= 12.7
    assert "".join(segment.text for segment in both.segments).strip() == both.text
    assert plain.segments is not None and plain.words is None
    assert plain.segments[0].avg_logprob < 0 and plain.segments[0].id == 0


@pytest.mark.parametrize(
    ("kind", "start"),
    [("text", "Turn on the lamp.\n"), ("srt", "1\n00:00:00,"), ("vtt", "WEBVTT\n\n00:00:00.")],
)
async def test_text_and_subtitles(engine: Engine, vad: SileroVad, kind: str, start: str) -> None:
    """Formats that are no JSON come as they are."""
    async with library(engine, vad) as (client, _):
        found = await client.audio.transcriptions.create(file=LAMP, model="whisper-1", response_format=kind)
    assert isinstance(found, str) and found.startswith(start) and "Turn on the lamp." in found


async def test_stream(engine: Engine, vad: SileroVad) -> None:
    """Deltas that join to the text, and then the text."""
    async with library(engine, vad) as (client, _):
        events = [
            event
            async for event in await client.audio.transcriptions.create(
                file=STORY, model="gpt-4o-transcribe", stream=True
            )
        ]
    assert [event.type for event in events[:-1]] == ["transcript.text.delta"] * (len(events) - 1)
    assert events[-1].type == "transcript.text.done" and events[-1].text.startswith("Margaret")
    assert "".join(event.delta for event in events[:-1]) == events[-1].text


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # the library's own function is
async def test_translation_needs_a_model_for_it(engine: Engine, vad: SileroVad) -> None:
    """An English model cannot translate, and says so."""
    async with library(engine, vad) as (client, _):
        with pytest.raises(openai.BadRequestError, match="cannot translate"):
            await client.audio.translations.create(file=LAMP, model="whisper-1")


async def test_models(engine: Engine, vad: SileroVad) -> None:
    """The list has the loaded model; names that stand for it exist, others do not."""
    async with library(engine, vad) as (client, _):
        assert [model.id for model in (await client.models.list()).data] == ["tiny.en"]
        assert (await client.models.retrieve("whisper-1")).id == "whisper-1"
        with pytest.raises(openai.NotFoundError) as found:
            await client.models.retrieve("org/large-v9")
        assert found.value.code == "model_not_found"
        with pytest.raises(openai.NotFoundError, match="large-v9"):
            await client.audio.transcriptions.create(file=LAMP, model="large-v9")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"response_format": "diarized_json", "diarization": "off"}, "needs diarization"),
        ({"response_format": "diarized_json", "diarization": "pyannote"}, "pyannote"),
        ({"response_format": "diarized_json", "stream": "true"}, "diarized_json"),
        ({"stream": "true", "diarization": "true"}, "speakers"),
        ({"stream": "true", "target_language": "pt"}, "translations"),
        ({"target_language": "klingon"}, "klingon"),
        ({"target_language": "pt", "translation": "whisper"}, "English"),
        ({"response_format": "yaml"}, "yaml"),
        ({"language": "klingon"}, "klingon"),
        ({"language": "de"}, "'de'"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": "nan"}, "temperature"),
        ({"timestamp_granularities[]": "letter"}, "timestamp_granularities"),
        ({"stream": "perhaps"}, "stream"),
        ({"stream": "true", "response_format": "srt"}, "srt"),
        ({"include[]": "logprobs"}, "logprobs"),
        ({"known_speaker_names[]": "Ann"}, "speakers"),
        ({"prompt": "x" * 70000}, "longer than"),
    ],
)
async def test_wrong_fields(engine: Engine, vad: SileroVad, fields: dict[str, str], words: str) -> None:
    """What we do not have is refused with a reason that names it."""
    async with serving(engine, vad) as server:
        status, message = await refusal(server, form(**fields))
    assert status == 400 and words in message


@pytest.mark.parametrize("stream", ["false", "true"])
async def test_bad_audio(engine: Engine, vad: SileroVad, stream: str) -> None:
    """What is no audio is a bad request, streamed or not."""
    async with library(engine, vad) as (client, server):
        assert await refusal(server, form(b"no audio" * 1000, stream=stream)) == (
            400,
            "the audio cannot be decoded: invalid data found when processing input",
        )
        with pytest.raises(openai.BadRequestError, match="cannot be decoded"):
            await client.audio.transcriptions.create(file=("a.wav", b"RIFF"), model="whisper-1")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"--x\r\nContent-Disposition: form-data; name=file\r\n\r\nabc",
        b"--x\r\nContent-Disposition: form-data; name=model\r\n\r\nwhisper-1\r\n--x--\r\n",
        b"--x\r\nContent-Disposition: form-data; name=model\r\n\r\n\xff\xfe\r\n--x--\r\n",
        b"--x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--y--\r\n--x--\r\n",
        b"--x\r\n" + b"a: b\r\n" * 500 + b"\r\nabc\r\n--x--\r\n",
        b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\nb\r\n" * 100 + b"--x--\r\n",
    ],
)
async def test_torn_forms(engine: Engine, vad: SileroVad, body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A body that is no form, or half of one, is a bad request and leaves no traceback."""
    async with serving(engine, vad) as server, aiohttp.ClientSession() as http:
        for kind in ("multipart/form-data; boundary=x", "multipart/form-data", "application/json"):
            url, headers = f"{server.url}/v1/audio/transcriptions", {"Content-Type": kind}
            async with http.post(url, data=body, headers=headers) as answer:
                assert answer.status == 400 and (await answer.json())["error"]["message"]
    assert not [record for record in caplog.records if record.exc_info]


async def test_too_large(engine: Engine, vad: SileroVad) -> None:
    """An upload beyond --max-upload is refused, whether its length is known before or not."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield bytes(2**16)

    async with library(engine, vad, max_upload=1) as (client, server):
        with pytest.raises(openai.APIStatusError) as found:
            await client.audio.transcriptions.create(file=("a.wav", bytes(4 * 2**20)), model="whisper-1")
        assert found.value.status_code == 413 and "1 MB" in found.value.message
        body = aiohttp.FormData({"model": "whisper-1"})
        body.add_field("file", endless(), filename="a.wav")
        assert (await refusal(server, body))[0] == 413


async def test_token(engine: Engine, vad: SileroVad) -> None:
    """With a token only those who show it get in."""
    async with library(engine, vad, token="secret", key="secret") as (client, server):
        assert (await client.audio.transcriptions.create(file=LAMP, model="whisper-1")).text
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as stranger:
            with pytest.raises(openai.AuthenticationError):
                await stranger.audio.transcriptions.create(file=LAMP, model="whisper-1")
            with pytest.raises(openai.AuthenticationError):
                await stranger.models.list()


async def test_busy(engine: Engine, vad: SileroVad) -> None:
    """A server without a place says to come later."""
    async with library(engine, vad, max_clients=1) as (client, server):
        with server.services.admitted(), pytest.raises(openai.InternalServerError, match="busy") as found:
            await client.audio.transcriptions.create(file=LAMP, model="whisper-1")
        assert found.value.status_code == 503
        assert (await client.audio.transcriptions.create(file=LAMP, model="whisper-1")).text


async def test_a_client_that_leaves_ends_the_work(engine: Engine, vad: SileroVad, tmp_path: Path) -> None:
    """Whoever hangs up in the middle frees the place for others."""
    async with library(engine, vad, loaded=False, max_clients=1) as (client, server):
        asking = asyncio.create_task(client.audio.transcriptions.create(file=STORY, model="whisper-1"))
        async with asyncio.timeout(20):
            while not server.services.clients:
                await asyncio.sleep(0.01)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            while server.services.clients:
                await asyncio.sleep(0.01)


async def test_an_upload_that_stops(engine: Engine, vad: SileroVad) -> None:
    """Who stops in mid-upload is told so."""
    stuck = asyncio.Event()

    async def half() -> AsyncIterator[bytes]:
        yield LAMP.read_bytes()[:1000]
        await stuck.wait()

    async with serving(engine, vad, frame_timeout=0.2) as server, aiohttp.ClientSession() as http:
        body = aiohttp.FormData()
        body.add_field("file", half(), filename="a.flac")
        async with http.post(f"{server.url}/v1/audio/transcriptions", data=body) as answer:
            assert answer.status == 408 and json.loads(await answer.text())["error"]["code"] == "timeout"
        stuck.set()


async def test_translation(base: InstalledModel, vad: SileroVad) -> None:
    """German speech becomes English text with a multilingual model, and its transcription stays German."""
    engine = start_engine(base)
    async with library(engine, vad) as (client, server):
        german = AUDIO / "de_rhasspy-0071.flac"
        with german.open("rb") as file:
            form = aiohttp.FormData({"response_format": "text"})
            form.add_field("file", file, filename=german.name)
            async with (
                aiohttp.ClientSession() as http,
                http.post(f"{server.url}/v1/audio/translations", data=form) as answer,
            ):
                english = (await answer.text()).lower()
        original = await client.audio.transcriptions.create(file=german, model="whisper-1")
    engine.stop()
    assert "history of the finnish" in english
    assert "geschichte der finnischen" in original.text.lower()


# --- speakers and translations ----------------------------------------------------------------------------------------


@asynccontextmanager
async def scripted(
    engine: Engine, vad: SileroVad, diarizer: ScriptedDiarizer | None = None, **stages: object
) -> AsyncIterator[AsyncOpenAI]:
    """Another voice every four seconds, translations in capitals; `stages` are defaults of the server."""
    async with library(engine, vad) as (client, server):
        diarizer = diarizer or ScriptedDiarizer(turn=4.0)
        server.services.stages = ScriptedStages(server.services.config, diarizer, **stages)
        yield client


async def test_diarized_json(engine: Engine, vad: SileroVad) -> None:
    """The library gets segments of one speaker each, A first, and their translations where it asks for them."""
    async with scripted(engine, vad) as client:
        found = await client.audio.transcriptions.create(
            file=STORY,
            model="gpt-4o-transcribe-diarize",
            response_format="diarized_json",
            chunking_strategy="auto",
            extra_body={"target_language": "Portuguese"},
        )
    assert isinstance(found, TranscriptionDiarized)
    assert found.duration == pytest.approx(12.62, abs=0.01) and found.task == "transcribe"
    assert [segment.speaker for segment in found.segments] == ["A", "B", "A", "B"]
    assert len({segment.id for segment in found.segments}) == 4
    assert "".join(segment.text for segment in found.segments).strip() == found.text
    for number, segment in enumerate(found.segments):
        assert (segment.start + segment.end) / 2 == pytest.approx(4 * number + 2, abs=2)
        assert segment.model_extra == {"translation": segment.text.upper()}


async def test_rttm(engine: Engine, vad: SileroVad) -> None:
    """Turns as they were heard, under the name of the file."""
    async with scripted(engine, vad) as client:
        found = await client.audio.transcriptions.create(file=STORY, model="whisper-1", response_format="rttm")
    assert [line.split()[:5] + line.split()[7:8] for line in found.splitlines()] == [
        ["SPEAKER", STORY.stem, "1", start, length, speaker]
        for start, length, speaker in [
            ("0.000", "4.000", "speaker_1"),
            ("4.000", "4.000", "speaker_2"),
            ("8.000", "4.000", "speaker_1"),
            ("12.000", "0.625", "speaker_2"),
        ]
    ]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("text", "Speaker 1: TURN ON THE LAMP.\n"),
        ("srt", "1\n00:00:00,660 --> 00:00:02,300\nSpeaker 1: TURN ON THE LAMP.\n"),
        ("vtt", "WEBVTT\n\n00:00:00.660 --> 00:00:02.300\n<v Speaker 1>TURN ON THE LAMP.\n"),
    ],
)
async def test_text_of_speakers(engine: Engine, vad: SileroVad, kind: str, expected: str) -> None:
    """Formats to be read name the speakers, and are in the language that was asked for; both can be defaults."""
    asked = {"diarization": "online", "target_language": "pt"}
    async with scripted(engine, vad) as client, scripted(engine, vad, **asked) as defaulting:
        found = await client.audio.transcriptions.create(
            file=LAMP,
            model="whisper-1",
            response_format=kind,
            extra_body=asked,
        )
        assert re.sub(r"[,.]\d{3}\b", "", str(found)) == re.sub(r"[,.]\d{3}\b", "", expected)
        same = await defaulting.audio.transcriptions.create(file=LAMP, model="whisper-1", response_format=kind)
        plain = await defaulting.audio.transcriptions.create(
            file=LAMP,
            model="whisper-1",
            response_format=kind,
            extra_body={"diarization": "off", "target_language": "off"},
        )
    assert same == found and "Turn on the lamp." in str(plain) and "Speaker" not in str(plain)


async def test_json_of_translations(engine: Engine, vad: SileroVad) -> None:
    """What was said stays in its place; the translation stands beside it."""
    async with scripted(engine, vad) as client:
        for kind in ("json", "verbose_json"):
            found = await client.audio.transcriptions.create(
                file=LAMP, model="whisper-1", response_format=kind, extra_body={"target_language": "pt"}
            )
            assert found.text == "Turn on the lamp." and found.model_extra is not None
            assert found.model_extra["translation"] == "TURN ON THE LAMP." and "notices" not in found.model_extra


async def test_stages_that_fail(engine: Engine, vad: SileroVad) -> None:
    """Words come with a notice; what is nothing without speakers is an error."""
    async with scripted(engine, vad, ScriptedDiarizer(fails_at=1.0)) as client:
        found = await client.audio.transcriptions.create(
            file=LAMP, model="whisper-1", extra_body={"diarization": "online", "target_language": "cy"}
        )
        assert found.text == "Turn on the lamp." and found.model_extra is not None
        assert sorted(found.model_extra["notices"]) == ["diarization has failed", "no translation from en to cy-Latn"]
        for kind in ("diarized_json", "rttm"):
            with pytest.raises(openai.InternalServerError, match="who speaks is not known"):
                await client.audio.transcriptions.create(file=LAMP, model="whisper-1", response_format=kind)


async def test_real_speakers(engine: Engine, vad: SileroVad, store: ModelStore) -> None:
    """Two people take turns, told apart by real networks: who says what, and when."""
    file = AUDIO / "derived_2spk.flac"
    truth = read_rttm(file.with_suffix(".rttm"))
    async with library(engine, vad, data_dir=store.fetch(VAD).parents[1]) as (client, _):
        found = await client.audio.transcriptions.create(file=file, model="whisper-1", response_format="diarized_json")
    assert isinstance(found, TranscriptionDiarized)
    assert [segment.speaker for segment in found.segments] == ["A", "B"] * 4
    for segment, (start, end, _) in zip(found.segments, truth, strict=True):
        assert segment.start == pytest.approx(start, abs=1) and segment.end == pytest.approx(end, abs=1)
