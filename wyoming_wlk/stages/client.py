"""One client's part in a stage, beside its session. Knows no model.

A stage hears the client's audio, and the session's events pass through it on their way to the client. Its work goes on
in a task of its own: where it fails or falls behind the client is told, and the words go on without it.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from wyoming_wlk.errors import WlkError
from wyoming_wlk.events import Event, StageNotice

Emit = Callable[[Event], Awaitable[None]]

_LOG = logging.getLogger(__name__)


class BehindError(WlkError):
    """More waits for a stage than it can be expected to catch up with."""

    code = "behind"


class ClientStage(ABC):
    """One client's part. Made by `Stages`, run by the session."""

    def __init__(self, name: str, client: str, emit: Emit, patient: bool) -> None:
        """`emit` is told what comes out. `patient`: the audio is a recording and waits for a stage that is behind."""
        self.name = name
        self._client, self._emit, self._patient = client, emit, patient
        self._changed, self._room = asyncio.Event(), asyncio.Event()
        self._stopping = self._over = False

    async def hear(self, audio: np.ndarray) -> None:
        """float32 samples at 16 kHz, all that the session hears."""
        return  # those that work on words do not listen

    @abstractmethod
    async def take(self, event: Event) -> None:
        """An event on its way to the client; it is passed on, perhaps later and with more in it."""

    def stop(self) -> None:
        """The session has ended: no more audio and events."""
        self._stopping = True
        self._changed.set()

    async def run(self) -> None:
        """Until all is done that was there when `stop` was called. Raises what `emit` raises."""
        try:
            while not self._over:
                try:
                    events = await self._work()
                except Exception as err:
                    self._over = True
                    events = self._fail(self._notice(err))
                self._room.set()
                await self._tell(events)
        finally:
            self._over = True
            self._room.set()

    def park(self, parked: dict[str, bytes]) -> None:
        """After `run`: puts down what the client's next session should know, under a name of its own."""
        return  # most begin anew

    @abstractmethod
    async def _work(self) -> Sequence[Event]:
        """Waits for something to do, does it, and returns what came of it; sets `_over` at the end."""

    def _fail(self, notice: StageNotice) -> Sequence[Event]:
        """The last events of a stage that goes no further."""
        return [notice]

    async def _tell(self, events: Sequence[Event]) -> None:
        """What came of the stage's own work."""
        for event in events:
            await self._emit(event)

    async def _wait(self, enough: Callable[[], bool]) -> None:
        """Until there is enough to do, or nothing more will come."""
        while not (enough() or self._stopping):
            self._changed.clear()
            await self._changed.wait()

    async def _wait_for_room(self, full: Callable[[], bool]) -> None:
        """Holds a recording up while too much waits."""
        while self._patient and full() and not self._over:
            self._room.clear()
            await self._room.wait()

    def _notice(self, error: Exception) -> StageNotice:
        if isinstance(error, WlkError):
            _LOG.warning("%s: %s ends: %s", self._client, self.name, error)
            return StageNotice(self.name, str(error), failed=True)
        _LOG.error("%s: %s has failed", self._client, self.name, exc_info=error)
        return StageNotice(self.name, f"{self.name} has failed", failed=True)
