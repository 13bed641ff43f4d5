"""Simultaneous translation with a library that writes in capitals: when what is translated, and for which words."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wyoming_wlk.engine.request import Word
from wyoming_wlk.errors import ModelError, RequestError
from wyoming_wlk.stages.translator import Said, Translated, Translation

try:
    from wyoming_wlk.stages.translation.languages import language_tag, primary_language, separator
    from wyoming_wlk.stages.translation.sentences import MAX_CHARACTERS, MAX_SECONDS, MAX_WORDS, TimedWord, clean, split
    from wyoming_wlk.stages.translation.simultaneous import SimultaneousTranslator
    from wyoming_wlk.stages.translation.state import TranslationState
    from wyoming_wlk.stages.translation.texts import Text, TextTranslator
except ImportError as err:
    pytest.skip(f"the extra bergamot is not installed: {err}", allow_module_level=True)

PACE = 0.4
"""Seconds from one word to the next."""


def spoken(text: str, start: float = 0.0) -> list[Word]:
    """The words of a text, said without pauses."""
    parts = [part for part in text.replace(" ", "\n ").split("\n") if part]
    return [Word(start + number * PACE, start + (number + 1) * PACE, part, 0.9) for number, part in enumerate(parts)]


def timed(text: str) -> list[TimedWord]:
    return [TimedWord(word.start, word.end, word.text) for word in spoken(text)]


def texts(pieces: Sequence[Sequence[TimedWord]]) -> list[str]:
    return ["".join(word.text for word in piece) for piece in pieces]


class Capitals(TextTranslator):
    """Plays the library. It counts its work, and fails for texts with a certain word."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def languages(self, source: str, target: str) -> tuple[str, str]:
        return primary_language(source), primary_language(target)

    def translate(self, texts: Sequence[Text]) -> Sequence[str | Exception]:
        self.calls.append([text.text for text in texts])
        return [ModelError("out of order") if "bad" in text.text else text.text.upper() for text in texts]

    def close(self) -> None:
        pass


@pytest.fixture
def library() -> Capitals:
    return Capitals()


@pytest.fixture
def translator(library: Capitals) -> SimultaneousTranslator:
    return SimultaneousTranslator(library)


def one_step(
    translator: SimultaneousTranslator, state: TranslationState, text: str, start: float = 0.0, last: bool = False
) -> Translated:
    result = translator.step([Said(state, tuple(spoken(text, start)), last)])[0]
    assert isinstance(result, Translated)
    return result


# --- sentences --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "text", "pieces", "rest"),
    [
        ("en", " Hello there. How are", [" Hello there."], " How are"),
        ("en", " Hello there. How are you?", [" Hello there.", " How are you?"], ""),
        ("en", " I met Dr. Smith", [], " I met Dr. Smith"),
        ("en", " I met Dr.", [], " I met Dr."),
        ("en", " It is 3.5 metres", [], " It is 3.5 metres"),
        ("en", " Well... maybe", [], " Well... maybe"),
        ("en", " Well...", [], " Well..."),
        ("en", " Well... Maybe", [" Well..."], " Maybe"),
        ("en", " Stop! Now", [" Stop!"], " Now"),
        ("en", ' He said "no." Then', [' He said "no."'], " Then"),
        ("de", " Das ist z.B. gut", [], " Das ist z.B. gut"),
        ("de", " Am 3. Mai", [], " Am 3. Mai"),
        ("pt", " O Sr. Silva chegou. E", [" O Sr. Silva chegou."], " E"),
        ("hi", " यह अच्छा है। हाँ", [" यह अच्छा है।"], " हाँ"),
        ("xyz", " One. Two", [" One."], " Two"),
    ],
)
def test_sentences(language: str, text: str, pieces: list[str], rest: str) -> None:
    """A sentence is complete when nothing that follows could still belong to it."""
    found, left = split(timed(text), language, last=False)
    assert texts(found) == pieces and texts([left]) == [rest]


def test_sentences_without_spaces() -> None:
    """Japanese words have no spaces between them; marks at the end of a word end the sentence."""
    words = [TimedWord(n, n + 1, text) for n, text in enumerate(["今日", "は", "いい", "天気。", "明日", "は"])]
    found, left = split(words, "ja", last=False)
    assert texts(found) == ["今日はいい天気。"] and texts([left]) == ["明日は"]


def test_last() -> None:
    """After the last word nothing stays open, whatever it ends with."""
    assert split(timed(" Yes. I met Dr."), "en", last=True) == ([timed(" Yes."), timed(" Yes. I met Dr.")[1:]], [])
    assert split([], "en", last=True) == ([], [])


