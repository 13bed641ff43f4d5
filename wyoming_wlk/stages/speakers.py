"""Diarization for one client: its words get their speakers on the way out."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wyoming_wlk.engine.context import SAMPLE_RATE
from wyoming_wlk.engine.request import Word
from wyoming_wlk.events import Event, Finished, Flushed, SegmentEnded, SpeakersHeard, StageNotice, TextUpdate
from wyoming_wlk.speakers import Attribution
from wyoming_wlk.stages.client import BehindError, ClientStage, Emit
from wyoming_wlk.stages.diarizer import DiarizationOptions, Diarizer, Heard, Settled, SpeakerTurn
from wyoming_wlk.stages.worker import Worker

DiarizationWorker = Worker[Diarizer[Any], Heard[Any], Settled]

_PORTION_SECONDS = 0.25
"""Less audio is not worth a visit to the thread."""

_MOST_SECONDS = 10.0
"""Heard at once; others want to be heard as well."""

_BEHIND_SECONDS = 120.0
"""Audio that may wait: the networks may have to be fetched first."""


class SpeakerStage(ClientStage):
    """Holds words back, as `waiting`, until it is known who says them; each line of one speaker becomes a segment."""

    def __init__(
        self,
        worker: DiarizationWorker,
        options: DiarizationOptions,
        client: str,
        emit: Emit,
        patient: bool,
        parked: Mapping[str, bytes],
    ) -> None:
        super().__init__("diarization", client, emit, patient)
        self._worker, self._options, self._parked = worker, options, parked.get(worker.name)
        self._state: Any = None
        self._offset = 0.0
        """Where this session begins on the clock of the diarization, in seconds."""
        self._audio: list[np.ndarray] = []
        self._samples = 0
        self._attribution = Attribution()
        self._line: list[Word] = []
        self._tentative: tuple[Word, ...] = ()
        self._shown: tuple[tuple[Word, ...], tuple[Word, ...]] = ((), ())
        self._held: list[Event] = []
        """What follows words that have no speaker yet."""
        self._flushing = self._crowded = False
        self._telling = asyncio.Lock()

    # --- in -----------------------------------------------------------------------------------------------------------

    async def hear(self, audio: np.ndarray) -> None:
        await self._wait_for_room(lambda: self._samples > _BEHIND_SECONDS / 2 * SAMPLE_RATE)
        if not self._over and self._samples <= _BEHIND_SECONDS * SAMPLE_RATE:  # beyond that it gives up
            self._audio.append(audio)
            self._samples += len(audio)
            self._changed.set()

    async def take(self, event: Event) -> None:
        if isinstance(event, TextUpdate):
            self._tentative = event.tentative
            self._attribution.say(event.committed)
            await self._tell(self._lines())
        elif isinstance(event, SegmentEnded):
            self._attribution.pause(event.words, event.kept)
            await self._tell(self._lines())
        elif isinstance(event, Flushed | Finished) and not self._over:
            self._held.append(event)
            self._flushing = True
            self._changed.set()
        else:
            await self._tell([event])

    # --- work ---------------------------------------------------------------------------------------------------------

    async def _work(self) -> Sequence[Event]:
        if self._state is None:
            await self._begin()
        await self._wait(lambda: self._flushing or self._samples >= _PORTION_SECONDS * SAMPLE_RATE)
        if not self._patient and self._samples > _BEHIND_SECONDS * SAMPLE_RATE:
            raise BehindError("diarization is too far behind")
        stopping, portion = self._stopping, self._portion()
        last = not self._audio and (self._flushing or stopping)
        settled = await self._worker.step(Heard(self._state, portion, last))
        horizon = settled.horizon - self._offset
        turns = tuple(
            SpeakerTurn(turn.start - self._offset, turn.end - self._offset, turn.speaker) for turn in settled.turns
        )
        events: list[Event] = [SpeakersHeard(turns, horizon)]
        if settled.crowded and not self._crowded:
            self._crowded = True
            events.append(StageNotice(self.name, "there are more speakers than can be told apart: some share a number"))
        self._attribution.hear(turns, math.inf if last else horizon)
        events += self._lines()
        if last:
            self._attribution.hear([], horizon)
            events += self._release()
            self._flushing, self._over = False, stopping
        return events

    async def _begin(self) -> None:
        parked = self._parked
        if parked is None:
            self._state = await self._worker.call(lambda diarizer: diarizer.begin(self._options))
            return
        self._state = await self._worker.call(lambda diarizer: diarizer.restore(parked))
        self._offset = (await self._worker.step(Heard(self._state, np.zeros(0, np.float32)))).horizon

    def _portion(self) -> np.ndarray:
        """The oldest audio that waits."""
        audio = np.concatenate([*self._audio, np.zeros(0, np.float32)])
        portion, rest = np.split(audio, [int(_MOST_SECONDS * SAMPLE_RATE)])
        self._audio = [rest] if len(rest) else []
        self._samples = len(rest)
        return portion

    def _fail(self, notice: StageNotice) -> Sequence[Event]:
        self._attribution.give_up()
        self._audio, self._samples, self._state = [], 0, None
        return [notice, *self._lines(), *self._release()]

    def park(self, parked: dict[str, bytes]) -> None:
        """So that speakers keep their numbers; a diarization that has failed begins anew."""
        parked.pop(self._worker.name, None)
        if self._state is not None:
            parked[self._worker.name] = self._state.to_bytes()

    # --- out ----------------------------------------------------------------------------------------------------------

    async def _tell(self, events: Sequence[Event]) -> None:
        """In the order in which they were made, whoever is told slowly."""
        async with self._telling:
            await super()._tell(events)

    def _lines(self) -> list[Event]:
        """Words that have found their speakers, and what still changes."""
        lines = self._attribution.settle()
        waiting = self._attribution.waiting
        events: list[Event] = []
        for line in lines:
            if line.words:
                self._line += line.words
                events.append(TextUpdate(line.words, self._tentative, waiting, line.speaker))
            if line.ended:
                events.append(SegmentEnded(tuple(self._line), speaker=line.speaker))
                self._line = []
        if not lines and (waiting, self._tentative) != self._shown:
            events.append(TextUpdate((), self._tentative, waiting))
        self._shown = waiting, self._tentative
        return events

    def _release(self) -> Sequence[Event]:
        held, self._held = self._held, []
        return held
