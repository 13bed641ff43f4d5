"""Audio of every format becomes 16 kHz mono float32, the same however it is cut."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
import soundfile

from wyoming_wlk.audio.pcm import SAMPLE_RATE, PcmDecoder
from wyoming_wlk.errors import AudioError

SUBTYPES = {1: "PCM_U8", 2: "PCM_16", 3: "PCM_24", 4: "PCM_32"}
RATES = [8000, 11025, 16000, 22050, 44100, 48000]


def sine(rate: int, seconds: float = 1.0, hertz: float = 440, level: float = 0.5) -> np.ndarray:
    return level * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)


def pcm(samples: np.ndarray, rate: int = SAMPLE_RATE, width: int = 2) -> bytes:
    """Samples [n] or [n, channels] as raw PCM, written by another implementation."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, SUBTYPES[width], "LITTLE", "RAW")
    return file.getvalue()


def decode(decoder: PcmDecoder, *chunks: bytes) -> np.ndarray:
    decoded = [*map(decoder.decode, chunks), decoder.flush()]
    assert {part.dtype for part in decoded} == {np.dtype(np.float32)}
    assert {part.ndim for part in decoded} == {1}
    return np.concatenate(decoded)


@pytest.mark.parametrize("width", SUBTYPES)
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("channels", [1, 2, 3, 6])
def test_every_format(rate: int, width: int, channels: int) -> None:
    """A tone keeps its frequency, its level and its length in every rate, width and number of channels."""
    tone = sine(rate)
    decoded = decode(PcmDecoder(rate, width, channels), pcm(np.repeat(tone[:, None], channels, 1), rate, width))
    assert abs(len(decoded) - SAMPLE_RATE) <= 1
    spectrum = np.abs(np.fft.rfft(decoded * np.hanning(len(decoded)), 16 * SAMPLE_RATE))
    assert spectrum.argmax() / 16 == pytest.approx(440, abs=0.5)
    middle = decoded[1600:-1600]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.01)
    assert np.abs(middle).max() == pytest.approx(0.5, rel=0.02)
    assert abs(middle.mean()) < 0.005


@pytest.mark.parametrize("rate", RATES)
def test_resampling_adds_no_delay(rate: int) -> None:
    """A click stays where it was, so that times of words stay true."""
    click = np.zeros(rate)
    click[rate // 2] = 0.9
    decoded = decode(PcmDecoder(rate, 2, 1), pcm(click, rate))
    assert abs(int(np.abs(decoded).argmax()) - SAMPLE_RATE // 2) <= 1


@pytest.mark.parametrize(
    ("width", "data", "expected"),
    [
        (1, b"\x00\x80\xff", [-1, 0, 127 / 128]),
        (2, b"\x00\x80\x00\x00\xff\x7f\x00\x01", [-1, 0, 32767 / 32768, 1 / 128]),
        (3, b"\x00\x00\x80\x00\x00\x00\xff\xff\x7f\x00\x00\x01", [-1, 0, 1 - 2**-23, 1 / 128]),
        (4, b"\x00\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00\x40\x00\x00\x00\x01", [-1, 0, 0.5, 1 / 128]),
    ],
)
def test_extremes(width: int, data: bytes, expected: list[float]) -> None:
    """The lowest, middle and highest values of each width become -1, 0 and almost 1, least significant byte first."""
    assert PcmDecoder(SAMPLE_RATE, width, 1).decode(data) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("width", SUBTYPES)
def test_noise(width: int) -> None:
    """Every sample decodes as another implementation wrote it, up to the steps of its width."""
    noise = np.random.default_rng(width).uniform(-1, 0.99, (1000, 2))
    decoded = PcmDecoder(SAMPLE_RATE, width, 2).decode(pcm(noise, width=width))
    assert np.abs(decoded - noise.mean(1)).max() <= 2.0 ** (1 - 8 * width) + 1e-7


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize(("width", "channels"), [(2, 1), (3, 2)])
def test_chunks(rate: int, width: int, channels: int) -> None:
    """Cut into chunks of any whole number of samples, empty ones included, audio decodes as in one piece."""
    random = np.random.default_rng(rate)
    data = pcm(random.uniform(-0.5, 0.5, (rate // 2, channels)), rate, width)
    places = [0, 0, *sorted(random.integers(0, rate // 2, 30)), rate // 2]
    chunks = [data[start * width * channels : end * width * channels] for start, end in pairwise(places)]
    assert b"".join(chunks) == data
    whole = decode(PcmDecoder(rate, width, channels), data)
    assert np.allclose(decode(PcmDecoder(rate, width, channels), *chunks), whole, atol=1e-5)


def test_audio_arrives_in_time() -> None:
    """The resampler does not hold back more than a tenth of a second until the end."""
    decoder = PcmDecoder(44100, 2, 1)
    received = sum(len(decoder.decode(bytes(2 * 441))) for _ in range(100))
    assert 0.9 * SAMPLE_RATE <= received <= SAMPLE_RATE


def test_stereo_is_averaged() -> None:
    """Two loud channels stay within range, opposite ones cancel out, and one silent channel halves the level."""
    left, right = np.array([0.75, 0.75, 0.75]), np.array([0.75, -0.75, 0])
    decoded = PcmDecoder(SAMPLE_RATE, 2, 2).decode(pcm(np.stack([left, right], 1)))
    assert decoded == pytest.approx([0.75, 0, 0.375], abs=1e-4)


@pytest.mark.parametrize("rate", [0, -16000, 3999, 384_001, 10**20])
def test_bad_rate(rate: int) -> None:
    """A sample rate that no recording has is refused by its name."""
    with pytest.raises(AudioError, match=f"sample rate {rate} "):
        PcmDecoder(rate, 2, 1)


@pytest.mark.parametrize("width", [0, -1, 5, 8])
def test_bad_width(width: int) -> None:
    """A sample is one to four bytes."""
    with pytest.raises(AudioError, match=f"width {width} "):
        PcmDecoder(SAMPLE_RATE, width, 1)


@pytest.mark.parametrize("channels", [0, -1, 33])
def test_bad_channels(channels: int) -> None:
    """There is at least one channel, and there are not hundreds."""
    with pytest.raises(AudioError, match=f"{channels} channels"):
        PcmDecoder(SAMPLE_RATE, 2, channels)


@pytest.mark.parametrize(("width", "channels", "size"), [(2, 1, 3), (2, 2, 6), (3, 1, 4), (4, 2, 12), (1, 2, 1)])
def test_torn_samples(width: int, channels: int, size: int) -> None:
    """A chunk that ends within a sample is refused, at every rate."""
    for rate in (8000, SAMPLE_RATE):
        with pytest.raises(AudioError, match=f"{size} bytes are not whole samples"):
            PcmDecoder(rate, width, channels).decode(bytes(size))


def test_nothing() -> None:
    """No bytes are no samples."""
    for rate in (8000, SAMPLE_RATE):
        assert len(decode(PcmDecoder(rate, 2, 1), b"", b"")) == 0
