"""The decoder's key/value cache: preallocated slots on the device, one per decoding row, each with its own lengths.

Knows nothing about clients, and which row belongs into which slot is the caller's business.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wyoming_wlk.engine.checkpoint import Dimensions
from wyoming_wlk.engine.transfer import parking_for

_DEFAULT_SLOTS = 16
"""Where the device does not tell how much memory is free. More rows do not make a CPU any faster."""

_MAX_SLOTS = 512
_MEMORY_SHARE = 0.5
"""Of the memory that the weights leave free; the rest is for what passes compute."""


@dataclass(frozen=True)
class CrossAttention:
    """The audio of one row as the decoder sees it.

    `keys_values`: [2, layers, heads, entries, head size]. The first `frames` entries are encoder frames of audio (20 ms
    each); each one after them stands for several frames of silence.
    """

    keys_values: Tensor
    frames: int


@dataclass(frozen=True)
class ParkedRow:
    """One row away from the device: bit-exact copies of what is in use. `self_kv`: [2, layers, heads, tokens, size]."""

    self_kv: Tensor
    cross: CrossAttention

    @property
    def nbytes(self) -> int:
        return self.self_kv.nbytes + self.cross.keys_values.nbytes


class KVCache:
    """Keys and values of `slots` rows.

    `self_kv`: [2, layers, slots, heads, n_text_ctx, head size]; `cross_kv`: the same with n_audio_ctx entries.
    `tokens`, `entries` and `frames` hold each slot's lengths. For padded attention there is one slot more that belongs
    to nobody, and what is behind a row's end is 0: it is weighed with nothing, but nothing times infinity is no number.
    """

    def __init__(
        self, dims: Dimensions, slots: int, dtype: torch.dtype, device: torch.device, padded: bool = False
    ) -> None:
        shape = (2, dims.n_text_layer, slots + padded, dims.n_text_head)
        size = dims.n_text_state // dims.n_text_head
        self.slots, self.text_limit, self.audio_limit = slots, dims.n_text_ctx, dims.n_audio_ctx
        self.self_kv = torch.empty(*shape, dims.n_text_ctx, size, dtype=dtype, device=device)
        self.cross_kv = torch.empty(*shape, dims.n_audio_ctx, size, dtype=dtype, device=device)
        if padded:
            self.self_kv.zero_()
            self.cross_kv.zero_()
        self._padded = padded
        self.tokens = [0] * slots
        self.entries = [0] * slots
        self.frames = [0] * slots
        self._parking = parking_for(device)

    def set_audio(self, slot: int, cross: CrossAttention) -> None:
        """Starts a row: its audio, and no tokens yet."""
        self._begin(slot, cross.keys_values.shape[3], cross.frames, 0)
        self.cross_kv[:, :, slot, :, : self.entries[slot]] = cross.keys_values

    def clear(self, slot: int) -> None:
        """Starts a row without audio of its own: a beam, which reads that of another slot."""
        self._begin(slot, 0, 0, 0)

    def park(self, slot: int) -> ParkedRow:
        """A copy of the slot in host memory."""
        own = self.self_kv[:, :, slot, :, : self.tokens[slot]]
        cross = self.cross_kv[:, :, slot, :, : self.entries[slot]]
        return ParkedRow(self._parking.away(own), CrossAttention(self._parking.away(cross), self.frames[slot]))

    def restore(self, slot: int, row: ParkedRow) -> None:
        """Begins to put a parked row into a slot, bit for bit; `settle` before it is used."""
        tokens, entries = row.self_kv.shape[3], row.cross.keys_values.shape[3]
        self._begin(slot, entries, row.cross.frames, tokens)
        self._parking.back(row.self_kv, self.self_kv[:, :, slot, :, :tokens])
        self._parking.back(row.cross.keys_values, self.cross_kv[:, :, slot, :, :entries])

    def settle(self) -> None:
        """What is computed from now on finds restored rows in their places; the host does not wait for it."""
        self._parking.settle()

    def copy_tokens(self, source: int, target: int) -> None:
        """Copies the token part of a row: a beam that splits over the same audio."""
        self.tokens[target] = tokens = self.tokens[source]
        self.self_kv[:, :, target, :, :tokens] = self.self_kv[:, :, source, :, :tokens]

    def _begin(self, slot: int, entries: int, frames: int, tokens: int) -> None:
        self.entries[slot], self.frames[slot], self.tokens[slot] = entries, frames, tokens
        if self._padded:
            self.self_kv[:, :, slot].zero_()
            self.cross_kv[:, :, slot].zero_()


def default_slots(dims: Dimensions, dtype: torch.dtype, device: torch.device) -> int:
    """How many slots a device should have that holds the weights already."""
    if device.type != "cuda":
        return _DEFAULT_SLOTS
    free, _ = torch.cuda.mem_get_info(device)
    return slots_that_fit(dims, dtype, free)


def slots_that_fit(dims: Dimensions, dtype: torch.dtype, free: int) -> int:
    """How many slots should be made out of so many bytes of free memory."""
    entries = dims.n_text_ctx + dims.n_audio_ctx
    size = 2 * dims.n_text_layer * dims.n_text_state * entries * dtype.itemsize
    return max(1, min(_MAX_SLOTS, int(_MEMORY_SHARE * free) // size))
