"""From the audio of rows to windows that the decoder can look at: how much silence goes behind it, and what of it has
been encoded already. Runs on the encoder's thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wyoming_wlk.engine.attention import SILENCE_STRIDE
from wyoming_wlk.engine.cache import CrossAttention
from wyoming_wlk.engine.encoder import mel_start
from wyoming_wlk.engine.hypothesis import Row
from wyoming_wlk.engine.mel import HOP, SAMPLE_RATE, MelFrontend, MelWindow
from wyoming_wlk.engine.model import Whisper
from wyoming_wlk.engine.window import AudioMemory, Window

if TYPE_CHECKING:
    from torch import Tensor

FRAME_SAMPLES = 2 * HOP
"""Samples of one encoder frame."""

PADDING_SECONDS = 0.7
"""Real silence after the audio, before the thinned-out silence begins: the model then finds the end by itself."""

_PARTIAL_PADDING_SECONDS = 0.5
"""The same where a partial goes on from what is encoded already: it never ends a text."""

_WHOLE_FRAMES = 50
_ADDED_FRAMES = 16
"""Windows, and what is added to them, are encoded in multiples of so many frames: each length costs compiled code and
scratch memory of its own."""

_UNSETTLED_FRAMES = 60
"""What lies less than 1.2 s before the end of the audio is encoded again by the next step."""


class WindowEncoder:
    """Encodes the windows of rows by one model, each beginning where its last step left off."""

    def __init__(self, model: Whisper) -> None:
        self._model = model
        self._mel = MelFrontend(model.dims.n_mels, model.device)

    def encode(self, rows: Sequence[Row]) -> list[CrossAttention]:
        """Encodes the rows' windows and sets how many frames of audio they have."""
        windows = {row: self._window(row) for row in rows}
        crosses = {
            row: self._extend(row, window.mel, window.audio)
            for row, window in windows.items()
            if window.audio is not None and not row.final
        }
        whole = [row for row in rows if row not in crosses]
        crosses |= zip(whole, self._model.encode([self._whole(row, windows[row].mel) for row in whole]), strict=True)
        return [crosses[row] for row in rows]

    def _window(self, row: Row) -> Window:
        """What the client's last step left."""
        context = row.request.context
        if context.window is None:
            context.window = Window(MelWindow(self._mel), self._model.new_memory())
        row.frames = len(context.audio) // FRAME_SAMPLES
        return context.window

    def _frames(self, row: Row, padding: float, step: int) -> int:
        """The row's audio and the silence behind it, a multiple of `step`."""
        padded = len(row.request.context.audio) + int(padding * SAMPLE_RATE)
        return min(self._model.dims.n_audio_ctx, -(-padded // (step * FRAME_SAMPLES)) * step)

    def _whole(self, row: Row, mel: MelWindow) -> Tensor:
        return mel.update(row.request.context.audio, 2 * self._frames(row, PADDING_SECONDS, _WHOLE_FRAMES))

    def _extend(self, row: Row, mel: MelWindow, memory: AudioMemory) -> CrossAttention:
        """Encodes what is not settled yet, and as much before it as fills the last block."""
        frames = self._frames(row, _PARTIAL_PADDING_SECONDS, SILENCE_STRIDE)
        added = -(-(frames - memory.settled) // _ADDED_FRAMES) * _ADDED_FRAMES
        first = max(0, frames - added)
        return self._model.extend(mel.update(row.request.context.audio, 2 * frames, mel_start(first)), first, memory)

    @staticmethod
    def settle(row: Row) -> None:
        """After a partial: what need not be encoded again."""
        window = row.request.context.window
        if window is not None and window.audio is not None:
            window.audio.settled = max(0, row.frames - _UNSETTLED_FRAMES)
