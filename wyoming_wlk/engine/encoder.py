"""Whisper's encoder over windows of different lengths, with the silence behind each of them (see `model.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wyoming_wlk.engine.attention import attend_window, entries, window_bias
from wyoming_wlk.engine.checkpoint import Dimensions
from wyoming_wlk.engine.layers import Mlp, Norm, Output, Precision, Projection, Weights
from wyoming_wlk.engine.padded import PaddedWindows
from wyoming_wlk.engine.window import AudioMemory


@dataclass(frozen=True)
class Silence:
    """What the encoder computes for silence at each `SILENCE_STRIDE`th position of the window.

    `keys` and `values`: [encoder layers, heads, n_audio_ctx / stride, head size]; `cross`: the decoder's view of the
    same frames, [2, decoder layers, heads, n_audio_ctx / stride, head size].
    """

    keys: Tensor
    values: Tensor
    cross: Tensor


class _Embedding(nn.Module):
    """The convolutions over mel frames, and where they stand."""

    def __init__(self, weights: Weights, dtype: torch.dtype) -> None:
        super().__init__()
        self._positions = weights.state("encoder.positional_embedding")
        self._w1, self._b1, self._w2, self._b2 = (
            weights.state(f"encoder.{conv}.{kind}").to(dtype)
            for conv in ("conv1", "conv2")
            for kind in ("weight", "bias")
        )

    def forward(self, mel: Tensor, first: int) -> Tensor:
        """mel [n_mels, 2 * frames], which begins at `mel_start(first)` -> [frames, state]"""
        x = F.gelu(F.conv1d(mel.unsqueeze(0).to(self._w1.dtype), self._w1, self._b1, padding=1))
        x = F.gelu(F.conv1d(x, self._w2, self._b2, stride=2, padding=1))[0].t()
        if first:
            x = x[1:]  # its neighbours were missing
        return x.to(self._positions.dtype) + self._positions[first : first + len(x)]


class _Layer(nn.Module):
    def __init__(self, weights: Weights, name: str, heads: int) -> None:
        super().__init__()
        names = [f"{name}.attn.{part}" for part in ("query", "key", "value")]
        self.project = Projection(weights, f"{name}.attn_ln", *names, heads=heads)
        self.out = Output(weights, f"{name}.attn.out")
        self.mlp = Mlp(weights, name)

    def forward(
        self, x: Tensor, own: Tensor, first: int, silent_keys: Tensor, silent_values: Tensor, bias: Tensor
    ) -> Tensor:
        """x [frames, state] -> the same; for the rest see `attend_window`."""
        qkv: Tensor = self.project(x).to(own.dtype)
        x = self.out(x, attend_window(qkv, own, first, silent_keys, silent_values, bias))
        x = self.mlp(x)
        return x


class _Network(nn.Module):
    """The encoder over one window, from some frame on."""

    def __init__(self, embed: _Embedding, layers: Sequence[_Layer], norm: Norm) -> None:
        super().__init__()
        self.embed, self.layers, self.norm = embed, nn.ModuleList(layers), norm

    def forward(
        self, mel: Tensor, first: int, own: Tensor, silent_keys: Tensor, silent_values: Tensor, bias: Tensor
    ) -> Tensor:
        """-> [frames, state]. own [layers, 2, heads, room, head size]; silent [layers, heads, entries, head size]."""
        x: Tensor = self.embed(mel, first)
        for i, layer in enumerate(self.layers):
            x = layer(x, own[i], first, silent_keys[i], silent_values[i], bias)
        x = self.norm(x)
        return x


class Encoder:
    def __init__(self, dims: Dimensions, weights: Weights, precision: Precision) -> None:
        self._dtype = precision.attention
        self._embed = _Embedding(weights, precision.attention)
        self._layers = [_Layer(weights, f"encoder.blocks.{i}", dims.n_audio_head) for i in range(dims.n_audio_layer)]
        self._norm = Norm(weights, "encoder.ln_post")
        self._network = weights.ready(_Network(self._embed, self._layers, self._norm))

    def __call__(self, mels: Sequence[Tensor], silence: Silence, attention: PaddedWindows) -> Tensor:
        """Features of all windows one after the other: [sum of n, state]. `attention` is made for their lengths."""
        x = torch.cat([self._embed(mel, 0) for mel in mels])
        for layer, *silent in zip(self._layers, silence.keys, silence.values, strict=True):
            q, k, v = layer.project(x).to(self._dtype).unbind(1)
            x = layer.mlp(layer.out(x, attention(q, k, v, (silent[0], silent[1]))))
        features: Tensor = self._norm(x)
        return features

    def extend(self, mel: Tensor, first: int, silence: Silence, memory: AudioMemory) -> Tensor:
        """Features of a window's frames from `first` on: [frames, state]. The frames before them are those in the
        memory, which takes in the new ones. `mel` begins with frame `mel_start(first)`."""
        frames = (mel_start(first) + mel.shape[1]) // 2
        end = entries(frames, silence.keys.shape[2])
        bias = window_bias(frames, end, self._dtype, mel.device)
        memory.reserve(len(bias))
        features: Tensor = self._network(mel, first, memory.layers, silence.keys, silence.values, bias)
        return features


def mel_start(first: int) -> int:
    """The mel frame with which the convolutions begin, so that encoder frame `first` is what it is in the whole."""
    return 2 * max(0, first - 1)
