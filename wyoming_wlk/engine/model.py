"""Whisper itself: encoder and decoder as plain functions of their inputs, with the key/value cache as an argument.

Two things differ from the published network. Rows of a batch have their own lengths. And only the part of the 30 s
window that holds audio is encoded: the rest is silence, whose keys and values are computed once per model and kept
thinned out (`Silence`), so that a short window costs what a short window should and still reads like a full one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wyoming_wlk.engine.cache import CrossAttention, KVCache
from wyoming_wlk.engine.checkpoint import Checkpoint, Dimensions, Heads, default_alignment_heads
from wyoming_wlk.engine.linear import FloatLinear, Int8Linear, Linear, int8_is_fast

SILENCE_STRIDE = 10
"""One kept entry stands for this many encoder frames of silence (0.2 s)."""

_SILENT_MEL = -0.6  # a silent frame after `mel.normalize` beside speech of usual loudness


@dataclass(frozen=True)
class Precision:
    """Number types: `linear` of the matrix products (int8 or a float type), `state` of activations and caches,
    `attention` of the encoder's attention products."""

    linear: torch.dtype
    state: torch.dtype
    attention: torch.dtype

    @classmethod
    def choose(cls, compute_type: str, device: torch.device) -> Precision:
        """`compute_type` as the user wrote it: auto, int8, float32, float16 or bfloat16."""
        if compute_type == "auto":
            fast = "int8" if int8_is_fast() else "float32"
            compute_type = fast if device.type == "cpu" else "float16"
        if compute_type == "int8":
            attention = torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
            return cls(torch.int8, torch.float32, attention)
        dtype: torch.dtype = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[
            compute_type
        ]
        return cls(dtype, dtype, dtype)


@dataclass(frozen=True)
class Silence:
    """What the encoder computes for silence at each `SILENCE_STRIDE`th position of the window.

    `keys` and `values`: [encoder layers, heads, n_audio_ctx / stride, head size]; `cross`: the decoder's view of the
    same frames, [2, decoder layers, heads, n_audio_ctx / stride, head size].
    """

    keys: Tensor
    values: Tensor
    cross: Tensor


