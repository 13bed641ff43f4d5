"""Translation for one client: its committed words, segment by segment, to a translator of text or to Whisper itself.

Everything passes through at once; translations follow. No translation reaches over the end of a segment, which is a
pause or a change of speaker, so that each belongs to one segment.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from wyoming_wlk.engine.context import SAMPLE_RATE, ClientOptions, DecoderContext
from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.engine.request import StepKind, StepRequest, Word
from wyoming_wlk.events import Event, Finished, SegmentEnded, StageNotice, TextUpdate, TranslationUpdate
from wyoming_wlk.segments import SegmentNumbers
from wyoming_wlk.stages.client import BehindError, ClientStage, Emit
from wyoming_wlk.stages.translation.languages import language_tag
from wyoming_wlk.stages.translator import Said, Translated, Translation, Translator
from wyoming_wlk.stages.worker import Worker

TranslationWorker = Worker[Translator[Any], Said[Any], Translated]
SpokenLanguage = Callable[[], str | None]
"""The language that a client speaks, as Whisper's code, once it is known."""

_BEHIND_SEGMENTS = 200
"""Segments that may wait: some ten minutes of speech."""

_HEARD_SECONDS = 120.0
"""Audio kept for segments that may still end: the longest, and what the speakers' names may take to come."""

_MARGIN_SECONDS = 0.3
"""Audio around a segment's words; their times are not exact."""


@dataclass(eq=False)
class _Text:
    """New words of a segment."""

    segment: int
    words: list[Word] = field(default_factory=list)
    ended: bool = False


class _Translating(ClientStage):
    """What both kinds share: the words that wait, by segments."""

    def __init__(self, client: str, emit: Emit, patient: bool, language: SpokenLanguage) -> None:
        super().__init__("translation", client, emit, patient)
        self._language = language
        self._numbers = SegmentNumbers()
        self._waiting: deque[_Text] = deque()

    async def take(self, event: Event) -> None:
        await self._emit(event)
        was_open, segment = self._numbers.open, self._numbers.take(event)
        if self._over:
            return
        if isinstance(event, TextUpdate) and event.committed:
            self._last(segment).words.extend(event.committed)
        elif isinstance(event, SegmentEnded) or (isinstance(event, Finished) and was_open):
            self._last(segment).ended = True
        self._changed.set()
        await self._wait_for_room(lambda: len(self._waiting) > _BEHIND_SEGMENTS / 2)

    def _last(self, segment: int) -> _Text:
        if not self._waiting or self._waiting[-1].segment != segment:
            self._waiting.append(_Text(segment))
        return self._waiting[-1]

    async def _work(self) -> Sequence[Event]:
        await self._wait(lambda: bool(self._waiting) and self._ready(self._waiting[0]))
        if len(self._waiting) > _BEHIND_SEGMENTS and not self._patient:
            raise BehindError("translation is too far behind")
        if not self._waiting:
            self._over = True
            return []
        return [await self._translate(self._waiting.popleft())]

    def _fail(self, notice: StageNotice) -> Sequence[Event]:
        self._waiting.clear()
        return [TranslationUpdate(self._numbers.current, (), ""), notice]

    @abstractmethod
    def _ready(self, text: _Text) -> bool:
        """Whether there is anything to do for it yet."""

    @abstractmethod
    async def _translate(self, text: _Text) -> TranslationUpdate:
        """What comes of new words, or of the end of their segment."""


class TextTranslation(_Translating):
    """By a translator of text, while somebody speaks."""

    def __init__(
        self,
        worker: TranslationWorker,
        target: str,
        client: str,
        emit: Emit,
        patient: bool,
        language: SpokenLanguage,
    ) -> None:
        super().__init__(client, emit, patient, language)
        self._worker, self._target = worker, target
        self._source: str | None = None
        self._state: Any = None

    def _ready(self, text: _Text) -> bool:
        return text.ended or self._language() is not None

    async def _translate(self, text: _Text) -> TranslationUpdate:
        source = self._language()
        if source is not None and source != self._source:
            self._state = None
            if language_tag(source) != language_tag(self._target):
                translator = await self._worker.call(lambda translator: translator)
                self._state = await self._worker.aside(lambda: translator.begin(source, self._target))
            self._source = source
        if self._state is None:  # it is said in the language that is wanted
            return TranslationUpdate(text.segment, (), "", text.ended)
        translated = await self._worker.step(Said(self._state, tuple(text.words), text.ended))
        return TranslationUpdate(text.segment, translated.stable, translated.tentative, text.ended)


class WhisperTranslation(_Translating):
    """To English, by the model that hears the speech: each segment is heard once more when it has ended."""

    def __init__(
        self,
        engine: Engine,
        options: ClientOptions,
        client: str,
        emit: Emit,
        patient: bool,
        language: SpokenLanguage,
    ) -> None:
        super().__init__(client, emit, patient, language)
        self._engine = engine
        self._options = replace(options, task="translate", prompt="", hotwords=())
        self._audio: deque[np.ndarray] = deque()
        self._begin = self._end = 0
        """Where the audio that is kept begins and ends, in samples."""

    async def hear(self, audio: np.ndarray) -> None:
        await self._wait_for_room(self._would_forget)
        if self._over:
            return
        self._audio.append(audio)
        self._end += len(audio)
        while self._end - self._begin > _HEARD_SECONDS * SAMPLE_RATE:
            self._begin += len(self._audio.popleft())

    def _would_forget(self) -> bool:
        """Whether a segment waits whose audio is among the oldest."""
        waiting = self._waiting[0] if self._waiting else None
        if waiting is None or not waiting.ended or not waiting.words:
            return False
        return self._end / SAMPLE_RATE - waiting.words[0].start > _HEARD_SECONDS - 2 * _MARGIN_SECONDS - 1

    def _ready(self, text: _Text) -> bool:
        return text.ended

    async def _translate(self, text: _Text) -> TranslationUpdate:
        source = self._language()
        if source == "en" or not text.words:
            return TranslationUpdate(text.segment, (), "", True)
        start, end = max(0.0, text.words[0].start - _MARGIN_SECONDS), text.words[-1].end + _MARGIN_SECONDS
        if start * SAMPLE_RATE < self._begin:
            raise BehindError("translation is too far behind")
        audio = self._between(start, end)
        options = replace(self._options, language=source or "auto")
        request = StepRequest(DecoderContext(options, audio), StepKind.FINAL, time.monotonic(), self._client)
        try:
            found = await self._engine.step(request)
        except asyncio.CancelledError:
            request.cancelled = True
            raise
        said = "".join(word.text for word in found.words)
        return TranslationUpdate(
            text.segment, (Translation(text.words[0].start, text.words[-1].end, said),), "", complete=True
        )

    def _between(self, start: float, end: float) -> np.ndarray:
        """The audio of a segment, as far as it is kept and the model takes at once."""
        audio = np.concatenate([*self._audio, np.zeros(0, np.float32)])
        first = max(0, round(start * SAMPLE_RATE) - self._begin)
        last = max(0, round(end * SAMPLE_RATE) - self._begin)
        return audio[first : min(last, first + int(self._engine.max_window_seconds * SAMPLE_RATE))]
