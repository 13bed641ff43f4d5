"""The model itself, in NeMo and torch: mel frames of many clients through one stacked pass, then each one's memory.

NeMo is imported when a model is loaded, and never before. All of this runs on the thread that loads the model.
"""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from wyoming_wlk.errors import ModelError
from wyoming_wlk.stages.sortformer.chunks import (
    CACHE,
    LEFT,
    MEL_HOP,
    MEL_PER_FRAME,
    MEL_REACH,
    SAMPLE_RATE,
    SETTINGS,
    Window,
)

if TYPE_CHECKING:
    from nemo.collections.asr.models import SortformerEncLabelModel
    from nemo.collections.asr.modules.sortformer_modules import SortformerModules

NOT_INSTALLED = "Sortformer is not installed: pip install wyoming-wlk[sortformer]"


class SortformerNetwork:
    """NeMo's `SortformerEncLabelModel`, which keeps nothing of a client.

    The passes over mel frames and embeddings are stacked. The memories are then updated one by one with NeMo's
    synchronous rule: its rule for stacks ("async") scores the first voices it remembers by predictions from before it
    knew any, and so can find speakers that are not there (NVIDIA-NeMo/Speech issue 16002).
    """

    def __init__(self, model: SortformerEncLabelModel) -> None:
        self._model = model
        self._modules = {chunks: _modules_for(model, chunks.fifo, chunks.period) for chunks in SETTINGS}
        self.channels = int(model.sortformer_modules.n_spk)
        self.device = str(model.device)

    def begin(self) -> dict[str, np.ndarray]:
        return _arrays(vars(self._model.sortformer_modules.init_streaming_state(batch_size=1)))

    @torch.inference_mode()
    def run(self, windows: Sequence[Window]) -> list[tuple[np.ndarray, dict[str, np.ndarray]]]:
        model = self._model
        memories = [{name: self._tensor(value) for name, value in window.memory.items()} for window in windows]
        embeddings = self._embed(windows)
        joined = [
            torch.cat([memory["spkcache"][0], memory["fifo"][0], chunk])
            for memory, chunk in zip(memories, embeddings, strict=True)
        ]
        lengths = torch.tensor([len(row) for row in joined], device=model.device)
        encoded, _ = model.frontend_encoder(
            processed_signal=pad_sequence(joined, batch_first=True),
            processed_signal_length=lengths,
            bypass_pre_encode=True,
        )
        predictions = model.forward_infer(encoded, lengths)
        return [
            self._update(window, memory, chunk, row[: len(parts)])
            for window, memory, chunk, row, parts in zip(
                windows, memories, embeddings, predictions, joined, strict=True
            )
        ]

    def _embed(self, windows: Sequence[Window]) -> list[Tensor]:
        """Of each window the embeddings [frames, dimensions], by the model's own preprocessor and subsampling."""
        audio = [self._tensor(window.audio) for window in windows]
        samples = torch.tensor([len(row) for row in audio], device=self._model.device)
        features, _ = self._model.preprocessor(input_signal=pad_sequence(audio, batch_first=True), length=samples)
        mel = [row[:, w.skip : w.skip + w.mel].T for row, w in zip(features, windows, strict=True)]
        lengths = torch.tensor([window.mel for window in windows], device=self._model.device)
        embeddings, _ = self._model.encoder.pre_encode(x=pad_sequence(mel, batch_first=True), lengths=lengths)
        return [row[: -(-w.mel // MEL_PER_FRAME)] for row, w in zip(embeddings, windows, strict=True)]

    def _update(
        self, window: Window, memory: dict[str, Tensor], chunk: Tensor, predictions: Tensor
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        modules = self._modules[window.chunks]
        state = modules.init_streaming_state(batch_size=1)
        vars(state).update(memory)
        right = len(chunk) - window.left - window.length
        state, found = modules.streaming_update(state, chunk[None], predictions[None], lc=window.left, rc=right)
        return found[0].cpu().numpy(), _arrays(vars(state))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._model.device)


def load_network(file: Path) -> SortformerNetwork:
    """Loads a .nemo file, onto a GPU where there is one. Raises `ModelError` where it holds no streaming Sortformer."""
    chance = random.getstate()  # NeMo's model seeds Python's generator with 42
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return SortformerNetwork(_restore(file))
    finally:
        random.setstate(chance)


def _restore(file: Path) -> SortformerEncLabelModel:
    try:
        logging.getLogger("nv_one_logger").setLevel(logging.ERROR)
        from nemo.utils import logging as nemo_logging

        nemo_logging.setLevel(logging.ERROR)  # it writes what is less to stdout, which may carry a protocol
        from nemo.collections.asr.models import SortformerEncLabelModel
    except ImportError as err:
        raise ModelError(f"{NOT_INSTALLED} ({err})") from err
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model = SortformerEncLabelModel.restore_from(str(file), map_location=device)
        streaming = isinstance(model, SortformerEncLabelModel) and _is_streaming(model)
    except Exception as err:  # whatever NeMo, hydra, tarfile and torch make of a broken file
        raise ModelError(f"cannot load {file}: {type(err).__name__}: {err}") from err
    if not streaming:
        raise ModelError(f"{file} is no streaming Sortformer")
    return model.eval()


def _is_streaming(model: SortformerEncLabelModel) -> bool:
    """Whether the model hears in chunks, and mel frames that do not depend on what comes later."""
    mel = model.preprocessor.featurizer
    return (
        model.streaming_mode
        and (mel.sample_rate, mel.hop_length, model.encoder.subsampling_factor) == (SAMPLE_RATE, MEL_HOP, MEL_PER_FRAME)
        and mel.win_length <= 2 * MEL_REACH
        and mel.normalize not in ("per_feature", "all_features")
    )


def _modules_for(model: SortformerEncLabelModel, fifo: int, period: int) -> SortformerModules:
    """The model's rules about memory with other lengths; the weights are shared."""
    modules = copy(model.sortformer_modules)
    modules.fifo_len, modules.spkcache_update_period = fifo, period
    modules.spkcache_len, modules.chunk_left_context = CACHE, LEFT
    return modules


def _arrays(fields: dict[str, Tensor | None]) -> dict[str, np.ndarray]:
    return {name: value.cpu().numpy() for name, value in fields.items() if value is not None}