class Whisper:
    """One loaded model on one device. Immutable after construction; nothing in it belongs to a client."""

    def __init__(self, checkpoint: Checkpoint, precision: Precision, device: torch.device) -> None:
        self.dims: Dimensions = checkpoint.dims
        self.precision = precision
        self.device = device
        self.alignment_heads: Heads = checkpoint.alignment_heads or default_alignment_heads(checkpoint.dims)
        weights = _Weights(checkpoint.tensors, precision, device)
        self.encoder = _Encoder(self.dims, weights, precision)
        self.decoder = _Decoder(self.dims, weights, precision, self.alignment_heads)
        self._silence = self._encode_silence()

    def new_cache(self, slots: int) -> KVCache:
        return KVCache(self.dims, slots, self.precision.state, self.device)

    def encode(self, mels: Sequence[Tensor]) -> list[CrossAttention]:
        """Encodes windows of different lengths together.

        Each mel is normalized, [n_mels, 2 * n], n a multiple of `SILENCE_STRIDE` and at most n_audio_ctx.
        """
        lengths = [mel.shape[1] // 2 for mel in mels]
        features = self.encoder(mels, self._silence)
        cross = torch.split(self.decoder.cross_keys_values(features), lengths, dim=3)
        return [
            CrossAttention(torch.cat([own, self._silence.cross[:, :, :, n // SILENCE_STRIDE :]], dim=3), n)
            for n, own in zip(lengths, cross, strict=True)
        ]

    def _encode_silence(self) -> Silence:
        mel = torch.full((self.dims.n_mels, 2 * self.dims.n_audio_ctx), _SILENT_MEL, device=self.device)
        kept: list[tuple[Tensor, Tensor]] = []
        features = self.encoder([mel], None, kept)
        thin = slice(SILENCE_STRIDE // 2, None, SILENCE_STRIDE)
        return Silence(
            torch.stack([k[:, thin] for k, _ in kept]),
            torch.stack([v[:, thin] for _, v in kept]),
            self.decoder.cross_keys_values(features[thin]),
        )


class _Weights:
    """Hands the checkpoint's tensors out in the wanted precision."""

    def __init__(self, tensors: dict[str, Tensor], precision: Precision, device: torch.device) -> None:
        self._tensors, self._precision, self.device = tensors, precision, device

    def state(self, name: str) -> Tensor:
        return self._tensors[name].to(self.device, self._precision.state)

    def norm(self, name: str) -> tuple[Tensor, Tensor]:
        return self.state(f"{name}.weight"), self.state(f"{name}.bias")

    def linear(self, *names: str) -> Linear:
        """One product for all of `names`, their outputs side by side; a missing bias (the keys') is zero."""
        weights = [self._tensors[f"{name}.weight"] for name in names]
        biases = [
            self._tensors.get(f"{name}.bias", torch.zeros(len(weight), dtype=weight.dtype))
            for name, weight in zip(names, weights, strict=True)
        ]
        return self.product(torch.cat(weights), torch.cat(biases))

    def product(self, weight: Tensor, bias: Tensor | None) -> Linear:
        if self._precision.linear == torch.int8:
            return Int8Linear(weight, bias)
        return FloatLinear(weight, bias, self._precision.linear, self.device)

    def raw(self, name: str) -> Tensor:
        return self._tensors[name]


def _layer_norm(x: Tensor, weight_bias: tuple[Tensor, Tensor]) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], *weight_bias)


class _Mlp:
    def __init__(self, weights: _Weights, name: str) -> None:
        self._norm = weights.norm(f"{name}.mlp_ln")
        self._up, self._down = weights.linear(f"{name}.mlp.0"), weights.linear(f"{name}.mlp.2")

    def __call__(self, x: Tensor) -> Tensor:
        return x + self._down(F.gelu(self._up(_layer_norm(x, self._norm))))


# --- encoder ----------------------------------------------------------------------------------------------------------


class _EncoderLayer:
    def __init__(self, weights: _Weights, name: str, heads: int, attention: torch.dtype) -> None:
        self._heads, self._attention = heads, attention
        self._norm = weights.norm(f"{name}.attn_ln")
        self._qkv = weights.linear(*(f"{name}.attn.{part}" for part in ("query", "key", "value")))
        self._out = weights.linear(f"{name}.attn.out")
        self._mlp = _Mlp(weights, name)

    def __call__(
        self, x: Tensor, lengths: list[int], silent: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x [sum of lengths, state] -> the same, and all keys and values [heads, sum of lengths, head size]."""
        qkv = self._qkv(_layer_norm(x, self._norm)).to(self._attention)
        q, k, v = qkv.view(len(x), 3, self._heads, -1).permute(1, 2, 0, 3)
        rows = zip(*(torch.split(part, lengths, dim=1) for part in (q, k, v)), strict=True)
        attended = torch.cat([self._attend(query, key, value, silent) for query, key, value in rows], dim=1)
        x = x + self._out(attended.transpose(0, 1).reshape(len(x), -1).to(x.dtype))
        return self._mlp(x), k, v

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, silent: tuple[Tensor, Tensor] | None) -> Tensor:
        """Attention of one window over itself and the silence after it: [heads, n, head size]."""
        n, size = q.shape[1:]
        if silent is not None:
            k = torch.cat([k, silent[0][:, n // SILENCE_STRIDE :]], dim=1)
            v = torch.cat([v, silent[1][:, n // SILENCE_STRIDE :]], dim=1)
        q = q * size**-0.5
        # Head by head, so that one head's scores stay in the processor's cache; on a GPU the fused kernel does better.
        if q.is_cuda:
            bias = torch.zeros(k.shape[1], dtype=q.dtype, device=q.device)
            bias[n:] = math.log(SILENCE_STRIDE)
            return F.scaled_dot_product_attention(q[None], k[None], v[None], bias.expand(1, 1, n, -1), scale=1.0)[0]
        heads = []
        for query, key, value in zip(q, k, v, strict=True):
            scores = query @ key.t()
            scores[:, n:] += math.log(SILENCE_STRIDE)
            heads.append(torch.softmax(scores, dim=-1) @ value)
        return torch.stack(heads)


class _Encoder:
    def __init__(self, dims: Dimensions, weights: _Weights, precision: Precision) -> None:
        self._dtype = precision.attention
        self._state = precision.state
        self._positions = weights.state("encoder.positional_embedding")
        self._convolutions = [
            tuple(weights.state(f"encoder.{conv}.{kind}").to(self._dtype) for kind in ("weight", "bias"))
            for conv in ("conv1", "conv2")
        ]
        self._layers = [
            _EncoderLayer(weights, f"encoder.blocks.{i}", dims.n_audio_head, self._dtype)
            for i in range(dims.n_audio_layer)
        ]
        self._norm = weights.norm("encoder.ln_post")

    def __call__(
        self, mels: Sequence[Tensor], silence: Silence | None, kept: list[tuple[Tensor, Tensor]] | None = None
    ) -> Tensor:
        """Features of all windows one after the other: [sum of n, state]. `kept` collects each layer's keys/values."""
        x = torch.cat([self._embed(mel) for mel in mels])
        lengths = [mel.shape[1] // 2 for mel in mels]
        for index, layer in enumerate(self._layers):
            x, k, v = layer(x, lengths, None if silence is None else (silence.keys[index], silence.values[index]))
            if kept is not None:
                kept.append((k, v))
        return _layer_norm(x, self._norm)

    def _embed(self, mel: Tensor) -> Tensor:
        (w1, b1), (w2, b2) = self._convolutions
        x = F.gelu(F.conv1d(mel[None].to(self._dtype), w1, b1, padding=1))
        x = F.gelu(F.conv1d(x, w2, b2, stride=2, padding=1))[0].t()
        return x.to(self._state) + self._positions[: len(x)]


# --- decoder ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DecoderOutput:
    """One row's share of a decoder pass, its beams one after the other.

    `hidden`: [beams * tokens, state], for `_Decoder.logits`; `attention`: cross-attention of the alignment heads over
    the row's frames of audio, [heads, beams * tokens, frames].
    """

    hidden: Tensor
    attention: Tensor


class _DecoderLayer:
    def __init__(self, weights: _Weights, name: str, heads: int, aligned: list[int]) -> None:
        self._heads, self._aligned = heads, aligned
        self._norm, self._cross_norm = weights.norm(f"{name}.attn_ln"), weights.norm(f"{name}.cross_attn_ln")
        self._qkv = weights.linear(*(f"{name}.attn.{part}" for part in ("query", "key", "value")))
        self._out = weights.linear(f"{name}.attn.out")
        self._cross_query = weights.linear(f"{name}.cross_attn.query")
        self._cross_kv = weights.linear(f"{name}.cross_attn.key", f"{name}.cross_attn.value")
        self._cross_out = weights.linear(f"{name}.cross_attn.out")
        self._mlp = _Mlp(weights, name)

    def cross_keys_values(self, features: Tensor) -> Tensor:
        """[frames, state] -> [2, heads, frames, head size]."""
        return self._cross_kv(features).view(len(features), 2, self._heads, -1).permute(1, 2, 0, 3)

    def __call__(self, x: Tensor, rows: list[_Row], own: Tensor, cross: Tensor) -> tuple[Tensor, list[Tensor]]:
        """x [all rows' tokens, state] -> the same, and each row's aligned cross-attention [heads, tokens, frames].

        `own` and `cross` are this layer's caches, [2, slots, heads, entries, head size]; the tokens' keys and values
        are appended to `own`. Products are batched over rows; attention runs row by row over exactly that row's
        entries, because a padded batch sums in another order and a row's bits would depend on its neighbours.
        """
        qkv = self._qkv(_layer_norm(x, self._norm)).view(len(x), 3, self._heads, -1).permute(1, 2, 0, 3)
        attended = torch.cat([self._attend_tokens(qkv[:, :, row.tokens], row, own) for row in rows])
        x = x + self._out(attended)
        q = self._cross_query(_layer_norm(x, self._cross_norm)).view(len(x), self._heads, -1).transpose(0, 1)
        seen = [self._attend_audio(q[:, row.tokens], row, cross) for row in rows]
        x = x + self._cross_out(torch.cat([attended for attended, _ in seen]))
        return self._mlp(x), [weights for _, weights in seen]

    def _attend_tokens(self, qkv: Tensor, row: _Row, own: Tensor) -> Tensor:
        # [3, heads, beams * tokens, size] -> [3, beams, heads, tokens, size]
        q, *kv = qkv.view(3, self._heads, row.beams, -1, qkv.shape[-1]).transpose(1, 2)
        own[:, row.slots, :, row.start : row.end] = torch.stack(kv)
        keys, values = own[:, row.slots, :, : row.end]
        scores = _scores(q, keys)
        if row.causal is not None:
            scores[..., row.start :] += row.causal
        attended = torch.softmax(scores, dim=-1, dtype=torch.float32).to(values.dtype) @ values
        merged: Tensor = attended.transpose(1, 2).flatten(2).flatten(0, 1)
        return merged

    def _attend_audio(self, q: Tensor, row: _Row, cross: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = cross[:, row.audio, :, : row.entries]
        scores = _scores(q, keys)
        scores[:, :, row.frames :] += math.log(SILENCE_STRIDE)
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32)
        attended = weights.to(values.dtype) @ values
        return attended.transpose(0, 1).flatten(1), weights[self._aligned, :, : row.frames]


def _scores(q: Tensor, keys: Tensor) -> Tensor:
    scores: Tensor = (q * q.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
    return scores


@dataclass(frozen=True)
class DecoderInput:
    """New tokens of one row: `tokens` [beams][tokens], beams over the same audio and of the same length.

    `slots` hold each beam's own keys and values; the audio's are in the first slot that the row was given, `audio`.
    """

    audio: int
    slots: list[int]
    tokens: list[list[int]]


@dataclass(frozen=True)
class _Row:
    """Where one row's new tokens stand: `tokens` in the packed batch, start..end in the cache's slots."""

    audio: int
    slots: slice | list[int]
    beams: int
    tokens: slice
    start: int
    end: int
    entries: int
    frames: int
    causal: Tensor | None
    """[tokens, tokens]: -inf above the diagonal; None for a single token."""


class _Decoder:
    def __init__(self, dims: Dimensions, weights: _Weights, precision: Precision, heads: Heads) -> None:
        self._state = precision.state
        self._embedding = weights.raw("decoder.token_embedding.weight").to(weights.device)
        self._positions = weights.state("decoder.positional_embedding")
        self._layers = [
            _DecoderLayer(weights, f"decoder.blocks.{i}", dims.n_text_head, [h for layer, h in heads if layer == i])
            for i in range(dims.n_text_layer)
        ]
        self._norm = weights.norm("decoder.ln")
        self._project = weights.product(self._embedding, None)

    def cross_keys_values(self, features: Tensor) -> Tensor:
        """[frames, state] -> [2, layers, heads, frames, head size]."""
        return torch.stack([layer.cross_keys_values(features) for layer in self._layers], dim=1)

    def __call__(self, batch: Sequence[DecoderInput], cache: KVCache) -> list[DecoderOutput]:
        """Appends tokens (one or more) to the rows of a batch, each row with its own lengths."""
        device = self._positions.device
        rows: list[_Row] = []
        begin = 0
        for item in batch:
            beams, count = len(item.slots), len(item.tokens[0])
            start, size = cache.tokens[item.slots[0]], beams * count
            causal = torch.full((count, count), float("-inf"), device=device).triu(1) if count > 1 else None
            # a slice is a view; several beams are gathered
            slots = slice(item.slots[0], item.slots[0] + 1) if beams == 1 else item.slots
            where = slice(begin, begin + size)
            lengths = cache.entries[item.audio], cache.frames[item.audio]
            rows.append(_Row(item.audio, slots, beams, where, start, start + count, *lengths, causal))
            begin += size
        ids = torch.tensor([token for item in batch for beam in item.tokens for token in beam], device=device)
        places = torch.tensor([p for row in rows for _ in range(row.beams) for p in range(row.start, row.end)])
        x = self._embedding[ids].to(self._state) + self._positions[places.to(device)]
        attention: list[list[Tensor]] = [[] for _ in rows]
        for index, layer in enumerate(self._layers):
            x, seen = layer(x, rows, cache.self_kv[:, index], cache.cross_kv[:, index])
            for collected, weights in zip(attention, seen, strict=True):
                collected.append(weights)
        for item, row in zip(batch, rows, strict=True):
            for slot in item.slots:
                cache.tokens[slot] = row.end
        x = _layer_norm(x, self._norm)
        return [DecoderOutput(x[row.tokens], torch.cat(heads)) for row, heads in zip(rows, attention, strict=True)]

    def logits(self, hidden: Tensor) -> Tensor:
        """[tokens, state] -> [tokens, n_vocab] in float32."""
        return self._project(hidden).float()
