"""Tensors out of a torch checkpoint, read without torch.

A `.pt` file is a ZIP archive with a pickle, in which tensors refer to raw storages beside it. Only the few names that a
state dict needs are allowed in the pickle, so that nothing of a file can run.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from wyoming_wlk.errors import ModelError

_TYPES = {
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "DoubleStorage": np.dtype("<f8"),
    "LongStorage": np.dtype("<i8"),
}


def read_state_dict(path: Path, key: str | None = None) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint by name; `key` names the entry that holds them where it is not the file itself.

    Raises `ModelError` for what is no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(pickled) as file:
                found: object = _Unpickler(archive, pickled.removesuffix("data.pkl"), file).load()
    except (OSError, StopIteration, zipfile.BadZipFile, pickle.UnpicklingError, LookupError, ValueError) as err:
        raise ModelError(f"cannot read {path}: {err}") from err
    if key is not None and isinstance(found, Mapping):
        found = found.get(key)
    if not isinstance(found, Mapping):
        raise ModelError(f"{path} holds no state dict")
    return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, folder: str, file: IO[bytes]) -> None:
        super().__init__(file)
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")

    def persistent_load(self, pid: tuple[str, np.dtype[np.generic], str, str, int]) -> np.ndarray:
        _, dtype, key, _, _ = pid
        return np.frombuffer(self._archive.read(f"{self._folder}data/{key}"), dtype)


def _tensor(storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> np.ndarray:
    """torch's `_rebuild_tensor_v2`: a strided view of a storage, here copied."""
    steps = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False).copy()
