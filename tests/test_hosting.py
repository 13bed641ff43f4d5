"""The model's life: loaded once for all who wait, changed, asleep and woken. With engines that are none."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import cast

import pytest
from conftest import Clip, start_engine
from serving import answer, say, transcript
from wyoming.client import AsyncClient
from wyoming.info import Describe

from wyoming_wlk.config import Config, HttpConfig, ModelConfig
from wyoming_wlk.engine.context import ClientOptions
from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.engine.model import Whisper
from wyoming_wlk.errors import ModelError, RequestError
from wyoming_wlk.frontends.gate import Gate
from wyoming_wlk.frontends.listeners import Listeners
from wyoming_wlk.hosting import ModelHost, ModelInfo
from wyoming_wlk.models import InstalledModel
from wyoming_wlk.services import Services
from wyoming_wlk.session import Speech
from wyoming_wlk.vad import SileroVad


class Fake:
    """An engine that only knows whether it runs."""

    def __init__(self) -> None:
        self.running = True

    def check(self, options: ClientOptions) -> None:
        """Serves everybody."""

    def stop(self) -> None:
        self.running = False

    retire = stop


class Shelf:
    """Models to load, and how often that was done; a name that says `broken` cannot be."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.engines: list[Fake] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def load(self, config: Config) -> tuple[Speech, ModelInfo]:
        await self.gate.wait()
        self.loaded.append(config.model.model)
        if config.model.model == "broken":
            raise ModelError("broken")
        self.engines.append(Fake())
        speech = Speech(cast(Engine, self.engines[-1]), cast(SileroVad, None), cast(ThreadPoolExecutor, None))
        return speech, ModelInfo(config.model.model, ("en",))


def named(model: str) -> Config:
    return Config(model=ModelConfig(model=model))


def host(shelf: Shelf, model: str = "one") -> ModelHost:
    return ModelHost(named(model), ModelInfo(model, ("en",)), shelf.load)


