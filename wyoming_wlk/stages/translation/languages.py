"""Placeholder."""

from wyoming_wlk.languages import normalize_language


def normalized(name: str) -> str:
    return normalize_language(name)
