"""Makes the translators whose libraries are extras of the installation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from wyoming_wlk.catalogue import nllb_entry
from wyoming_wlk.errors import ModelError
from wyoming_wlk.models import ModelStore

if TYPE_CHECKING:
    from wyoming_wlk.stages.translation.simultaneous import SimultaneousTranslator


def load_bergamot(store: ModelStore) -> SimultaneousTranslator:
    """Firefox's models; a pair is fetched when a client wants it. Raises `ModelError` where the extra is missing."""
    try:
        from wyoming_wlk.stages.translation.bergamot import Bergamot
        from wyoming_wlk.stages.translation.simultaneous import SimultaneousTranslator

        return SimultaneousTranslator(Bergamot(store))
    except ImportError as err:
        raise _not_installed("bergamot") from err


def load_nllb(
    store: ModelStore, model: str = "600M", library: str = "ctranslate2", device: str = "cpu", threads: int = 1
) -> SimultaneousTranslator:
    """NLLB-200; blocking, for minutes where it has to be fetched.

    `model` is a size (600M, 1.3B) for one of the libraries ctranslate2 and transformers, or a folder in the format of
    either. `threads` are CTranslate2's. Raises `ModelError` where the extra is missing or the model cannot be had.
    """
    try:
        from wyoming_wlk.stages.translation.nllb import Nllb
        from wyoming_wlk.stages.translation.simultaneous import SimultaneousTranslator
    except ImportError as err:
        raise _not_installed("nllb") from err
    own = Path(os.path.expanduser(model))
    folder = own if own.is_dir() else store.fetch(nllb_entry(model, library))
    return SimultaneousTranslator(Nllb(folder, device, threads))


def _not_installed(extra: str) -> ModelError:
    return ModelError(f"the translation backend {extra} is not installed: pip install wyoming-wlk[{extra}]")
