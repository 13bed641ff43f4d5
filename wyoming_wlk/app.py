"""Composition root: builds the parts, runs them, and takes them down gracefully."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

from wyoming_wlk.config import Config
from wyoming_wlk.discovery import Announcer, services_at
from wyoming_wlk.frontends.gate import Gate
from wyoming_wlk.frontends.http import HttpServer
from wyoming_wlk.frontends.listeners import Listeners
from wyoming_wlk.loading import expected_model, load_speech
from wyoming_wlk.services import ModelInfo, Services
from wyoming_wlk.session import Speech

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_GRACE_SECONDS = 6.0
"""For turns in flight when the server stops; the whole way down stays under Home Assistant's ten seconds."""


async def serve(config: Config, ready: Callable[[list[str]], None] = lambda addresses: None) -> None:
    """Serves until SIGTERM, SIGINT or the end of stdio. `ready` is told the addresses once the model is loaded.

    Raises `ConfigError` for an address that cannot be opened and `ModelError` where no model can be loaded.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    executor = ThreadPoolExecutor(1, "vad")

    async def load(config: Config) -> tuple[Speech, ModelInfo]:
        return await _in_thread(lambda: load_speech(config, executor))

    services = Services(config, expected_model(config), load)
    gate = Gate(config)
    listeners, http = Listeners(services, gate), HttpServer(services, gate)
    addresses = [address for uri in config.server.uri for address in await listeners.start(uri)]
    if config.http.http is not None:
        addresses += await http.start()
    loading = asyncio.create_task(services.load())
    announcing: asyncio.Task[None] | None = None
    ending = asyncio.create_task(_first(stop, listeners.stdio_closed))
    try:
        await asyncio.wait({loading, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            await loading
            _LOG.info("Ready: model %s on %s", services.model.name, ", ".join(addresses))
            ready(addresses)
            announcing = _announce(config, addresses)
            await ending
            _LOG.info("stopping")
    finally:
        ending.cancel()
        if announcing is not None:
            announcing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await announcing
        await asyncio.gather(listeners.stop(_GRACE_SECONDS), http.stop(_GRACE_SECONDS))
        loading.cancel()
        await services.close()
        executor.shutdown(wait=False, cancel_futures=True)
        _LOG.info("goodbye")


async def _in_thread(work: Callable[[], T]) -> T:
    """Like `asyncio.to_thread`, on a thread that does not keep the process alive: a download may take minutes."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast(T, result))

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as err:
            error = err
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="loading", daemon=True).start()
    return await future


async def _first(*events: asyncio.Event) -> None:
    tasks = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _announce(config: Config, addresses: list[str]) -> asyncio.Task[None] | None:
    if config.server.zeroconf is None:
        return None
    announced = services_at(addresses, config.server.zeroconf, config.model.data_dir)
    return asyncio.create_task(Announcer(announced).run()) if announced else None
