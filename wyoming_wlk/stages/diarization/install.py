"""How the two networks of diarization get onto the disk: fetched by the model store, exported once, then used again."""

from __future__ import annotations

from pathlib import Path

from wyoming_wlk.catalogue import DIARIZATION
from wyoming_wlk.errors import ModelError
from wyoming_wlk.models import ModelStore
from wyoming_wlk.stages.diarization.export import export_networks


def install_networks(store: ModelStore) -> tuple[Path, Path]:
    """The ONNX files of segmentation and embedding; blocking, for long where they must be fetched.

    Raises `ModelError` where they cannot be had.
    """
    try:
        folder = store.fetch(DIARIZATION)
    except ModelError as err:
        raise ModelError(
            f"{err}. Without the models nobody can be told apart: start once with the internet and without --offline, "
            f"or copy models/{DIARIZATION.name} out of the data folder of a machine that has them"
        ) from err
    return export_networks(folder)
