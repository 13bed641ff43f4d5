"""Who spoke when, against a reference: RTTM files and the diarization error rate. Knows nothing about servers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

Turn = tuple[float, float, str]
"""Start and end in seconds, and who."""


@dataclass(frozen=True)
class Errors:
    """Seconds of each kind of mistake, and of reference speech (each of several voices at once counts)."""

    missed: float = 0.0
    false_alarm: float = 0.0
    confusion: float = 0.0
    speech: float = 0.0

    @property
    def rate(self) -> float:
        """Diarization error rate; NaN without reference speech."""
        return (self.missed + self.false_alarm + self.confusion) / self.speech if self.speech else float("nan")

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            self.missed + other.missed,
            self.false_alarm + other.false_alarm,
            self.confusion + other.confusion,
            self.speech + other.speech,
        )


def read_rttm(path: Path) -> list[Turn]:
    """The SPEAKER lines of an RTTM file."""
    turns = []
    for line in path.read_text("utf-8").splitlines():
        fields = line.split()
        if fields and fields[0] == "SPEAKER":
            start, duration = float(fields[3]), float(fields[4])
            turns.append((start, start + duration, fields[7]))
    return turns


def diarization_errors(reference: Sequence[Turn], hypothesis: Sequence[Turn], length: float, collar: float) -> Errors:
    """NIST's measure, overlapped speech included, under the best one-to-one mapping of speakers.

    Within `collar` seconds before and after each boundary of the reference nothing is scored.
    """
    pieces = _pieces(reference, hypothesis, length, collar)
    together: dict[tuple[str, str], float] = {}
    for duration, said, heard in pieces:
        for pair in ((a, b) for a in said for b in heard):
            together[pair] = together.get(pair, 0.0) + duration
    mapping = _best_mapping(together)
    total = Errors()
    for duration, said, heard in pieces:
        right = sum(1 for speaker in heard if mapping.get(speaker) in said)
        total += Errors(
            missed=duration * max(0, len(said) - len(heard)),
            false_alarm=duration * max(0, len(heard) - len(said)),
            confusion=duration * (min(len(said), len(heard)) - right),
            speech=duration * len(said),
        )
    return total


def _pieces(
    reference: Sequence[Turn], hypothesis: Sequence[Turn], length: float, collar: float
) -> list[tuple[float, frozenset[str], frozenset[str]]]:
    """The scored time in pieces without a change: duration, who speaks, who was heard."""
    boundaries = [time for start, end, _ in reference for time in (start, end)]
    unscored = [(time - collar, time + collar) for time in boundaries] if collar else []
    times = {0.0, length, *boundaries}
    times |= {time for start, end, _ in hypothesis for time in (start, end)}
    times |= {time for pair in unscored for time in pair}
    ordered = sorted(time for time in times if 0 <= time <= length)
    pieces = []
    for start, end in zip(ordered, ordered[1:], strict=False):
        middle = (start + end) / 2
        if any(left < middle < right for left, right in unscored):
            continue
        said = frozenset(who for begin, stop, who in reference if begin < middle < stop)
        heard = frozenset(who for begin, stop, who in hypothesis if begin < middle < stop)
        pieces.append((end - start, said, heard))
    return pieces


def _best_mapping(together: dict[tuple[str, str], float]) -> dict[str, str]:
    """Heard speaker -> speaker so that they talk together longest: exact, over subsets of the reference's speakers."""
    said = sorted({pair[0] for pair in together})
    heard = sorted({pair[1] for pair in together})

    @cache
    def best(position: int, used: int) -> tuple[float, tuple[tuple[str, str], ...]]:
        if position == len(heard):
            return 0.0, ()
        choice = best(position + 1, used)
        for number, speaker in enumerate(said):
            shared = together.get((speaker, heard[position]), 0.0)
            if shared and not used >> number & 1:
                rest, pairs = best(position + 1, used | 1 << number)
                choice = max(choice, (rest + shared, ((heard[position], speaker), *pairs)))
        return choice

    return dict(best(0, 0)[1])
