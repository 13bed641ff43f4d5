"""The two networks on onnxruntime: who of up to three voices speaks in each frame, and what a voice sounds like.

Shared by all clients, without state. Rows are computed one by one: a batch is no faster on one core, and so each gets
exactly what it would get alone on any processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from wyoming_wlk.errors import ModelError

LOCAL_SPEAKERS = 3
FRAME = 270
"""Samples from one frame of the segmentation to the next."""
FRAME_START = 360
"""Where the time of a window's first frame begins: its receptive field is 991 samples wide, and its middle counts."""
DIMENSIONS = 192

POWERSET = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], bool)
"""Which local speakers a class of the segmentation means."""


class SegmentationNetwork:
    """pyannote's powerset segmentation, or another network with its seven classes."""

    def __init__(self, model: Path) -> None:
        """Raises `ModelError` where the file cannot be loaded."""
        self._session = _open(model)

    def run(self, windows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Windows of float32 samples -> the local speakers' activity in each, [frames, 3] bool."""
        return [self._activity(window) for window in windows]

    def _activity(self, window: np.ndarray) -> np.ndarray:
        (scores,) = self._session.run(None, {"audio": window[None, None]})
        activity: np.ndarray = POWERSET[scores[0].argmax(axis=-1)]
        return activity


class EmbeddingNetwork:
    """CAM++, or another network that makes 192 numbers of a filter bank."""

    def __init__(self, model: Path) -> None:
        """Raises `ModelError` where the file cannot be loaded."""
        self._session = _open(model)

    def run(self, pieces: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Filter banks [frames, 80] of one voice each -> embeddings [192] of length 1."""
        return [self._embed(piece) for piece in pieces]

    def _embed(self, piece: np.ndarray) -> np.ndarray:
        (embeddings,) = self._session.run(None, {"features": (piece - piece.mean(axis=0))[None]})
        embedding: np.ndarray = embeddings[0]
        return embedding / max(float(np.linalg.norm(embedding)), 1e-6)


def _open(model: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as err:  # onnxruntime raises classes of its own without a common base
        raise ModelError(f"cannot load diarization model {model}: {err}") from err
