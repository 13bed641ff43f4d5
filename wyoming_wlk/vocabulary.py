"""The names of a home, as satellites should expect them: those spoken lately first. Knows not where they come from."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

_WORD = re.compile(r"\w+")


class Vocabulary:
    """Names that are likely to be spoken; may change at any time."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        """Each name by its words alone; the order is that of importance."""
        self._languages: frozenset[str] = frozenset()

    def learn(self, names: Iterable[str], languages: Collection[str]) -> None:
        """All names there are now, and the languages (codes) in which they are spoken; none stands for any."""
        known = {words: name for name in names if (words := _words(name))}
        lately = [words for words in self._names if words in known]
        self._names = {words: known[words] for words in [*lately, *known]}
        self._languages = frozenset(languages)

    def heard(self, text: str) -> None:
        """Moves the names in a transcript to the front."""
        said = f" {_words(text)} "
        spoken = [words for words in self._names if f" {words} " in said]
        if spoken and spoken != list(self._names)[: len(spoken)]:
            self._names = {words: self._names[words] for words in [*spoken, *self._names]}

    def expected(self, language: str) -> tuple[str, ...]:
        """The names for an utterance in `language`, a code or `auto`."""
        if language != "auto" and self._languages and language not in self._languages:
            return ()
        return tuple(self._names.values())


def _words(text: str) -> str:
    return " ".join(_WORD.findall(text.casefold()))
