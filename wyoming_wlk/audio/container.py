"""Containers and codecs (WebM, Ogg, WAV, MP3, MP4 ...) -> 16 kHz mono float32, while the bytes still come in.

PyAV wants to read from a file, so each stream has a thread that reads from a queue of what has come; `decode` waits
until that thread wants more than there is.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import av
import av.error
import numpy as np
from av.container import InputContainer

from wyoming_wlk.audio.pcm import MAX_RATE, MIN_RATE, SAMPLE_RATE
from wyoming_wlk.errors import AudioError

_FORMATS = {
    "format_whitelist": "aac,ac3,aiff,amr,ape,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,tta,w64,"
    "wav,wv"
}
"""FFmpeg also reads play lists and the like, which make it open other files and sockets than the one it was given."""

_PROBE = _FORMATS | {"probesize": "4096", "analyzeduration": "0"}
"""A live stream is to begin with the first packet, not after seconds of analysis."""


_MAX_SECONDS = 600
"""Of audio in one message: silence can be packed so tightly that a small message fills the memory."""


class ContainerDecoder:
    """One stream. Used by one thread at a time; blocking."""

    def __init__(self) -> None:
        self._pipe = _Pipe()
        # The thread knows the pipe alone, so that a decoder that nobody wants any more can go, and the thread with it.
        self._thread = threading.Thread(target=_decode, args=(self._pipe,), name="container", daemon=True)
        self._thread.start()

    def __del__(self) -> None:
        self._pipe.close()

    def decode(self, data: bytes) -> np.ndarray:
        """The audio that these bytes complete. Raises `AudioError` for what cannot be decoded."""
        self._pipe.write(data)
        return self._pipe.collect()

    def flush(self) -> np.ndarray:
        """The rest, at the end of the stream. Raises `AudioError` where it ends too early to be audio."""
        self._pipe.close()
        self._thread.join()
        return self._pipe.collect()


class _Pipe:
    """Bytes on their way to the decoding thread, and samples on their way back."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._bytes = bytearray()
        self._samples: list[np.ndarray] = []
        self._collectable = 0
        """Their length."""
        self._error: AudioError | None = None
        self._hungry = self._closed = self._ended = False

    def write(self, data: bytes) -> None:
        """Hands bytes over and waits until they are used up."""
        with self._changed:
            if self._ended:
                return  # nobody reads what follows the end
            self._bytes += data
            self._hungry = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._hungry or self._ended)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def collect(self) -> np.ndarray:
        with self._changed:
            if self._error is not None:
                raise self._error
            samples, self._samples, self._collectable = self._samples, [], 0
        return np.concatenate([*samples, np.zeros(0, np.float32)])

    def read(self, size: int) -> bytes:
        """For the thread: what there is, at most `size` bytes; waits for more. Empty at the end."""
        with self._changed:
            while not self._bytes and not self._closed:
                self._hungry = True
                self._changed.notify_all()
                self._changed.wait()
            data = bytes(self._bytes[:size])
            del self._bytes[:size]
            return data

    def add(self, samples: np.ndarray) -> None:
        with self._changed:
            self._samples.append(samples)
            self._collectable += len(samples)
            if self._collectable > _MAX_SECONDS * SAMPLE_RATE:
                raise AudioError(f"one message holds more than {_MAX_SECONDS} seconds of audio")

    def end(self, error: AudioError | None) -> None:
        with self._changed:
            self._error, self._ended = error, True
            self._changed.notify_all()


def _decode(pipe: _Pipe) -> None:
    """The thread."""
    error: AudioError | None = None
    try:
        with av.open(pipe, "r", options=_PROBE) as container:
            for samples in _samples(container):
                pipe.add(samples)
    except AudioError as err:
        error = err
    except (av.error.FFmpegError, ValueError, IndexError) as err:
        error = AudioError(f"the audio cannot be decoded: {_reason(err)}")
    finally:
        pipe.end(error)


def decode_file(file: Path | BinaryIO) -> Iterator[np.ndarray]:
    """A whole file, piece by piece: float32 [samples]. Raises `AudioError` where it is no audio."""
    try:
        with av.open(file if not isinstance(file, Path) else str(file), "r", options=_FORMATS) as container:
            yield from _samples(container)
    except (av.error.FFmpegError, ValueError, IndexError) as err:
        raise AudioError(f"the audio cannot be decoded: {_reason(err)}") from err


def duration(file: Path) -> float | None:
    """Seconds, where the file says how long it is. Raises `AudioError` where it is no audio."""
    try:
        with av.open(str(file), "r", options=_FORMATS) as container:
            return container.duration / av.time_base if container.duration else None
    except (av.error.FFmpegError, ValueError, IndexError) as err:
        raise AudioError(f"the audio cannot be decoded: {_reason(err)}") from err


def _samples(container: InputContainer) -> Iterator[np.ndarray]:
    if not container.streams.audio:
        raise AudioError("there is no audio in it")
    resampler = av.AudioResampler("flt", "mono", SAMPLE_RATE)
    for frame in itertools.chain(container.decode(container.streams.audio[0]), [None]):
        if frame is not None and not MIN_RATE <= frame.sample_rate <= MAX_RATE:  # the filter alone could take minutes
            raise AudioError(f"sample rate {frame.sample_rate} Hz is not between {MIN_RATE} and {MAX_RATE}")
        for resampled in resampler.resample(frame):
            samples = resampled.to_ndarray()[0]
            yield np.clip(np.nan_to_num(samples), -1, 1).astype(np.float32)


def _reason(error: Exception) -> str:
    return error.strerror.lower() if isinstance(error, av.error.FFmpegError) and error.strerror else "it is broken"
