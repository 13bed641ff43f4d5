"""A client's audio as it comes: raw samples, NumPy files, or a container such as WebM; 16 kHz mono float32 out.

Every kind of input is an object with `decode` and `flush`; both return samples and how many the client counts for them.
"""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Protocol

import numpy as np

from wyoming_wlk.audio.pcm import SAMPLE_RATE, PcmDecoder
from wyoming_wlk.errors import AudioError

if TYPE_CHECKING:
    from wyoming_wlk.audio.container import ContainerDecoder

_MAGIC = (b"\x1a\x45\xdf\xa3", b"OggS", b"RIFF", b"fLaC", b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf1", b"\xff\xf9")

Samples = tuple[np.ndarray, int]
"""Audio at 16 kHz, and its length as the client counts it."""


class AudioInput(Protocol):
    """One stream's decoder. `decode` and `flush` raise `AudioError` for what is no audio."""

    async def decode(self, data: bytes) -> Samples: ...

    async def flush(self) -> Samples:
        """What is still held back, at the end of the stream."""
        ...

    def realign(self) -> None:
        """The connection was lost: the next message begins with a whole sample, or with a container's header."""
        ...


class RawInput:
    """s16le or float32 at any rate. Messages may end within a sample."""

    def __init__(self, rate: int, floating: bool = False, channels: int = 1) -> None:
        self._decoder = PcmDecoder(rate, 4 if floating else 2, channels, floating)
        self._frame = self._decoder.width * channels
        self._rest = b""

    async def decode(self, data: bytes) -> Samples:
        data = self._rest + data
        whole = len(data) // self._frame * self._frame
        self._rest = data[whole:]
        return self._decoder.decode(data[:whole]), whole // self._frame

    async def flush(self) -> Samples:
        return self._decoder.flush(), 0

    def realign(self) -> None:
        self._rest = b""


class NumpyInput:
    """Messages that are each one `np.save` of a float32 array [samples]."""

    def __init__(self, rate: int) -> None:
        self._decoder = PcmDecoder(rate, 4, 1, floating=True)

    async def decode(self, data: bytes) -> Samples:
        try:
            array = np.load(io.BytesIO(data), allow_pickle=False)
        except Exception as err:  # NumPy raises whatever comes up in a header made by a stranger
            raise AudioError("the message is not an array as np.save writes it") from err
        if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.ndim != 1:
            raise AudioError("the array is not one of float32 with one dimension")
        return self._decoder.decode(array.astype("<f4").tobytes()), len(array)

    async def flush(self) -> Samples:
        return self._decoder.flush(), 0

    def realign(self) -> None:
        pass  # each message stands for itself


class ContainerInput:
    """A file or a stream in any container and codec that FFmpeg's libraries know."""

    def __init__(self) -> None:
        self._decoder: ContainerDecoder | None = None

    async def decode(self, data: bytes) -> Samples:
        audio = await asyncio.to_thread(lambda: self._opened().decode(data))
        return audio, len(audio)

    async def flush(self) -> Samples:
        audio = await asyncio.to_thread(lambda: self._opened().flush())
        return audio, len(audio)

    def realign(self) -> None:
        self._decoder = None

    def _opened(self) -> ContainerDecoder:
        # The libraries take memory and time to load: who never hears a container goes without.
        from wyoming_wlk.audio.container import ContainerDecoder

        if self._decoder is None:
            self._decoder = ContainerDecoder()
        return self._decoder


def looks_like_container(data: bytes) -> bool:
    """Whether these first bytes are those of a container that FFmpeg knows."""
    return data.startswith(_MAGIC) or data[4:8] == b"ftyp"


class GuessedInput:
    """Raw s16le at 16 kHz or a container: the first bytes tell."""

    def __init__(self) -> None:
        self._chosen: AudioInput | None = None

    async def decode(self, data: bytes) -> Samples:
        if self._chosen is None and data:
            self._chosen = ContainerInput() if looks_like_container(data) else RawInput(SAMPLE_RATE)
        return await self._chosen.decode(data) if self._chosen is not None else (np.zeros(0, np.float32), 0)

    async def flush(self) -> Samples:
        return await self._chosen.flush() if self._chosen is not None else (np.zeros(0, np.float32), 0)

    def realign(self) -> None:
        self._chosen = None
