"""`/asr` with WhisperLiveKit's own test client, as a browser's recorder uses it, and with bad input."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
from conftest import Clip
from serving import Server, all_messages, serving
from websockets.asyncio.client import connect

from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.vad import SileroVad

WHISPERLIVEKIT = "0.2.26"
CLIP, OTHER = "1688-142285-0003", "turn_on_the_lamp"
QUIET = np.zeros(2 * 16000, np.float32)
FULL = {
    "status",
    "lines",
    "buffer_transcription",
    "buffer_diarization",
    "buffer_translation",
    "remaining_time_transcription",
    "remaining_time_diarization",
}
"""What a full update has."""


@pytest.fixture
async def server(engine: Engine, vad: SileroVad) -> AsyncIterator[Server]:
    async with serving(engine, vad) as made:
        yield made


@pytest.fixture(scope="session")
def test_client(pytestconfig: pytest.Config) -> ModuleType:
    """WhisperLiveKit's test client, one file that needs nothing else of that package; fetched once."""
    folder = pytestconfig.cache.mkdir(f"whisperlivekit-{WHISPERLIVEKIT}")
    file = folder / "whisperlivekit" / "test_client.py"
    if not file.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        done = subprocess.run([*command, f"whisperlivekit=={WHISPERLIVEKIT}"], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"whisperlivekit {WHISPERLIVEKIT} cannot be fetched: {done.stderr.strip()[-200:]}")
    spec = importlib.util.spec_from_file_location("whisperlivekit_test_client", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def url(server: Server, **query: object) -> str:
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    return f"ws{server.url.removeprefix('http')}/asr?{asked}"


def pcm(samples: np.ndarray) -> bytes:
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def webm(samples: np.ndarray) -> bytes:
    """As browsers record: Opus at 48 kHz in WebM, written as a live stream."""
    file = io.BytesIO()
    with av.open(file, "w", format="webm", options={"live": "1"}) as container:
        stream = container.add_stream("libopus", rate=48000, layout="mono")
        whole = av.AudioFrame.from_ndarray((samples[None] * 32767).astype(np.int16), format="s16", layout="mono")
        whole.sample_rate = 16000
        for frame in av.AudioResampler("s16", "mono", 48000, frame_size=960).resample(whole):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


async def ask(address: str, data: bytes, size: int = 6400, late: bytes = b"") -> list[dict[str, Any]]:
    """Sends audio, the empty message at its end, and what comes too late."""
    async with connect(address) as socket:
        for start in range(0, len(data), size):
            await socket.send(data[start : start + size])
        await socket.send(b"")
        if late:
            await socket.send(late)
        return await all_messages(socket)


async def refusal(address: str, *messages: str | bytes) -> tuple[str, int]:
    """The error that a client gets for these messages, and the close code."""
    async with connect(address) as socket:
        for message in messages:
            await socket.send(message)
        found = await all_messages(socket)
    assert found[-1]["type"] == "error", found
    assert socket.close_code is not None
    return found[-1]["error"], socket.close_code


def spoken(message: dict[str, Any]) -> list[str]:
    """The words of a full update's lines."""
    text = " ".join(line["text"] for line in message["lines"])
    return re.sub(r"[^\w ]", "", text.lower()).split()


# --- WhisperLiveKit's clients -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["full", "diff"])
async def test_whisperlivekits_test_client(
    server: Server, clips: dict[str, Clip], test_client: ModuleType, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Their client, unchanged but for the program that decodes its file, gets words and the end in both modes."""
    monkeypatch.setattr(test_client, "load_audio_pcm", lambda path: clips[CLIP].pcm + pcm(QUIET))
    result = await test_client.transcribe_audio("clip", url(server, language="en"), speed=0, mode=mode)
    assert spoken({"lines": result.lines})[:5] == ["i", "really", "like", "that", "account"]
    assert result.text == result.committed_text and result.text.endswith("he said.")
    (line,) = result.lines
    assert line["speaker"] == 1 and re.fullmatch(r"0:00:0[0-9]\.\d\d", line["start"])


async def test_whisperlivekits_test_client_sends_a_file(
    server: Server, clips: dict[str, Clip], test_client: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Asked for containers, the server makes their client send the file as it is."""
    file = tmp_path / "clip.webm"
    file.write_bytes(webm(clips[OTHER].samples))
    monkeypatch.setattr(test_client, "load_audio_pcm", lambda path: b"")
    result = await test_client.transcribe_audio(str(file), url(server, audio="container"), speed=0)
    assert "lamp" in result.text.lower()


async def test_full_updates(server: Server, clips: dict[str, Clip]) -> None:
    """Config first, then states that each differ from the one before, with what their page reads; then the end."""
    async with connect(url(server)) as socket:
        config = json.loads(await socket.recv())
        await socket.send(clips[CLIP].pcm[:64000])
        states = [json.loads(await socket.recv())]
        while not states[-1]["lines"] and not states[-1]["buffer_transcription"]:  # said while speech goes on
            states.append(json.loads(await asyncio.wait_for(socket.recv(), 30)))
        await socket.send(clips[CLIP].pcm[64000:])
        await socket.send(b"")
        *later, end = await all_messages(socket)
    states += later
    assert config == {"type": "config", "useAudioWorklet": True, "mode": "full"}
    assert end == {"type": "ready_to_stop"}
    assert all(set(state) == FULL for state in states)
    seen = [(state["lines"], state["buffer_transcription"]) for state in states]
    assert all(one != next_one for one, next_one in zip(seen, seen[1:], strict=False))
    texts = [spoken(state) for state in states]
    assert all(later[: len(sooner)] == sooner for sooner, later in zip(texts, texts[1:], strict=False))
    assert states[-1]["status"] == "active_transcription" and states[-1]["buffer_transcription"] == ""


async def test_diffs(server: Server, clips: dict[str, Clip]) -> None:
    """A client that drops and appends as documented has `n_lines` lines at each step, one for each segment."""
    lines: list[dict[str, Any]] = []
    async with connect(url(server, mode="diff")) as socket:
        assert json.loads(await socket.recv()) == {"type": "config", "useAudioWorklet": True, "mode": "diff"}
        seq = 0
        for quiet, name, expected in ((0, OTHER, [1]), (2, CLIP, [1, 1]), (8, "how_cold_is_it", [1, 1, -2, 1])):
            await socket.send(bytes(quiet * 32000) + clips[name].pcm + pcm(QUIET))
            while len(lines) < len(expected):
                diff = json.loads(await asyncio.wait_for(socket.recv(), 30))
                seq += 1
                assert (diff["type"], diff["seq"]) == ("snapshot" if seq == 1 else "diff", seq)
                lines = lines[diff.get("lines_pruned", 0) :] + diff.get("new_lines", diff.get("lines", []))
                assert len(lines) == diff.get("n_lines", len(lines))
            assert [line["speaker"] for line in lines] == expected
        await socket.send(b"")
        assert (await all_messages(socket))[-1] == {"type": "ready_to_stop"}
    assert "lamp" in lines[0]["text"] and "account" in lines[1]["text"] and "cold" in lines[3]["text"].lower()
    assert lines[1]["end"] == lines[2]["start"] and lines[2]["end"] == lines[3]["start"]


async def test_full_mode_and_diffs_end_with_the_same_lines(server: Server, clips: dict[str, Clip]) -> None:
    """What was said is the same in both modes."""
    full, diffs = await asyncio.gather(*(ask(url(server, mode=mode), clips[CLIP].pcm) for mode in ("full", "diff")))
    lines = [line for diff in diffs[1:-1] for line in diff.get("new_lines", diff.get("lines", []))]
    assert spoken({"lines": lines}) == spoken(full[-2]) and len(lines) == len(full[-2]["lines"]) == 1
    assert lines[0].keys() == full[-2]["lines"][0].keys()


async def test_a_browsers_recorder(server: Server, clips: dict[str, Clip]) -> None:
    """WebM in pieces of any size; what the recorder sends after the end does no harm."""
    data = webm(clips[CLIP].samples)
    for query in ({}, {"audio": "container"}):
        config, *states, end = await ask(url(server, **query), data[:-500], 1000, late=data[-500:])
        assert config["useAudioWorklet"] is not bool(query) and end["type"] == "ready_to_stop"
        assert spoken(states[-1])[:5] == ["i", "really", "like", "that", "account"]


async def test_legacy(server: Server, clips: dict[str, Clip]) -> None:
    """The page of whisper_streaming_web gets lines and a buffer, and no message that it would take for them."""
    found = await ask(url(server, mode="legacy"), webm(clips[OTHER].samples))
    assert all(set(message) == {"lines", "buffer"} for message in found)
    assert "lamp" in found[-1]["lines"][0]["text"].lower() and len(found[-1]["lines"]) == 1


async def test_silence(server: Server) -> None:
    """Without speech there is one state that says so, and the end; without any audio as well."""
    for data in (pcm(QUIET), b""):
        for mode in ("full", "diff"):
            config, state, end = await ask(url(server, mode=mode), data)
            assert state["status"] == "no_audio_detected" and state["lines"] == []
            assert end == {"type": "ready_to_stop"}


async def test_languages(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """A detected language stands at its line; one that was asked for does not, and `auto` is taken."""
    async with serving(engine, vad, language="en") as server:
        asked, detected = await asyncio.gather(
            ask(url(server), clips[OTHER].pcm), ask(url(server, language="auto"), clips[OTHER].pcm)
        )
    assert "detected_language" not in asked[-2]["lines"][0]
    assert detected[-2]["lines"][0]["detected_language"] == "en"


async def test_clients_do_not_mix(server: Server, clips: dict[str, Clip]) -> None:
    """Clients of several kinds at the same time get their own words."""
    names = {"turn_on_the_lamp": "lamp", "whats-the-date": "date", "how_cold_is_it": "cold"}
    found = await asyncio.gather(*(ask(url(server), clips[name].pcm) for name in names))
    for word, messages in zip(names.values(), found, strict=True):
        assert [other for other in names.values() if other in spoken(messages[-2])] == [word]


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ({"mode": "half"}, "mode"),
        ({"language": "klingon"}, "klingon"),
        ({"language": "de"}, "de"),
        ({"target_language": "klingonish"}, "klingonish"),
        ({"audio": "vinyl"}, "audio"),
        ({"diarization": "perhaps"}, "diarization"),
        ({"frame_threshold": "many"}, "frame_threshold"),
        ({"prompt": "x" * 2000}, "prompt"),
    ],
)
async def test_bad_parameters(server: Server, query: dict[str, object], reason: str) -> None:
    """A wrong parameter, or a language that this model does not have, gets an error and close code 4400."""
    error, code = await refusal(url(server, **query))
    assert reason in error and code == 4400


async def test_tokens(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """No token and a wrong one get an error and close code 4401; the right one is let in."""
    async with serving(engine, vad, token="secret") as server:
        for query in ({}, {"token": "guess"}):
            error, code = await refusal(url(server, **query))
            assert "token" in error and code == 4401
        assert (await ask(url(server, token="secret"), clips[OTHER].pcm))[-1] == {"type": "ready_to_stop"}


async def test_a_file_that_breaks_off(server: Server, clips: dict[str, Clip]) -> None:
    """Half a WebM is heard as far as it goes."""
    data = webm(clips[CLIP].samples)
    *_, state, end = await ask(url(server), data[: len(data) // 2])
    assert spoken(state)[:3] == ["i", "really", "like"] and "said" not in spoken(state)
    assert end == {"type": "ready_to_stop"}


async def test_what_is_no_audio(server: Server, clips: dict[str, Clip], caplog: pytest.LogCaptureFixture) -> None:
    """Nonsense gets an error and a close, no traceback in the log, and others do not notice."""
    caplog.set_level(logging.DEBUG, "wyoming_wlk")
    header = webm(clips[OTHER].samples)[:400]
    noise = np.random.default_rng(7).bytes(50_000)
    speaking = asyncio.create_task(ask(url(server), clips[CLIP].pcm))
    for messages in ([header[:4] + noise, b""], [header + noise, b""], ["{}"], [bytes(3200), "stop"]):
        error, code = await refusal(url(server), *messages)
        assert error and code == 1003
    assert (await speaking)[-1] == {"type": "ready_to_stop"}
    assert not [record for record in caplog.records if record.exc_info]


async def test_an_error_keeps_the_pages_lines(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """An error in mid-speech comes with the lines so far: a page shows what is in the last message."""
    async with serving(engine, vad) as server, connect(url(server)) as socket:
        await socket.send(clips[OTHER].pcm + pcm(QUIET))
        words: list[str] = []
        while "lamp" not in words:
            words = spoken({"lines": [], **json.loads(await asyncio.wait_for(socket.recv(), 30))})
        await socket.send("what?")
        failure = (await all_messages(socket))[-1]
    assert failure["type"] == failure["status"] == "error" and "binary" in failure["error"]
    assert spoken(failure)[: len(words)] == words
