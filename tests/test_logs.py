"""Log lines: one record is one line, whatever clients put into it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from wyoming_wlk.logs import JsonFormatter, TextFormatter

NASTY = "name\n12:00:00 ERROR   forged\r\x1b[2J\x00\x85\u2028\u202e\udcffü 語"


def record(message: str, *arguments: object, error: BaseException | None = None) -> logging.LogRecord:
    caught = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("wyoming_wlk.x", logging.WARNING, __file__, 1, message, arguments, caught)


def failure(text: str) -> BaseException:
    try:
        raise ValueError(text)
    except ValueError as err:
        return err


def test_text_lines() -> None:
    """A readable line has time, level and message."""
    line = TextFormatter().format(record("%s: %d clients", "wyoming-1 10.0.0.1", 3))
    assert line[2] == line[5] == ":" and line[8:] == " WARNING wyoming-1 10.0.0.1: 3 clients"


def test_control_characters_in_text() -> None:
    """What a client sent stays within its line, is shown escaped, and leaves letters of all languages alone."""
    line = TextFormatter().format(record("client %s", NASTY))
    assert len(line.splitlines()) == 1 and line.isprintable()
    assert line.endswith(r"client name\n12:00:00 ERROR   forged\r\x1b[2J\x00\x85\u2028\u202e\udcffü 語")


def test_tracebacks_in_text() -> None:
    """A traceback follows its line, indented, and the text of the error cannot begin a line."""
    first, *lines = TextFormatter().format(record("internal error", error=failure(NASTY))).split("\n")
    assert first.endswith("internal error") and len(lines) > 3
    assert all(line.startswith("    ") and line.isprintable() for line in lines)
    assert any("raise ValueError(text)" in line for line in lines)


@pytest.mark.parametrize("text", ["plain", NASTY, 'quotes " and \\ backslashes', ""])
def test_json_lines(text: str) -> None:
    """A JSON line parses, gives back exactly what was logged, and is one line."""
    line = JsonFormatter().format(record("client %s", text))
    assert "\n" not in line and "\r" not in line
    parsed = json.loads(line)
    assert parsed.pop("time").endswith("+00:00")
    assert parsed == {"level": "warning", "logger": "wyoming_wlk.x", "message": f"client {text}"}


def test_json_time() -> None:
    """The time is UTC, to the millisecond."""
    logged = record("x")
    logged.created = 1_700_000_000.25
    assert json.loads(JsonFormatter().format(logged))["time"] == "2023-11-14T22:13:20.250+00:00"
    assert datetime.fromisoformat("2023-11-14T22:13:20.250+00:00").tzinfo == UTC


def test_json_tracebacks() -> None:
    """An error's traceback is a field of its line."""
    line = JsonFormatter().format(record("internal error", error=failure(NASTY)))
    assert "\n" not in line
    parsed = json.loads(line)
    assert parsed["traceback"].startswith("Traceback") and "forged" in parsed["traceback"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_process(form: str) -> None:
    """Lines go to stderr alone, from the level on that was asked for; chatty libraries speak up for warnings only."""
    program = (
        "import logging, sys; from wyoming_wlk.logs import set_up; set_up('info', sys.argv[1])\n"
        "logging.getLogger('a').debug('one'); logging.getLogger('a').info('two \\udcff')\n"
        "logging.getLogger('zeroconf').info('three'); logging.getLogger('zeroconf').warning('four')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, form], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    if form == "json":
        assert [json.loads(line)["message"] for line in lines] == ["two \udcff", "four"]
    else:
        assert [line[8:] for line in lines] == [r" INFO    two \udcff", " WARNING four"]
