"""The tables and plots of a load test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.crowds import Load
from benchmarks.plots import Line, Plot
from benchmarks.report import percentage, percentile, print_table

Texts = Mapping[Path, str]
"""What faster-whisper hears offline in each clip; empty where it was not asked."""

_WORDS = ["", "clients", "committed p50 [s]", "p95", "p99", "shown p50 [s]", "p95", "first word p50 [s]", "p95"]
_WORDS += ["final p50 [s]", "p95", "words counted"]
_ERRORS = ["", "clients", "WER of chunks", "to offline", "WER of transcripts", "to offline", "failed", "unanswered"]
_ERRORS += ["lost audio [s]"]
_SERVER = [
    "",
    "clients",
    "step interval p50 [s]",
    "p95",
    "rows in a pass p50",
    "p95",
    "model busy",
    "encoder",
    "decoder",
]
_SERVER += ["cores", "peak RSS [MB]", "clients' cores", "others' cores", "pacing late p99 [ms]"]


def print_loads(loads: Sequence[Load], offline: Texts, behaviour: str) -> None:
    print_table(f"Delay of words, {behaviour}", _WORDS, [_words_row(load) for load in loads])
    print_table("Errors, and what was lost", _ERRORS, [_errors_row(load, offline) for load in loads])
    print_table("What it costs", _SERVER, [_server_row(load) for load in loads])


def _words_row(load: Load) -> list[str]:
    committed = [delay.committed for delay in load.delays]
    shown = [delay.shown for delay in load.delays if delay.shown is not None]
    first = [delay.committed for delay in load.first_words]
    final = [take.final for take in load.finished if take.final is not None]
    row = [load.name, str(load.clients), *(percentile(committed, percent) for percent in (50, 95, 99))]
    for values in (shown, first, final):
        row += [percentile(values, 50), percentile(values, 95)]
    return [*row, percentage(load.counted)]


def _errors_row(load: Load, offline: Texts) -> list[str]:
    row = [load.name, str(load.clients)]
    for rate, whole in (load.errors_of_chunks(offline), load.errors_of_transcripts(offline)):
        row += [percentage(rate), _number(rate / whole if whole else float("nan"))]
    return [*row, str(load.failed), str(load.unanswered), _number(abs(load.lost_audio))]


def _server_row(load: Load) -> list[str]:
    before, after = load.before, load.after
    row = [load.name, str(load.clients)]
    for name in ("wlk_step_interval_seconds", "wlk_batch_size"):
        row += [_number(after.metrics.get(f"{name}:{quantile}", float("nan"))) for quantile in (0.5, 0.95)]
    parts = ("wlk_busy_seconds_total", "wlk_encoder_seconds_total", "wlk_decoder_seconds_total")
    row += [percentage(load.share(name)) for name in parts]
    row += [_number((after.cpu - before.cpu) / load.seconds), f"{after.peak_memory:.0f}"]
    row += [_number((after.own_cpu - before.own_cpu) / load.seconds)]
    row += [_number((after.foreign - before.foreign) / load.seconds)]
    late = [1000 * seconds for take in load.takes for seconds in take.late]
    return [*row, percentile(late, 99, 0)]


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f}"


def plots(loads: Sequence[Load], offline: Texts) -> dict[str, str]:
    """SVGs by the names of their files. The errors offline are those in the clips that the first server heard."""
    delays, errors, names = [], [], list(dict.fromkeys(load.name for load in loads))
    for name in names:
        mine = [load for load in loads if load.name == name and load.delays]
        for percent in (50, 95):
            values = [float(np.percentile([delay.committed for delay in load.delays], percent)) for load in mine]
            delays.append(
                Line(f"{name} p{percent}", name, [(load.clients, v) for load, v in zip(mine, values, strict=True)])
            )
        errors.append(Line(name, name, [(load.clients, 100 * load.errors_of_chunks({})[0]) for load in mine]))
    if offline:
        rates = [(load.clients, load.errors_of_chunks(offline)[1]) for load in loads if load.name == names[0]]
        name = "the same clips offline"
        errors.append(Line(name, name, [(clients, 100 * rate) for clients, rate in rates]))
    clients = "clients that speak at once"
    return {
        "word-delay.svg": Plot("When a word is committed", clients, "seconds", delays, logarithmic=True).svg(),
        "word-error-rate.svg": Plot("Errors in committed text", clients, "WER %", errors).svg(),
    }
