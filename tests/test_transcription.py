"""Whole recordings through the services, with real speech."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import AUDIO, Clip
from serving import serving

from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.errors import AudioError, BusyError, RequestError
from wyoming_wlk.services import Services
from wyoming_wlk.transcription import decoding, file_pieces, transcribe
from wyoming_wlk.vad import SileroVad

LAMP, STORY = AUDIO / "turn_on_the_lamp.flac", AUDIO / "1688-142285-0001.flac"
QUIET = np.zeros(2 * 16000, np.float32)


@contextlib.asynccontextmanager
async def services(engine: Engine, vad: SileroVad, **changes: object) -> AsyncIterator[Services]:
    async with serving(engine, vad, **changes) as server:
        yield server.services


async def pieces(*audio: np.ndarray) -> AsyncIterator[np.ndarray]:
    for piece in audio:
        yield piece


async def test_a_file(engine: Engine, vad: SileroVad) -> None:
    """A file's words with times and probabilities within it, its length and its language."""
    async with services(engine, vad) as shared:
        found = await transcribe(shared, "test", shared.defaults, file_pieces(STORY))
    words = [word for segment in found.segments for word in segment.words]
    assert found.text.startswith("Margaret") and "with some anxiety" in found.text
    assert found.duration == pytest.approx(12.62, abs=0.01) and found.language == "en"
    assert all(0 <= word.start <= word.end <= 12.7 and 0 < word.probability <= 1 for word in words)
    assert all(before.start <= after.start for before, after in itertools.pairwise(words))


async def test_minutes_of_speech(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """Clips with pauses between them become segments in order, told one after the other, and the same each time."""
    lamp, house = clips["turn_on_the_lamp"].samples, clips["1688-142285-0009"].samples
    async with services(engine, vad) as shared:
        found = []
        for size in (1, 7):  # pieces of another length change nothing
            audio = np.concatenate([lamp, QUIET, house, QUIET] * 3)
            async with decoding(shared, "test", shared.defaults, pieces(*np.array_split(audio, size))) as work:
                found.append([segment async for segment in work.segments()])
                assert work.heard == pytest.approx(len(audio) / 16000)
    assert ["lamp" in segment.text for segment in found[0]] == [True, False] * 3
    assert ["workhouse" in segment.text for segment in found[0]] == [False, True] * 3
    assert [segment.text for segment in found[0]] == [segment.text for segment in found[1]]


async def test_silence(engine: Engine, vad: SileroVad) -> None:
    """Silence has no words and a length; so has a recording of nothing."""
    async with services(engine, vad, language="auto") as shared:
        found = await transcribe(shared, "test", shared.defaults, pieces(QUIET, QUIET))
        assert (found.segments, found.text, found.language, found.duration) == ((), "", None, 4.0)
        assert (await transcribe(shared, "test", shared.defaults, pieces())).duration == 0


@pytest.mark.parametrize("data", [b"", b"no audio at all" * 100, b"ffconcat version 1.0\nfile x.wav\n"])
async def test_no_audio(engine: Engine, vad: SileroVad, data: bytes) -> None:
    """What is no audio is an error of its own, and the place is free again."""
    async with services(engine, vad, max_clients=1) as shared:
        for _ in range(2):
            with pytest.raises(AudioError, match="cannot be decoded"):
                await transcribe(shared, "test", shared.defaults, file_pieces(io.BytesIO(data)))
        assert shared.clients == 0


async def test_a_list_of_files_opens_none(tmp_path: Path, engine: Engine, vad: SileroVad) -> None:
    """A play list does not make the server read the files that it names."""
    (tmp_path / "lamp.flac").write_bytes(LAMP.read_bytes())
    (tmp_path / "list.txt").write_text("ffconcat version 1.0\nfile lamp.flac\n", "utf-8")
    async with services(engine, vad) as shared:
        with pytest.raises(AudioError):
            await transcribe(shared, "test", shared.defaults, file_pieces(tmp_path / "list.txt"))


async def test_busy_and_wrong_options(engine: Engine, vad: SileroVad) -> None:
    """A full server and options that the model cannot serve are refused before anything is heard."""
    async with services(engine, vad, max_clients=1) as shared:
        with pytest.raises(RequestError):
            await transcribe(shared, "test", replace(shared.defaults, task="translate"), pieces(QUIET))
        async with decoding(shared, "first", shared.defaults, pieces(QUIET)):
            with pytest.raises(BusyError):
                await transcribe(shared, "second", shared.defaults, pieces(QUIET))


async def test_leaving_ends_the_work(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """Whoever leaves in the middle frees the place, and no more audio is taken."""
    taken = 0

    async def endless() -> AsyncIterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield clips["turn_on_the_lamp"].samples
            yield QUIET

    async with services(engine, vad) as shared:
        async with decoding(shared, "test", shared.defaults, endless()) as work:
            assert "lamp" in (await anext(work.segments())).text
        before = taken
        await asyncio.sleep(0.1)
        assert shared.clients == 0 and taken == before
