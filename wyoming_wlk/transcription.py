"""A whole recording, as fast as the engine takes it. Knows no wire format and no file format of text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from wyoming_wlk.engine.context import SAMPLE_RATE, ClientOptions, DecoderContext
from wyoming_wlk.engine.request import Word
from wyoming_wlk.events import Event, SegmentEnded
from wyoming_wlk.services import Pace, Services
from wyoming_wlk.session import Session

_PACE = Pace(close_pause=0.6, recording=True)
_LOOK_SECONDS = 0.25
"""So fine are pauses looked for."""

_PIECE_SECONDS = 5
"""Files are decoded in pieces of about this length, each in one visit to a thread."""


@dataclass(frozen=True)
class Segment:
    """A stretch of speech; there is at least one word in it. `speaker` counts from 1, None where nobody asked."""

    words: tuple[Word, ...]
    speaker: int | None = None

    @property
    def start(self) -> float:
        return self.words[0].start

    @property
    def end(self) -> float:
        return self.words[-1].end

    @property
    def text(self) -> str:
        """As the words join: it begins with a space where the language writes one."""
        return "".join(word.text for word in self.words)


@dataclass(frozen=True)
class Transcription:
    """What is said in a recording.

    `language` is the one that was asked for or detected, None where nothing was said. `duration` in seconds.
    """

    segments: tuple[Segment, ...]
    language: str | None
    duration: float

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments).strip()


class Decoding:
    """A recording on its way through the engine. Made by `decoding`."""

    def __init__(self, context: DecoderContext) -> None:
        self.heard = 0.0
        """Seconds of the recording read so far: its duration, once the segments have ended."""
        self._context = context
        self._segments: asyncio.Queue[Segment | None] = asyncio.Queue()
        self._error: Exception | None = None

    @property
    def language(self) -> str | None:
        asked = self._context.options.language
        return self._context.language or (asked if asked != "auto" else None)

    async def segments(self) -> AsyncIterator[Segment]:
        """Each segment once it is complete. Raises what broke the recording or the engine. To be read once."""
        while (segment := await self._segments.get()) is not None:
            yield segment
        if self._error is not None:
            raise self._error

    async def on_event(self, event: Event) -> None:
        if isinstance(event, SegmentEnded) and event.words:
            self._segments.put_nowait(Segment(event.words))

    async def run(self, session: Session, pieces: AsyncIterator[np.ndarray]) -> None:
        feeding = asyncio.create_task(self._feed(session, pieces))
        hearing = asyncio.create_task(session.run())
        try:
            await asyncio.gather(feeding, hearing)
        except Exception as err:  # told to whoever reads the segments
            self._error = err
        finally:
            feeding.cancel()
            hearing.cancel()
            await asyncio.gather(feeding, hearing, return_exceptions=True)
            self._segments.put_nowait(None)

    async def _feed(self, session: Session, pieces: AsyncIterator[np.ndarray]) -> None:
        async for piece in pieces:
            for start in range(0, len(piece), int(_LOOK_SECONDS * SAMPLE_RATE)):
                await session.feed(piece[start : start + int(_LOOK_SECONDS * SAMPLE_RATE)])
            self.heard += len(piece) / SAMPLE_RATE
        session.stop()


@asynccontextmanager
async def decoding(
    services: Services, client: str, options: ClientOptions, pieces: AsyncIterator[np.ndarray]
) -> AsyncIterator[Decoding]:
    """Hears `pieces`, each float32 [samples] at 16 kHz; whoever leaves the block ends the work.

    Raises `BusyError` where the server has no place and `RequestError` for options that the model cannot serve.
    """
    with services.admitted(), services.context(None, options) as context:
        work = Decoding(context)
        session = await services.session(context, client, work.on_event, _PACE)
        task = asyncio.create_task(work.run(session, pieces))
        try:
            yield work
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def transcribe(
    services: Services, client: str, options: ClientOptions, pieces: AsyncIterator[np.ndarray]
) -> Transcription:
    """All of a recording. Raises like `decoding`, and what breaks it on the way."""
    async with decoding(services, client, options, pieces) as work:
        segments = [segment async for segment in work.segments()]
        return Transcription(tuple(segments), work.language, work.heard)


async def file_pieces(file: Path | BinaryIO) -> AsyncIterator[np.ndarray]:
    """A file in any container that FFmpeg knows, decoded as far as it is asked for. Raises `AudioError`."""
    from wyoming_wlk.audio.container import decode_file  # whose libraries are large

    audio = decode_file(file)
    while len(piece := await asyncio.to_thread(_gather, audio)):
        yield piece


def _gather(audio: Iterator[np.ndarray]) -> np.ndarray:
    """The next seconds; nothing at the end."""
    parts: list[np.ndarray] = []
    length = 0
    for part in audio:
        parts.append(part)
        length += len(part)
        if length >= _PIECE_SECONDS * SAMPLE_RATE:
            break
    return np.concatenate([*parts, np.zeros(0, np.float32)])
