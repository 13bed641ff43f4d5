"""The asyncio shell of one utterance: a bounded inbox, voice activity off the event loop, steps on the engine.

A frontend feeds audio and is told what happens through one callback. Nothing here knows a wire format or the model.
"""

from __future__ import annotations

import asyncio
import bisect
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from wyoming_wlk.engine.engine import Engine, StepDropped
from wyoming_wlk.engine.request import StepKind, StepRequest, StepResult
from wyoming_wlk.engine.statistics import SessionStatistics
from wyoming_wlk.events import Event, TextUpdate
from wyoming_wlk.stages.client import ClientStage, Emit
from wyoming_wlk.utterance import Utterance
from wyoming_wlk.vad import SileroVad, SpeechDetector, VadSettings, VadStream

SAMPLE_RATE = 16000
_INBOX_SECONDS = 10.0
"""Audio that may wait here; beyond it `feed` waits, and the client's socket with it."""

_LIVE_SECONDS = 2.0
"""A client that is no further ahead is live: it hears of the end of its speech at once, even while a step runs."""

_ARRIVALS = 1000
"""Pieces of audio whose arrival is remembered; words are committed within the last of them."""

GULP_SECONDS = 0.5
"""Waiting chunks are taken together up to about this length."""


@dataclass(eq=False)
class Speech:
    """What all sessions share: the engine, the voice activity network and the threads it runs on."""

    engine: Engine
    vad: SileroVad
    executor: Executor
    users: int = 0
    """Sessions that run on it."""
    retired: bool = False

    def retire(self) -> None:
        """No new sessions: the engine ends with the last one."""
        self.retired = True
        self._end_if_unused()

    def enter(self) -> None:
        self.users += 1

    def leave(self) -> None:
        self.users -= 1
        self._end_if_unused()

    def _end_if_unused(self) -> None:
        if self.retired and not self.users:
            self.engine.retire()