def test_no_sentence_waits_for_ever() -> None:
    """Speech without full stops is cut behind a comma, else in a pause, else not behind a little word."""
    plain = [TimedWord(word.start * 0.1, word.end * 0.1, word.text) for word in spoken(" number of" * 30)]
    found, left = split(plain, "en", last=False)
    assert all(len(piece) <= MAX_WORDS for piece in found) and len(left) <= MAX_WORDS
    assert all(piece[-1].text == " number" for piece in found)
    early = [word._replace(text=" of,") if number == 1 else word for number, word in enumerate(plain)]
    assert len(split(early, "en", last=False)[0][0]) > 2
    comma = [word._replace(text=" of,") if number == 19 else word for number, word in enumerate(plain)]
    assert split(comma, "en", last=False)[0][0] == comma[:20]
    paused = [word._replace(start=word.start + 1, end=word.end + 1) if n > 24 else word for n, word in enumerate(plain)]
    assert split(paused, "en", last=False)[0][0] == paused[:25]


def test_slow_speech_is_cut_by_time() -> None:
    """Few words may take long; a piece spans no more than its seconds, unless one word does."""
    slow = [TimedWord(4.0 * number, 4.0 * number + 3, " slowly") for number in range(20)]
    found, left = split(slow, "en", last=False)
    assert all(piece[-1].end - piece[0].start <= MAX_SECONDS for piece in [*found, left])
    assert texts([*found, left]).count("") == 0 and sum(map(len, [*found, left])) == 20
    assert split([TimedWord(0, 60, " Aaah")], "en", last=False) == ([[TimedWord(0, 60, " Aaah")]], [])


def test_a_long_sentence_is_cut_too() -> None:
    """A full stop does not make a sentence of a hundred words translatable at once."""
    found, left = split(timed(" word" * 99 + " end."), "en", last=False)
    assert (
        not left and all(len(piece) <= MAX_WORDS for piece in found) and "".join(texts(found)) == " word" * 99 + " end."
    )


def test_no_word_is_torn() -> None:
    """What was written without a space is one word, and no place to cut."""
    words = [TimedWord(n / 10, n / 10, text) for n, text in enumerate([" open", "ed"] * 40)]
    found, left = split(words, "en", last=False)
    assert found and all(piece[0].text == " open" for piece in [*found, left] if piece)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (" word", " word"),
        ("word ", "word "),
        ("", ""),
        (" \n\t ", ""),
        (" a\x00\x07b\n c", " a b c"),
        (" 😀", " 😀"),
        (" \ud800x", " x"),
        ("　日本", " 日本"),
    ],
)
def test_clean(text: str, cleaned: str) -> None:
    """Control characters, lone surrogates and white space do not reach the library."""
    assert clean(text) == cleaned


_WORDS = st.lists(
    st.tuples(
        st.sampled_from([" ", "", " ", " "]),
        st.one_of(
            st.sampled_from(["so", "well,", "Yes.", "Dr.", "3.5", "...", "U.S.", "no?", "e.g.", '"Stop!"', "3.", "。"]),
            st.text(max_size=12),
            st.text(min_size=280, max_size=320),
        ),
        st.floats(0, 3),
    ),
    max_size=150,
)


@given(said=_WORDS, language=st.sampled_from(["en", "de", "ja", "xx"]), portion=st.integers(1, 60))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_word_once(said: list[tuple[str, str, float]], language: str, portion: int) -> None:
    """However words come, each is in one piece, in order, and no piece or rest is too long, unless one word is."""
    words, now = [], 0.0
    for space, text, seconds in said:
        if cleaned := clean(space + text):
            words.append(TimedWord(now, now + seconds, cleaned))
            now += seconds
    pieces: list[list[TimedWord]] = []
    rest: list[TimedWord] = []
    for start in range(0, len(words), portion):
        done, rest = split(rest + words[start : start + portion], language, last=False)
        pieces += done
        assert not rest or not too_long(rest)
    done, left = split(rest, language, last=True)
    assert left == [] and [word for piece in pieces + done for word in piece] == words
    assert all(piece and (len(piece) == 1 or not too_long(piece)) for piece in pieces + done)


def too_long(words: Sequence[TimedWord]) -> bool:
    characters = sum(len(word.text) for word in words)
    return len(words) > MAX_WORDS or words[-1].end - words[0].start > MAX_SECONDS or characters > MAX_CHARACTERS


