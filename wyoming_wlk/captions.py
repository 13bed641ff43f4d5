"""Captions out of a stream's updates: a line for each segment and each long silence; differences between two views;
the words of the segment that is open.

Knows no wire format and does no I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from wyoming_wlk.engine.request import Word
from wyoming_wlk.events import Event, Finished, SegmentEnded, TextUpdate
from wyoming_wlk.streams import Update

SILENCE_SECONDS = 5.0
"""So long a gap between two words gets a line of its own."""

MAX_LINES = 1000
"""Lines kept, hours of speech; the oldest are dropped, so that a day of it takes little memory."""


@dataclass(frozen=True)
class Line:
    """Committed words of one segment, or silence, whose text is empty. Times in seconds on the client's clock."""

    text: str
    start: float
    end: float
    language: str | None = None

    @property
    def silent(self) -> bool:
        return not self.text


@dataclass(frozen=True)
class View:
    """What a reader has before its eyes: lines, and behind them text that will still change."""

    lines: tuple[Line, ...] = ()
    buffer: str = ""


class Captions:
    """The lines of one stream."""

    def __init__(self, max_lines: int = MAX_LINES) -> None:
        self._max_lines = max_lines
        self._lines: deque[Line] = deque(maxlen=max_lines)
        self._open: Line | None = None
        self._end = 0.0
        self._tentative = ""

    def take(self, update: Update, language: str | None = None) -> None:
        """What is new; `language` is that of its words where it is worth telling."""
        for entry in update.entries:
            event = entry.event
            if isinstance(event, TextUpdate):
                self._append(event.committed, language)
            elif isinstance(event, SegmentEnded | Finished):
                self._close()
        self._tentative = "".join(word.text for word in update.tentative)

    def view(self) -> View:
        """Every committed word is in a line, that of the open segment in the last."""
        lines = tuple(self._lines) if self._open is None else (*self._lines, self._open)
        return View(lines[-self._max_lines :], self._tentative)

    def complete(self) -> View:
        """Lines that will not change any more; the words of the open segment are at the beginning of the buffer."""
        said = self._open.text if self._open is not None else ""
        return View(tuple(self._lines), said + self._tentative)

    def _append(self, words: Sequence[Word], language: str | None) -> None:
        text = "".join(word.text for word in words)
        if not text.strip():
            return
        end = max(self._end, words[-1].end)
        if self._open is not None:
            self._open = replace(self._open, text=self._open.text + text, end=end, language=language)
        else:
            start = max(self._end, words[0].start)
            if start - self._end >= SILENCE_SECONDS:
                self._lines.append(Line("", self._end, start))
            self._open = Line(text.lstrip(), start, end, language)
        self._end = end

    def _close(self) -> None:
        if self._open is not None:
            self._lines.append(self._open)
            self._open = None


def change(before: Sequence[Line], after: Sequence[Line]) -> tuple[int, Sequence[Line]]:
    """What makes `after` out of `before` where lines can only be dropped in front and appended: how many, and which."""
    for dropped in range(len(before)):
        kept = len(before) - dropped
        if kept <= len(after) and before[dropped:] == after[:kept]:
            return dropped, after[kept:]
    return len(before), after


class OpenSegment:
    """The words of the segment that has not ended yet, for those who replace them by its final ones."""

    def __init__(self) -> None:
        self._said: list[Word] = []

    def take(self, event: Event) -> None:
        if isinstance(event, TextUpdate):
            self._said.extend(event.committed)
        elif isinstance(event, SegmentEnded):
            self._said = self._said[len(self._said) - event.kept :]

    def words(self, tentative: Sequence[Word]) -> list[Word]:
        return [*self._said, *tentative]
