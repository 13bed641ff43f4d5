"""Whisper's log-mel spectrogram, computed once per sample as audio arrives.

`MelFrontend` turns samples into raw log10 mel frames on the device; Whisper's range compression depends on the loudest
frame of the whole window and so has to wait until the window is known.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wyoming_wlk.engine.transfer import to_device

SAMPLE_RATE = 16000
N_FFT = 400
HOP = 160
FRAMES_PER_SECOND = SAMPLE_RATE // HOP
_FLOOR = -10.0  # log10 of the 1e-10 that Whisper clamps power to

_ROOM = 500
"""A window's memory grows by so many frames."""


def mel_filters(n_mels: int) -> np.ndarray:
    """Slaney's mel filter bank, area-normalized: [n_mels, N_FFT // 2 + 1] (Malcolm Slaney, Auditory Toolbox, 1998)."""

    def to_hertz(mel: np.ndarray) -> np.ndarray:
        # linear below 1 kHz (3 mel per 200 Hz), logarithmic above (27 mel per factor 6.4)
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * math.log(6.4) / 27))

    top = 15 + 27 * math.log(SAMPLE_RATE / 2 / 1000) / math.log(6.4)
    edges = to_hertz(np.linspace(0, top, n_mels + 2))
    bins = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    bank = np.maximum(0, np.minimum(rising, falling))
    return np.asarray(bank * (2 / (edges[2:] - edges[:-2]))[:, None], dtype=np.float32)


class MelFrontend:
    """Samples to raw log-mel frames, for one model on one device. Stateless; shared by all clients."""

    def __init__(self, n_mels: int, device: torch.device) -> None:
        self.n_mels = n_mels
        self._device = device
        self._filters = torch.from_numpy(mel_filters(n_mels)).to(device)
        self._hann = torch.hann_window(N_FFT, device=device)

    def empty(self) -> Tensor:
        return torch.empty(self.n_mels, 0, device=self._device)

    def frames(self, samples: np.ndarray) -> Tensor:
        """Raw log10 mel frames of `samples` [N_FFT + (n - 1) * HOP] without padding: [n_mels, n]."""
        audio = to_device(torch.from_numpy(samples), self._device)
        spectrum = torch.stft(audio, N_FFT, HOP, window=self._hann, center=False, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        return (self._filters @ power).clamp(min=10**_FLOOR).log10()


class MelWindow:
    """Mel frames of one client's window, extended as audio arrives: each frame is computed once.

    Frame t is centred on sample t * HOP, so the last one or two need samples that are not there yet; they are computed
    against silence at each step anew.
    """

    def __init__(self, frontend: MelFrontend) -> None:
        self._frontend = frontend
        self._raw = frontend.empty()
        self._settled = 0
        self._peak = self._raw.new_tensor(_FLOOR)
        """Of the settled frames."""

    def update(self, audio: np.ndarray, total: int, first: int = 0) -> Tensor:
        """Frames `first` to `total` of `audio` (float32, the whole window so far) followed by silence, in Whisper's
        range: [n_mels, total - first]."""
        self._reserve(total)
        settled = max(self._settled, min(total, (len(audio) - N_FFT // 2) // HOP + 1))
        self._peak = torch.maximum(self._peak, self._compute(audio, self._settled, settled))
        self._settled = settled
        touched = max(settled, min(total, len(audio) // HOP + 2))
        peak = torch.maximum(self._peak, self._compute(audio, settled, touched))
        self._raw[:, touched:total] = _FLOOR
        return _compress(self._raw[:, first:total], peak)

    def _compute(self, audio: np.ndarray, first: int, last: int) -> Tensor:
        """Puts these frames in place. Returns the highest value."""
        if first == last:
            return self._peak
        new = self._frontend.frames(_span(audio, first, last))
        self._raw[:, first:last] = new
        return new.amax()

    def _reserve(self, total: int) -> None:
        """Makes room for so many frames."""
        missing = total - self._raw.shape[1]
        if missing > 0:
            self._raw = F.pad(self._raw, [0, -(-missing // _ROOM) * _ROOM])


def _compress(raw: Tensor, peak: Tensor) -> Tensor:
    """Whisper's range compression of raw log10 mel frames: the top 80 dB of the window, shifted to about [-1, 1]."""
    return (torch.maximum(raw, peak - 8.0) + 4.0) / 4.0


def _span(audio: np.ndarray, first: int, last: int) -> np.ndarray:
    """The samples under frames first..last: reflected before the window's start, silent after its end."""
    start, stop = first * HOP - N_FFT // 2, (last - 1) * HOP + N_FFT // 2
    inside = audio[max(0, start) : max(0, stop)]
    if start < 0:
        left = audio[1 : 1 - start][::-1]
        inside = np.concatenate([np.zeros(-start - len(left), np.float32), left, inside])
    return np.ascontiguousarray(np.pad(inside, (0, stop - start - len(inside))))
