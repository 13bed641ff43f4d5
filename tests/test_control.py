"""`/config`, `/metrics`, `/health`, `/ready`, and what guards every request."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from conftest import Clip, start_engine
from prometheus_client.parser import text_string_to_metric_families
from serving import answer, say, serving
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioStop
from wyoming.client import AsyncClient

from wyoming_wlk.engine.context import ClientOptions, DecoderContext
from wyoming_wlk.engine.engine import Engine, StepDropped, StepFailed
from wyoming_wlk.engine.request import StepKind, StepRequest
from wyoming_wlk.errors import ConfigError
from wyoming_wlk.models import InstalledModel
from wyoming_wlk.vad import SileroVad

CLIP = "1688-142285-0001"
TOKEN = {"Authorization": "Bearer sesame"}


async def fetch(method: str, url: str, **request: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.request(method, url, **request) as response:
        json = response.content_type == "application/json"
        return response.status, await response.json() if json else await response.text()


async def test_health_before_and_after_loading(engine: Engine, vad: SileroVad) -> None:
    """`/health` answers at once; `/ready` is 503 until the model is there."""
    async with serving(engine, vad, loaded=False) as server:
        status, health = await fetch("GET", server.url + "/health")
        assert (status, health["status"], health["ready"]) == (200, "ok", False)
        assert (await fetch("GET", server.url + "/ready"))[0] == 503
    async with serving(engine, vad) as server:
        await server.loading
        assert (await fetch("GET", server.url + "/ready"))[0] == 200


async def test_metrics(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """After an utterance, Prometheus' own parser finds delays, batch sizes, memory and audio."""
    async with serving(engine, vad) as server:
        async with AsyncClient.from_uri(server.uri) as client:
            await say(client, clips[CLIP].pcm, pace=0.01)
            await answer(client)
        status, text = await fetch("GET", server.url + "/metrics")
    assert status == 200
    found = {sample.name: sample for family in text_string_to_metric_families(text) for sample in family.samples}
    assert found["wlk_clients"].value == 0
    assert found["wlk_model_loaded"].value == 1
    assert found["wlk_resident_memory_bytes"].value > 50e6
    assert found["wlk_audio_seconds_total"].value == pytest.approx(len(clips[CLIP].samples) / 16000, abs=0.1)
    for name in ("step_seconds", "queue_seconds", "batch_size", "word_delay_seconds", "step_interval_seconds"):
        sample = found[f"wlk_{name}"]
        assert sample.labels["quantile"] == "0.95" and sample.value >= 0
    assert found["wlk_real_time_factor"].value > 0
    encoder, decoder = found["wlk_encoder_seconds_total"].value, found["wlk_decoder_seconds_total"].value
    assert min(encoder, decoder) > 0
    assert encoder + decoder > found["wlk_busy_seconds_total"].value - 0.001  # a pass under way counts in part


async def test_language_and_model_change_at_run_time(
    tiny_en: InstalledModel, vad: SileroVad, base: InstalledModel, clips: dict[str, Clip]
) -> None:
    """A running utterance ends on the old model, which is let go then; the next is heard by the new one."""
    engine, other = start_engine(tiny_en), start_engine(base)
    german = next(clip for clip in clips.values() if clip.language == "de")
    async with serving(engine, vad, token="sesame", others={"base": other}) as server:
        async with AsyncClient.from_uri(server.uri) as client:
            await say(client, clips[CLIP].pcm, stop=False)
            status, shown = await fetch("POST", server.url + "/config?lan=de&model=base", headers=TOKEN)
            assert (status, shown["model"], shown["language"]) == (200, "base", "de")
            await client.write_event(AudioStop().event())
            transcript = Transcript.from_event((await answer(client))[-2])
            assert "thornton" in transcript.text.lower() and transcript.language == "en"
            with pytest.raises((StepDropped, StepFailed)):
                await engine.step(StepRequest(DecoderContext(ClientOptions()), StepKind.PARTIAL, 0.0, "late"))
        async with AsyncClient.from_uri(server.uri) as client:
            await say(client, german.pcm, Transcribe())
            assert Transcript.from_event((await answer(client))[-2]).language == "de"
        assert (await fetch("GET", server.url + "/config", headers=TOKEN))[1]["model"] == "base"
    other.stop()


