"""Audio as clients send it: raw, NumPy, containers while they still come in; and what is no audio."""

from __future__ import annotations

import gc
import io
import threading
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import Clip

from wyoming_wlk.audio.container import ContainerDecoder, _Pipe, decode_file
from wyoming_wlk.audio.input import (
    AudioInput,
    ContainerInput,
    GuessedInput,
    NumpyInput,
    RawInput,
    looks_like_container,
)
from wyoming_wlk.errors import AudioError

CLIP = "1688-142285-0002"
CODECS = {"webm": "libopus", "ogg": "libopus", "wav": "pcm_s16le", "flac": "flac", "mp3": "libmp3lame", "mp4": "aac"}


def encoded(samples: np.ndarray, form: str, rate: int = 48000) -> bytes:
    """The samples (16 kHz) in a container, as a browser or a recorder writes it."""
    file = io.BytesIO()
    options = {"movflags": "frag_keyframe+empty_moov"} if form == "mp4" else {}
    with av.open(file, "w", form, options=options) as container:
        stream = container.add_stream(CODECS.get(form, "pcm_s16be"), rate=rate)
        stream.layout = "mono"
        resampler = av.AudioResampler(stream.format, "mono", rate)
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), "flt", "mono")
        frame.sample_rate = 16000
        for part in (frame, None):
            for resampled in resampler.resample(part):
                container.mux(stream.encode(resampled))
        container.mux(stream.encode(None))
    return file.getvalue()


async def collect(source: AudioInput, data: bytes, step: int) -> np.ndarray:
    """All samples, the data coming in pieces."""
    pieces = [(await source.decode(data[start : start + step]))[0] for start in range(0, len(data), step)]
    return np.concatenate([*pieces, (await source.flush())[0]])


