"""Finds and loads a streaming Sortformer, by its name on the model hub or from a file."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from wyoming_wlk.catalogue import CatalogueEntry
from wyoming_wlk.errors import ModelError
from wyoming_wlk.models import ModelStore
from wyoming_wlk.stages.sortformer.diarizer import SortformerDiarizer
from wyoming_wlk.stages.sortformer.network import NOT_INSTALLED, load_network

V2_1 = "nvidia/diar_streaming_sortformer_4spk-v2.1"
_SHA256 = {V2_1: "8abd32832159c6ac1148c926b7276f35ba34582c444e559dce1f1253fea42ef8"}
_MEGABYTES = 471


def load_sortformer(model: str, store: ModelStore) -> SortformerDiarizer:
    """`model` is a name on the hub (OWNER/NAME, with a NAME.nemo in it), fetched if need be, or a .nemo file. It runs
    on a GPU where torch finds one.

    Blocking: NeMo alone takes ten seconds to import. To be used on the thread that loads it. Raises `ModelError`.
    """
    if find_spec("nemo") is None:
        raise ModelError(NOT_INSTALLED)
    return SortformerDiarizer(load_network(find_model(model, store)))


def find_model(model: str, store: ModelStore) -> Path:
    """The .nemo file of a model. Raises `ModelError` where it cannot be had."""
    path = Path(os.path.expanduser(model))
    if path.is_file():
        return path
    entry = hub_entry(model)
    return store.fetch(entry) / entry.hub_files[0]


def hub_entry(model: str) -> CatalogueEntry:
    """What to fetch from the hub for OWNER/NAME. Raises `ModelError` for what is no such name."""
    owner, slash, name = model.partition("/")
    if not (owner and slash and name) or "/" in name or name.endswith(".nemo"):
        raise ModelError(f"{model!r} is neither a .nemo file nor a name on the hub such as {V2_1}")
    file = f"{name}.nemo"
    pinned = {file: _SHA256[model]} if model in _SHA256 else {}
    return CatalogueEntry(f"{owner}--{name}", _MEGABYTES, (), model, hub_files=(file,), sha256=pinned)