# --- simultaneous translation -----------------------------------------------------------------------------------------


def test_words_as_they_come(translator: SimultaneousTranslator) -> None:
    """The open sentence is shown in full at each step, and is stable, with the times of its words, once complete."""
    state = translator.begin("en", "pt")
    assert one_step(translator, state, " How") == Translated((), " HOW")
    assert one_step(translator, state, " are", 0.4) == Translated((), " HOW ARE")
    done = one_step(translator, state, " you? I", 0.8)
    assert [(t.start, t.end, t.text) for t in done.stable] == [(0.0, pytest.approx(1.2), " HOW ARE YOU?")]
    assert done.tentative == " I"
    last = one_step(translator, state, " am", 1.6, last=True)
    assert [(t.start, t.text) for t in last.stable] == [(pytest.approx(1.2), " I AM")] and last.tentative == ""


def test_nothing_new_costs_nothing(translator: SimultaneousTranslator, library: Capitals) -> None:
    """A text is translated once: a step without words repeats it, and the pause after it makes it stable."""
    state = translator.begin("en", "pt")
    one_step(translator, state, " one two")
    assert one_step(translator, state, "").tentative == " ONE TWO"
    assert [t.text for t in one_step(translator, state, "", last=True).stable] == [" ONE TWO"]
    assert one_step(translator, state, "", last=True) == Translated((), "")
    assert library.calls == [["one two"]]


def test_only_the_open_sentence_is_kept(translator: SimultaneousTranslator, library: Capitals) -> None:
    """An hour of speech leaves no trace in the state, and no step works on more than what is open."""
    state = translator.begin("en", "pt")
    for number in range(500):
        one_step(translator, state, f" This is sentence {number} of", number * 4.0)
        one_step(translator, state, " many.", number * 4.0 + 2)
    assert len(state.to_bytes()) < 100
    assert max(len(text) for call in library.calls for text in call) < 50


def test_restored_state(translator: SimultaneousTranslator) -> None:
    """A client that leaves the process after any word goes on as if it had not."""
    words = spoken(" I met Dr. Smith. He was 😀 fine... or so he said, in the U.S. and")
    for cut in range(len(words) + 1):
        kept, moved = translator.begin("en", "pt"), translator.begin("en", "pt")
        for state in (kept, moved):
            translator.step([Said(state, tuple(words[:cut]))])
        moved = translator.restore(moved.to_bytes())
        for word in words[cut:]:
            assert translator.step([Said(kept, (word,))]) == translator.step([Said(moved, (word,))])
        assert translator.step([Said(kept, (), True)]) == translator.step([Said(moved, (), True)])


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"[]", b"null", b'["en","pt",[],["",""],1]', b'["en","pt",[[0,1]],["",""]]', b'["en","pt",[],[1,""]]']
    + [b'[1,"pt",[],["",""]]', b'["en","pt",[[0,1,2]],["",""]]', b'["en","pt",7,["",""]]', b"\xff", b"[" * 100_000],
)
def test_no_state(data: bytes, translator: SimultaneousTranslator) -> None:
    """What is no state is a ValueError."""
    with pytest.raises(ValueError, match="no state of a translation"):
        translator.restore(data)


def test_state_of_an_unknown_language(translator: SimultaneousTranslator) -> None:
    """A state for languages that are none is refused as `begin` would."""
    with pytest.raises(RequestError, match="unknown language 'klingon'"):
        translator.restore(b'["en", "klingon", [], ["", ""]]')


def test_batches(translator: SimultaneousTranslator, library: Capitals) -> None:
    """Clients of one step are translated in one call, with the result that each gets alone."""
    said = [" Good day. I", " am here", " Good day. You", ""]
    alone = [translator.step([Said(translator.begin("en", "pt"), tuple(spoken(text)))])[0] for text in said]
    library.calls.clear()
    together = translator.step([Said(translator.begin("en", "pt"), tuple(spoken(text))) for text in said])
    assert list(together) == alone and library.calls == [["Good day.", "I", "am here", "You"]]


def test_one_client_fails(translator: SimultaneousTranslator) -> None:
    """The error of one client is its own; its open words are tried again, and the state does not grow."""
    good, bad = translator.begin("en", "pt"), translator.begin("en", "pt")
    results = translator.step([Said(good, tuple(spoken(" fine"))), Said(bad, tuple(spoken(" a bad day. And")))])
    assert results[0] == Translated((), " FINE")
    assert isinstance(results[1], ModelError)
    assert one_step(translator, bad, " then", 2.0) == Translated((), " AND THEN")
    assert isinstance(translator.step([Said(bad, tuple(spoken(" bad")), True)])[0], ModelError)
    assert bad.open == [] and one_step(translator, bad, "", last=True) == Translated((), "")


