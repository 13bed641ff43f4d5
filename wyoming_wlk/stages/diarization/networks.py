"""The two networks on onnxruntime: who of up to three voices speaks in each frame, and what a voice sounds like.

Shared by all clients, without state. Rows of a batch do not touch each other: each gets the bits it would get alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from wyoming_wlk.errors import ModelError
from wyoming_wlk.stages.diarization.features import BINS

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
        """Windows of float32 samples, all of one length -> the local speakers' activity in each, [frames, 3] bool."""
        if not windows:
            return []
        (scores,) = self._session.run(None, {"audio": np.stack(windows)[:, None]})
        return list(POWERSET[scores.argmax(axis=-1)])


class EmbeddingNetwork:
    """CAM++, or another network that makes 192 numbers of a filter bank."""

    def __init__(self, model: Path) -> None:
        """Raises `ModelError` where the file cannot be loaded."""
        self._session = _open(model)

    def run(self, pieces: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Filter banks [frames, 80] of one voice each -> embeddings [192] of length 1.

        Pieces of one length are computed together; padding would change what the network hears.
        """
        found: list[np.ndarray] = [np.zeros(0, np.float32)] * len(pieces)
        for length in {len(piece) for piece in pieces}:
            rows = [row for row, piece in enumerate(pieces) if len(piece) == length]
            features = np.stack([pieces[row] - pieces[row].mean(axis=0) for row in rows])
            (embeddings,) = self._session.run(None, {"features": features.reshape(-1, length, BINS)})
            for row, embedding in zip(rows, embeddings, strict=True):
                found[row] = embedding / max(float(np.linalg.norm(embedding)), 1e-6)
        return found


def _open(model: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as err:  # onnxruntime raises classes of its own without a common base
        raise ModelError(f"cannot load diarization model {model}: {err}") from err
