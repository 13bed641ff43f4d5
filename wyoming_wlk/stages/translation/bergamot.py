"""Bergamot: Firefox's small translation models on the CPU, in a process of their own; through English where need be."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from wyoming_wlk.catalogue import translation_entry
from wyoming_wlk.errors import ModelError
from wyoming_wlk.models import ModelStore
from wyoming_wlk.stages.translation.languages import language_tag
from wyoming_wlk.stages.translation.process import LineProcess
from wyoming_wlk.stages.translation.texts import Text, TextTranslator

_PROGRAM = Path(__file__).with_name("bergamot_process.py")
_TIMEOUT = 30.0
"""Seconds for one text; models that are not in memory are loaded first, from whatever disk there is."""

_MOZILLA_CODES = {"fil": "tl", "no": "nb", "nn": "nb"}
_HUB = "en"
"""Models translate from English or to it."""


class Bergamot(TextTranslator):
    """All of Firefox's pairs; what is not on the disk is downloaded."""

    def __init__(self, store: ModelStore) -> None:
        """Raises ImportError where the library is not installed."""
        if importlib.util.find_spec("fxtranslate") is None:  # it is imported by the process only
            raise ImportError("fxtranslate")
        self._store = store
        self._process = LineProcess(_PROGRAM, _TIMEOUT)
        self._folders: dict[tuple[str, str], str] = {}

    def languages(self, source: str, target: str) -> tuple[str, str]:
        codes = mozilla_code(source), mozilla_code(target)
        for leg in _route(*codes):
            if leg not in self._folders:
                self._folders[leg] = str(self._store.fetch(translation_entry(*leg)))
        return codes

    def translate(self, texts: Sequence[Text]) -> Sequence[str | Exception]:
        return [self._translate(text) for text in texts]

    def _translate(self, text: Text) -> str | Exception:
        folders = [self._folders[leg] for leg in _route(text.source, text.target)]
        try:
            answer = self._process.ask({"models": folders, "text": text.text})
        except ModelError as err:
            return err
        return answer["text"].strip() if "text" in answer else ModelError(f"translation failed: {answer['error']}")

    def close(self) -> None:
        self._process.close()


def mozilla_code(written: str) -> str:
    """Raises `RequestError` for what is no language."""
    tag = language_tag(written)
    code = str(tag.language)
    return f"zh-{tag.script}" if code == "zh" else _MOZILLA_CODES.get(code, code)


def _route(source: str, target: str) -> list[tuple[str, str]]:
    if source == target:
        return []
    return [(source, target)] if _HUB in (source, target) else [(source, _HUB), (_HUB, target)]
