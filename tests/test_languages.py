"""Language codes: Whisper's own list, and the ways programs and people write its entries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wyoming_wlk.errors import RequestError
from wyoming_wlk.languages import LANGUAGES, UNSPACED, normalize_language


def test_whispers_list() -> None:
    """Codes and names are those of another implementation, in the same order, which is that of the tokens."""
    reference = pytest.importorskip("transformers.models.whisper.tokenization_whisper").LANGUAGES
    assert list(LANGUAGES.items()) == list(reference.items())
    assert len(LANGUAGES) == 100 and UNSPACED < set(LANGUAGES)


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_language(code: str) -> None:
    """Each language is known by its code and its English name, in any case, and with a region or script."""
    for text in (code, code.upper(), LANGUAGES[code], LANGUAGES[code].title(), f" {code}\n"):
        assert normalize_language(text) == code
    for text in (f"{code}-XX", f"{code}_XX", f"{code}-Latn-XX"):
        assert normalize_language(text) == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "auto"),
        ("auto", "auto"),
        ("AUTO", "auto"),
        ("de-CH", "de"),
        ("pt_BR", "pt"),
        ("zh-Hant-TW", "zh"),
        ("zh-HK", "yue"),
        ("zh_hk", "yue"),
        ("cmn-Hans-CN", "zh"),
        ("sr-Latn", "sr"),
        ("nb", "no"),
        ("nb-NO", "no"),
        ("nn-NO", "nn"),
        ("iw", "he"),
        ("in", "id"),
        ("fil-PH", "tl"),
        ("jv", "jw"),
        ("mo", "ro"),
        ("Haitian Creole", "ht"),
    ],
)
def test_other_spellings(text: str, code: str) -> None:
    """Home Assistant's codes, old codes and names come to what Whisper calls the language."""
    assert normalize_language(text) == code


@pytest.mark.parametrize(
    "text", ["xx", "klingon", "de,en", "germ", "-", "de DE", "e", "english-US", "automatic", "\x00"]
)
def test_unknown(text: str) -> None:
    """What Whisper does not know is refused by its name, in one line."""
    with pytest.raises(RequestError) as caught:
        normalize_language(text)
    assert str(caught.value) == f"unknown language {text!r}"


@given(st.text(max_size=20))
def test_anything(text: str) -> None:
    """Any text is a language of Whisper, `auto` or a `RequestError`, and what comes out stays as it is."""
    try:
        code = normalize_language(text)
    except RequestError:
        return
    assert code == "auto" or code in LANGUAGES
    assert normalize_language(code) == code
