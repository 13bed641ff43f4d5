"""The process that runs Bergamot models. It is a program of its own: it reads requests and answers as lines of JSON.

fxtranslate holds Python's global lock while it translates and panics on broken files; here neither harms the server.
A request is ``{"models": [folder, ...], "text": ...}``: the models are applied one after the other. The answer is
``{"text": ...}`` or ``{"error": ...}``. The process ends with its input.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import OrderedDict
from pathlib import Path

from fxtranslate import Translator

KEPT_MODELS = 4


def load(folder: Path) -> Translator:
    """A model from its files. Raises OSError, and whatever fxtranslate raises for broken ones."""
    shared = folder / "vocab.spm"
    source, target = (shared, shared) if shared.exists() else (folder / "srcvocab.spm", folder / "trgvocab.spm")
    lexicon = folder / "lex.bin"
    return Translator(
        (folder / "model.bin").read_bytes(),
        source.read_bytes(),
        target.read_bytes(),
        lexicon.read_bytes() if lexicon.exists() else None,
    )


class Models:
    """The models that were used last."""

    def __init__(self) -> None:
        self._loaded: OrderedDict[str, Translator] = OrderedDict()

    def translate(self, folders: list[str], text: str) -> str:
        for folder in folders:
            text = self._get(folder).translate(text)
        return text

    def _get(self, folder: str) -> Translator:
        if folder not in self._loaded:
            while len(self._loaded) >= KEPT_MODELS:
                self._loaded.popitem(last=False)
            self._loaded[folder] = load(Path(folder))
        self._loaded.move_to_end(folder)
        return self._loaded[folder]


def main() -> None:
    """Answers requests until there are no more."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # meant for the server, whose last sentences are still to be translated
    models = Models()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"text": models.translate(request["models"], request["text"])}
        except BaseException as err:  # a panic is no Exception
            answer = {"error": f"{type(err).__name__}: {err}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
