"""Work of many clients in batches, with work that is none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from wyoming_wlk.stages.batches import Batches


class Work:
    """Doubles numbers; negative ones fail alone, and zero takes its batch down."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()

    def __call__(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(numbers))
        self.gate.wait(10)
        if 0 in numbers:
            raise ZeroDivisionError
        return [ValueError(str(number)) if number < 0 else 2 * number for number in numbers]


async def test_what_waits_is_the_next_batch() -> None:
    """In the order of coming, no more at once than the limit; each gets its own result or error."""
    work = Work()
    with ThreadPoolExecutor(1) as executor:
        batches = Batches(work, executor, limit=3)
        waiting = [asyncio.create_task(batches.do(number)) for number in (1, 2, -3, 4, 5)]
        await asyncio.sleep(0)
        waiting[4].cancel()
        work.gate.set()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert results[:2] == [2, 4] and isinstance(results[2], ValueError) and results[3] == 8
        assert isinstance(results[4], asyncio.CancelledError)
        assert work.batches[0] == [1, 2, -3] and sum(map(len, work.batches)) == 5
        assert await batches.do(6) == 12


async def test_work_that_fails() -> None:
    """All of its batch hear of it, and the next batch is done."""
    work = Work()
    work.gate.set()
    with ThreadPoolExecutor(1) as executor:
        batches = Batches(work, executor)
        outcomes = await asyncio.gather(*(batches.do(number) for number in (1, 0)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ZeroDivisionError, ZeroDivisionError]
        with pytest.raises(ValueError, match="-1"):
            await batches.do(-1)
        assert await batches.do(1) == 2
