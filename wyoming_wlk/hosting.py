"""The life of the speech model: loaded at the start, changed at run time, asleep while nobody speaks.

Whoever wants it awaits `borrow`; whether it has to be loaded first is not their business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from wyoming_wlk.config import Config
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
        self._loading: asyncio.Task[None] | None = None
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
        """The model for a new session; waits while it is being loaded. Raises `ModelError` where that fails.

        To be entered before anything else happens on the loop: a model without users may end.
        """
        self._last_used = asyncio.get_running_loop().time()
        while (speech := self._speech) is None:  # again where it has left before those who waited had their turn
            if self._loading is None:
                self._loading = asyncio.create_task(self._wake())
                self._loading.add_done_callback(self._loaded)
            await asyncio.shield(self._loading)
        return speech

    async def _wake(self) -> None:
        self._speech, self.info = await self._load(self._config)
        self._last_used = asyncio.get_running_loop().time()

    def _loaded(self, loading: asyncio.Task[None]) -> None:
        self._loading = None
        if not loading.cancelled():
            loading.exception()  # where nobody waits any more, a failure is the next client's to hear of

    async def change(self, config: Config, check: Callable[[Speech], None]) -> None:
        """Loads what another configuration names; sessions under way end with the model they began with.

        Raises `ModelError` where it cannot be had, and what `check` raises for it: the old one then stays.
        """
        if config.model.model in (self._config.model.model, self.info.name):
            check(await self.borrow())
            self._config = config
            return
        await self._settled()  # memory may not hold two that are being loaded
        speech, info = await self._load(config)
        try:
            check(speech)
        except WlkError:
            speech.retire()
            raise
        await self._settled()  # the old one, which woke meanwhile, would take this one's place
        old, self._speech = self._speech, speech
        self._config, self.info, self._last_used = config, info, asyncio.get_running_loop().time()
        if old is not None:
            old.retire()

    async def _settled(self) -> None:
        """Until nothing is being loaded."""
        while self._loading is not None:
            await asyncio.wait({self._loading})

    async def sleep_when_idle(self, seconds: float) -> None:
        """Unloads the model whenever nobody has used it for so long; for ever, until cancelled."""
        loop = asyncio.get_running_loop()
        self._last_used = loop.time()
        while True:
            if self._speech is not None and self._speech.users:
                self._last_used = loop.time()
            if self._speech is not None and loop.time() - self._last_used >= seconds:
                await self._sleep(self._speech)
            await asyncio.sleep(min(1.0, seconds / 4))  # nobody tells when the last user leaves

    async def _sleep(self, speech: Speech) -> None:
        self._speech, self._asleep = None, True
        await asyncio.to_thread(speech.engine.stop)
        _LOG.info("nobody speaks: the model has left the memory until somebody does")

    async def close(self) -> None:
        """Ends the model; whoever still waits for it is told."""
        if self._speech is not None:
            await asyncio.to_thread(self._speech.engine.stop)
        if self._loading is not None:
            self._loading.cancel()
            with contextlib.suppress(asyncio.CancelledError, WlkError):
                await self._loading
