"""Voice activity: the rules as tables, the network on real speech."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Clip

from wyoming_wlk.catalogue import VAD
from wyoming_wlk.models import ModelStore
from wyoming_wlk.vad import WINDOW, SileroVad, SpeechDetector, SpeechEnd, SpeechStart, VadSettings, VadStream

SETTINGS = VadSettings(threshold=0.5, hysteresis=0.15, min_speech=0.096, min_silence=0.32)


@pytest.mark.parametrize(
    ("probabilities", "events"),
    [
        ([0.1] * 50, []),
        ([0.1] * 10 + [0.9] * 10, [SpeechStart(10 * WINDOW)]),
        ([0.1] * 10 + [0.9] * 2 + [0.1] * 10, []),
        ([0.9] * 10 + [0.1] * 10, [SpeechStart(0), SpeechEnd(10 * WINDOW, 20 * WINDOW)]),
        ([0.9] * 10 + [0.1] * 9 + [0.9] * 5, [SpeechStart(0)]),
        ([0.9] * 10 + [0.4] * 30, [SpeechStart(0)]),
        ([0.4] * 30, []),
        (
            [0.9] * 5 + [0.0] * 10 + [0.9] * 5,
            [SpeechStart(0), SpeechEnd(5 * WINDOW, 15 * WINDOW), SpeechStart(15 * WINDOW)],
        ),
    ],
)
def test_starts_and_ends(probabilities: list[float], events: list[object]) -> None:
    """Short clicks are no speech, short gaps no silence, and positions are where it began, not when it was noticed."""
    detector = SpeechDetector(SETTINGS)
    found = [event for p in probabilities for event in detector.push([p])]
    assert found == events
    assert SpeechDetector(SETTINGS).push(probabilities) == events


def test_speech_is_found_where_it_is(vad: SileroVad, clips: dict[str, Clip]) -> None:
    """A spoken command between two silences starts and ends where the voice does."""
    quiet = np.zeros(16000, np.float32)
    samples = np.concatenate([quiet, clips["turn_on_the_lamp"].samples, quiet])
    events = SpeechDetector(VadSettings()).push(VadStream(vad).probabilities(samples))
    assert isinstance(events[0], SpeechStart) and isinstance(events[-1], SpeechEnd)
    assert 1.8 < events[0].sample / 16000 < 2.4
    assert 2.7 < events[-1].sample / 16000 < 3.6


def test_chunks_make_no_difference(vad: SileroVad, clips: dict[str, Clip]) -> None:
    """Odd chunk sizes give the probabilities of one piece."""
    samples = clips["how_cold_is_it"].samples
    whole = VadStream(vad).probabilities(samples)
    stream = VadStream(vad)
    pieces = [p for start in range(0, len(samples), 333) for p in stream.probabilities(samples[start : start + 333])]
    assert pieces == whole
    assert len(whole) == len(samples) // WINDOW


def test_noise_is_no_speech(vad: SileroVad, clips: dict[str, Clip]) -> None:
    """Hum, tones and silence start nothing."""
    for clip in clips.values():
        if clip.kind == "noise":
            assert SpeechDetector(VadSettings()).push(VadStream(vad).probabilities(clip.samples)) == [], clip.name


def test_nothing_leaves_the_machine(store: ModelStore, tmp_path: Path) -> None:
    """onnxruntime's own reports to its maker are off: it does not even make the id that they would carry."""
    network = store.fetch(VAD) / "silero_vad.onnx"
    program = f"import pathlib, wyoming_wlk.vad; wyoming_wlk.vad.SileroVad(pathlib.Path({str(network)!r}))"
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": ""}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert not list(tmp_path.rglob("*onnxruntime*"))