class Session:
    """Runs one utterance to its end."""

    def __init__(
        self,
        speech: Speech,
        utterance: Utterance,
        vad_settings: VadSettings,
        emit: Emit,
        statistics: SessionStatistics,
        lookahead: float = 0.5,
        live: bool = True,
        stages: Sequence[ClientStage] = (),
    ) -> None:
        """`emit` leads through the `stages`. `lookahead`: seconds of undecoded audio that are looked at while a step
        runs; with more, a pause that ends a segment could be over before its final is there. Clients that are `live`
        are listened to anyway."""
        self._lookahead, self._live = lookahead, live
        self._speech, self._utterance, self._emit, self._statistics = speech, utterance, emit, statistics
        self._stages = stages
        self._clock = 0
        self._arrivals: deque[tuple[float, float]] = deque(maxlen=_ARRIVALS)
        """End of a piece of audio in the stream's time, and when it came (monotonic), both in seconds."""
        self._stream, self._detector = VadStream(speech.vad), SpeechDetector(vad_settings)
        self._inbox: deque[np.ndarray | None] = deque()
        """Audio in order; None stands where a flush was asked for."""
        self._inbox_samples = 0
        self._stopping = self._ended = False
        self._stepped: float | None = None
        """When the last partial result came, where no final came since."""
        self._arrived, self._taken = asyncio.Event(), asyncio.Event()

    async def feed(self, audio: np.ndarray) -> None:
        """Takes audio (16 kHz mono float32); waits while the session is behind."""
        for start in range(0, len(audio), SAMPLE_RATE):  # minutes of audio at once would hold up other sessions
            while self._inbox_samples > _INBOX_SECONDS * SAMPLE_RATE and not self._ended:
                self._taken.clear()
                await self._taken.wait()
            if self._ended:
                return
            piece = audio[start : start + SAMPLE_RATE]
            self._inbox.append(piece)
            self._inbox_samples += len(piece)
            self._clock += len(piece)
            self._arrivals.append((self._clock / SAMPLE_RATE, time.monotonic()))
            self._statistics.audio.add(len(piece) / SAMPLE_RATE)
            self._arrived.set()
            for stage in self._stages:
                await stage.hear(piece)

    @property
    def lag(self) -> float:
        """Seconds of audio that no step has seen yet."""
        return self._inbox_samples / SAMPLE_RATE + self._utterance.backlog

    @property
    def _is_live(self) -> bool:
        return self._live and self.lag < _LIVE_SECONDS

    def flush(self) -> None:
        """Asks for the words of all audio fed so far, without waiting for a pause."""
        self._inbox.append(None)
        self._arrived.set()

    def stop(self) -> None:
        """The client has said everything; `run` ends when the transcript is out."""
        self._stopping = True
        self._arrived.set()

    async def run(self) -> None:
        """Until the utterance is finished. Raises what the engine or the callback raises; cancelling it is safe."""
        arrival: asyncio.Task[bool] | None = None
        step: asyncio.Task[StepResult] | None = None
        request: StepRequest | None = None
        self._speech.enter()
        stages = [asyncio.create_task(stage.run()) for stage in self._stages]
        try:
            while not self._utterance.finished:
                if (wanted := self._utterance.next_request()) is not None:
                    request, step = wanted, asyncio.create_task(self._speech.engine.step(wanted))
                hungry = step is None or self._utterance.backlog < self._lookahead or self._is_live
                if hungry and arrival is None:
                    arrival = asyncio.create_task(self._arrived.wait())
                tasks = [task for task in (arrival if hungry else None, step) if task is not None]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if step is not None and step.done():
                    finished, step, request = step, None, None
                    try:
                        self._apply(finished.result())
                    except StepDropped:
                        self._utterance.dropped()
                if hungry and arrival is not None and arrival.done():
                    arrival = None
                    await self._take()
                for event in self._utterance.events():
                    self._note_delay(event)
                    await self._emit(event)
            for stage, task in zip(self._stages, stages, strict=True):  # what comes out of one goes into the next
                stage.stop()
                await task
                stage.park(self._utterance.context.stages)
        finally:
            self._ended = True
            self._taken.set()
            self._speech.leave()
            if request is not None:
                request.cancelled = True
            for waiting in (arrival, step, *stages):
                if waiting is not None:
                    waiting.cancel()
            await asyncio.gather(*stages, return_exceptions=True)

    def _apply(self, result: StepResult) -> None:
        now, partial = time.monotonic(), result.kind is StepKind.PARTIAL
        if partial and self._stepped is not None:
            self._statistics.step_interval.add(now - self._stepped)
        self._stepped = now if partial else None
        self._utterance.apply(result)

    def _note_delay(self, event: Event) -> None:
        if not isinstance(event, TextUpdate):
            return
        now = time.monotonic()
        for word in event.committed:
            index = bisect.bisect_left(self._arrivals, (word.end, 0.0))
            if index < len(self._arrivals):
                self._statistics.word_delay.add(now - self._arrivals[index][1])

    async def _take(self) -> None:
        """Moves waiting audio into the utterance, through voice activity detection."""
        self._arrived.clear()
        pieces: list[np.ndarray] = []
        while self._inbox and sum(map(len, pieces)) < GULP_SECONDS * SAMPLE_RATE:
            if (piece := self._inbox[0]) is None and pieces:
                break
            self._inbox.popleft()
            if piece is None:
                self._utterance.flush()
                break
            pieces.append(piece)
        if pieces:
            gulp = np.concatenate(pieces)
            self._inbox_samples -= len(gulp)
            self._taken.set()
            loop = asyncio.get_running_loop()
            probabilities = await loop.run_in_executor(self._speech.executor, self._stream.probabilities, gulp)
            self._utterance.push(gulp, self._detector.push(probabilities), time.monotonic())
        if self._inbox:
            self._arrived.set()
        elif self._stopping:
            self._utterance.stop()
