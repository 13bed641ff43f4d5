"""Diarization error rate of our own diarization on clips whose speakers are known.

python -m benchmarks.diarization [--audio FOLDER] [--latency 5 1] [--portion 0.1]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile

from benchmarks.clips import DEFAULT_AUDIO, SAMPLE_RATE, Clip
from benchmarks.report import percentage, print_machine, print_table, progress
from benchmarks.speakers import Errors, Turn, diarization_errors, read_rttm
from wyoming_wlk.config import ModelConfig
from wyoming_wlk.models import ModelStore
from wyoming_wlk.stages.diarization.install import install_networks
from wyoming_wlk.stages.diarization.online import OnlineDiarizer, load_online
from wyoming_wlk.stages.diarizer import DiarizationOptions, Heard, SpeakerTurn

COLLAR = 0.25
"""Seconds before and after each boundary of the reference that are not scored."""

_HEADER = ["clips", "latency", "error rate", "missed", "false alarm", "confusion", "speech", "speakers", "real-time"]


@dataclass(frozen=True)
class KnownClip:
    """A clip and who speaks when."""

    clip: Clip
    turns: list[Turn]
    group: str


@dataclass(frozen=True)
class Result:
    errors: Errors
    heard: int
    said: int
    busy: float
    """Seconds of processor time."""
    length: float

    def __add__(self, other: Result) -> Result:
        return Result(
            self.errors + other.errors,
            self.heard + other.heard,
            self.said + other.said,
            self.busy + other.busy,
            self.length + other.length,
        )


def load_known_clips(folder: Path) -> list[KnownClip]:
    """The clips that `manifest.jsonl` in `folder` names with an `rttm` beside the `file`."""
    found = []
    for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines():
        entry = json.loads(line)
        if "rttm" in entry:
            samples, rate = soundfile.read(folder / entry["file"], dtype="float32")
            if rate != SAMPLE_RATE or samples.ndim != 1:
                raise ValueError(f"{entry['file']}: {rate} Hz, {samples.ndim} dimensions; 16 kHz mono is needed")
            group = "AMI meetings" if "AMI" in entry["licence"] else "joined read speech"
            clip = Clip(folder / entry["file"], samples, "")
            found.append(KnownClip(clip, read_rttm(folder / entry["rttm"]), group))
    return found


def diarize(diarizer: OnlineDiarizer, known: KnownClip, latency: float, portion: float) -> Result:
    """Streams a clip in portions of some seconds."""
    samples = known.clip.samples
    turns: list[SpeakerTurn] = []
    state = diarizer.begin(DiarizationOptions(latency=latency))
    size = round(portion * SAMPLE_RATE)
    began = time.process_time()
    for start in range(0, len(samples), size):
        last = start + size >= len(samples)
        (settled,) = diarizer.step([Heard(state, samples[start : start + size], last)])
        if isinstance(settled, Exception):
            raise settled
        turns += settled.turns
    busy = time.process_time() - began
    heard = [(turn.start, turn.end, str(turn.speaker)) for turn in turns]
    length = len(samples) / SAMPLE_RATE
    errors = diarization_errors(known.turns, heard, length, COLLAR)
    return Result(errors, len({who for _, _, who in heard}), len({who for _, _, who in known.turns}), busy, length)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO, help="folder with manifest.jsonl")
    parser.add_argument("--data-dir", type=Path, default=ModelConfig().data_dir, help="where the models are kept")
    parser.add_argument("--latency", type=float, nargs="+", default=[5.0, 1.0], help="seconds")
    parser.add_argument("--portion", type=float, default=0.1, help="seconds of audio at once")
    arguments = parser.parse_args()
    diarizer = load_online(*install_networks(ModelStore(arguments.data_dir)))
    clips = load_known_clips(arguments.audio)
    print_machine()
    rows: list[list[str]] = []
    for latency in arguments.latency:
        results = []
        for known in clips:
            progress(f"{known.clip.path.name} at {latency:g} s")
            results.append(diarize(diarizer, known, latency, arguments.portion))
        rows += [_row(known.clip.path.stem, latency, result) for known, result in zip(clips, results, strict=True)]
        rows += _group_rows(clips, results, latency)
    print_table(f"Diarization, streamed, {COLLAR:g} s collar, overlap counted", _HEADER, rows)


def _group_rows(clips: Sequence[KnownClip], results: Sequence[Result], latency: float) -> list[list[str]]:
    groups: dict[str, Result] = {}
    for known, result in zip(clips, results, strict=True):
        groups[known.group] = groups[known.group] + result if known.group in groups else result
    return [_row(f"**{group}**", latency, result) for group, result in groups.items()]


def _row(name: str, latency: float, result: Result) -> list[str]:
    errors = result.errors
    parts = (errors.missed, errors.false_alarm, errors.confusion)
    return [
        name,
        f"{latency:g} s",
        percentage(errors.rate),
        *(percentage(part / errors.speech) if errors.speech else "–" for part in parts),
        f"{errors.speech:.0f} s",
        f"{result.heard} / {result.said}",
        f"{result.busy / result.length:.3f}",
    ]


if __name__ == "__main__":
    main()
