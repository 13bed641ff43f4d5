"""Kaldi's log mel filter bank, as speaker embeddings want it: 80 bins, frames of 25 ms every 10 ms, no dither."""

from __future__ import annotations

import numpy as np

SAMPLE_RATE = 16000
HOP = 160
FRAME = 400
BINS = 80

_FFT = 512
_LOWEST = 20.0  # Hz
_PREEMPHASIS = 0.97


def filter_bank(audio: np.ndarray) -> np.ndarray:
    """float32 samples -> [frames, 80]; only frames that lie in the audio as a whole (Kaldi's snip_edges)."""
    if len(audio) < FRAME:
        return np.zeros((0, BINS), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(audio, FRAME)[::HOP].astype(np.float32)
    frames = frames - frames.mean(axis=1, keepdims=True)
    frames = np.concatenate([frames[:, :1] * (1 - _PREEMPHASIS), frames[:, 1:] - _PREEMPHASIS * frames[:, :-1]], axis=1)
    spectrum = np.fft.rfft(frames * _WINDOW, _FFT)[:, :-1]
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    energies: np.ndarray = power.astype(np.float32) @ _FILTERS
    logs: np.ndarray = np.log(np.maximum(energies, np.finfo(np.float32).eps))
    return logs


def _povey_window() -> np.ndarray:
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / (FRAME - 1))
    return (hann**0.85).astype(np.float32)


def _mel(hertz: np.ndarray | float) -> np.ndarray:
    return np.asarray(1127.0 * np.log1p(np.asarray(hertz) / 700.0))


def _mel_filters() -> np.ndarray:
    """Triangles on the mel scale, [257 - 1, 80]; Kaldi leaves the highest frequency out."""
    edges = np.linspace(_mel(_LOWEST), _mel(SAMPLE_RATE / 2), BINS + 2)
    mels = _mel(np.arange(_FFT // 2) * SAMPLE_RATE / _FFT)[:, None]
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (mels - left) / (centre - left), (right - mels) / (right - centre)
    filters: np.ndarray = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    return filters


_WINDOW = _povey_window()
_FILTERS = _mel_filters()
