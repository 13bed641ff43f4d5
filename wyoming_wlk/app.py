"""Composition root: builds the parts, runs them, and takes them down gracefully."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, cast

from wyoming_wlk.catalogue import CATALOGUE, VAD, automatic_choices
from wyoming_wlk.config import Config
from wyoming_wlk.discovery import Announcer, service_name
from wyoming_wlk.engine.engine import DecodingSettings, Engine
from wyoming_wlk.engine.runner import DeviceSettings, cuda_memory_gb
from wyoming_wlk.errors import ModelError, WlkError
from wyoming_wlk.frontends.gate import Gate
from wyoming_wlk.frontends.http import HttpServer
from wyoming_wlk.frontends.listeners import Listeners
from wyoming_wlk.models import InstalledModel, ModelStore
from wyoming_wlk.services import ModelInfo, Services
from wyoming_wlk.session import Speech
from wyoming_wlk.vad import SileroVad

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
    speech: asyncio.Future[Speech] = loop.create_future()
    device = _device(config)
    services = Services(config, _expected_model(config, device), speech)
    gate = Gate(config)
    listeners, http = Listeners(services, gate), HttpServer(services, gate)
    executor = ThreadPoolExecutor(1, "vad")
    addresses = [address for uri in config.server.uri for address in await listeners.start(uri)]
    if config.http.http is not None:
        addresses += await http.start()
    loading = asyncio.create_task(_load(config, device, services, executor))
    announcing: asyncio.Task[None] | None = None
    ending = asyncio.create_task(_first(stop, listeners.stdio_closed))
    try:
        await asyncio.wait({loading, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            speech.set_result(await _loaded(loading, speech))
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
        if speech.done() and speech.exception() is None:
            await asyncio.to_thread(speech.result().engine.stop)
        else:
            speech.cancel()
        executor.shutdown(wait=False, cancel_futures=True)
        _LOG.info("goodbye")


async def _loaded(loading: asyncio.Task[Speech], speech: asyncio.Future[Speech]) -> Speech:
    """The loaded model. Where there is none, the clients that wait for it are told so before the server ends."""
    try:
        return await loading
    except WlkError as err:
        speech.set_exception(err)
        speech.exception()
        await asyncio.sleep(0.1)
        raise


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
    tcp = next((address for address in addresses if address.startswith("tcp://")), None)
    if config.server.zeroconf is None or tcp is None:
        return None
    host, _, port = tcp.removeprefix("tcp://").rpartition(":")
    name = service_name(config.server.zeroconf, config.model.data_dir)
    return asyncio.create_task(Announcer(name, host.strip("[]"), int(port)).run())


# --- the model --------------------------------------------------------------------------------------------------------


def _device(config: Config) -> str:
    if config.model.device != "auto":
        if config.model.device == "cuda" and not cuda_memory_gb():
            raise ModelError("--device cuda: torch finds no GPU here")
        return config.model.device
    return "cuda" if cuda_memory_gb() else "cpu"


def _choices(config: Config, device: str) -> tuple[list[str], str]:
    cores = config.model.threads or os.cpu_count() or 1
    return automatic_choices(config.decoding.language, device, cores, cuda_memory_gb())


def _expected_model(config: Config, device: str) -> ModelInfo:
    """What `describe` tells until the model is there."""
    name = config.model.model if config.model.model != "auto" else _choices(config, device)[0][0]
    if name in CATALOGUE:
        return ModelInfo(name, CATALOGUE[name].languages)
    return ModelInfo(Path(name).name, CATALOGUE["base"].languages)


def find_model(config: Config, device: str) -> InstalledModel:
    """The model that the options ask for, fetched if need be; blocking. Raises `ModelError`."""
    store = ModelStore(config.model.data_dir, config.model.offline)
    if config.model.model != "auto":
        return store.resolve(config.model.model)
    names, reason = _choices(config, device)
    model = store.resolve_first(names)
    _LOG.info("auto picked the model %s: %s; of %s the first that can be had", model.name, reason, ", ".join(names))
    return model


async def _load(config: Config, device: str, services: Services, executor: ThreadPoolExecutor) -> Speech:
    def load() -> tuple[Speech, ModelInfo]:
        model = find_model(config, device)
        began = time.monotonic()
        vad = SileroVad(ModelStore(config.model.data_dir, config.model.offline).fetch(VAD) / "silero_vad.onnx")
        # One core stays free: a pass waits for its slowest thread, and one that shares a core with another program
        # makes every pass many times slower.
        threads = config.model.threads or max(1, (os.cpu_count() or 1) - 1)
        on = DeviceSettings(device, config.model.compute_type, threads, config.model.slots)
        how = DecodingSettings(
            beam_size=config.decoding.beam_size,
            temperatures=config.decoding.temperatures,
        )
        engine = Engine.load(model.folder, model.tokenizer, on, how)
        _LOG.info("loaded %s on %s in %.1f s", model.name, device, time.monotonic() - began)
        return Speech(engine, vad, executor), ModelInfo(model.name, engine.languages)

    speech, services.model = await _in_thread(load)
    return speech