async def test_loaded_once_for_all_who_wait() -> None:
    """Also where one of them does not wait for the end."""
    shelf = Shelf()
    shelf.gate.clear()
    model = host(shelf)
    assert not model.ready
    waiting = [asyncio.create_task(model.borrow()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    shelf.gate.set()
    assert await waiting[1] is await waiting[2] is await model.borrow()
    assert model.ready and shelf.loaded == ["one"]


async def test_what_cannot_be_loaded() -> None:
    """Everybody who waits hears why, and the next one tries again."""
    shelf = Shelf()
    model = host(shelf, "broken")
    for _ in range(2):
        results = await asyncio.gather(model.borrow(), model.borrow(), return_exceptions=True)
        assert [type(result) for result in results] == [ModelError, ModelError]
    assert shelf.loaded == ["broken"] * 2 and not model.ready


async def test_changes() -> None:
    """The old model ends once nobody uses it; what cannot be had, or is not wanted after all, changes nothing."""
    shelf = Shelf()
    model = host(shelf)
    old = await model.borrow()
    old.enter()
    await model.change(named("two"), lambda speech: None)
    assert model.info.name == "two" and shelf.engines[0].running
    old.leave()
    assert not shelf.engines[0].running

    def refuse(speech: Speech) -> None:
        raise RequestError("not this one")

    for wanted, error in (("broken", ModelError), ("three", RequestError)):
        with pytest.raises(error):
            await model.change(named(wanted), refuse)
    assert model.info.name == "two" and shelf.engines[1].running and not shelf.engines[2].running
    await model.change(named("two"), lambda speech: None)
    assert shelf.loaded == ["one", "two", "broken", "three"]


async def test_sleep_and_wake() -> None:
    """An unused model ends, is still ready, and is loaded again for the next; a used one stays."""
    shelf = Shelf()
    model = host(shelf)
    speech = await model.borrow()
    speech.enter()
    sleeping = asyncio.create_task(model.sleep_when_idle(0.05))
    await asyncio.sleep(0.3)
    assert model.speech is speech
    speech.leave()
    while model.speech is not None:
        await asyncio.sleep(0.01)
    assert model.ready
    await asyncio.gather(model.borrow(), model.borrow())
    assert shelf.loaded == ["one", "one"] and shelf.engines[1].running
    while shelf.engines[0].running:
        await asyncio.sleep(0.01)
    sleeping.cancel()


async def test_a_model_that_has_just_been_used_stays() -> None:
    """The time without clients counts from the end of the last one, and from the end of the loading."""
    shelf, loop = Shelf(), asyncio.get_running_loop()
    model = host(shelf)

    async def awake() -> float:
        began = loop.time()
        while model.speech is not None:
            await asyncio.sleep(0.01)
        return loop.time() - began

    speech = await model.borrow()
    speech.enter()
    sleeping = asyncio.create_task(model.sleep_when_idle(0.4))
    await asyncio.sleep(0.7)
    speech.leave()
    assert await awake() > 0.25
    shelf.gate.clear()
    waking = asyncio.create_task(model.borrow())
    await asyncio.sleep(0.6)
    shelf.gate.set()
    await waking
    assert await awake() > 0.25
    sleeping.cancel()


async def asleep(shelf: Shelf) -> ModelHost:
    model = host(shelf)
    await model.borrow()
    sleeping = asyncio.create_task(model.sleep_when_idle(0.01))
    while model.speech is not None:
        await asyncio.sleep(0.01)
    sleeping.cancel()
    shelf.loaded.clear()
    return model


async def test_another_model_instead_of_one_that_sleeps() -> None:
    """The old one is not loaded for it, and need not be there any more."""
    shelf = Shelf()
    model = await asleep(shelf)
    await model.change(named("two"), lambda speech: None)
    assert shelf.loaded == ["two"] and (await model.borrow()).engine is shelf.engines[1]


async def test_a_change_while_the_old_model_wakes() -> None:
    """Whoever waits gets a model that runs, and none is left behind running."""
    shelf = Shelf()
    model = await asleep(shelf)
    wake = shelf.gate
    shelf.gate = asyncio.Event()
    changing = asyncio.create_task(model.change(named("two"), lambda speech: None))
    await asyncio.sleep(0.01)
    change, shelf.gate = shelf.gate, wake
    wake.clear()

    async def use() -> bool:
        speech = await model.borrow()
        speech.enter()
        await asyncio.sleep(0.01)
        running = cast(Fake, speech.engine).running
        speech.leave()
        return running

    using = asyncio.create_task(use())
    await asyncio.sleep(0.01)
    change.set()
    await asyncio.sleep(0.01)
    wake.set()
    await changing
    assert await using and model.info.name == "two" and model.speech is not None
    assert [engine for engine in shelf.engines if engine.running] == [model.speech.engine]


async def test_a_change_that_nobody_waits_for() -> None:
    """A model that was being loaded for somebody who has left is still the one that serves."""
    shelf = Shelf()
    services = Services(named("one"), ModelInfo("one", ("en",)), shelf.load)
    await services.host.borrow()
    shelf.gate.clear()
    changing = asyncio.create_task(services.change(None, "two"))
    await asyncio.sleep(0.01)
    changing.cancel()
    await asyncio.sleep(0.01)
    shelf.gate.set()
    async with asyncio.timeout(5):
        while services.model.name != "two":
            await asyncio.sleep(0.01)
    assert services.config.model.model == "two" and not shelf.engines[0].running


async def test_an_end_while_loading() -> None:
    """Who waits is told that it is over."""
    shelf = Shelf()
    shelf.gate.clear()
    model = host(shelf)
    waiting = asyncio.create_task(model.borrow())
    await asyncio.sleep(0)
    await model.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@asynccontextmanager
async def sleepy(tiny_en: InstalledModel, vad: SileroVad) -> AsyncIterator[tuple[Services, str]]:
    """A server on a Wyoming port whose model sleeps after a tenth of a second."""
    config = replace(Config(http=HttpConfig(http=None)), model=ModelConfig(unload_after=0.1))
    with ThreadPoolExecutor(1) as executor:

        async def load(config: Config) -> tuple[Speech, ModelInfo]:
            engine = await asyncio.to_thread(start_engine, tiny_en)
            return Speech(engine, vad, executor), ModelInfo("tiny.en", ("en",))

        services = Services(config, ModelInfo("tiny.en", ("en",)), load)
        listeners = Listeners(services, Gate(config))
        (address,) = await listeners.start("tcp://127.0.0.1:0")
        await services.host.borrow()
        sleeping = asyncio.create_task(services.host.sleep_when_idle(0.1))
        try:
            yield services, address
        finally:
            sleeping.cancel()
            await listeners.stop(1.0)
            await services.host.close()


def models() -> int:
    """How many there are in memory."""
    gc.collect()
    return sum(type(found) is Whisper for found in gc.get_objects())


async def test_a_command_wakes_the_model(tiny_en: InstalledModel, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """With the real model: describe is answered while it sleeps, and the first audio is heard from its beginning. A
    client that stays connected does not keep the model in memory."""
    before = models()
    async with sleepy(tiny_en, vad) as (services, address), AsyncClient.from_uri(address) as client:
        for _ in range(2):
            async with asyncio.timeout(20):
                while services.host.speech is not None:
                    await asyncio.sleep(0.02)
            await client.write_event(Describe().event())
            assert (await answer(client, "info"))[-1].type == "info"
            assert services.host.speech is None
            async with asyncio.timeout(10):
                while models() > before:  # the engine's thread ends behind the sleep's beginning
                    await asyncio.sleep(0.05)
            await say(client, clips["turn_on_the_lamp"].pcm)
            assert "turn on the lamp" in transcript(await answer(client)).lower()
