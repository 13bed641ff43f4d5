"""The decoder's key/value cache: preallocated slots on the device, one per decoding row, each with its own lengths.

Knows nothing about clients, and which row belongs into which slot is the caller's business.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wyoming_wlk.engine.checkpoint import Dimensions


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
    `tokens`, `entries` and `frames` hold each slot's lengths.
    """

    def __init__(self, dims: Dimensions, slots: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (2, dims.n_text_layer, slots, dims.n_text_head)
        size = dims.n_text_state // dims.n_text_head
        self.slots = slots
        self.self_kv = torch.empty(*shape, dims.n_text_ctx, size, dtype=dtype, device=device)
        self.cross_kv = torch.empty(*shape, dims.n_audio_ctx, size, dtype=dtype, device=device)
        self.tokens = [0] * slots
        self.entries = [0] * slots
        self.frames = [0] * slots

    def set_audio(self, slot: int, cross: CrossAttention) -> None:
        """Starts a row: its audio, and no tokens yet."""
        self.entries[slot] = entries = cross.keys_values.shape[3]
        self.frames[slot] = cross.frames
        self.tokens[slot] = 0
        self.cross_kv[:, :, slot, :, :entries] = cross.keys_values

    def clear(self, slot: int) -> None:
        """Starts a row without audio of its own: a beam, which reads that of another slot."""
        self.entries[slot] = self.frames[slot] = self.tokens[slot] = 0

    def park(self, slot: int) -> ParkedRow:
        """A copy of the slot in host memory."""
        own = self.self_kv[:, :, slot, :, : self.tokens[slot]]
        cross = self.cross_kv[:, :, slot, :, : self.entries[slot]]
        return ParkedRow(own.to("cpu", copy=True), CrossAttention(cross.to("cpu", copy=True), self.frames[slot]))

    def restore(self, slot: int, row: ParkedRow) -> None:
        """Puts a parked row into a slot, bit for bit."""
        self.set_audio(slot, row.cross)
        self.tokens[slot] = tokens = row.self_kv.shape[3]
        self.self_kv[:, :, slot, :, :tokens] = row.self_kv

    def copy_tokens(self, source: int, target: int) -> None:
        """Copies the token part of a row: a beam that splits over the same audio."""
        self.tokens[target] = tokens = self.tokens[source]
        self.self_kv[:, :, target, :, :tokens] = self.self_kv[:, :, source, :, :tokens]
