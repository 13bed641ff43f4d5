"""Simultaneous translation by sentences: complete ones are translated for good, the open one anew at each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wyoming_wlk.engine.request import Word
from wyoming_wlk.stages.translation.languages import primary_language, separator
from wyoming_wlk.stages.translation.sentences import MAX_CHARACTERS, TimedWord, clean, join, split
from wyoming_wlk.stages.translation.state import TranslationState, read_state
from wyoming_wlk.stages.translation.texts import Text, TextTranslator
from wyoming_wlk.stages.translator import Said, Translated, Translation, Translator


class SimultaneousTranslator(Translator[TranslationState]):
    """Any library of texts as a stage. `begin` and `restore` may be called on any thread."""

    def __init__(self, texts: TextTranslator) -> None:
        self._texts = texts

    def begin(self, source: str, target: str) -> TranslationState:
        return TranslationState(*self._texts.languages(source, target))

    def restore(self, data: bytes) -> TranslationState:
        state = read_state(data)
        state.source, state.target = self._texts.languages(state.source, state.target)
        return state

    def step(self, items: Sequence[Said[TranslationState]]) -> Sequence[Translated | Exception]:
        plans = [_plan(said) for said in items]
        wanted = list(dict.fromkeys(text for plan in plans for text in plan.wanted))
        results = self._texts.translate(wanted) if wanted else []
        known = dict(zip(wanted, results, strict=True))
        return [plan.carry_out(known) for plan in plans]

    def close(self) -> None:
        """Gives back what the library holds."""
        self._texts.close()


@dataclass(frozen=True)
class _Plan:
    """A client's step: its complete pieces, and the rest, which stays open."""

    state: TranslationState
    pieces: list[list[TimedWord]]
    rest: list[TimedWord]

    @property
    def texts(self) -> list[Text]:
        """Those of the pieces, and that of the rest."""
        return [Text(self.state.source, self.state.target, join(words)) for words in (*self.pieces, self.rest)]

    @property
    def wanted(self) -> list[Text]:
        """What has to be translated."""
        return [text for text in self.texts if self._at_hand(text) is None]

    def _at_hand(self, text: Text) -> str | None:
        """What is known without the library: nothing of nothing, what was shown last, and what is no language."""
        shown, translation = self.state.shown
        if text.text == shown:
            return translation
        quoted = not text.text or text.source == text.target or len(text.text) > MAX_CHARACTERS
        return text.text if quoted else None

    def carry_out(self, known: Mapping[Text, str | Exception]) -> Translated | Exception:
        """Where something failed, complete pieces are lost, and the rest is tried again at the next step."""
        results = [known[text] if (ready := self._at_hand(text)) is None else ready for text in self.texts]
        failures = [result for result in results if isinstance(result, Exception)]
        found = [result for result in results if isinstance(result, str)]
        self.state.open = self.rest
        if failures:
            return failures[0]
        self.state.shown = (self.texts[-1].text, found[-1])
        space = separator(self.state.target)
        stable = [
            Translation(words[0].start, words[-1].end, space + text)
            for words, text in zip(self.pieces, found, strict=False)
            if text
        ]
        return Translated(tuple(stable), space + found[-1] if found[-1] else "")


def _plan(said: Said[TranslationState]) -> _Plan:
    words = said.state.open + [word for word in map(_timed, said.words) if word.text]
    return _Plan(said.state, *split(words, primary_language(said.state.source), said.last))


def _timed(word: Word) -> TimedWord:
    return TimedWord(word.start, word.end, clean(word.text))
