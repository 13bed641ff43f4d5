"""The options of the Home Assistant add-on as values of the server's own.

The Supervisor writes what a home owner chose into a JSON file; the variable WLK_ADDON_OPTIONS names it. Each add-on
option stands for an option of `config.py`, mostly of the same name, and is checked by that option's parser, so that a
wrong value is reported under the name that the home owner knows. Knows nothing about what the options do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from wyoming_wlk.config import SECTIONS
from wyoming_wlk.errors import ConfigError
from wyoming_wlk.options import options

VARIABLE = "WLK_ADDON_OPTIONS"

RENAMED = {
    "custom_model": "model",
    "home_names": "home_assistant",
    "web_page": "http",
    "speakers": "diarization",
}
"""Add-on options whose name is not that of the option they stand for. A later one overrides an earlier one."""
SWITCHES = {"web_page": ("0.0.0.0:10380", "off"), "speakers": ("online", "off")}
"""What on and off mean where they are not `on` and `off`."""


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """`variables` over the WLK_* variables that the add-on's options stand for, where there are any.

    Raises `ConfigError` for a file that cannot be read and for a wrong value, by the add-on option's name.
    """
    if VARIABLE not in variables:
        return dict(variables)
    return from_options(_read(Path(variables[VARIABLE]))) | dict(variables)


def from_options(chosen: Mapping[str, object]) -> dict[str, str]:
    """The WLK_* variables that add-on options stand for. What is empty is left out. Raises `ConfigError`."""
    parsers = {name: declared.parse for section in SECTIONS.values() for name, declared in options(section)}
    found = {}
    for name in sorted(chosen, key=lambda name: name in RENAMED):
        value = _text(name, chosen[name])
        if not value:
            continue
        stands_for = RENAMED.get(name, name)
        if stands_for not in parsers:
            raise ConfigError(f"add-on option {name}: there is no such option")
        try:
            parsers[stands_for](value)
        except ValueError as err:
            raise ConfigError(f"add-on option {name}: {value!r} is wrong: {err}") from err
        found["WLK_" + stands_for.upper()] = value
    return found


def _text(name: str, value: object) -> str:
    if isinstance(value, bool):
        on, off = SWITCHES.get(name, ("on", "off"))
        return on if value else off
    if value is None or isinstance(value, str | int | float):
        return "" if value is None else str(value).strip()
    raise ConfigError(f"add-on option {name}: must be text, a number, or true or false")


def _read(file: Path) -> dict[str, object]:
    try:
        options = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise ConfigError(f"the add-on's options cannot be read from {file}: {err}") from err
    if not isinstance(options, dict):
        raise ConfigError(f"the add-on's options in {file} are no JSON object")
    return options