@pytest.mark.parametrize(("target", "text"), [("ja", "ONE.TWO."), ("zh-TW", "ONE.TWO."), ("th", " ONE. TWO.")])
def test_texts_join(target: str, text: str, translator: SimultaneousTranslator) -> None:
    """Sentences are joined as the target language writes them."""
    done = one_step(translator, translator.begin("en", target), " one. two.", last=True)
    assert "".join(t.text for t in done.stable) == text


def test_same_language(translator: SimultaneousTranslator, library: Capitals) -> None:
    """Somebody who speaks the wanted language already is quoted."""
    done = one_step(translator, translator.begin("pt", "por_Latn"), " Bom dia. Eu")
    assert [t.text for t in done.stable] == [" Bom dia."] and done.tentative == " Eu" and not library.calls


@pytest.mark.parametrize("text", [" " + "a" * 10_000, "漢" * 10_000, " " + "😀" * 10_000, " " + "." * 10_000])
def test_no_words_at_all(text: str, translator: SimultaneousTranslator, library: Capitals) -> None:
    """What is too long to be a word is quoted, at once, and the words around it are translated."""
    state = translator.begin("en", "pt")
    words = [Word(0, 1, " one", 1.0), Word(1, 2, text, 1.0), Word(2, 3, " two", 1.0)]
    results = [translator.step([Said(state, (word,), word is words[2])])[0] for word in words]
    assert all(isinstance(result, Translated) for result in results)
    stable = [t.text for result in results if isinstance(result, Translated) for t in result.stable]
    assert stable == [" ONE", " " + text.strip(), " TWO"]
    assert all(len(call) <= MAX_CHARACTERS for calls in library.calls for call in calls)


def test_empty_words(translator: SimultaneousTranslator, library: Capitals) -> None:
    """Words of nothing are nothing, not even the beginning of a sentence."""
    state = translator.begin("en", "pt")
    assert one_step(translator, state, " \n \x00 ", last=True) == Translated((), "") and not library.calls
    words = (Word(0, 1, "\x00", 1.0), Word(1, 2, " Yes.", 1.0))
    assert translator.step([Said(state, words)]) == [Translated((Translation(1, 2, " YES."),))]


def test_translated_to_nothing(
    translator: SimultaneousTranslator, library: Capitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that has nothing to say of a sentence makes no translation of it."""
    monkeypatch.setattr(library, "translate", lambda texts: [text.text.replace("Hm.", "") for text in texts])
    done = one_step(translator, translator.begin("en", "pt"), " Hm. Yes. Hm.", last=True)
    assert [t.text for t in done.stable] == [" Yes."] and done.tentative == ""


# --- languages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "tag"),
    [
        *((written, "pt-Latn") for written in ("Portuguese", "pt", "PT", "por", "pt-BR", "pt_br", "por_Latn", " pt ")),
        *((written, "zh-Hans") for written in ("chinese", "zh", "zh-CN", "cmn", "zho_Hans")),
        *((written, "zh-Hant") for written in ("zh-TW", "zh_Hant", "zho_Hant")),
        ("iw", "he-Hebr"),
        ("jw", "jv-Latn"),
        ("arb_Arab", "ar-Arab"),
        ("tagalog", "fil-Latn"),
        ("srp_Cyrl", "sr-Cyrl"),
        ("Haitian Creole", "ht-Latn"),
    ],
)
def test_languages(written: str, tag: str) -> None:
    """Names and codes of every kind, in any case, are one language."""
    assert language_tag(written).to_tag() == tag


@pytest.mark.parametrize(
    "written", ["", "auto", "klingon", "xx", "und", "mul", "1", "pt\x00", "a" * 1000, "\ud800", "-"]
)
def test_unknown_language(written: str) -> None:
    """What is no language is refused, with how to write one."""
    with pytest.raises(RequestError, match="unknown language .*portuguese, pt, por or por_Latn"):
        language_tag(written)


def test_separator() -> None:
    """Chinese and Japanese sentences follow each other without a space."""
    assert [separator(code) for code in ("zh-Hans", "zho_Hant", "ja", "jpn_Jpan", "ko", "pt", "tha_Thai")] == (
        ["", "", "", "", " ", " ", " "]
    )
