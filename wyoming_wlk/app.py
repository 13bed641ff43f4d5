"""Composition root: builds the parts, runs them, and takes them down gracefully."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from wyoming_wlk.config import Config, HomeConfig
from wyoming_wlk.discovery import Announcer, services_at
from wyoming_wlk.errors import WlkError
from wyoming_wlk.frontends.gate import Gate
from wyoming_wlk.frontends.http import HttpServer
from wyoming_wlk.frontends.listeners import Listeners
from wyoming_wlk.home_assistant import SUPERVISOR, follow_names, websocket_address
from wyoming_wlk.hosting import ModelInfo
from wyoming_wlk.loading import expected_model, load_speech
from wyoming_wlk.services import Services
from wyoming_wlk.session import Speech
from wyoming_wlk.threads import DaemonThread

_LOG = logging.getLogger(__name__)
_LAST_WORDS_SECONDS = 0.1
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
    executor, loader = ThreadPoolExecutor(1, "vad"), DaemonThread("loading")

    async def load(config: Config) -> tuple[Speech, ModelInfo]:
        return await loop.run_in_executor(loader, load_speech, config, executor)

    services = Services(config, expected_model(config), load)
    gate = Gate(config)
    listeners, http = Listeners(services, gate), HttpServer(services, gate)
    addresses = [address for uri in config.server.uri for address in await listeners.start(uri)]
    if config.http.http is not None:
        addresses += await http.start()
    loading = asyncio.create_task(services.host.borrow())
    chores: list[asyncio.Task[None]] = []
    ending = asyncio.create_task(_first(stop, listeners.stdio_closed))
    try:
        await asyncio.wait({loading, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            await _first_load(loading)
            await services.stages.load(services.stages.usual(services.defaults))
            _LOG.info("Ready: model %s on %s", services.model.name, ", ".join(addresses))
            ready(addresses)
            chores += _chores(services, addresses)
            await ending
            _LOG.info("stopping")
    finally:
        ending.cancel()
        for chore in chores:
            chore.cancel()
        for outcome in await asyncio.gather(*chores, return_exceptions=True):
            if isinstance(outcome, Exception):
                _LOG.error("what went on beside serving has failed", exc_info=outcome)
        await asyncio.gather(listeners.stop(_GRACE_SECONDS), http.stop(_GRACE_SECONDS))
        loading.cancel()
        await services.host.close()
        services.stages.close()
        executor.shutdown(wait=False, cancel_futures=True)
        loader.shutdown(wait=False)
        _LOG.info("goodbye")


async def _first(*events: asyncio.Event) -> None:
    tasks = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def _first_load(loading: asyncio.Task[Speech]) -> None:
    """Raises `ModelError`, once clients that waited for the model have been told."""
    try:
        await loading
    except WlkError:
        await asyncio.sleep(_LAST_WORDS_SECONDS)
        raise


def _chores(services: Services, addresses: list[str]) -> Iterator[asyncio.Task[None]]:
    """What goes on beside serving."""
    config = services.config
    if (announcing := _announce(config, addresses)) is not None:
        yield announcing
    if config.model.unload_after is not None:
        yield asyncio.create_task(services.host.sleep_when_idle(config.model.unload_after))
    if (home := _home(config.home)) is not None:
        yield asyncio.create_task(follow_names(*home, services.home.learn))


def _home(config: HomeConfig) -> tuple[str, str] | None:
    """Address and token of the Home Assistant whose names are wanted."""
    if config.home_assistant not in (None, "on"):
        return websocket_address(config.home_assistant), config.home_assistant_token
    supervisor = os.environ.get("SUPERVISOR_TOKEN")
    return (SUPERVISOR, supervisor) if config.home_assistant == "on" and supervisor else None


def _announce(config: Config, addresses: list[str]) -> asyncio.Task[None] | None:
    if config.server.zeroconf is None:
        return None
    announced = services_at(addresses, config.server.zeroconf, config.model.data_dir)
    return asyncio.create_task(Announcer(announced).run()) if announced else None
