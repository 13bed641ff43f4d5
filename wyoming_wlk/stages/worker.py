"""A stage's model on a thread of its own, loaded when somebody first needs it, that serves clients in batches.

What waits while one batch runs becomes the next. Knows nothing of what the model does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from wyoming_wlk.errors import WlkError
from wyoming_wlk.threads import DaemonThread

Model = TypeVar("Model")
Item = TypeVar("Item")
Result = TypeVar("Result")
T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_MAX_BATCH = 16
_NICENESS = 5


class Worker(Generic[Model, Item, Result]):
    """Used on one event loop."""

    def __init__(
        self,
        name: str,
        load: Callable[[], Model],
        step: Callable[[Model, Sequence[Item]], Sequence[Result | Exception]],
    ) -> None:
        """`step` returns a result or an error for each item; what it raises is the error of all."""
        self.name = name
        self._load, self._step = load, step
        self._thread, self._aside = DaemonThread(name), DaemonThread(f"{name}, aside")
        self._model: Model | None = None
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._working: asyncio.Task[None] | None = None

    async def call(self, work: Callable[[Model], T]) -> T:
        """Something else than a step that is to be done on the thread. Raises what it, or the loading, raises."""
        return await self._on_thread(lambda: work(self._loaded()))

    async def aside(self, work: Callable[[], T]) -> T:
        """Work that may take minutes, as a download: on a thread beside the model's, one after the other."""
        return await asyncio.get_running_loop().run_in_executor(self._aside, work)

    async def step(self, item: Item) -> Result:
        """The result for one item. Raises what the work on it, or the loading, raises."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return await future

    def close(self) -> None:
        """No more work; a running one is not waited for."""
        self._thread.shutdown(wait=False)
        self._aside.shutdown(wait=False)

    async def _work(self) -> None:
        try:
            while batch := self._waiting[:_MAX_BATCH]:
                del self._waiting[: len(batch)]
                batch = [(item, future) for item, future in batch if not future.done()]
                if not batch:
                    continue
                outcomes = await self._outcomes([item for item, _ in batch])
                for (_, future), outcome in zip(batch, outcomes, strict=True):
                    if future.done():
                        continue
                    if isinstance(outcome, Exception):
                        future.set_exception(outcome)
                    else:
                        future.set_result(outcome)
        finally:
            self._working = None

    async def _outcomes(self, items: Sequence[Item]) -> Sequence[Result | Exception]:
        try:
            outcomes = await self._on_thread(lambda: self._step(self._loaded(), items))
            if len(outcomes) != len(items):
                raise ValueError(f"{len(outcomes)} results for {len(items)} items")
            return outcomes
        except WlkError as err:
            return [err] * len(items)
        except Exception as err:
            _LOG.exception("%s: the work on %d clients at once has failed", self.name, len(items))
            return [err] * len(items)

    def _loaded(self) -> Model:
        """On the thread: one that cannot be loaded now may be there when it is asked for again."""
        if self._model is None:
            began = time.monotonic()
            _give_way()
            self._model = self._load()
            _LOG.info("loaded what %s needs in %.1f s", self.name, time.monotonic() - began)
        return self._model

    async def _on_thread(self, work: Callable[[], T]) -> T:
        def guarded() -> T:
            try:
                return work()
            except Exception as err:
                if isinstance(err, StopIteration):  # no future takes it
                    raise RuntimeError("StopIteration") from err
                raise
            except BaseException as err:  # the panic of a library, which would end more than this work
                raise RuntimeError(f"{type(err).__name__}: {err}") from err

        return await asyncio.get_running_loop().run_in_executor(self._thread, guarded)


def _give_way() -> None:
    """Words come first: this thread runs where they leave it the time. On Linux, where threads have priorities."""
    with contextlib.suppress(OSError, AttributeError):
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS)
