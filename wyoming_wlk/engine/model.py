"""Whisper itself: encoder and decoder as plain functions of their inputs, with the key/value cache as an argument.

Two things differ from the published network. Rows of a batch have their own lengths. And only the part of the 30 s
window that holds audio is encoded: the rest is silence, whose keys and values are computed once per model and kept
thinned out (`Silence`), so that a short window costs what a short window should and still reads like a full one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from wyoming_wlk.engine.attention import SILENCE_STRIDE, DecoderInput, entries
from wyoming_wlk.engine.cache import CrossAttention, KVCache
from wyoming_wlk.engine.checkpoint import Checkpoint, Dimensions, Heads, default_alignment_heads
from wyoming_wlk.engine.decoder import Decoder, DecoderOutput, DecoderPass
from wyoming_wlk.engine.encoder import Encoder, Silence
from wyoming_wlk.engine.layers import Precision, Weights
from wyoming_wlk.engine.padded import PaddedWindows
from wyoming_wlk.engine.passes import PaddedPasses, Passes
from wyoming_wlk.engine.window import AudioMemory

__all__ = ["DecoderInput", "DecoderOutput", "DecoderPass", "Precision", "Whisper"]

_SILENT_MEL = -0.6  # a silent frame after `mel.MelWindow` beside speech of usual loudness


class Whisper:
    """One loaded model on one device. Immutable after construction; nothing in it belongs to a client.

    `padded`: rows attend all at once, padded to the longest; otherwise one by one, as suits the CPU.
    """

    def __init__(
        self, checkpoint: Checkpoint, precision: Precision, device: torch.device, padded: bool | None = None
    ) -> None:
        self.dims: Dimensions = checkpoint.dims
        self.precision = precision
        self.device = device
        self.padded = device.type != "cpu" if padded is None else padded
        self.alignment_heads: Heads = checkpoint.alignment_heads or default_alignment_heads(checkpoint.dims)
        weights = Weights(checkpoint.tensors, precision, device)
        self.encoder = Encoder(self.dims, weights, precision)
        self.decoder = Decoder(self.dims, weights, self.alignment_heads)
        self.silence = self._encode_silence()

    def new_cache(self, slots: int) -> KVCache:
        return KVCache(self.dims, slots, self.precision.state, self.device, self.padded)

    def passes(self, cache: KVCache) -> Passes:
        """The decoder over the rows of a cache, in the way that suits the device."""
        return PaddedPasses(self.decoder, cache) if self.padded else partial(self.decoder, cache=cache)

    def encode(self, mels: Sequence[Tensor]) -> list[CrossAttention]:
        """Encodes whole windows of different lengths, together where rows attend together.

        Each mel is normalized, [n_mels, 2 * n], n a multiple of `SILENCE_STRIDE` and at most n_audio_ctx.
        """
        if not self.padded:
            return [self.extend(mel, 0, self._memory()) for mel in mels]
        order = sorted(range(len(mels)), key=lambda index: mels[index].shape[1])
        lengths = [mels[index].shape[1] // 2 for index in order]
        attention = PaddedWindows(lengths, self.dims.n_audio_ctx, self.device, self.precision.attention)
        features = self.encoder([mels[index] for index in order], self.silence, attention)
        cross = torch.split(self.decoder.cross_keys_values(features), lengths, dim=3)
        encoded = {
            index: CrossAttention(torch.cat([own, self.silence.cross[:, :, :, n // SILENCE_STRIDE :]], dim=3), n)
            for index, n, own in zip(order, lengths, cross, strict=True)
        }
        return [encoded[index] for index in range(len(mels))]

    def new_memory(self) -> AudioMemory | None:
        """Where a window's keys and values stay between steps; None where windows are encoded together."""
        return None if self.padded else self._memory()

    def extend(self, mel: Tensor, first: int, memory: AudioMemory) -> CrossAttention:
        """Encodes a window from frame `first` on, beside what the memory has of it; see `Encoder.extend`."""
        features = self.encoder.extend(mel, first, self.silence, memory)
        frames, silent = first + len(features), self.silence.cross
        end = entries(frames, silent.shape[3])
        memory.cross[:, :, :, first:frames] = self.decoder.cross_keys_values(features)
        memory.cross[:, :, :, frames:end] = silent[:, :, :, frames // SILENCE_STRIDE :]
        return memory.heard(end, frames)

    def _memory(self) -> AudioMemory:
        return AudioMemory(self.dims, self.precision.attention, self.precision.state, self.device)

    def _encode_silence(self) -> Silence:
        dims = self.dims
        size = dims.n_audio_state // dims.n_audio_head
        shape = (dims.n_audio_layer, dims.n_audio_head, dims.n_audio_ctx // SILENCE_STRIDE, size)
        unused = torch.zeros(shape, dtype=self.precision.attention, device=self.device)  # the window fills it all
        mel = torch.full((dims.n_mels, 2 * dims.n_audio_ctx), _SILENT_MEL, device=self.device)
        memory = self._memory()
        features = self.encoder.extend(mel, 0, Silence(unused, unused, unused), memory)
        thin = slice(SILENCE_STRIDE // 2, dims.n_audio_ctx, SILENCE_STRIDE)
        keys, values = memory.layers[:, :, :, thin].unbind(1)
        return Silence(keys.clone(), values.clone(), self.decoder.cross_keys_values(features[thin]))
