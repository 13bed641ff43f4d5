"""How figures are printed: the machine they come from, percentiles, Markdown tables."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np


def progress(message: str) -> None:
    """What is under way, on stderr; stdout gets the tables only."""
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)


def print_machine() -> None:
    """What figures mean little without."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    processor = models[0].partition(":")[2].strip() if models else platform.machine()
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"- {processor}, {cores} cores, load {load:.1f} at the start")
    print(f"- Python {platform.python_version()}, torch {version('torch')}, {platform.system()} {platform.release()}")
    print(f"- {time.strftime('%Y-%m-%d %H:%M')}, `{' '.join(sys.orig_argv[1:])}`", flush=True)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table; all columns but the first are numbers."""
    print(f"\n### {title}\n")
    print(f"| {' | '.join(header)} |")
    print(f"|---|{'---:|' * (len(header) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    sys.stdout.flush()


def percentile(values: Sequence[float], percent: float, digits: int = 2) -> str:
    return f"{np.percentile(values, percent):.{digits}f}" if len(values) else "–"


def percentage(fraction: float) -> str:
    return "–" if fraction != fraction else f"{100 * fraction:.1f} %"
