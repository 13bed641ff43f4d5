"""Whisper's vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest

from wyoming_wlk.engine.tokenizer import Tokenizer
from wyoming_wlk.errors import ModelError
from wyoming_wlk.models import InstalledModel


@pytest.fixture(scope="module")
def multilingual(base: InstalledModel) -> Tokenizer:
    return Tokenizer(base.tokenizer, 51865)


@pytest.fixture(scope="module")
def english(tiny_en: InstalledModel) -> Tokenizer:
    return Tokenizer(tiny_en.tokenizer, 51864)


def test_special_tokens_stand_where_openai_put_them(multilingual: Tokenizer, english: Tokenizer) -> None:
    """Numbers of the special tokens, for both vocabularies and for large-v3's one language more."""
    assert (multilingual.sot, multilingual.transcribe, multilingual.timestamp_begin) == (50258, 50359, 50364)
    assert (english.eot, english.sot, english.no_timestamps) == (50256, 50257, 50362)
    assert multilingual.language_token("de") == 50261
    assert multilingual.start_sequence("de", "translate") == [50258, 50261, 50358, 50363]


def test_the_lost_merge_rule_is_back(multilingual: Tokenizer) -> None:
    """The hub's multilingual file splits ' the' into a space and 'the'; the model never saw that."""
    assert len(multilingual.encode(" the")) == len(multilingual.encode(" there")) == 1


@pytest.mark.parametrize("text", [" Hello, Mr. O'Neill!", " Küchenlampe an", " 今日は世界", " สวัสดี", " 🙂 ok"])
def test_text_survives(multilingual: Tokenizer, text: str) -> None:
    """Encoding and decoding gives the text back."""
    assert multilingual.decode(multilingual.encode(text)) == text


def test_half_a_character(multilingual: Tokenizer) -> None:
    """It is no reason to refuse the rest of a name or prompt."""
    assert multilingual.decode(multilingual.encode(" la\ud800mp")) == " la?mp"


@pytest.mark.parametrize(
    ("text", "language", "words"),
    [
        (" Hello there, Mr. Hale!", "en", [" Hello", " there,", " Mr.", " Hale!"]),
        (" don't stop", "en", [" don't", " stop"]),
        ("今日は世界", "ja", ["今日は", "世界"]),
    ],
)
def test_words(multilingual: Tokenizer, text: str, language: str, words: list[str]) -> None:
    """Tokens group into words with their punctuation; unspaced scripts by the character or token."""
    found = [multilingual.decode(word) for word in multilingual.split_words(multilingual.encode(text), language)]
    assert found == words


def test_half_a_character_is_held_back(multilingual: Tokenizer) -> None:
    """Only tokens up to a whole UTF-8 character count as complete."""
    tokens = multilingual.encode(" ok 🙂")
    assert multilingual.complete_length(tokens) == len(tokens)
    cut = tokens[:-1]
    assert "\ufffd" in multilingual.decode(cut)
    assert "\ufffd" not in multilingual.decode(cut[: multilingual.complete_length(cut)])


def test_sounds_are_suppressed(english: Tokenizer) -> None:
    """Music notes, brackets and special tokens never belong into a transcript; apostrophes inside words do."""
    assert set(english.encode(" ♪")[:1] + english.encode("(")) <= set(english.suppressed)
    assert english.eot not in english.suppressed
    assert not set(english.encode("'s")) & set(english.suppressed)


def test_a_foreign_file_is_refused(tiny_en: InstalledModel, tmp_path: Path) -> None:
    """A tokenizer of the other family, or no tokenizer at all, is a ModelError."""
    with pytest.raises(ModelError):
        Tokenizer(tiny_en.tokenizer, 51865)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError):
        Tokenizer(tmp_path / "tokenizer.json", 51865)
