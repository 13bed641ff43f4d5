"""Captions out of a stream's updates: a line for each segment and each long silence; differences between two views;
the words of the segment that is open.

Knows no wire format and does no I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from wyoming_wlk.engine.request import Word
from wyoming_wlk.events import Event, Finished, SegmentEnded, StageNotice, TextUpdate, TranslationUpdate
from wyoming_wlk.streams import Update, Volatile

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
    speaker: int | None = None
    translation: str = ""
    segment: int = field(default=0, compare=False)

    @property
    def silent(self) -> bool:
        return not self.text


@dataclass(frozen=True)
class View:
    """What a reader has before its eyes: lines, and behind them text that will still change."""

    lines: tuple[Line, ...] = ()
    buffer: str = ""
    waiting: str = ""
    """Certain text between the lines and the buffer that has no speaker yet."""
    translating: str = ""
    """What follows the translations of the lines."""


class Captions:
    """The lines of one stream."""

    def __init__(self, max_lines: int = MAX_LINES, translated: bool = False) -> None:
        """`translated`: a line is complete only with its translation."""
        self._max_lines, self._awaits_translation = max_lines, translated
        self._lines: deque[Line] = deque(maxlen=max_lines)
        self._open: Line | None = None
        self._end = 0.0
        self._translated = 0
        """The last segment that has all its translation."""
        self._volatile = Volatile()

    def take(self, update: Update, language: str | None = None) -> None:
        """What is new; `language` is that of its words where it is worth telling."""
        for entry in update.entries:
            event = entry.event
            if isinstance(event, TextUpdate):
                self._append(entry.segment, event, language)
            elif isinstance(event, SegmentEnded | Finished):
                self._close()
            elif isinstance(event, TranslationUpdate):
                self._translate(event)
            elif isinstance(event, StageNotice) and event.failed and event.stage == "translation":
                self._awaits_translation = False
        self._volatile = update.volatile

    def view(self) -> View:
        """Every committed word is in a line, that of the open segment in the last."""
        lines = tuple(self._lines) if self._open is None else (*self._lines, self._open)
        volatile = self._volatile
        return View(
            lines[-self._max_lines :], joined(volatile.tentative), joined(volatile.waiting), volatile.translating
        )

    def complete(self) -> View:
        """Lines that will not change any more; what the others say is at the beginning of what follows the lines."""
        whole, lines = self.view(), tuple(self._lines)
        count = next((place for place, line in enumerate(lines) if not self._is_complete(line)), len(lines))
        rest = lines[count:] if self._open is None else (*lines[count:], self._open)
        said = " ".join(line.text for line in rest if not line.silent)
        waiting, buffer = (said + whole.waiting, whole.buffer) if whole.waiting else ("", said + whole.buffer)
        translating = "".join(line.translation for line in rest) + whole.translating
        return View(lines[:count], buffer, waiting, translating)

    def _is_complete(self, line: Line) -> bool:
        return not self._awaits_translation or line.segment <= self._translated

    def _append(self, segment: int, event: TextUpdate, language: str | None) -> None:
        words, text = event.committed, joined(event.committed)
        if not text.strip():
            return
        end = max(self._end, words[-1].end)
        if self._open is not None:
            self._open = replace(self._open, text=self._open.text + text, end=end, language=language)
        else:
            start = max(self._end, words[0].start)
            if start - self._end >= SILENCE_SECONDS:
                self._lines.append(Line("", self._end, start))
            self._open = Line(text.lstrip(), start, end, language, event.speaker, segment=segment)
        self._end = end

    def _close(self) -> None:
        if self._open is not None:
            self._lines.append(self._open)
            self._open = None

    def _translate(self, event: TranslationUpdate) -> None:
        if event.complete:
            self._translated = event.segment
        text = "".join(translation.text for translation in event.stable)
        if self._open is not None and self._open.segment == event.segment:
            self._open = _with_translation(self._open, text)
            return
        for place in range(len(self._lines) - 1, -1, -1):  # it is one of the last
            if self._lines[place].segment == event.segment:
                self._lines[place] = _with_translation(self._lines[place], text)
                return


def joined(words: Sequence[Word]) -> str:
    return "".join(word.text for word in words)


def _with_translation(line: Line, text: str) -> Line:
    return replace(line, translation=(line.translation + text).lstrip())


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
