"""Raw PCM of any rate, width and channel count -> 16 kHz mono float32, chunk by chunk."""

from __future__ import annotations

import numpy as np
import soxr

from wyoming_wlk.errors import AudioError

SAMPLE_RATE = 16000
MIN_RATE, MAX_RATE = 4000, 384_000
_MAX_CHANNELS = 32


class PcmDecoder:
    """Converts one stream. Little-endian; integers of one byte are unsigned, as in WAV files; channels are averaged."""

    def __init__(self, rate: int, width: int, channels: int, floating: bool = False) -> None:
        """`rate` in Hz, `width` in bytes per sample, which are integers or `floating` (4 bytes).

        Raises `AudioError` for what cannot be audio.
        """
        if not MIN_RATE <= rate <= MAX_RATE:
            raise AudioError(f"sample rate {rate} Hz is not between {MIN_RATE} and {MAX_RATE}")
        if width not in (1, 2, 3, 4):
            raise AudioError(f"sample width {width} is not 1, 2, 3 or 4 bytes")
        if not 1 <= channels <= _MAX_CHANNELS:
            raise AudioError(f"{channels} channels are not between 1 and {_MAX_CHANNELS}")
        self.rate, self.width, self.channels, self._floating = rate, width, channels, floating
        self._resampler = None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")

    def decode(self, data: bytes) -> np.ndarray:
        """Samples of one chunk; the resampler may hold a few back. Raises `AudioError` for what is no audio."""
        if len(data) % (self.width * self.channels):
            raise AudioError(f"{len(data)} bytes are not whole samples of {self.width} x {self.channels} bytes")
        samples = self._to_float(data)
        if self.channels > 1:
            samples = samples.reshape(-1, self.channels).mean(axis=1)
        return samples if self._resampler is None else np.asarray(self._resampler.resample_chunk(samples))

    def flush(self) -> np.ndarray:
        """What the resampler still holds, at the end of the stream."""
        if self._resampler is None:
            return np.zeros(0, np.float32)
        return np.asarray(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))

    def _to_float(self, data: bytes) -> np.ndarray:
        if self._floating:
            samples = np.frombuffer(data, "<f4")
            if not np.isfinite(samples).all():
                raise AudioError("there are samples that are not finite numbers")
            return np.asarray(np.clip(samples, -1, 1))
        if self.width == 1:
            return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
        if self.width == 3:  # the three bytes become the upper ones of an int32
            wide = np.zeros((len(data) // 3, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
            return wide.view("<i4")[:, 0].astype(np.float32) / 2**31
        return np.frombuffer(data, f"<i{self.width}").astype(np.float32) / np.float32(2 ** (8 * self.width - 1))
