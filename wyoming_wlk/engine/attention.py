"""Attention row by row: each over exactly its own entries, so that its bits do not depend on who else is there.

The CPU's way; `padded.py` is that of other devices. Tensors hold the tokens (or frames) of all rows one after the
other: [tokens, heads, head size]. Runs as TorchScript, which wants the types of tuples themselves and not their names:
no postponed annotations here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from wyoming_wlk.engine.cache import KVCache

SILENCE_STRIDE = 10
"""One kept entry stands for this many encoder frames of silence (0.2 s)."""

SILENCE_BIAS = math.log(SILENCE_STRIDE)
"""What makes one entry weigh as much as all that it stands for."""

KEY_BLOCK = 64
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


def entries(frames: int, silent: int, stride: int = SILENCE_STRIDE) -> int:
    """How many entries a window of so many frames has, with the silence behind it; `silent` of them where all is
    silence."""
    return frames + silent - frames // stride


# --- the encoder's ----------------------------------------------------------------------------------------------------


def window_bias(frames: int, end: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What is added to the scores of a window's entries, [room]. There are some behind the `end` that count nothing, so
    that few lengths occur: each costs compiled code."""
    bias = torch.zeros(-(-end // KEY_BLOCK) * KEY_BLOCK, dtype=dtype, device=device)
    bias[frames:] = SILENCE_BIAS
    bias[end:] = -math.inf
    return bias


def attend_window(
    qkv: Tensor, own: Tensor, first: int, silent_keys: Tensor, silent_values: Tensor, bias: Tensor,
    stride: int = SILENCE_STRIDE,
) -> Tensor:  # fmt: skip
    """Frames from `first` on attend to themselves, to those before them and to the silence behind.

    qkv [frames, 3, heads, size]; `own`, keys and values of one layer, [2, heads, room, size], has the frames before and
    gets the others; silent [heads, n_audio_ctx / stride, size]; `bias`: see `window_bias`.
    """
    frames, room = first + len(qkv), len(bias)
    end = entries(frames, silent_keys.shape[1], stride)
    own[:, :, first:frames] = qkv[:, 1:].permute(1, 2, 0, 3)
    own[0, :, frames:end] = silent_keys[:, frames // stride :]
    own[1, :, frames:end] = silent_values[:, frames // stride :]
    own[:, :, end:room] = 0
    return _attend(qkv[:, 0].transpose(0, 1), own[0, :, :room], own[1, :, :room], bias).transpose(0, 1)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, at_once: int = _SCORES_AT_ONCE) -> Tensor:
    """[heads, n, size]; so many heads at once that their scores stay in the processor's cache. `bias`: [entries]."""
    count, size = q.shape[1:]
    group = max(1, at_once // (count * len(bias)))
    attended: list[Tensor] = []
    for query, key, value in zip(torch.split(q, group), torch.split(k, group), torch.split(v, group)):  # noqa: B905
        scores = torch.baddbmm(bias.expand(len(query), count, -1), query, key.transpose(1, 2), alpha=size**-0.5)
        attended.append(torch.softmax(scores, dim=-1) @ value)
    return torch.cat(attended)


# --- the decoder's ----------------------------------------------------------------------------------------------------


class PackedRow(NamedTuple):
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


class PackedRows(NamedTuple):
    """The rows of a batch one after the other: for each token its id, its slot and its place there, [tokens]."""

    rows: list[PackedRow]
    ids: Tensor
    slots: Tensor
    places: Tensor
    frames: int
    """Of the longest audio."""


def pack(batch: Sequence[DecoderInput], cache: KVCache) -> PackedRows:
    """Where the new tokens of a batch stand, behind what the cache has of its rows."""
    rows: list[PackedRow] = []
    ids: list[int] = []
    places: list[int] = []
    slots: list[int] = []
    for item in batch:
        count, start = len(item.tokens[0]), cache.tokens[item.slots[0]]
        begin, end = len(places), start + count
        for slot, tokens in zip(item.slots, item.tokens, strict=True):
            ids += tokens
            places += range(start, end)
            slots += [slot] * count
        causal = torch.full((count, end), -math.inf).triu(start + 1) if count > 1 else None
        lengths = cache.entries[item.audio], cache.frames[item.audio]
        rows.append(PackedRow(item.audio, list(item.slots), begin, len(places), end, *lengths, causal))
    frames = max(row.frames for row in rows)
    return PackedRows(rows, torch.tensor(ids), torch.tensor(slots), torch.tensor(places), frames)


def attend_tokens(qkv: Tensor, own: Tensor, packed: PackedRows) -> Tensor:
    """To the text so far. qkv [tokens, 3, heads, size], of which keys and values are appended to `own`, those of one
    layer of the cache, [2, slots, heads, n_text_ctx, size]."""
    own[:, packed.slots, :, packed.places] = qkv[:, 1:]
    heads, size = qkv.shape[2:]
    q = qkv[:, 0] * size**-0.5
    attended: list[Tensor] = []
    for row in packed.rows:
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


def attend_audio(
    q: Tensor, cross: Tensor, packed: PackedRows, aligned: Tensor, silence_bias: float = SILENCE_BIAS
) -> tuple[Tensor, Tensor]:
    """To the audio, and how the heads `aligned` looked at it, in float32: [heads, tokens, frames]. q [tokens, heads,
    size]; `cross`: as `own`, with n_audio_ctx entries."""
    q = q * q.shape[-1] ** -0.5
    seen = torch.zeros([len(aligned), len(q), packed.frames])
    attended: list[Tensor] = []
    for row in packed.rows:
        keys, values = cross[0, row.audio, :, : row.entries], cross[1, row.audio, :, : row.entries]
        scores = q[row.begin : row.stop].transpose(0, 1) @ keys.transpose(-1, -2)
        scores[:, :, row.frames :] += silence_bias
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32)
        attended.append((weights.to(values.dtype) @ values).transpose(0, 1))
        if len(aligned):
            seen[:, row.begin : row.stop, : row.frames] = weights[aligned, :, : row.frames]
    return torch.cat(attended), seen
