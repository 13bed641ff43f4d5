"""How people and programs write languages, in one form: English names, ISO 639-1 and 639-3, BCP 47, NLLB's codes."""

from __future__ import annotations

import langcodes

from wyoming_wlk.errors import RequestError
from wyoming_wlk.languages import LANGUAGES

_UNSPACED_SCRIPTS = frozenset({"Hans", "Hant", "Jpan"})
"""Scripts in which sentences follow each other without a space."""


def language_tag(written: str) -> langcodes.Language:
    """A language with its script: ``Portuguese``, ``PT``, ``por``, ``pt-BR`` and ``por_Latn`` are all ``pt-Latn``.

    Raises `RequestError` for what is no language.
    """
    name = written.strip().lower()
    code = next((code for code, known in LANGUAGES.items() if known == name), name)
    try:
        tag = langcodes.Language.get(langcodes.standardize_tag(code.replace("_", "-"), macro=True))
    except ValueError:
        raise unknown_language(written) from None
    if tag.language in (None, "und", "mul", "zxx") or not tag.is_valid():
        raise unknown_language(written)
    full = tag.maximize()
    return langcodes.Language.make(language=full.language, script=full.script)


def unknown_language(written: str) -> RequestError:
    """Says how languages may be written."""
    return RequestError(
        f"unknown language {written[:100]!r}: write its English name or its code, "
        "such as portuguese, pt, por or por_Latn"
    )


def primary_language(code: str) -> str:
    """The language alone, without its script."""
    return language_tag(code).language or code


def separator(code: str) -> str:
    """What is between two sentences of a language."""
    return "" if language_tag(code).script in _UNSPACED_SCRIPTS else " "
