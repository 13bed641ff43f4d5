"""What stays of a client's window between its steps, so that a partial step computes what is new and little more.

A window grows at its end. What the encoder makes of a frame depends on all others, but hardly on those that come a
second later and more; so frames that lie back that far keep their keys and values, in each layer of the encoder and for
the decoder. The same holds for the decoder's keys and values of committed text. Partial steps go on from there. A final
takes none of it but the mel frames: but for rounding its text depends on what was said, and not on when steps came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wyoming_wlk.engine.cache import CrossAttention
from wyoming_wlk.engine.checkpoint import Dimensions
from wyoming_wlk.engine.mel import MelWindow

_ROOM = 256
"""Memory grows by so many entries."""


class AudioMemory:
    """Keys and values of a window's frames and of the silence behind them, with room to grow.

    `layers`: the encoder's, [layers, 2, heads, room, head size]; `cross`: the decoder's view of the same,
    [2, layers, heads, room, head size]. The first `settled` frames are not encoded again.
    """

    def __init__(self, dims: Dimensions, attention: torch.dtype, state: torch.dtype, device: torch.device) -> None:
        size = dims.n_audio_state // dims.n_audio_head
        self.layers = torch.empty(dims.n_audio_layer, 2, dims.n_audio_head, 0, size, dtype=attention, device=device)
        size = dims.n_text_state // dims.n_text_head
        self.cross = torch.empty(2, dims.n_text_layer, dims.n_text_head, 0, size, dtype=state, device=device)
        self.settled = 0

    def reserve(self, entries: int) -> None:
        """Makes room for so many."""
        room = -(-entries // _ROOM) * _ROOM
        if room > self.cross.shape[3]:
            self.layers, self.cross = _with_room(self.layers, room), _with_room(self.cross, room)

    def heard(self, entries: int, frames: int) -> CrossAttention:
        """The decoder's view of the first entries, `frames` of which are audio; valid until the next step."""
        return CrossAttention(self.cross[:, :, :, :entries], frames)


def _with_room(old: Tensor, room: int) -> Tensor:
    new = old.new_empty(*old.shape[:3], room, old.shape[4])
    new[:, :, :, : old.shape[3]] = old
    return new


@dataclass(frozen=True)
class TextMemory:
    """Tokens and the decoder's keys and values of them: [2, layers, heads, tokens, head size]."""

    tokens: Sequence[int]
    self_kv: Tensor

    def common(self, text: Sequence[int]) -> int:
        """How many of the tokens `text` begins with, short of its last one: something has to be read."""
        count = min(len(self.tokens), len(text) - 1)
        return next((i for i in range(count) if self.tokens[i] != text[i]), count)


@dataclass(eq=False)
class Window:
    """Of one client. `audio` is None where windows are always encoded as a whole; `text` is what follows the prompt."""

    mel: MelWindow
    audio: AudioMemory | None
    text: TextMemory | None = None
