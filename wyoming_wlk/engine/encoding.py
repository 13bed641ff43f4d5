"""The encoder on a thread of its own: where there are several cores, it works while others are decoded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wyoming_wlk.engine.cache import CrossAttention
from wyoming_wlk.engine.hypothesis import Row
from wyoming_wlk.engine.runner import Runner
from wyoming_wlk.threads import DaemonThread

_AHEAD = 2
"""Batches on their way: one in the encoder, and one so that it never waits for the decoder's pass to end."""


@dataclass(frozen=True)
class Encoded:
    """Rows whose windows are encoded, or why they could not be."""

    rows: Sequence[Row]
    crosses: Sequence[CrossAttention]
    error: Exception | None = None


class Encoder:
    """Encodes batches in the order in which they come. Its rows are its own until `done` is called with them."""

    def __init__(self, runner: Runner, done: Callable[[Encoded], None]) -> None:
        """`done` is called on the encoder's thread."""
        self._runner, self._done = runner, done
        self._thread = DaemonThread("encoder")
        self._thread.submit(runner.use_encoder_threads)
        self._jobs = 0

    @property
    def has_room(self) -> bool:
        return self._jobs < _AHEAD

    def expect(self, rows: Sequence[Row]) -> None:
        """The rows are the encoder's from now on; `submit` follows."""
        for row in rows:
            row.encoding = True
        self._jobs += 1

    def submit(self, rows: Sequence[Row]) -> None:
        """Encodes the rows; from any thread."""
        with contextlib.suppress(RuntimeError):  # the engine has ended meanwhile
            self._thread.submit(self._encode, rows)

    def take(self, encoded: Encoded) -> None:
        """The rows are the caller's again; on its thread."""
        self._jobs -= 1
        for row in encoded.rows:
            row.encoding = False

    def stop(self) -> None:
        """Waits for the batches on their way."""
        self._thread.shutdown()

    def _encode(self, rows: Sequence[Row]) -> None:
        try:
            wanted = not all(row.request.cancelled for row in rows)
            self._done(Encoded(rows, self._runner.encode(rows) if wanted else ()))
        except Exception as err:  # handed to the thread that knows whose rows these are
            self._done(Encoded(rows, (), err))
