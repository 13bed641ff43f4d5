"""Whisper's encoder over windows of different lengths, with the silence behind each of them (see `model.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wyoming_wlk.engine.attention import ExtendedWindow, WindowAttention, entries, extension_bias
from wyoming_wlk.engine.checkpoint import Dimensions
from wyoming_wlk.engine.layers import Mlp, Output, Precision, Projection, Weights, layer_norm
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


class _EncoderLayer:
    def __init__(self, weights: Weights, name: str, heads: int, attention: torch.dtype) -> None:
        self._dtype = attention
        names = [f"{name}.attn.{part}" for part in ("query", "key", "value")]
        self._project = weights.part(Projection(weights, f"{name}.attn_ln", *names, heads=heads))
        self._out = weights.part(Output(weights, f"{name}.attn.out"))
        self._mlp = weights.part(Mlp(weights, name))

    def __call__(
        self, x: Tensor, attention: WindowAttention, silent: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x [sum of lengths, state] -> the same, and all keys and values [sum of lengths, heads, head size]."""
        q, k, v = self._project(x).to(self._dtype).unbind(1)
        return self._mlp(self._out(x, attention(q, k, v, silent))), k, v


class Encoder:
    """`attention` makes that of windows of given lengths."""

    def __init__(
        self,
        dims: Dimensions,
        weights: Weights,
        precision: Precision,
        attention: Callable[[list[int]], WindowAttention],
    ) -> None:
        self._dtype, self._state, self._attention = precision.attention, precision.state, attention
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
        self, mels: Sequence[Tensor], silence: Silence, kept: list[tuple[Tensor, Tensor]] | None = None
    ) -> Tensor:
        """Features of all windows one after the other: [sum of n, state]. `kept` collects each layer's keys/values."""
        x = torch.cat([self._embed(mel) for mel in mels])
        attention = self._attention([mel.shape[1] // 2 for mel in mels])
        for layer, *silent in zip(self._layers, silence.keys, silence.values, strict=True):
            x, k, v = layer(x, attention, (silent[0], silent[1]))
            if kept is not None:
                kept.append((k, v))
        return layer_norm(x, self._norm)

    def extend(self, mel: Tensor, first: int, silence: Silence, memory: AudioMemory) -> Tensor:
        """Features of a window's frames from `first` on: [frames, state]. The frames before them are those in the
        memory, which takes in the new ones. `mel` begins with frame `mel_start(first)`."""
        x = self._embed(mel, first)
        frames = first + len(x)
        bias = extension_bias(frames, entries(frames, silence.keys.shape[2]), self._dtype)
        memory.reserve(len(bias))
        for layer, own, *silent in zip(self._layers, memory.layers, silence.keys, silence.values, strict=True):
            x, _, _ = layer(x, ExtendedWindow(own, first, bias), (silent[0], silent[1]))
        return layer_norm(x, self._norm)

    def _embed(self, mel: Tensor, first: int = 0) -> Tensor:
        (w1, b1), (w2, b2) = self._convolutions
        x = F.gelu(F.conv1d(mel[None].to(self._dtype), w1, b1, padding=1))
        x = F.gelu(F.conv1d(x, w2, b2, stride=2, padding=1))[0].t()
        if first:
            x = x[1:]  # its neighbours were missing
        return x.to(self._state) + self._positions[first : first + len(x)]


def mel_start(first: int) -> int:
    """The mel frame with which the convolutions begin, so that encoder frame `first` is what it is in the whole."""
    return 2 * max(0, first - 1)
