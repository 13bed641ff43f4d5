"""Attention of all rows at once, each padded to the longest: for devices where many small products are slow.

Nothing here waits for the device, and everything that differs from row to row is a tensor on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wyoming_wlk.engine.attention import SILENCE_BIAS, SILENCE_STRIDE
from wyoming_wlk.engine.cache import KVCache
from wyoming_wlk.engine.transfer import to_device, upload

_GROUP_FRAMES = 250
"""Windows whose lengths lie in the same 5 s are padded to the longest of them."""


@dataclass(frozen=True)
class Packing:
    """Rows of different lengths one after the other, and the same as a rectangle."""

    rows: int
    longest: int
    sources: Tensor | None
    """For each place of the rectangle the token in it, behind a row's end its first; None where nothing is padded."""
    valid: Tensor | None
    """For each token its place in the rectangle."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Packing:
        longest = max(lengths)
        if min(lengths) == longest:
            return cls(len(lengths), longest, None, None)
        ends = np.cumsum(lengths)[:, None]
        begins = ends - np.array(lengths)[:, None]
        sources = begins + np.arange(longest)
        inside = sources < ends
        padded = torch.from_numpy(np.where(inside, sources, begins).ravel())
        valid = torch.from_numpy(np.flatnonzero(inside))
        return cls(len(lengths), longest, to_device(padded, device), to_device(valid, device))

    def pad(self, x: Tensor) -> Tensor:
        """[tokens, ...] -> [rows, longest, ...]"""
        rectangle = x if self.sources is None else x[self.sources]
        return rectangle.view(self.rows, self.longest, *x.shape[1:])

    def unpad(self, x: Tensor) -> Tensor:
        """[rows, longest, ...] -> [tokens, ...]"""
        flat = x.flatten(0, 1)
        return flat if self.valid is None else flat[self.valid]


@dataclass(frozen=True)
class _Windows:
    """Windows that attend together. `bias`, [windows, 1, 1, frames + entries of silence]: what is added to scores."""

    size: int
    packing: Packing
    bias: Tensor

    def attend(self, q: Tensor, k: Tensor, v: Tensor, silent: tuple[Tensor, Tensor]) -> Tensor:
        def with_silence(own: Tensor, entries: Tensor) -> Tensor:
            rectangle = self.packing.pad(own).transpose(1, 2)
            return torch.cat([rectangle, entries.expand(self.packing.rows, -1, -1, -1)], dim=2)

        queries = self.packing.pad(q).transpose(1, 2)
        keys, values = with_silence(k, silent[0]), with_silence(v, silent[1])
        bias = self.bias.expand(-1, -1, queries.shape[2], -1)
        return self.packing.unpad(F.scaled_dot_product_attention(queries, keys, values, bias).transpose(1, 2))


class PaddedWindows:
    """The encoder's, over windows in ascending order of their `lengths`; those of nearly equal length together."""

    def __init__(self, lengths: Sequence[int], n_audio_ctx: int, device: torch.device, dtype: torch.dtype) -> None:
        self._groups: list[_Windows] = []
        entries = torch.arange(n_audio_ctx // SILENCE_STRIDE, device=device)
        for _, group in groupby(lengths, lambda length: -(-length // _GROUP_FRAMES)):
            members = list(group)
            packing = Packing.of(members, device)
            frames = upload(members, device)[:, None]
            own = _bias(torch.arange(packing.longest, device=device) < frames, 0.0)
            silent = _bias(entries >= frames // SILENCE_STRIDE, SILENCE_BIAS)
            bias = torch.cat([own, silent], dim=1)[:, None, None].to(dtype)
            self._groups.append(_Windows(sum(members), packing, bias))

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, silent: tuple[Tensor, Tensor]) -> Tensor:
        """All [frames, heads, size]; `silent`: keys and values [heads, n_audio_ctx / stride, size]."""
        queries, keys, values = (torch.split(part, [group.size for group in self._groups]) for part in (q, k, v))
        groups = zip(self._groups, queries, keys, values, strict=True)
        return torch.cat([group.attend(query, key, value, silent) for group, query, key, value in groups])


@dataclass(frozen=True)
class Rows:
    """What the decoder has to know of each row of a pass, tensors [rows]: its slot, the slot of its audio, how many
    tokens it has, and the entries and frames of its audio. A beam is a row of its own."""

    slots: Tensor
    audio: Tensor
    tokens: Tensor
    entries: Tensor
    frames: Tensor


class PaddedAttention:
    """The decoder's, over the first `text_limit` tokens and `audio_limit` entries of each row; none may have more."""

    def __init__(self, cache: KVCache, packing: Packing, rows: Rows, text_limit: int, audio_limit: int) -> None:
        self._cache, self._packing, self._rows = cache, packing, rows
        self._text_limit, self._audio_limit = text_limit, audio_limit
        device, dtype = cache.self_kv.device, cache.self_kv.dtype
        places = rows.tokens[:, None] + torch.arange(packing.longest, device=device)
        self.places = packing.unpad(places)
        """Where in its text each token stands: [tokens]."""
        self._slots = packing.unpad(rows.slots[:, None].expand_as(places))
        self._causal = (torch.arange(text_limit, device=device) <= places[:, :, None])[:, None]
        entry = torch.arange(audio_limit, device=device)
        bias = _bias(entry < rows.entries[:, None], 0.0) + SILENCE_BIAS * (entry >= rows.frames[:, None])
        self._bias = bias[:, None, None].to(dtype)
        self._seen: list[Tensor] = []

    def tokens(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        """To the text so far. q [tokens, heads, size]; kv [tokens, 2, heads, size] is appended to the cache."""
        own = self._cache.self_kv[:, layer]
        own[:, self._slots, :, self.places] = kv
        keys, values = (part[:, :, : self._text_limit].index_select(0, self._rows.slots) for part in own)
        q = self._packing.pad(q).transpose(1, 2)
        attended = F.scaled_dot_product_attention(q, keys, values, self._causal)
        return self._packing.unpad(attended.transpose(1, 2))

    def audio(self, layer: int, q: Tensor, aligned: Tensor) -> Tensor:
        """To the audio. `aligned`: the layer's alignment heads."""
        cross = self._cache.cross_kv[:, layer]
        keys, values = (part[:, :, : self._audio_limit].index_select(0, self._rows.audio) for part in cross)
        q = self._packing.pad(q).transpose(1, 2)
        if len(aligned):  # the fused kernel keeps its weights to itself
            chosen = q.index_select(1, aligned) * q.shape[-1] ** -0.5
            scores = chosen @ keys.index_select(1, aligned).transpose(-1, -2) + self._bias
            self._seen.append(torch.softmax(scores, dim=-1, dtype=torch.float32))
        attended = F.scaled_dot_product_attention(q, keys, values, self._bias.expand(-1, -1, q.shape[2], -1))
        return self._packing.unpad(attended.transpose(1, 2))

    def weights(self) -> Tensor:
        """How the alignment heads of all layers looked at the audio, in float32: [heads, tokens, frames]. What is
        behind a row's own frames means nothing."""
        return self._packing.unpad(torch.cat(self._seen, dim=1).transpose(1, 2)).transpose(0, 1)


def _bias(taken: Tensor, value: float) -> Tensor:
    """`value` where an entry takes part in the attention, and -inf elsewhere."""
    return torch.full(taken.shape, -math.inf, device=taken.device).masked_fill(taken, value)
