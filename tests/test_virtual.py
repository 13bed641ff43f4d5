"""The benchmarks' virtual time: waiting is skipped, work is not."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest

from benchmarks import virtual
from wyoming_wlk.engine.context import SAMPLE_RATE, ClientOptions, ContextStore, DecoderContext
from wyoming_wlk.engine.engine import Engine, StepDropped
from wyoming_wlk.engine.request import StepKind, StepRequest

HOUR = 3600.0


def test_an_hour_of_sleep_is_skipped() -> None:
    """All clocks of the program go on by the time that was slept, which is skipped and not waited for."""

    async def main(clock: virtual.Clock) -> None:
        began = time.monotonic(), time.perf_counter(), asyncio.get_running_loop().time()
        await asyncio.sleep(HOUR)
        ended = time.monotonic(), time.perf_counter(), asyncio.get_running_loop().time()
        for before, after in zip(began, ended, strict=True):
            assert HOUR <= after - before < HOUR + 60
        assert clock.skipped == pytest.approx(HOUR, abs=1)

    virtual.run(main)


def test_real_time_returns() -> None:
    """Whatever way the run ends, the clocks are the real ones again."""
    monotonic, perf_counter, step = time.monotonic, time.perf_counter, Engine.step

    async def main(clock: virtual.Clock) -> None:
        await asyncio.sleep(HOUR)
        raise LookupError

    with pytest.raises(LookupError):
        virtual.run(main)
    assert (time.monotonic, time.perf_counter, Engine.step) == (monotonic, perf_counter, step)


def test_timers_keep_their_order() -> None:
    """Sleepers wake in the order of their times, each at its own."""

    async def main(clock: virtual.Clock) -> list[int]:
        woken: list[int] = []
        began = time.monotonic()

        async def sleep(seconds: int) -> None:
            await asyncio.sleep(seconds)
            woken.append(round(time.monotonic() - began))

        await asyncio.gather(*(sleep(seconds) for seconds in (300, 7200, 1, 60)))
        return woken

    assert virtual.run(main) == [1, 60, 300, 7200]


def test_time_stands_by_work_on_a_thread() -> None:
    """While something runs on an executor a timer an hour away does not come; once it is done, it does."""

    async def main(clock: virtual.Clock) -> None:
        hour = asyncio.create_task(asyncio.sleep(HOUR))
        await asyncio.to_thread(threading.Event().wait, 0.2)
        await asyncio.get_running_loop().run_in_executor(None, threading.Event().wait, 0.2)
        assert not hour.done() and not clock.skipped
        await hour
        assert clock.skipped > HOUR - 60

    virtual.run(main)


def test_work_that_nobody_waits_for_is_in_flight() -> None:
    """A thread goes on when whoever awaited it has left: until it is done, nothing is skipped."""
    release, skipped = threading.Event(), []

    async def main(clock: virtual.Clock) -> None:
        def work() -> None:
            release.wait()
            skipped.append(clock.skipped)

        waiting = asyncio.create_task(asyncio.to_thread(work))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        threading.Timer(0.2, release.set).start()
        await asyncio.sleep(HOUR)

    virtual.run(main)
    assert skipped == [0.0]


def test_results_come_before_the_next_timer() -> None:
    """A result that a thread has brought is there at the time at which it came, however soon the next timer is."""

    async def main(clock: virtual.Clock) -> None:
        for _ in range(200):
            timer = asyncio.create_task(asyncio.sleep(HOUR))
            await asyncio.to_thread(threading.Event().wait, 0.001)
            assert not timer.done()
            timer.cancel()
        assert not clock.skipped

    virtual.run(main)


async def _blocked(release: asyncio.Event) -> None:
    await release.wait()
    raise StepDropped


def test_a_step_is_in_flight_until_the_engine_has_answered() -> None:
    """Whoever cancels a step does not wait for the engine, which still works on it; its late error is nobody's."""

    async def main(clock: virtual.Clock) -> None:
        release = asyncio.Event()
        step = asyncio.create_task(clock.until_done(_blocked(release)))
        await asyncio.sleep(0)
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
        assert clock.busy
        release.set()
        await asyncio.sleep(1)
        assert not clock.busy

    virtual.run(main)


def test_steps_of_an_engine_take_real_time(engine: Engine) -> None:
    """A timer that is an hour away does not overtake a step of the model."""

    async def main(clock: virtual.Clock) -> None:
        context = DecoderContext(ClientOptions(language="en"), np.zeros(SAMPLE_RATE, np.float32))
        request = StepRequest(context, StepKind.FINAL, time.monotonic(), "alice")
        hour = asyncio.create_task(asyncio.sleep(HOUR))
        result = await engine.step(request)
        assert result.kind is StepKind.FINAL
        assert not hour.done() and not clock.skipped
        hour.cancel()

    virtual.run(main)


def test_nothing_is_skipped_in_a_turn_of_the_engine(engine: Engine) -> None:
    """What the engine notes of a step, it notes after its answer: time does not go on before it has."""
    before = engine.statistics.decoder.total + engine.statistics.step.total

    async def main(clock: virtual.Clock) -> None:
        for _ in range(3):
            context = DecoderContext(ClientOptions(language="en"), np.zeros(SAMPLE_RATE, np.float32))
            await engine.step(StepRequest(context, StepKind.FINAL, time.monotonic(), "alice"))
            await asyncio.sleep(HOUR)
        assert clock.skipped > 3 * HOUR - 60

    virtual.run(main)
    assert engine.statistics.decoder.total + engine.statistics.step.total - before < HOUR / 2


def test_contexts_expire_in_virtual_time() -> None:
    """What is kept for a client is dropped after its time, though that was skipped."""

    async def main(clock: virtual.Clock) -> None:
        store = ContextStore(idle_seconds=HOUR / 2)
        store.checkout("alice")
        store.give_back("alice", DecoderContext(ClientOptions()))
        await asyncio.sleep(HOUR)
        assert store.checkout("alice") is None

    virtual.run(main)


def test_sockets_are_served_before_time_goes_on() -> None:
    """A client and a server in one process exchange a message while a timer an hour away stays there."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()
        await writer.wait_closed()

    async def main(clock: virtual.Clock) -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        hour = asyncio.create_task(asyncio.sleep(HOUR))
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
            assert not hour.done()
            writer.close()
            await writer.wait_closed()
        hour.cancel()

    virtual.run(main)
