"""G.711 against FFmpeg's decoders."""

from __future__ import annotations

import av
import numpy as np
import pytest

from wyoming_wlk.audio.telephone import TelephoneInput
from wyoming_wlk.errors import AudioError

EVERY_BYTE = bytes(range(256))


@pytest.mark.parametrize(("codec", "a_law"), [("pcm_mulaw", False), ("pcm_alaw", True)])
async def test_every_byte_is_decoded_as_by_ffmpeg(codec: str, a_law: bool) -> None:
    """Both laws give the samples that FFmpeg gives for each of the 256 bytes."""
    decoder = av.CodecContext.create(codec, "r")
    decoder.sample_rate, decoder.layout = 16000, "mono"
    (frame,) = decoder.decode(av.Packet(EVERY_BYTE))
    samples, count = await TelephoneInput(16000, a_law).decode(EVERY_BYTE)
    assert count == 256
    assert np.array_equal(np.round(samples * 2**15), frame.to_ndarray()[0])


async def test_channels_are_averaged_and_frames_may_be_torn() -> None:
    """A message may end between two channels; the rest comes with the next."""
    stereo = TelephoneInput(16000, channels=2)
    pieces = [await stereo.decode(data) for data in (b"\x00\x80\x00", b"\x80")]
    assert [count for _, count in pieces] == [1, 1]
    assert np.concatenate([samples for samples, _ in pieces]).tolist() == [0.0, 0.0]


def test_a_rate_that_cannot_be() -> None:
    """A rate out of range is refused."""
    with pytest.raises(AudioError, match="sample rate"):
        TelephoneInput(1)
