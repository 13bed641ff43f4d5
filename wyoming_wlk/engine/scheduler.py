"""Who runs next, with whom, and who is parked. Pure decisions over rows; no torch, no asyncio, no clock.

Finals for which somebody waits come first, then those decoded ahead in a pause; then whoever's audio has waited
longest, which is fairness in seconds of audio. A row on the device keeps its place for a turn of some tokens, so that
rows of the same urgency do not push each other out at every step. While a final is decoded for which somebody waits,
all others take part in a few passes only. Rows in the encoder have their place already and keep it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from wyoming_wlk.engine.hypothesis import Row

_SHARED_PASS = 32
"""Every so many passes all rows take part: most finals have fewer tokens."""

_LEAST_SECONDS = 0.1
"""A window counts for at least so much, so that no budget lasts for ever."""


@dataclass(frozen=True)
class Plan:
    """The next pass: rows to park, to bring back and to give to the encoder before it, and those that take part."""

    park: list[Row]
    restore: list[Row]
    start: list[Row]
    advance: list[Row]


class Scheduler:
    """Keeps the rows that want the model and shares `slots` among them.

    `turn_tokens`: how many passes a row may run while others of its urgency wait. `start_seconds`: once so much audio
    is to be encoded, no further row starts with it, so that those who are more urgent come next.
    """

    def __init__(self, slots: int, turn_tokens: int, start_seconds: float) -> None:
        self._slots, self._turn_tokens, self._start_seconds = slots, turn_tokens, start_seconds
        self._waiting: list[Row] = []
        self._parked: list[Row] = []
        self._passes = 0
        self.running: list[Row] = []

    def __bool__(self) -> bool:
        return bool(self._waiting or self._parked or self.running)

    @property
    def waiting(self) -> int:
        """Rows that want a slot and have none."""
        return len(self._waiting) + len(self._parked)

    @property
    def parked(self) -> int:
        """Those of them that had one."""
        return len(self._parked)

    def add(self, row: Row) -> None:
        self._waiting.append(row)

    def remove(self, row: Row) -> None:
        """Forgets a row that is done, dropped or failed, wherever it stands."""
        for rows in (self.running, self._parked, self._waiting):
            if row in rows:
                rows.remove(row)

    def everyone(self) -> Iterable[Row]:
        return [*self.running, *self._parked, *self._waiting]

    def plan(self, may_start: bool = True) -> Plan:
        """Decides and takes the decision as carried out. `may_start`: whether there is room for more in the encoder."""
        self._passes += 1
        chosen = self._choose(may_start)
        decoding = [row for row in chosen if row not in self._waiting and not row.encoding]
        awaited = any(row.awaited for row in decoding) and self._passes % _SHARED_PASS
        plan = Plan(
            park=[row for row in self.running if row not in chosen],
            restore=[row for row in self._parked if row in chosen],
            start=[row for row in self._waiting if row in chosen],
            advance=[row for row in decoding if row.awaited or not awaited],
        )
        self._parked = [row for row in self._parked if row not in chosen] + plan.park
        self._waiting = [row for row in self._waiting if row not in chosen]
        self.running = chosen
        return plan

    def _choose(self, may_start: bool) -> list[Row]:
        """The most urgent rows that fit into the slots. A wide row never starves: it is asked first at every pass, and
        what is less urgent makes room again."""
        free, budget = self._slots, self._start_seconds if may_start else -math.inf
        chosen: list[Row] = []
        for row in sorted(self.everyone(), key=self._urgency):
            if row.width > free:
                continue
            if row in self._waiting:
                if budget < 0:
                    continue
                budget -= max(row.request.seconds, _LEAST_SECONDS)
            free -= row.width
            chosen.append(row)
        return chosen

    def _urgency(self, row: Row) -> tuple[bool, int, bool, float, int]:
        in_turn = row in self.running and row.turn_tokens < self._turn_tokens
        return (not row.encoding, row.rank, not in_turn, row.request.deadline, row.sequence)
