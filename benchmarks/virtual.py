"""Virtual time: what a program waits for is skipped, what it computes takes as long as it takes.

`run` is `asyncio.run` with a clock that jumps to the next timer whenever the loop would sleep and nothing is in flight.
Pacing, deadlines and delays therefore mean the same as in real time, and an hour of speech takes as long as its
computation. `time.monotonic`, `time.perf_counter` and the loop's own clock are virtual while it runs; `time.time`, and
threads that wait with a timeout of their own, are not. Programs that run beside this one are not known to it: servers
and clients must be in one process, and what they send each other over loopback counts as arriving at once.

In flight is what the loop gave to executors (`run_in_executor`, `to_thread`), the steps of an engine, and what else
is told to `Clock.until_done`.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, TypeVar, TypeVarTuple
from unittest.mock import patch

from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.engine.request import StepRequest, StepResult

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_real = time.monotonic


class Clock:
    """Real time and what was skipped of it. Read on any thread, moved on the event loop's."""

    def __init__(self) -> None:
        self.skipped = 0.0
        """Seconds."""
        self._in_flight = 0

    def now(self) -> float:
        return _real() + self.skipped

    @property
    def busy(self) -> bool:
        """Whether something is in flight."""
        return self._in_flight > 0

    def skip(self, seconds: float) -> None:
        self.skipped += seconds

    def begin(self) -> None:
        """One thing more is in flight. Called on the event loop, as is `end`."""
        self._in_flight += 1

    def end(self) -> None:
        self._in_flight -= 1

    async def until_done(self, work: Coroutine[Any, Any, T]) -> T:
        """Awaits `work`, which is in flight until it ends by itself, even where nobody waits for it any more."""
        task = asyncio.create_task(work)
        self.begin()
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.end()
        if not task.cancelled():
            task.exception()  # somebody has looked at it, should whoever waited have left


class _Selector(selectors.BaseSelector):
    """Skips the time in which nothing could happen."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._real = clock, selectors.DefaultSelector()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0 or self._clock.busy:
            return self._real.select(timeout)
        if not (ready := self._real.select(0)):
            self._clock.skip(timeout)
        return ready

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def close(self) -> None:
        self._real.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()


class _Loop(asyncio.SelectorEventLoop):
    """Counts what it gives to executors. Has a default executor of its own: asyncio ends its with a timeout, and time
    would jump to it."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(_Selector(clock))
        self._virtual, self._threads = clock, ThreadPoolExecutor()

    def time(self) -> float:
        return self._virtual.now()

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        work = (executor or self._threads).submit(func, *args)
        self._virtual.begin()
        result = asyncio.wrap_future(work, loop=self)
        # Added after the future's own callback: by the time this one is called on the loop the result is there.
        work.add_done_callback(lambda _: self.tell(self._virtual.end))
        return result

    def tell(self, what: Callable[[], None]) -> None:
        """Calls `what` on the loop; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.call_soon_threadsafe(what)

    def close(self) -> None:
        self._threads.shutdown()
        super().close()


def run(main: Callable[[Clock], Coroutine[Any, Any, T]]) -> T:
    """Runs `main`, which is given the clock, to its end in virtual time."""
    clock, step, turn, first = Clock(), Engine.step, Engine._turn, Engine._begin
    loop = _Loop(clock)

    def counted(engine: Engine, request: StepRequest) -> Coroutine[Any, Any, StepResult]:
        return clock.until_done(step(engine, request))

    def whole(part: Callable[Concatenate[Engine, P], T]) -> Callable[Concatenate[Engine, P], T]:
        """The engine answers in the middle of a pass: what is left of it, its statistics above all, is work as well.
        The loop hears of its beginning before the answer, and of its end after that."""

        def run(engine: Engine, *args: P.args, **kwargs: P.kwargs) -> T:
            loop.tell(clock.begin)
            try:
                return part(engine, *args, **kwargs)
            finally:
                loop.tell(clock.end)

        return run

    with (
        patch.object(time, "monotonic", clock.now),
        patch.object(time, "perf_counter", clock.now),
        patch.object(Engine, "step", counted),
        patch.object(Engine, "_turn", whole(turn)),
        patch.object(Engine, "_begin", whole(first)),
        asyncio.Runner(loop_factory=lambda: loop) as runner,
    ):
        return runner.run(main(clock))
