"""The names of a home, the most likely first."""

from __future__ import annotations

from wyoming_wlk.vocabulary import Vocabulary


def home(*names: str, languages: tuple[str, ...] = ()) -> Vocabulary:
    vocabulary = Vocabulary()
    vocabulary.learn(names, languages)
    return vocabulary


def test_names_spoken_lately_come_first() -> None:
    """The last one before those before it, whatever their case and punctuation."""
    vocabulary = home("Kitchen", "Küchenlampe", "Living Room")
    vocabulary.heard("Schalte die küchenlampe ein!")
    assert vocabulary.expected("auto") == ("Küchenlampe", "Kitchen", "Living Room")
    vocabulary.heard("Turn on the living room, please.")
    assert vocabulary.expected("auto") == ("Living Room", "Küchenlampe", "Kitchen")


def test_only_whole_names_count() -> None:
    """A part of a word is no name."""
    vocabulary = home("Attic", "Lamp")
    vocabulary.heard("Turn on the lampshade.")
    assert vocabulary.expected("auto") == ("Attic", "Lamp")


def test_news_keep_the_order() -> None:
    """A name that is still there keeps its place, one that is gone leaves, and writings of one name are one."""
    vocabulary = home("Attic", "Lamp", "Fan")
    vocabulary.heard("the fan")
    vocabulary.learn(["Desk", "Attic", "FAN", "Fan"], ())
    assert vocabulary.expected("auto") == ("Fan", "Attic", "Desk")


def test_languages() -> None:
    """Names are expected in the languages in which the home is spoken to, and where the language is not known."""
    vocabulary = home("Küche", languages=("de", "en"))
    assert vocabulary.expected("de") == vocabulary.expected("auto") == ("Küche",)
    assert vocabulary.expected("fr") == ()
    assert home("Küche").expected("fr") == ("Küche",)


def test_nothing_to_say() -> None:
    """Names without a letter, and silence, are nothing."""
    vocabulary = home("Lamp", "!", "")
    vocabulary.heard("")
    assert vocabulary.expected("auto") == ("Lamp",)
