"""Decoder passes with all rows at once, in few shapes: a pass of one token per row is padded to a bucket of rows and of
audio, so that on CUDA each bucket can be captured once as a graph, and costs one launch instead of hundreds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from wyoming_wlk.engine.attention import DecoderInput
from wyoming_wlk.engine.cache import KVCache
from wyoming_wlk.engine.decoder import Decoder, DecoderPass
from wyoming_wlk.engine.padded import Packing, PaddedAttention, Rows
from wyoming_wlk.engine.transfer import to_device, upload

_LOG = logging.getLogger(__name__)

_AUDIO_STEP = 512
"""Entries of audio that a pass attends to, in buckets (10 s; a window of 30 s has 1500)."""

_TEXT_STEP = 64

_Row = tuple[int, int, int, int, int]
"""As in `padded.Rows`: slot, slot of the audio, tokens, entries, frames."""

Step = Callable[[Tensor], tuple[Tensor, Tensor]]
"""A pass over a bucket, on the device alone: ids, slots, audio, tokens, entries and frames of its rows, [6, rows], to
hidden [rows, state] and attention [heads, rows, frames]."""

Capture = Callable[[Step, Tensor], Step]
"""Makes a step of one shape faster, given an input of that shape."""


class Passes(Protocol):
    """Runs the decoder over a batch of rows and appends their tokens to the cache."""

    def __call__(self, batch: Sequence[DecoderInput]) -> DecoderPass: ...


class PaddedPasses:
    """All rows of a batch at once. `capture` None: as the device can."""

    def __init__(self, decoder: Decoder, cache: KVCache, capture: Capture | None = None) -> None:
        self._decoder, self._cache = decoder, cache
        self._graphs: dict[tuple[int, int], Step] = {}
        if capture is None and cache.self_kv.is_cuda:
            capture = GraphCapture()
        if capture is not None:
            self._graphs = self._captured(capture)

    def __call__(self, batch: Sequence[DecoderInput]) -> DecoderPass:
        cache = self._cache
        beams = [beam for item in batch for beam in item.tokens]
        rows = [
            (slot, item.audio, cache.tokens[slot], cache.entries[item.audio], cache.frames[item.audio])
            for item in batch
            for slot in item.slots
        ]
        audio = min(cache.audio_limit, _up(max(row[3] for row in rows), _AUDIO_STEP))
        if all(len(beam) == 1 for beam in beams):
            hidden, attention = self._one_token([beam[0] for beam in beams], rows, audio)
        else:
            hidden, attention = self._many_tokens(beams, rows, audio)
        return DecoderPass.of(batch, cache, hidden, attention[:, :, : max(row[4] for row in rows)])

    def _one_token(self, ids: list[int], rows: list[_Row], audio: int) -> tuple[Tensor, Tensor]:
        bucket = bucket_of(len(rows), self._cache.slots)
        run = self._graphs.get((bucket, audio)) or self._step(audio)
        hidden, attention = run(self._inputs(ids, rows, bucket))
        return hidden[: len(rows)], attention[:, : len(rows)]

    def _inputs(self, ids: Sequence[int], rows: Sequence[_Row], bucket: int) -> Tensor:
        """[6, bucket]. Rows that only fill it up read and write the slot that belongs to nobody."""
        nobody = (0, self._cache.slots, self._cache.slots, 0, 1, 1)
        filled = [(token, *row) for token, row in zip(ids, rows, strict=True)] + [nobody] * (bucket - len(rows))
        return to_device(torch.tensor(filled).t().contiguous(), self._cache.self_kv.device)

    def _step(self, audio: int) -> Step:
        cache = self._cache

        def step(inputs: Tensor) -> tuple[Tensor, Tensor]:
            ids, *rows = inputs
            packing = Packing(len(ids), 1, None, None)
            return self._decoder.padded(ids, PaddedAttention(cache, packing, Rows(*rows), cache.text_limit, audio))

        return step

    def _many_tokens(self, beams: list[list[int]], rows: list[_Row], audio: int) -> tuple[Tensor, Tensor]:
        device = self._cache.self_kv.device
        packing = Packing.of([len(beam) for beam in beams], device)
        text = min(self._cache.text_limit, _up(max(row[2] for row in rows) + packing.longest, _TEXT_STEP))
        on_device = Rows(*to_device(torch.tensor(rows).t().contiguous(), device))
        ids = upload([token for beam in beams for token in beam], device)
        return self._decoder.padded(ids, PaddedAttention(self._cache, packing, on_device, text, audio))

    # --- graphs -------------------------------------------------------------------------------------------------------

    def _captured(self, capture: Capture) -> dict[tuple[int, int], Step]:
        """A graph for each bucket, if they compute what the same steps do without; none otherwise."""
        limit = self._cache.audio_limit
        shapes = [
            (bucket, audio)
            for bucket in sorted(buckets(self._cache.slots), reverse=True)  # the smaller ones fit into their memory
            for audio in sorted({min(limit, end) for end in range(_AUDIO_STEP, limit + _AUDIO_STEP, _AUDIO_STEP)})
        ]
        try:
            graphs = {
                (bucket, audio): capture(self._step(audio), self._inputs([], [], bucket)) for bucket, audio in shapes
            }
            if all(self._agrees(graph, *shape) for shape, graph in graphs.items()):
                _LOG.info("decoder passes run as %d captured graphs", len(graphs))
                return graphs
            _LOG.warning("passes captured as graphs compute something else; they are run without")
        except Exception:
            _LOG.warning("decoder passes cannot be captured as graphs and are run without", exc_info=True)
        return {}

    def _agrees(self, graph: Step, bucket: int, audio: int) -> bool:
        """Whether a graph gives what its step does, for rows with noise for audio. All slots are free yet."""
        self._cache.cross_kv[:, :, :, :, :8].normal_()
        inputs = self._inputs(range(1, bucket + 1), [(n, n, 0, 8, 4) for n in range(bucket)], bucket)
        plain, captured = self._step(audio)(inputs), graph(inputs)
        tolerance = 32 * torch.finfo(plain[0].dtype).eps
        return all(torch.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in zip(plain, captured, strict=True))


def buckets(slots: int) -> list[int]:
    """How many rows a pass may be padded to: powers of two, and all."""
    return sorted({min(slots, 2**power) for power in range(slots.bit_length() + 1)})


def bucket_of(rows: int, slots: int) -> int:
    return next(bucket for bucket in buckets(slots) if bucket >= rows)


class GraphCapture:
    """Makes CUDA graphs that share their memory. What one returns is overwritten when it is called again."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Step, example: Tensor) -> Step:
        inputs = example.clone()
        main = torch.cuda.current_stream(example.device)
        aside = torch.cuda.Stream(example.device)  # type: ignore[no-untyped-call]
        aside.wait_stream(main)
        with torch.cuda.stream(aside):  # handles that are made at first use must not be made while capturing
            for _ in range(2):
                step(inputs)
        main.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = step(inputs)

        def replay(new: Tensor) -> tuple[Tensor, Tensor]:
            inputs.copy_(new, non_blocking=True)
            graph.replay()
            return outputs

        return replay


def _up(count: int, step: int) -> int:
    return -(-count // step) * step
