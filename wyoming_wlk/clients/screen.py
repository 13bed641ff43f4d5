"""What `wyoming-wlk listen` shows: firm lines that stay, and below them what is being said now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TextIO

from wyoming_wlk.subtitles import columns

_COLOURS = ("\x1b[36m", "\x1b[33m")
_TRANSLATED = "= "
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
_CLEAR_BELOW = "\x1b[J"


@dataclass
class _Live:
    """What one source says now: committed text by segment, and the tentative rest."""

    segments: dict[int, str] = field(default_factory=dict)
    tentative: str = ""
    translations: dict[int, str] = field(default_factory=dict)
    """Of segments that are not over."""

    @property
    def firm(self) -> str:
        return "".join(self.segments.values())


class Screen:
    """Writes to a terminal `width` columns wide; to anything else (None) only what stays."""

    def __init__(self, out: TextIO, names: Sequence[str], width: int | None) -> None:
        self._out, self._width = out, width
        self._live = {name: _Live() for name in names}
        self._colours = {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(names)}
        self._drawn = 0

    def add(self, name: str, segment: int, text: str, tentative: str) -> None:
        """Committed text of a segment, and the words behind it that may still change."""
        live = self._live[name]
        if text:
            live.segments[segment] = live.segments.get(segment, "") + text
        live.tentative = tentative
        self._draw()

    def end(self, name: str, segment: int, text: str) -> None:
        """A segment is over: `text` is what stays of it."""
        live = self._live[name]
        live.segments.pop(segment, None)
        live.tentative = ""
        for line in (text.strip(), live.translations.pop(segment, "")):
            if line:
                self._keep(f"{self._colours[name]}{self._label(name)}{line}{_PLAIN}", name, line)

    def translate(self, name: str, segment: int, text: str) -> None:
        """A translation of words of a segment; it stands behind the segment, which may not be over yet."""
        live, line = self._live[name], f"{_TRANSLATED}{text.strip()}"
        if segment in live.segments:
            before = live.translations.get(segment)
            live.translations[segment] = f"{before} {text.strip()}" if before else line
        else:
            self._keep(f"{self._colours[name]}{self._label(name)}{line}{_PLAIN}", name, line)

    def end_all(self, name: str) -> None:
        """Nothing more comes of what was begun."""
        for segment, text in list(self._live[name].segments.items()):
            self.end(name, segment, text)
        self._live[name].tentative = ""
        self._draw()

    def note(self, text: str) -> None:
        """Something about the program itself."""
        if self._width is not None:
            self._keep(f"{_DIM}{text}{_PLAIN}", "", "")

    def _keep(self, line: str, name: str, text: str) -> None:
        if self._width is None:
            self._out.write(f"{self._label(name)}{text.strip()}\n")
            self._out.flush()
        else:
            self._draw(line + "\n")

    def _draw(self, kept: str = "") -> None:
        """Draws the live lines anew, behind what stays."""
        if self._width is None:
            return
        lines = [self._line(name, live) for name, live in self._live.items() if live.firm or live.tentative]
        up = f"\x1b[{self._drawn - 1}A" if self._drawn > 1 else ""
        self._out.write(f"\r{up}{_CLEAR_BELOW}{kept}" + "\n".join(lines))
        self._out.flush()
        self._drawn = len(lines)

    def _line(self, name: str, live: _Live) -> str:
        """One line, never more: of a longer text the end."""
        assert self._width is not None
        label, tentative = self._label(name), live.tentative
        room = self._width - 1 - columns(label)
        tentative = _tail(tentative if live.firm else tentative.lstrip(), room)
        firm = _tail(live.firm.lstrip(), room - columns(tentative))
        return f"{self._colours[name]}{label}{firm}{_DIM}{tentative}{_PLAIN}"

    def _label(self, name: str) -> str:
        return f"{name}: " if len(self._live) > 1 else ""


def _tail(text: str, width: int) -> str:
    while text and columns(text) > width:
        text = text[1:]
    return text
