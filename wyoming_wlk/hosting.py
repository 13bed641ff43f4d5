"""The life of the speech model: loaded at the start, changed at run time, asleep while nobody speaks.

Whoever wants it awaits `borrow`; whether it has to be loaded first is not their business.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from wyoming_wlk.config import Config
from wyoming_wlk.engine.runner import release_memory
from wyoming_wlk.errors import WlkError
from wyoming_wlk.session import Speech

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelInfo:
    """What the server tells about its model, known before the model is loaded."""

    name: str
    languages: tuple[str, ...]


Load = Callable[[Config], Awaitable[tuple[Speech, ModelInfo]]]
"""Loads the model that a configuration names. Raises `ModelError`."""


class ModelHost:
    """The one model of the process. Used on one event loop."""

    def __init__(self, config: Config, info: ModelInfo, load: Load) -> None:
        """`info` is what `load` is expected to bring."""
        self.info = info
        self._config, self._load = config, load
        self._loading: asyncio.Task[Speech] | None = None
        self._speech: Speech | None = None
        self._asleep = False
        self._last_used = 0.0

    @property
    def speech(self) -> Speech | None:
        """What new sessions run on, while it is loaded."""
        return self._speech

    @property
    def ready(self) -> bool:
        """Whether clients are served: with the model loaded, or asleep and loaded by the first of them."""
        return self._speech is not None or self._asleep

    async def borrow(self) -> Speech:
        """The model for a new session; waits while it is being loaded. Raises `ModelError` where that fails."""
        self._last_used = asyncio.get_running_loop().time()
        if self._speech is not None:
            return self._speech
        if self._loading is None:
            self._loading = asyncio.create_task(self._wake())
            self._loading.add_done_callback(_retrieve)
        return await asyncio.shield(self._loading)

    async def _wake(self) -> Speech:
        try:
            self._speech, self.info = await self._load(self._config)
            return self._speech
        finally:
            self._loading = None

    async def change(self, config: Config, check: Callable[[Speech], None]) -> None:
        """Loads what another configuration names; sessions under way end with the model they began with.

        Raises `ModelError` where it cannot be had, and what `check` raises for it: the old one then stays.
        """
        old = await self.borrow()
        if config.model.model in (self._config.model.model, self.info.name):
            check(old)
            self._config = config
            return
        speech, info = await self._load(config)
        try:
            check(speech)
        except WlkError:
            speech.retire()
            raise
        self._config, self._speech, self.info = config, speech, info
        old.retire()

    async def sleep_when_idle(self, seconds: float) -> None:
        """Unloads the model whenever nobody has used it for so long; for ever, until cancelled."""
        loop = asyncio.get_running_loop()
        self._last_used = loop.time()
        while True:
            if self._speech is not None and self._speech.users:
                self._last_used = loop.time()
            wait = self._last_used + seconds - loop.time()
            if wait <= 0 and self._speech is not None:
                await self._sleep(self._speech)
            await asyncio.sleep(max(wait, min(1.0, seconds / 4)))

    async def _sleep(self, speech: Speech) -> None:
        self._speech, self._asleep = None, True
        await asyncio.to_thread(speech.engine.stop)
        del speech
        await asyncio.to_thread(_release)
        _LOG.info("nobody speaks: the model has left the memory until somebody does")

    async def close(self) -> None:
        """Ends the model; whoever still waits for it is told."""
        if self._speech is not None:
            await asyncio.to_thread(self._speech.engine.stop)
        if self._loading is not None:
            self._loading.cancel()
            with contextlib.suppress(asyncio.CancelledError, WlkError):
                await self._loading


def _retrieve(loading: asyncio.Task[Speech]) -> None:
    """Where nobody waits any more, a failure is the next client's to hear of."""
    if not loading.cancelled():
        loading.exception()


def _release() -> None:
    gc.collect()  # the engine and its thread know each other
    release_memory()
