"""What a library that translates texts has to do. Knows nothing of speech and clients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """At most a few sentences, in the library's codes of languages."""

    source: str
    target: str
    text: str


class TextTranslator(ABC):
    """Keeps models in memory, and no state of clients."""

    @abstractmethod
    def languages(self, source: str, target: str) -> tuple[str, str]:
        """The library's codes for two languages, however they are written; what the pair needs is then on the disk.

        Raises `RequestError` for a pair that is unknown and `ModelError` where its model cannot be had. May be called
        on any thread.
        """

    @abstractmethod
    def translate(self, texts: Sequence[Text]) -> Sequence[str | Exception]:
        """One result for each text, the same whether it is alone or among others."""

    @abstractmethod
    def close(self) -> None:
        """Gives back what the library holds. Nothing is called afterwards."""
