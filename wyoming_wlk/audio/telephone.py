"""G.711, the codec of telephone lines: one byte per sample, companded by the mu-law or the A-law (ITU-T G.711)."""

from __future__ import annotations

import numpy as np

from wyoming_wlk.audio.input import Samples
from wyoming_wlk.audio.pcm import PcmDecoder


class TelephoneInput:
    """mu-law or A-law at any rate. Messages may end within a frame of several channels."""

    def __init__(self, rate: int, a_law: bool = False, channels: int = 1) -> None:
        self._table = (_a_law() if a_law else _mu_law()).astype("<i2")
        self._decoder = PcmDecoder(rate, 2, channels)
        self._channels = channels
        self._rest = b""

    async def decode(self, data: bytes) -> Samples:
        data = self._rest + data
        whole = len(data) // self._channels * self._channels
        self._rest = data[whole:]
        samples = self._table[np.frombuffer(data[:whole], np.uint8)]
        return self._decoder.decode(samples.tobytes()), whole // self._channels

    async def flush(self) -> Samples:
        return self._decoder.flush(), 0

    def realign(self) -> None:
        self._rest = b""


def _mu_law() -> np.ndarray:
    """int16 [256]: the sample that each byte stands for. All bits come inverted."""
    code = ~np.arange(256, dtype=np.uint8)
    size = (((code & 0x0F).astype(np.int32) << 3) + 0x84) << ((code >> 4) & 7)
    return np.where(code & 0x80, 0x84 - size, size - 0x84)


def _a_law() -> np.ndarray:
    """int16 [256]: the sample that each byte stands for. Every other bit comes inverted."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent = (code >> 4) & 7
    size = ((code & 0x0F).astype(np.int32) << 4) + np.where(exponent, 0x108, 8)
    size <<= np.maximum(exponent, 1) - 1
    return np.where(code & 0x80, size, -size)
