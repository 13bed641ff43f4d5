"""The two networks on onnxruntime: who of up to three voices speaks in each frame, and what a voice sounds like.

Shared by all clients, without state. Rows are computed one by one: a batch is no faster on one core, and so each gets
exactly what it would get alone on any processor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from wyoming_wlk.errors import ModelError
from wyoming_wlk.stages.diarization.features import BINS

LOCAL_SPEAKERS = 3
FRAME = 270
"""Samples from one frame to the next, as in segmentation-3.0. What other networks say is brought to this."""
FRAME_START = 360
"""Where the time of a window's first frame begins: its receptive field is 991 samples wide, and its middle counts."""
WINDOW = 420
"""Frames of audio that a window hears: seven seconds."""
WINDOW_FRAMES = 417
"""Frames that the segmentation makes of a window; the last few have no full context."""

POWERSET = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], np.float32)
"""Which local speakers a class of the segmentation means."""


class SegmentationNetwork:
    """Audio [1, 1, samples] (or [1, samples]) -> scores of the powerset's seven classes [1, frames, 7].

    pyannote's segmentation-3.0, or another network with these classes, whatever its frames are.
    """

    def __init__(self, model: Path) -> None:
        """Raises `ModelError` where the file cannot be loaded or is another kind of network."""
        self._network = _Network(model)
        if self._network.rank not in (2, 3):
            raise self._network.refused("does not take audio")
        length = WINDOW * FRAME
        frames, twice = (self._scores(np.zeros(size, np.float32)).shape[0] for size in (length, 2 * length))
        if twice <= frames:
            raise self._network.refused("does not say who speaks when")
        step = length / (twice - frames)
        first = (length - (frames - 1) * step) / 2  # the middle of the first frame, if all lie evenly in the window
        middles = FRAME_START + FRAME * (np.arange(WINDOW_FRAMES) + 0.5)
        self._places = np.clip(np.rint((middles - first) / step).astype(int), 0, frames - 1)

    def run(self, windows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Windows of WINDOW * FRAME samples -> float32 probabilities of the classes in each, [WINDOW_FRAMES, 7]."""
        return [self._probabilities(window) for window in windows]

    def _probabilities(self, window: np.ndarray) -> np.ndarray:
        scores = self._scores(window)[self._places]
        likely: np.ndarray = np.exp(scores - scores.max(axis=1, keepdims=True))
        likely /= likely.sum(axis=1, keepdims=True)
        return likely

    def _scores(self, audio: np.ndarray) -> np.ndarray:
        scores = self._network.run(audio[None] if self._network.rank == 2 else audio[None, None])
        if scores.ndim != 2 or scores.shape[1] != len(POWERSET):
            raise self._network.refused(f"does not tell {len(POWERSET)} classes apart (three speakers, two at once)")
        return scores


class EmbeddingNetwork:
    """Features [1, frames, 80] -> embedding [1, dimensions]: CAM++, or another network of this kind."""

    def __init__(self, model: Path) -> None:
        """Raises `ModelError` where the file cannot be loaded or is another kind of network."""
        self._network = _Network(model)
        if self._network.rank != 3:
            raise self._network.refused(f"does not take features of {BINS} mel bins; those that take audio do not work")
        sizes = {self._network.run(np.zeros((1, frames, BINS), np.float32)).shape for frames in (30, 150)}
        if len(sizes) > 1 or len(size := sizes.pop()) != 1:
            raise self._network.refused("does not make one embedding of a piece of speech")
        self.dimensions = int(size[0])
        self.name = hashlib.sha256(model.read_bytes()).hexdigest()[:16]
        """Tells networks apart: what one made is of no use to another."""

    def run(self, pieces: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Filter banks [frames, 80] of one voice each -> embeddings [dimensions] of length 1."""
        return [self._embed(piece) for piece in pieces]

    def _embed(self, piece: np.ndarray) -> np.ndarray:
        embedding = self._network.run((piece - piece.mean(axis=0))[None])
        return embedding / max(float(np.linalg.norm(embedding)), 1e-6)


class _Network:
    """A network with one input and one output that counts, both of batches, on one thread."""

    def __init__(self, model: Path) -> None:
        self._model = model
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as err:  # onnxruntime raises classes of its own without a common base
            raise ModelError(f"cannot load diarization model {model}: {err}") from err
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            raise self.refused("does not have one input of floats")
        self._input: str = inputs[0].name
        self._output: str = self._session.get_outputs()[0].name
        self.rank = len(inputs[0].shape)

    def run(self, batch: np.ndarray) -> np.ndarray:
        """A batch of one -> its output, without the batch's dimension."""
        try:
            (output,) = self._session.run([self._output], {self._input: batch})
        except Exception as err:
            raise self.refused(f"does not take an input of {list(batch.shape)}: {err}") from err
        found: np.ndarray = output[0]
        return found

    def refused(self, why: str) -> ModelError:
        return ModelError(f"{self._model} cannot be used for diarization: it {why}")
