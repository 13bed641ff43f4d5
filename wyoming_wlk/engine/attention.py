"""Attention row by row: each over exactly its own entries, so that its bits do not depend on who else is there.

The CPU's way; `padded.py` is that of other devices. Tensors hold the tokens (or frames) of all rows one after the
other: [tokens, heads, head size].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from wyoming_wlk.engine.cache import KVCache
from wyoming_wlk.engine.script import scripted

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
        return attend(q, k, v, bias)


@scripted
def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, at_once: int = _SCORES_AT_ONCE) -> Tensor:
    """[heads, n, size]; so many heads at once that their scores stay in the processor's cache. `bias`: [entries]."""
    count, size = q.shape[1:]
    group = max(1, at_once // (count * len(bias)))
    attended: list[Tensor] = []
    for query, key, value in zip(torch.split(q, group), torch.split(k, group), torch.split(v, group)):  # noqa: B905
        scores = torch.baddbmm(bias.expand(len(query), count, -1), query, key.transpose(1, 2), alpha=size**-0.5)
        attended.append(torch.softmax(scores, dim=-1) @ value)
    return torch.cat(attended)


@dataclass(frozen=True)
class ExtendedWindow:
    """Frames from `first` on, which attend to those before them as well. `own`, keys and values of one layer,
    [2, heads, room, size], has those before and gets the others, and the silence after them. `bias`: see
    `extension_bias`."""

    own: Tensor
    first: int
    bias: Tensor

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, silent: tuple[Tensor, Tensor]) -> Tensor:
        end = entries(self.first + len(q), silent[0].shape[1])
        return _extend(q, k, v, self.own, self.first, end, silent, self.bias, SILENCE_STRIDE)


@scripted
def _extend(
    q: Tensor, k: Tensor, v: Tensor, own: Tensor, first: int, end: int, silent: tuple[Tensor, Tensor], bias: Tensor,
    stride: int,
) -> Tensor:  # fmt: skip
    frames, room = first + len(q), len(bias)
    for index, new in enumerate([k, v]):
        own[index, :, first:frames] = new.transpose(0, 1)
        own[index, :, frames:end] = silent[index][:, frames // stride :]
    own[:, :, end:room] = 0
    return attend(q.transpose(0, 1), own[0, :, :room], own[1, :, :room], bias).transpose(0, 1)


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


class _Row(NamedTuple):
    """Where one row's new tokens stand: `begin` to `stop` in the packed batch, up to `end` in the cache's slots."""

    audio: int
    slots: list[int]
    begin: int
    stop: int
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
            begin, end = len(places), start + count
            causal = torch.full((count, end), -math.inf, device=device).triu(start + 1) if count > 1 else None
            lengths = cache.entries[item.audio], cache.frames[item.audio]
            self._rows.append(
                _Row(item.audio, list(item.slots), begin, begin + len(item.slots) * count, end, *lengths, causal)
            )
            for slot in item.slots:
                places += range(start, end)
                slots += [slot] * count
        self.places, self._slots = torch.tensor(places, device=device), torch.tensor(slots, device=device)
        self._frames = max(row.frames for row in self._rows)
        self._seen: list[Tensor] = []

    def tokens(self, layer: int, q: Tensor, kv: Tensor) -> Tensor:
        return _attend_tokens(q, kv, self._cache.self_kv[:, layer], self.places, self._slots, self._rows)

    def audio(self, layer: int, q: Tensor) -> Tensor:
        cross, aligned = self._cache.cross_kv[:, layer], self._aligned[layer]
        attended, seen = _attend_audio(q, cross, self._rows, aligned, self._frames)
        self._seen.append(seen)
        return attended

    def weights(self) -> Tensor:
        return torch.cat(self._seen)


@scripted
def _attend_tokens(q: Tensor, kv: Tensor, own: Tensor, places: Tensor, slots: Tensor, rows: list[_Row]) -> Tensor:
    own[:, slots, :, places] = kv
    heads, size = q.shape[1:]
    q = q * size**-0.5
    attended: list[Tensor] = []
    for row in rows:
        query = q[row.begin : row.stop]
        if len(row.slots) == 1:  # a view
            keys, values = own[0, row.slots[0], :, : row.end], own[1, row.slots[0], :, : row.end]
            query = query.transpose(0, 1)
        else:
            beams = torch.tensor(row.slots)
            keys, values = own[0, beams, :, : row.end], own[1, beams, :, : row.end]
            query = query.view(len(row.slots), -1, heads, size).transpose(1, 2)
        scores = query @ keys.transpose(-1, -2)
        causal = row.causal
        if causal is not None:
            scores += causal
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32)
        attended.append((weights.to(values.dtype) @ values).transpose(-2, -3).reshape(-1, heads, size))
    return torch.cat(attended)


@scripted
def _attend_audio(
    q: Tensor, cross: Tensor, rows: list[_Row], aligned: Tensor, frames: int, silence_bias: float = SILENCE_BIAS
) -> tuple[Tensor, Tensor]:
    """What the tokens get of the audio, and how the layer's alignment heads looked at it: [heads, tokens, frames]."""
    q = q * q.shape[-1] ** -0.5
    seen = torch.zeros([len(aligned), len(q), frames], device=q.device)
    attended: list[Tensor] = []
    for row in rows:
        keys, values = cross[0, row.audio, :, : row.entries], cross[1, row.audio, :, : row.entries]
        scores = q[row.begin : row.stop].transpose(0, 1) @ keys.transpose(-1, -2)
        scores[:, :, row.frames :] += silence_bias
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32)
        attended.append((weights.to(values.dtype) @ values).transpose(0, 1))
        if len(aligned):
            seen[:, row.begin : row.stop, : row.frames] = weights[aligned, :, : row.frames]
    return torch.cat(attended), seen
