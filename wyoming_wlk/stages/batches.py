"""Work of many clients in batches, on a thread of its own: what waits while one batch runs becomes the next.

Knows nothing of what the work is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_LOG = logging.getLogger(__name__)


class Batches(Generic[Item, Result]):
    """Used on one event loop."""

    def __init__(
        self, run: Callable[[Sequence[Item]], Sequence[Result | Exception]], executor: Executor, limit: int = 16
    ) -> None:
        """`run` takes up to `limit` items at once, on a thread of `executor`. It returns a result or an error for each;
        what it raises is the error of all."""
        self._run, self._executor, self._limit = run, executor, limit
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._working: asyncio.Task[None] | None = None

    async def do(self, item: Item) -> Result:
        """The result for one item. Raises what the work on it raises."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while batch := self._waiting[: self._limit]:
                del self._waiting[: len(batch)]
                outcomes: Sequence[Result | Exception]
                try:
                    outcomes = await loop.run_in_executor(self._executor, self._run, [item for item, _ in batch])
                except Exception as err:
                    _LOG.exception("the work on %d clients at once has failed", len(batch))
                    outcomes = [err] * len(batch)
                for (_, future), outcome in zip(batch, outcomes, strict=True):
                    if future.done():
                        continue
                    if isinstance(outcome, Exception):
                        future.set_exception(outcome)
                    else:
                        future.set_result(outcome)
        finally:
            self._working = None
