"""Whisper's decoder as a plain function of its inputs; how its rows attend is an argument."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wyoming_wlk.engine.attention import DecoderInput, PackedRows, attend_audio, attend_tokens, pack
from wyoming_wlk.engine.cache import KVCache
from wyoming_wlk.engine.checkpoint import Dimensions, Heads
from wyoming_wlk.engine.layers import Mlp, Norm, Output, Projection, Weights
from wyoming_wlk.engine.padded import PaddedAttention


@dataclass(frozen=True)
class DecoderOutput:
    """One row's share of a decoder pass, its beams one after the other.

    `hidden`: [beams * tokens, state], for `Decoder.logits`; `attention`: cross-attention of the alignment heads over
    the row's frames of audio, [heads, beams * tokens, frames].
    """

    hidden: Tensor
    attention: Tensor


@dataclass(frozen=True)
class DecoderPass:
    """What a pass found, rows in the order of its batch: which `tokens` of `hidden` [tokens, state] and `attention`
    [heads, tokens, frames] are whose, and how many `frames`; what is behind a row's own means nothing."""

    hidden: Tensor
    attention: Tensor
    tokens: list[slice]
    frames: list[int]

    @classmethod
    def of(cls, batch: Sequence[DecoderInput], cache: KVCache, hidden: Tensor, attention: Tensor) -> DecoderPass:
        """Tells the batch's rows apart, and counts their new tokens in the cache."""
        tokens: list[slice] = []
        end = 0
        for item in batch:
            count, begin = len(item.tokens[0]), end
            end += len(item.slots) * count
            tokens.append(slice(begin, end))
            for slot in item.slots:
                cache.tokens[slot] += count
        return cls(hidden, attention, tokens, [cache.frames[item.audio] for item in batch])

    def __getitem__(self, row: int) -> DecoderOutput:
        span = self.tokens[row]
        return DecoderOutput(self.hidden[span], self.attention[:, span, : self.frames[row]])

    def __iter__(self) -> Iterator[DecoderOutput]:
        return (self[row] for row in range(len(self.tokens)))


class _Layer(nn.Module):
    def __init__(self, weights: Weights, name: str, heads: int, aligned: Sequence[int]) -> None:
        super().__init__()
        names = [f"{name}.attn.{part}" for part in ("query", "key", "value")]
        self.project = Projection(weights, f"{name}.attn_ln", *names, heads=heads)
        self.out = Output(weights, f"{name}.attn.out")
        query = f"{name}.cross_attn.query"
        self.cross_project = Projection(weights, f"{name}.cross_attn_ln", query, heads=heads)
        self.cross_out = Output(weights, f"{name}.cross_attn.out")
        self.mlp = Mlp(weights, name)
        self.aligned = torch.tensor(aligned, dtype=torch.long, device=weights.device)

    def forward(self, x: Tensor, self_kv: Tensor, cross_kv: Tensor, packed: PackedRows) -> tuple[Tensor, Tensor]:
        """x [tokens, state] -> the same, and how the layer's alignment heads looked at the audio."""
        x = self.out(x, attend_tokens(self.project(x), self_kv, packed))
        attended, looked = attend_audio(self.cross_project(x)[:, 0], cross_kv, packed, self.aligned)
        x = self.mlp(self.cross_out(x, attended))
        return x, looked


class _Embedding(nn.Module):
    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.vocabulary = weights.raw("decoder.token_embedding.weight").to(weights.device)
        self._positions = weights.state("decoder.positional_embedding")

    def forward(self, ids: Tensor, places: Tensor) -> Tensor:
        return self.vocabulary[ids].to(self._positions.dtype) + self._positions[places]


class _Network(nn.Module):
    """The decoder over rows that attend one by one."""

    def __init__(self, embed: _Embedding, layers: Sequence[_Layer], norm: Norm) -> None:
        super().__init__()
        self.embed, self.layers, self.norm = embed, nn.ModuleList(layers), norm

    def forward(self, packed: PackedRows, self_kv: Tensor, cross_kv: Tensor) -> tuple[Tensor, Tensor]:
        """-> hidden [tokens, state], and how all alignment heads looked at the audio, [heads, tokens, frames]."""
        x: Tensor = self.embed(packed.ids, packed.places)
        looks: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            x, looked = layer(x, self_kv[:, i], cross_kv[:, i], packed)
            looks.append(looked)
        return self.norm(x), torch.cat(looks)


class Decoder:
    def __init__(self, dims: Dimensions, weights: Weights, heads: Heads) -> None:
        self._embed = _Embedding(weights)
        self._layers = [
            _Layer(weights, f"decoder.blocks.{i}", dims.n_text_head, [head for layer, head in heads if layer == i])
            for i in range(dims.n_text_layer)
        ]
        self._norm = Norm(weights, "decoder.ln")
        self._network = weights.ready(_Network(self._embed, self._layers, self._norm))
        names = [f"decoder.blocks.{i}.cross_attn.{part}" for part in ("key", "value") for i in range(dims.n_text_layer)]
        self._cross = weights.ready(weights.linear(*names))
        self._shape = (2, dims.n_text_layer, dims.n_text_head, -1)
        self._project = weights.ready(weights.product(self._embed.vocabulary, None))

    def cross_keys_values(self, features: Tensor) -> Tensor:
        """[frames, state] -> [2, layers, heads, frames, head size]."""
        keys_values: Tensor = self._cross(features)
        return keys_values.view(len(features), *self._shape).permute(1, 2, 3, 0, 4)

    def __call__(self, batch: Sequence[DecoderInput], cache: KVCache) -> DecoderPass:
        """Appends tokens (one or more) to the rows of a batch, each with its own lengths, and attends row by row."""
        hidden, attention = self._network(pack(batch, cache), cache.self_kv, cache.cross_kv)
        return DecoderPass.of(batch, cache, hidden, attention)

    def padded(self, ids: Tensor, attention: PaddedAttention) -> tuple[Tensor, Tensor]:
        """Hidden and attention of tokens of rows that attend together. The lengths in the cache stay as they are."""
        x = self._embed(ids, attention.places)
        for i, layer in enumerate(self._layers):
            qkv = layer.project(x)
            x = layer.out(x, attention.tokens(i, qkv[:, 0], qkv[:, 1:]))
            x = layer.cross_out(x, attention.audio(i, layer.cross_project(x)[:, 0], layer.aligned))
            x = layer.mlp(x)
        return self._norm(x), attention.weights()

    def logits(self, hidden: Tensor) -> Tensor:
        """[tokens, state] -> [tokens, n_vocab] in float32."""
        logits: Tensor = self._project(hidden)
        return logits.float()
