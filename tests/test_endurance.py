"""How the endurance benchmark judges growth."""

from __future__ import annotations

import math

import pytest

from benchmarks.endurance import Mark, growth, tenths


def test_growth_is_that_of_the_second_half() -> None:
    """What a program takes at its beginning is no growth; what it takes more and more later is."""
    assert growth([0, 50, 90, 100] + [100] * 4) == pytest.approx(0)
    assert growth([100] * 10 + [100 + 2 * step for step in range(10)]) == pytest.approx(18)
    assert growth([100] * 10 + [100 - step for step in range(10)]) == pytest.approx(-9)


def test_growth_is_a_line_and_not_two_points() -> None:
    """A single outlier at the end counts little."""
    assert growth([100.0] * 99 + [130.0]) < 5


def test_growth_of_nothing() -> None:
    """One point says nothing of growth."""
    assert math.isnan(growth([1.0]))


def test_tenths_have_as_many_marks() -> None:
    """Marks are shared out in order."""
    marks = [Mark(float(second), 0, 0, 0, 0, [], 0) for second in range(30)]
    assert [[mark.seconds for mark in part] for part in tenths(marks)][::9] == [[0, 1, 2], [27, 28, 29]]