def alike(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation at the best offset of a few hundred samples, because codecs shift what they encode."""
    size = min(len(one), len(other)) - 2000
    part = other[1000 : 1000 + size]
    found = [np.corrcoef(one[1000 + shift : 1000 + shift + size], part)[0, 1] for shift in range(-900, 900, 4)]
    return float(max(found))


@pytest.mark.parametrize("form", CODECS)
@pytest.mark.parametrize("step", [700, 10**6])
async def test_containers(clips: dict[str, Clip], form: str, step: int) -> None:
    """Every usual container gives its samples, however it is cut into messages, and is known by its first bytes."""
    samples = clips[CLIP].samples
    data = encoded(samples, form)
    assert looks_like_container(data)
    heard = await collect(GuessedInput(), data, step)
    assert len(heard) == pytest.approx(len(samples), abs=2500)
    assert alike(heard, samples) > 0.9


async def test_a_live_webm_is_heard_before_its_end(clips: dict[str, Clip]) -> None:
    """Audio comes out while the recorder still writes: by half of the file, nearly half of the samples."""
    data = encoded(clips[CLIP].samples, "webm")
    source = ContainerInput()
    early = [(await source.decode(data[start : start + 500]))[0] for start in range(0, len(data) // 2, 500)]
    assert sum(map(len, early)) > 0.25 * len(clips[CLIP].samples)


def test_files(clips: dict[str, Clip]) -> None:
    """A whole file comes out piece by piece."""
    heard = np.concatenate(list(decode_file(io.BytesIO(encoded(clips[CLIP].samples, "flac", rate=16000)))))
    assert heard.dtype == np.float32 and alike(heard, clips[CLIP].samples) > 0.99


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "cut in the header": lambda data: data[:40],
    "noise behind the header": lambda data: data[:4] + b"\x17\x99" * 3000,
    "zeros": lambda data: data[:4] + bytes(5000),
}


@pytest.mark.parametrize("form", ["webm", "ogg", "wav", "flac"])
@pytest.mark.parametrize("damage", BROKEN)
async def test_broken_containers(clips: dict[str, Clip], form: str, damage: str) -> None:
    """What cannot be decoded is an `AudioError`, or no audio; nothing hangs."""
    data = BROKEN[damage](encoded(clips[CLIP].samples, form))
    try:
        heard = await collect(ContainerInput(), data, 1000)
    except AudioError as err:
        assert "audio" in str(err)
    else:
        assert len(heard) < 16000


async def test_play_lists_open_nothing(clips: dict[str, Clip], tmp_path: Path) -> None:
    """What names other files or addresses is no audio: nobody reads the server's disk with it."""
    secret = tmp_path / "secret.wav"
    secret.write_bytes(encoded(clips[CLIP].samples, "wav"))
    lists = (f"ffconcat version 1.0\nfile '{secret}'\n", f"#EXTM3U\n#EXTINF:10,\nfile://{secret}\n#EXT-X-ENDLIST\n")
    for text in lists:
        with pytest.raises(AudioError):
            await collect(ContainerInput(), text.encode(), 10**6)
        with pytest.raises(AudioError):
            list(decode_file(io.BytesIO(text.encode())))


async def test_a_message_cannot_unfold_to_hours() -> None:
    """Silence packs well: a small message that holds hours is refused before it fills the memory."""
    hours = encoded(np.zeros(16000 * 1500, np.float32), "flac", rate=16000)
    assert len(hours) < 2**20
    with pytest.raises(AudioError, match="more than 600 seconds"):
        await collect(ContainerInput(), hours, len(hours))


def test_tiny_frames_are_cheap() -> None:
    """Minutes of audio in frames of a few samples take no more time than their number."""
    pipe, frame = _Pipe(), np.zeros(16, np.float32)
    began = time.process_time()
    for _ in range(200_000):
        pipe.add(frame)
    assert time.process_time() - began < 5
    assert len(pipe.collect()) == 200_000 * 16


@pytest.mark.parametrize("rate", [1, 3999, 384_001, 0x6000BB80])
def test_absurd_rates_are_refused(rate: int) -> None:
    """Before a resampler is made, whose filter can take a core for minutes."""
    wav = bytearray(encoded(np.zeros(16000, np.float32), "wav", rate=16000))
    wav[24:28] = rate.to_bytes(4, "little")
    began = time.process_time()
    with pytest.raises(AudioError, match="sample rate"):
        list(decode_file(io.BytesIO(wav)))
    assert time.process_time() - began < 1


def test_what_follows_the_end_is_not_kept() -> None:
    """A container that is over takes no memory, however much the client goes on to send."""
    decoder = ContainerDecoder()
    decoder.decode(encoded(np.zeros(16000, np.float32), "aiff", rate=16000))
    for _ in range(5):
        decoder.decode(bytes(2**20))
    assert len(decoder._pipe._bytes) <= 2**20


def test_a_dropped_stream_leaves_no_thread(clips: dict[str, Clip]) -> None:
    """A client that leaves in the middle of a container costs nothing afterwards."""
    before = set(threading.enumerate())
    decoders = [ContainerDecoder() for _ in range(5)]
    for decoder in decoders:
        decoder.decode(encoded(clips[CLIP].samples, "webm")[:3000])
    threads = set(threading.enumerate()) - before
    assert len(threads) == 5
    del decoders, decoder
    gc.collect()
    for thread in threads:
        thread.join(timeout=10)
        assert not thread.is_alive()


async def test_raw_samples_may_be_torn_between_messages(clips: dict[str, Clip]) -> None:
    """Odd pieces of s16le and float32 add up to the same samples, and each sample is counted once."""
    samples = clips[CLIP].samples
    for floating, data in ((False, clips[CLIP].pcm), (True, samples.astype("<f4").tobytes())):
        source = RawInput(16000, floating)
        heard, counted = [], 0
        for start in range(0, len(data), 1001):
            audio, count = await source.decode(data[start : start + 1001])
            heard.append(audio)
            counted += count
        assert counted == len(samples)
        assert np.allclose(np.concatenate(heard), samples, atol=1e-3)


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2), np.float32), np.zeros(4), np.array(["x"]), np.array(1.0, np.float32)]
)
async def test_arrays_of_another_kind(array: np.ndarray) -> None:
    """Only one-dimensional float32 is audio."""
    file = io.BytesIO()
    np.save(file, array)
    with pytest.raises(AudioError):
        await NumpyInput(16000).decode(file.getvalue())


async def test_samples_out_of_range_are_limited() -> None:
    """Loud floats are clipped, and those that are no numbers refused."""
    audio, _ = await RawInput(16000, floating=True).decode(np.array([5, -5, 0.5], "<f4").tobytes())
    assert audio.tolist() == [1, -1, 0.5]
    with pytest.raises(AudioError, match="finite"):
        await RawInput(16000, floating=True).decode(np.array([np.inf], "<f4").tobytes())
