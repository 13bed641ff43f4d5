"""Makes the translators whose libraries are extras of the installation."""

from __future__ import annotations

from wyoming_wlk.errors import ModelError
from wyoming_wlk.models import ModelStore
from wyoming_wlk.stages.translation.state import TranslationState
from wyoming_wlk.stages.translator import Translator


def load_bergamot(store: ModelStore) -> Translator[TranslationState]:
    """Firefox's models; a pair is fetched when a client wants it. Raises `ModelError` where the extra is missing."""
    try:
        from wyoming_wlk.stages.translation.bergamot import Bergamot
        from wyoming_wlk.stages.translation.simultaneous import SimultaneousTranslator

        return SimultaneousTranslator(Bergamot(store))
    except ImportError as err:
        raise _not_installed("bergamot") from err


def _not_installed(extra: str) -> ModelError:
    return ModelError(f"the translation backend {extra} is not installed: pip install wyoming-wlk[{extra}]")
