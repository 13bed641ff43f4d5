"""Whisper's decoder as a plain function of its inputs; how its rows attend is an argument."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wyoming_wlk.engine.attention import DecoderAttention, DecoderInput, RowAttention
from wyoming_wlk.engine.cache import KVCache
from wyoming_wlk.engine.checkpoint import Dimensions, Heads
from wyoming_wlk.engine.layers import Mlp, Output, Precision, Projection, Weights, layer_norm


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


class _DecoderLayer:
    def __init__(self, weights: Weights, name: str, heads: int) -> None:
        names = [f"{name}.attn.{part}" for part in ("query", "key", "value")]
        self._project = weights.part(Projection(weights, f"{name}.attn_ln", *names, heads=heads))
        self._out = weights.part(Output(weights, f"{name}.attn.out"))
        query = f"{name}.cross_attn.query"
        self._cross_project = weights.part(Projection(weights, f"{name}.cross_attn_ln", query, heads=heads))
        self._cross_out = weights.part(Output(weights, f"{name}.cross_attn.out"))
        self._mlp = weights.part(Mlp(weights, name))

    def __call__(self, x: Tensor, attention: DecoderAttention, layer: int) -> Tensor:
        """x [all rows' tokens, state] -> the same. Products are batched over rows."""
        qkv = self._project(x)
        x = self._out(x, attention.tokens(layer, qkv[:, 0], qkv[:, 1:]))
        x = self._cross_out(x, attention.audio(layer, self._cross_project(x)[:, 0]))
        x = self._mlp(x)
        return x


class Decoder:
    def __init__(self, dims: Dimensions, weights: Weights, precision: Precision, heads: Heads) -> None:
        self._state = precision.state
        self._embedding = weights.raw("decoder.token_embedding.weight").to(weights.device)
        self._positions = weights.state("decoder.positional_embedding")
        layers = range(dims.n_text_layer)
        self._layers = [_DecoderLayer(weights, f"decoder.blocks.{i}", dims.n_text_head) for i in layers]
        names = [f"decoder.blocks.{i}.cross_attn.{part}" for part in ("key", "value") for i in layers]
        self._cross = weights.part(weights.linear(*names))
        self._shape = (2, dims.n_text_layer, dims.n_text_head, -1)
        self.aligned = [
            torch.tensor([head for layer, head in heads if layer == i], dtype=torch.long, device=weights.device)
            for i in layers
        ]
        """Each layer's alignment heads."""
        self._norm = weights.norm("decoder.ln")
        self._project = weights.part(weights.product(self._embedding, None))

    def cross_keys_values(self, features: Tensor) -> Tensor:
        """[frames, state] -> [2, layers, heads, frames, head size]."""
        keys_values: Tensor = self._cross(features)
        return keys_values.view(len(features), *self._shape).permute(1, 2, 3, 0, 4)

    def __call__(self, batch: Sequence[DecoderInput], cache: KVCache) -> DecoderPass:
        """Appends tokens (one or more) to the rows of a batch, each with its own lengths, and attends row by row."""
        ids = [token for item in batch for beam in item.tokens for token in beam]
        attention = RowAttention(batch, cache, self.aligned)
        hidden = self.run(torch.tensor(ids, device=self._positions.device), attention)
        return DecoderPass.of(batch, cache, hidden, attention.weights())

    def run(self, ids: Tensor, attention: DecoderAttention) -> Tensor:
        """[tokens] -> [tokens, state]; the lengths in the cache stay as they are."""
        x = self._embedding[ids].to(self._state) + self._positions[attention.places]
        for index, layer in enumerate(self._layers):
            x = layer(x, attention, index)
        return layer_norm(x, self._norm)

    def logits(self, hidden: Tensor) -> Tensor:
        """[tokens, state] -> [tokens, n_vocab] in float32."""
        logits: Tensor = self._project(hidden)
        return logits.float()
