"""Line plots as SVG, for pages in light and dark. Knows nothing about what is plotted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 720, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 240, 50, 50
_COLOURS = ("#3b82f6", "#f97316", "#22a06b", "#a855f7")
"""Of the lines' groups; strong enough on white and on black."""

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #333 }
.title { font-weight: 600; font-size: 15px }
.grid { stroke: #8888; stroke-width: 0.5 }
@media (prefers-color-scheme: dark) { text { fill: #ddd } }
"""
_TICKS = 5


@dataclass(frozen=True)
class Line:
    """Points by ascending x. Lines of one `group` have one colour; the second and further ones of it are dashed."""

    name: str
    group: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Plot:
    """`logarithmic`: the vertical axis; otherwise it begins at 0."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    logarithmic: bool = False

    def svg(self) -> str:
        """Raises ValueError where there is no point."""
        body = "\n".join(self._parts())
        size = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
        return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{_STYLE}</style>\n{body}\n</svg>\n'

    def _parts(self) -> Iterator[str]:
        points = [point for line in self.lines for point in line.points]
        xs, ys = sorted({x for x, _ in points}), [y for _, y in points]
        high = max(ys) or 1.0
        ticks = _powers(min(ys), high) if self.logarithmic else _steps(high)
        right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        yield _text(_LEFT, 20, self.title, "title")
        yield _text((_LEFT + right) / 2, _HEIGHT - 10, self.x, anchor="middle")
        yield _text(_LEFT, _TOP - 12, self.y, anchor="end")
        for tick in ticks:
            y = self._y(tick, ticks)
            yield f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>'
            yield _text(_LEFT - 8, y + 4, f"{tick:g}", anchor="end")
        for value in xs:
            yield _text(_x(value, xs), bottom + 20, f"{value:g}", anchor="middle")
        groups = list(dict.fromkeys(line.group for line in self.lines))
        for number, line in enumerate(self.lines):
            first = next(other for other in self.lines if other.group == line.group)
            colour = _COLOURS[groups.index(line.group) % len(_COLOURS)]
            style = f'stroke="{colour}" stroke-width="2" fill="none"'
            style += "" if line is first else ' stroke-dasharray="5 4"'
            places = [(_x(x, xs), self._y(y, ticks)) for x, y in line.points]
            yield f'<polyline {style} points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'
            yield from (f'<circle fill="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places)
            level = _TOP + 20 * number
            yield f'<line {style} x1="{right + 12}" y1="{level}" x2="{right + 36}" y2="{level}"/>'
            yield _text(right + 42, level + 4, line.name)

    def _y(self, value: float, ticks: Sequence[float]) -> float:
        low, high = ticks[0], ticks[-1]
        value = max(value, low)
        share = math.log(value / low) / math.log(high / low) if self.logarithmic else (value - low) / (high - low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)


def _x(value: float, values: Sequence[float]) -> float:
    share = (value - values[0]) / (values[-1] - values[0]) if len(values) > 1 else 0.5
    return _LEFT + 10 + share * (_WIDTH - _LEFT - _RIGHT - 20)


def _powers(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, 20 ... that hold all values between them; what is not positive is drawn at the lowest."""
    low = max(low, high / 1000)
    series = [digit * 10.0**power for power in range(-9, 9) for digit in (1, 2, 5)]
    first = max(place for place, tick in enumerate(series) if tick <= low)
    last = min(place for place, tick in enumerate(series) if tick >= high)
    return series[first : max(last, first + 1) + 1]


def _steps(high: float) -> list[float]:
    """Round values from 0 to one that is not below the highest."""
    step = next(step for step in _powers(high / _TICKS / 10, high) if step * _TICKS >= high)
    return [step * number for number in range(_TICKS + 1)]


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text{style} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
