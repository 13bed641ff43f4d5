"""A stage's model on its thread: work of many clients in batches, and what fails."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Sequence

import pytest

from wyoming_wlk.errors import ModelError
from wyoming_wlk.stages.worker import Worker

Doubling = Worker["Doubler", int, int]


class Doubler:
    """Doubles numbers; negative ones fail alone, and zero takes its batch down."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads = {threading.current_thread()}
        self.gate = threading.Event()
        self.gate.set()

    def step(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(numbers))
        self.threads.add(threading.current_thread())
        self.gate.wait(10)
        if 0 in numbers:
            raise ZeroDivisionError
        return [ValueError(str(number)) if number < 0 else 2 * number for number in numbers]


@pytest.fixture
async def worker() -> AsyncIterator[Doubling]:
    worker = Worker("doubling", Doubler, Doubler.step)
    yield worker
    worker.close()


async def test_what_waits_is_the_next_batch(worker: Doubling) -> None:
    """In the order of coming, all on one thread; each gets its own result or error, who has left costs nothing."""
    doubler = await worker.call(lambda model: model)
    doubler.gate.clear()
    first = asyncio.create_task(worker.step(1))
    while not doubler.batches:
        await asyncio.sleep(0.001)
    waiting = [asyncio.create_task(worker.step(number)) for number in (2, -3, 4, 5)]
    await asyncio.sleep(0)
    waiting[3].cancel()
    await asyncio.sleep(0)
    doubler.gate.set()
    assert await first == 2
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert results[0] == 4 and isinstance(results[1], ValueError) and results[2] == 8
    assert isinstance(results[3], asyncio.CancelledError)
    assert doubler.batches == [[1], [2, -3, 4]]
    assert len(doubler.threads) == 1 and doubler.threads != {threading.current_thread()}


async def test_batches_are_bounded(worker: Doubling) -> None:
    """A crowd is served in several."""
    assert await asyncio.gather(*(worker.step(number) for number in range(1, 41))) == list(range(2, 82, 2))
    doubler = await worker.call(lambda model: model)
    assert max(map(len, doubler.batches)) == 16


async def test_work_that_fails(worker: Doubling) -> None:
    """All of its batch hear of it, and the next batch is done."""
    outcomes = await asyncio.gather(*(worker.step(number) for number in (1, 0)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ZeroDivisionError, ZeroDivisionError]
    with pytest.raises(ValueError, match="-1"):
        await worker.step(-1)
    assert await worker.step(1) == 2


@pytest.mark.parametrize("kind", [StopIteration, SystemExit, KeyboardInterrupt])
async def test_a_panic(worker: Doubling, kind: type[BaseException]) -> None:
    """What is no ordinary error ends the work it comes from, not the worker, and nobody waits for ever."""

    def panic(_: Doubler) -> None:
        raise kind

    with pytest.raises(RuntimeError, match=kind.__name__):
        await worker.call(panic)
    assert await worker.step(1) == 2


async def test_work_aside(worker: Doubling) -> None:
    """A download does not hold up the model."""
    there = threading.Event()
    fetching = asyncio.create_task(worker.aside(lambda: there.wait(10)))
    await asyncio.sleep(0)
    assert await worker.step(1) == 2
    there.set()
    assert await fetching


async def test_a_closed_worker() -> None:
    """Whoever comes too late is told, and does not wait."""
    worker = Worker("doubling", Doubler, Doubler.step)
    worker.close()
    with pytest.raises(RuntimeError, match="no more work"):
        await worker.step(1)


async def test_a_model_that_cannot_be_loaded() -> None:
    """Who asks hears why, and the next to ask tries again."""
    there = False

    def load() -> Doubler:
        if not there:
            raise ModelError("not yet")
        return Doubler()

    worker = Worker("doubling", load, Doubler.step)
    for wish in (worker.step(1), worker.call(lambda model: model.step([1]))):
        with pytest.raises(ModelError, match="not yet"):
            await wish
    there = True
    assert await worker.step(1) == 2
    worker.close()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux alone")
async def test_the_words_come_first(worker: Doubling) -> None:
    """A stage's thread gives way to the others of the process."""

    def niceness(_: object = None) -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    assert await worker.call(niceness) > niceness()
