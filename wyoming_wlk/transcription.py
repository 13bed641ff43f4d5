"""A whole recording, as fast as the engine takes it. Knows no wire format and no file format of text."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from wyoming_wlk.engine.context import SAMPLE_RATE, ClientOptions, DecoderContext
from wyoming_wlk.engine.request import Word
from wyoming_wlk.errors import ModelError
from wyoming_wlk.events import Event, SegmentEnded, SpeakersHeard, StageNotice, TranslationUpdate
from wyoming_wlk.segments import SegmentNumbers
from wyoming_wlk.services import Pace, Services
from wyoming_wlk.session import Session
from wyoming_wlk.stages.diarizer import SpeakerTurn
from wyoming_wlk.stages.translator import Translation

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
    translations: tuple[Translation, ...] = ()
    """Of its words, in order; empty where none was asked for, or they are in the wanted language."""

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

    @property
    def translation(self) -> str:
        """As the translations of segments join."""
        return "".join(translation.text for translation in self.translations)


@dataclass(frozen=True)
class Transcription:
    """What is said in a recording.

    `language` is the one that was asked for or detected, None where nothing was said. `duration` in seconds.
    """

    segments: tuple[Segment, ...]
    language: str | None
    duration: float
    turns: tuple[SpeakerTurn, ...] = ()
    """Who speaks when, also where no words are understood."""
    notices: tuple[StageNotice, ...] = ()
    """What whoever asked for speakers or translations should know of them."""

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments).strip()

    @property
    def translation(self) -> str:
        """Empty where there is none."""
        return "".join(segment.translation for segment in self.segments).strip()

    def check_speakers(self) -> None:
        """For what is worth nothing without speakers. Raises `ModelError` where they could not be told apart."""
        for notice in self.notices:
            if notice.failed and notice.stage == "diarization":
                raise ModelError(f"who speaks is not known: {notice.text}")


class Decoding:
    """A recording on its way through the engine. Made by `decoding`."""

    def __init__(self, context: DecoderContext) -> None:
        self.heard = 0.0
        """Seconds of the recording read so far: its duration, once the segments have ended."""
        self._context = context
        self._numbers = SegmentNumbers()
        self._waiting: deque[tuple[int, Segment]] = deque()
        """Segments that have no translation yet, by number."""
        self._translating = bool(context.options.target_language)
        self._translations: list[Translation] = []
        """Of the segment that is being translated."""
        self._turns: list[SpeakerTurn] = []
        self._notices: list[StageNotice] = []
        self._segments: asyncio.Queue[Segment | None] = asyncio.Queue()
        self._error: Exception | None = None

    @property
    def language(self) -> str | None:
        asked = self._context.options.language
        return self._context.language or (asked if asked != "auto" else None)

    async def segments(self) -> AsyncIterator[Segment]:
        """Each segment once, when it is complete. Raises what broke the recording or the engine."""
        while (segment := await self._segments.get()) is not None:
            yield segment
        self._segments.put_nowait(None)  # for whoever reads on
        if self._error is not None:
            raise self._error

    async def whole(self, segments: Sequence[Segment] = ()) -> Transcription:
        """All of it: `segments`, that were read already, and the rest. Raises like `segments`."""
        rest = [segment async for segment in self.segments()]
        return Transcription((*segments, *rest), self.language, self.heard, tuple(self._turns), tuple(self._notices))

    async def on_event(self, event: Event) -> None:
        number = self._numbers.take(event)
        if isinstance(event, SegmentEnded) and event.words:
            self._waiting.append((number, Segment(event.words, event.speaker)))
        elif isinstance(event, SpeakersHeard):
            self._turns += event.turns
        elif isinstance(event, TranslationUpdate):
            self._translate(event)
        elif isinstance(event, StageNotice):
            self._notices.append(event)
            self._translating = self._translating and not (event.failed and event.stage == "translation")
        if not self._translating:
            self._release(math.inf)

    def _translate(self, update: TranslationUpdate) -> None:
        """The translation of a segment may begin before it has ended."""
        self._translations += update.stable
        if update.complete:
            for place, (number, segment) in enumerate(self._waiting):
                if number == update.segment:
                    self._waiting[place] = number, replace(segment, translations=tuple(self._translations))
            self._translations = []
            self._release(update.segment)

    def _release(self, segment: float) -> None:
        while self._waiting and self._waiting[0][0] <= segment:
            self._segments.put_nowait(self._waiting.popleft()[1])

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
            self._release(math.inf)
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
        return await work.whole()


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
