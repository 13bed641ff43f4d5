"""One client's translation between steps: plain data, without models, that can leave the process."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from wyoming_wlk.stages.translation.sentences import TimedWord


@dataclass(eq=False)
class TranslationState:
    """The words of the sentence that is not complete yet. Its bounds are those of `sentences.split`."""

    source: str
    """The backend's code of the language of the words."""
    target: str
    open: list[TimedWord] = field(default_factory=list)
    shown: tuple[str, str] = ("", "")
    """The last tentative translation: of what text, and how it reads. What is unchanged is not translated again."""

    def to_bytes(self) -> bytes:
        return json.dumps([self.source, self.target, self.open, self.shown], ensure_ascii=False).encode()


def read_state(data: bytes) -> TranslationState:
    """What `to_bytes` has written. Raises ValueError for anything else."""
    try:
        source, target, words, shown = json.loads(data)
        opened = [TimedWord(float(start), float(end), _text(text)) for start, end, text in words]
        text, translation = shown
        return TranslationState(_text(source), _text(target), opened, (_text(text), _text(translation)))
    except (TypeError, ValueError, RecursionError) as err:
        raise ValueError(f"no state of a translation: {err}") from err


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.100} is no text")
    return value