@pytest.mark.parametrize(
    ("query", "status"),
    [("?lan=xx", 400), ("?lan=de", 400), ("?model=nonsense", 400), ("?model=/etc/passwd", 400)],
)
async def test_wrong_changes_change_nothing(engine: Engine, vad: SileroVad, query: str, status: int) -> None:
    """An unknown language or model is refused, and the server goes on as before."""
    async with serving(engine, vad, token="sesame") as server:
        await server.loading
        before = await fetch("GET", server.url + "/config", headers=TOKEN)
        got, body = await fetch("POST", server.url + "/config" + query, headers=TOKEN)
        assert got == status and body["error"]["message"]
        assert await fetch("GET", server.url + "/config", headers=TOKEN) == before


async def test_changes_need_a_token(engine: Engine, vad: SileroVad) -> None:
    """Without a token on the server nobody changes anything; with one, only who shows it; health is for all."""
    async with serving(engine, vad) as server:
        assert (await fetch("POST", server.url + "/config?lan=en"))[0] == 401
    async with serving(engine, vad, token="sesame") as server:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"X-Api-Key": "sésame"}):
            for path in ("/config", "/metrics"):
                assert (await fetch("GET", server.url + path, headers=headers))[0] == 401
        assert (await fetch("GET", server.url + "/health"))[0] == 200
        assert (await fetch("GET", server.url + "/metrics?token=sesame"))[0] == 200
        assert (await fetch("POST", server.url + "/config", headers=TOKEN, data="{"))[0] == 200


async def test_who_asks_for_an_upgrade_is_asked_for_the_token_too(engine: Engine, vad: SileroVad) -> None:
    """The headers of a WebSocket handshake let nobody past the checks; where there is none, it is a bad request."""
    upgrade = {"Upgrade": "websocket"}
    foreign = TOKEN | upgrade | {"Origin": "https://evil.example"}
    async with serving(engine, vad, token="sesame") as server:
        for path in ("/config", "/metrics", "/v1/models/x"):
            assert (await fetch("GET", server.url + path, headers=upgrade))[0] == 401
        assert (await fetch("POST", server.url + "/config?lan=en", headers=upgrade))[0] == 401
        assert (await fetch("GET", server.url + "/metrics", headers=foreign))[0] == 401
        for headers in ({}, upgrade):
            assert (await fetch("GET", server.url + "/asr", headers=headers))[0] == 400


async def test_foreign_pages(engine: Engine, vad: SileroVad) -> None:
    """A page from elsewhere is refused unless `--cors` names it, and then gets the headers that its browser wants."""
    evil, friend = {"Origin": "https://evil.example"}, {"Origin": "https://friend.example"}
    async with serving(engine, vad, cors=("https://friend.example",)) as server:
        assert (await fetch("GET", server.url + "/metrics", headers=evil))[0] == 401
        assert (await fetch("GET", server.url + "/metrics", headers={"Origin": server.url}))[0] == 200
        async with aiohttp.ClientSession() as session:
            async with session.options(server.url + "/metrics", headers=friend) as response:
                assert response.headers["Access-Control-Allow-Origin"] == "https://friend.example"
            async with session.get(server.url + "/metrics", headers=friend) as response:
                assert response.status == 200
                assert response.headers["Access-Control-Allow-Origin"] == "https://friend.example"


async def test_streams_end_when_the_server_stops(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """Words heard before the end still reach the client."""
    async with serving(engine, vad) as server, aiohttp.ClientSession() as session:
        url = server.url + "/ws/transcription?client_id=x&encoding=s16le&language=en"
        async with session.ws_connect(url) as socket:
            await socket.send_bytes(clips[CLIP].pcm)
            text = (await socket.receive_json(timeout=30))["text"]
            stopping = asyncio.create_task(server.http.stop(20.0))
            async for message in socket:
                text += message.json()["text"]
            await stopping
    assert "thornton" in text.lower()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate, and is not installed")
async def test_https(engine: Engine, vad: SileroVad, tmp_path: Path) -> None:
    """With a certificate the door speaks HTTPS and WSS; a file that is none is told before anything is served."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with serving(engine, vad, tls_certificate=certificate, tls_key=key) as server:
        assert server.url.startswith("https://")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{server.url}/health", ssl=trusting) as response:
                assert response.status == 200
            url = f"{server.url}/ws/transcription?client_id=x&format=updates"
            async with session.ws_connect(url, ssl=trusting) as socket:
                assert (await socket.receive_json())["type"] == "session"
    with pytest.raises(ConfigError, match="--tls-certificate"):
        async with serving(engine, vad, tls_certificate=key, tls_key=None):
            pass
