"""HTTP connections without a request: who only opens them, or never ends its headers, is shown out.

A gate counts requests; connections as such are the HTTP library's, which keeps silent ones for as long as they like.
"""

from __future__ import annotations

import asyncio
from asyncio import BaseTransport
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from wyoming_wlk.config import LimitsConfig

_LOOK_SECONDS = 1.0


class Doorkeeper:
    """Watches one server's connections."""

    def __init__(self, limits: LimitsConfig) -> None:
        self._limits = limits
        self._busy: set[BaseTransport | None] = set()
        self._idle: dict[BaseTransport, float] = {}
        """Connections without a request, by when they were first seen so (the loop's time), the oldest first."""

    @contextmanager
    def serving(self, transport: BaseTransport | None) -> Iterator[None]:
        """While a request is answered."""
        self._busy.add(transport)
        try:
            yield
        finally:
            self._busy.discard(transport)

    def look(self, connections: Iterable[BaseTransport | None], now: float) -> list[BaseTransport]:
        """Who has to go: idle for longer than a message may take, or idle where there are too many."""
        present = [transport for transport in connections if transport is not None]
        idle = dict.fromkeys((transport for transport in present if transport not in self._busy), now)
        known = {transport: since for transport, since in self._idle.items() if transport in idle}
        self._idle = known | {transport: since for transport, since in idle.items() if transport not in known}
        surplus = max(0, len(present) - self._limits.max_connections)
        late = [transport for transport, since in self._idle.items() if now - since > self._limits.frame_timeout]
        return list(self._idle)[: max(surplus, len(late))]


async def keep(doorkeeper: Doorkeeper, connections: Callable[[], Iterable[BaseTransport | None]]) -> None:
    """Looks every second, for ever."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        for transport in doorkeeper.look(connections(), loop.time()):
            if isinstance(transport, asyncio.Transport):
                transport.abort()
