"""Attention row by row: each over exactly its own entries, so that its bits do not depend on who else is there.

The CPU's way; `padded.py` is that of other devices. Tensors hold the tokens (or frames) of all rows one after the
other: [tokens, heads, head size].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from wyoming_wlk.engine.cache import KVCache

SILENCE_STRIDE = 10
"""One kept entry stands for this many encoder frames of silence (0.2 s)."""

SILENCE_BIAS = math.log(SILENCE_STRIDE)
"""What makes one entry weigh as much as all that it stands for."""

_KEY_BLOCK = 64
"""A window that grows attends to multiples of so many entries."""

_SCORES_AT_ONCE = 2**22
"""Beyond this many, scores leave the processor's cache."""


@dataclass(frozen=True)
class DecoderInput:
    """New tokens of one row: `tokens` [beams][tokens], beams over the same audio and of the same length.

    `slots` hold each beam's own keys and values; the audio's are in the first slot that the row was given, `audio`.
    """

    audio: int
    slots: list[int]
    tokens: list[list[int]]


class WindowAttention(Protocol):
    """The encoder's: each window attends to itself and to the silence after it."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, silent: tuple[Tensor, Tensor]) -> Tensor:
        """All [frames, heads, size]; `silent`: keys and values [heads, n_audio_ctx / stride, size]."""
        ...


class DecoderAttention(Protocol):
    """The decoder's, in one pass over the rows of a cache."""

    @property
    def places(self) -> Tensor:
        """Where in its text each token stands: [tokens]."""
        ...

    def tokens(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        """Over the text so far. `kv` [tokens, 2, heads, size] is appended to the cache."""
        ...

    def audio(self, layer: int, q: Tensor) -> Tensor: ...

    def weights(self) -> Tensor:
        """How the alignment heads of all layers looked at the audio, in float32: [heads, tokens, frames]. What is
        behind a row's own frames means nothing."""
        ...


class RowWindows:
    """Windows of `lengths` frames one by one."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._lengths = list(lengths)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, silent: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = (part.transpose(0, 1) for part in (q, k, v))
        rows = zip(*(torch.split(part, self._lengths, dim=1) for part in (q, k, v)), strict=True)
        return torch.cat([self._window(query, key, value, silent) for query, key, value in rows], dim=1).transpose(0, 1)

    @staticmethod
    def _window(q: Tensor, k: Tensor, v: Tensor, silent: tuple[Tensor, Tensor]) -> Tensor:
        """[heads, n, size]"""
        n = q.shape[1]
        k = torch.cat([k, silent[0][:, n // SILENCE_STRIDE :]], dim=1)
        v = torch.cat([v, silent[1][:, n // SILENCE_STRIDE :]], dim=1)
        bias = q.new_zeros(k.shape[1])
        bias[n:] = SILENCE_BIAS
        return _attend(q, k, v, bias)


@dataclass(frozen=True)
class ExtendedWindow:
    """Frames from `first` on, which attend to those before them as well. `own`, keys and values of one layer,
    [2, heads, room, size], has those before and gets the others, and the silence after them. `bias`: see
    `extension_bias`."""

    own: Tensor
    first: int
    bias: Tensor

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, silent: tuple[Tensor, Tensor]) -> Tensor:
        frames, room = self.first + len(q), len(self.bias)
        end = entries(frames, silent[0].shape[1])
        for own, new, still in zip(self.own, (k, v), silent, strict=True):
            own[:, self.first : frames] = new.transpose(0, 1)
            own[:, frames:end] = still[:, frames // SILENCE_STRIDE :]
            own[:, end:room] = 0
        keys, values = self.own[:, :, :room]
        return _attend(q.transpose(0, 1), keys, values, self.bias).transpose(0, 1)


def entries(frames: int, silent: int) -> int:
    """How many entries a window of so many frames has, with the silence behind it; `silent` of them where all is
    silence."""
    return frames + silent - frames // SILENCE_STRIDE


def extension_bias(frames: int, end: int, dtype: torch.dtype) -> Tensor:
    """What is added to the scores of a window's entries, [room]. There are some behind the `end` that count nothing, so
    that few lengths occur: each costs compiled code."""
    bias = torch.zeros(-(-end // _KEY_BLOCK) * _KEY_BLOCK, dtype=dtype)
    bias[frames:] = SILENCE_BIAS
    bias[end:] = -math.inf
    return bias


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """[heads, n, size]; so many heads at once that their scores stay in the processor's cache. `bias`: [entries]."""
    heads, count, size = q.shape
    group = max(1, _SCORES_AT_ONCE // (count * len(bias)))
    attended = []
    for query, key, value in zip(*(torch.split(part, group) for part in (q, k, v)), strict=True):
        scores = torch.baddbmm(bias.expand(len(query), count, -1), query, key.transpose(1, 2), alpha=size**-0.5)
        attended.append(torch.softmax(scores, dim=-1) @ value)
    return torch.cat(attended)


@dataclass(frozen=True)
class _Row:
    """Where one row's new tokens stand: `tokens` in the packed batch, up to `end` in the cache's slots."""

    audio: int
    slots: list[int]
    tokens: slice
    end: int
    entries: int
    frames: int
    causal: Tensor | None
    """[tokens, end]: -inf for what comes after a token; None for a single token."""


class RowAttention:
    """`DecoderAttention` over rows of any number of tokens and beams. `aligned`: alignment heads of each layer."""

    def __init__(self, batch: Sequence[DecoderInput], cache: KVCache, aligned: Sequence[Tensor]) -> None:
        self._cache, self._aligned = cache, aligned
        self._rows: list[_Row] = []
        device = cache.self_kv.device
        places: list[int] = []
        slots: list[int] = []
        for item in batch:
            count, start = len(item.tokens[0]), cache.tokens[item.slots[0]]
            span = slice(len(places), len(places) + len(item.slots) * count)
            square = (count, start + count)
            causal = torch.full(square, -math.inf, device=device).triu(start + 1) if count > 1 else None
            lengths = cache.entries[item.audio], cache.frames[item.audio]
            self._rows.append(_Row(item.audio, item.slots, span, start + count, *lengths, causal))
            for slot in item.slots:
                places += range(start, start + count)
                slots += [slot] * count
        self.places, self._slots = torch.tensor(places, device=device), torch.tensor(slots, device=device)
        self._seen: list[Tensor] = []

    def tokens(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        own = self._cache.self_kv[:, layer]
        own[:, self._slots, :, self.places] = kv
        q = q * q.shape[-1] ** -0.5
        return torch.cat([self._attend_tokens(q[row.tokens], own, row) for row in self._rows])

    def _attend_tokens(self, q: Tensor, own: Tensor, row: _Row) -> Tensor:
        if len(row.slots) == 1:  # a view
            keys, values = own[:, row.slots[0], :, : row.end]
            q = q.transpose(0, 1)
        else:
            keys, values = own[:, row.slots, :, : row.end]
            q = q.view(len(row.slots), -1, *q.shape[1:]).transpose(1, 2)
        scores = q @ keys.transpose(-1, -2)
        if row.causal is not None:
            scores += row.causal
        attended: Tensor = (_softmax(scores).to(values.dtype) @ values).transpose(-2, -3)
        return attended if len(row.slots) == 1 else attended.flatten(0, 1)

    def audio(self, layer: int, q: Tensor) -> Tensor:
        cross, aligned = self._cache.cross_kv[:, layer], self._aligned[layer]
        q = q * q.shape[-1] ** -0.5
        seen = q.new_zeros(len(aligned), len(q), max(row.frames for row in self._rows), dtype=torch.float32)
        attended = []
        for row in self._rows:
            keys, values = cross[:, row.audio, :, : row.entries]
            scores = q[row.tokens].transpose(0, 1) @ keys.transpose(-1, -2)
            scores[:, :, row.frames :] += SILENCE_BIAS
            weights = _softmax(scores)
            attended.append((weights.to(values.dtype) @ values).transpose(0, 1))
            if len(aligned):
                seen[:, row.tokens, : row.frames] = weights[aligned, :, : row.frames]
        self._seen.append(seen)
        return torch.cat(attended)

    def weights(self) -> Tensor:
        return torch.cat(self._seen)


def _softmax(scores: Tensor) -> Tensor:
    return torch.softmax(scores, dim=-1, dtype=torch.float32)
