"""The command as people run it: exit codes, and one line instead of a traceback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wyoming_wlk import __version__
from wyoming_wlk.catalogue import CATALOGUE


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data folder that says it holds base.en."""
    (tmp_path / "models" / "base.en").mkdir(parents=True)
    (tmp_path / "models" / "base.en" / "manifest.json").write_text("{}", "utf-8")
    return tmp_path


@pytest.fixture
def occupied() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WLK_")}
    return subprocess.run(
        [sys.executable, "-m", "wyoming_wlk", *map(str, arguments)],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


def the_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line on stderr of a command that failed with `code`."""
    assert done.returncode == code, done
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("wyoming-wlk: ")
    return line


def test_version() -> None:
    """The version is printed, and nothing else."""
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"wyoming-wlk {__version__}\n", "")


@pytest.mark.parametrize("command", [[], ["serve"], ["models"], ["models", "pull"], ["models", "rm"]])
def test_help(command: list[str]) -> None:
    """Every command explains itself."""
    done = run(*command, "--help")
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.startswith(f"usage: {' '.join(['wyoming-wlk', *command])}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["dance"], "dance"),
        (["--nonsense"], "COMMAND"),
        (["serve", "--nonsense"], "--nonsense"),
        (["serve", "extra"], "extra"),
        (["serve", "--slots"], "--slots"),
        (["serve", "--slots", "many"], "--slots: 'many' is wrong: must be a whole number"),
        (["serve", "--beam-size", "8", "--slots", "4"], "--beam-size 8"),
        (["serve", "--uri", "http://0.0.0.0:1"], "--uri: 'http://0.0.0.0:1' is wrong: must begin with tcp://"),
        (["serve", "--uri", ""], "--uri: '' is wrong: must not be empty"),
        (["serve", "--data-dir", "~nobody-of-this-name/x"], "--data-dir: "),
        (["models", "dance"], "dance"),
        (["models", "pull"], "NAME"),
        (["models", "pull", "nonsense"], "unknown model 'nonsense'"),
        (["models", "pull", "../tiny"], "unknown model '../tiny'"),
        (["models", "rm"], "NAME"),
        (["models", "--offline", "maybe"], "--offline: 'maybe' is wrong: must be one of on, off"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(arguments: list[str], words: str) -> None:
    """What cannot be understood ends with exit code 2 and one line that says what is wrong."""
    assert words in the_line(run(*arguments), 2)


def test_wrong_environment(tmp_path: Path) -> None:
    """A wrong variable, or a file that is not there, ends the same way."""
    assert "WLK_SLOTS: '4097' is wrong: must be from 0 to 4096" in the_line(run("serve", WLK_SLOTS="4097"), 2)
    line = the_line(run("serve", WLK_PROMPT_FILE=str(tmp_path / "missing")), 2)
    assert "WLK_PROMPT_FILE: cannot read" in line and str(tmp_path / "missing") in line


def test_models(data_dir: Path) -> None:
    """The list has a line for every model, and tells which are here."""
    done = run("models", "--data-dir", data_dir)
    assert done.returncode == 0 and not done.stderr
    heading, *lines = done.stdout.splitlines()
    assert heading.split() == ["name", "MB", "languages", "sources", "installed"]
    assert [line.split()[0] for line in lines] == list(CATALOGUE)
    assert [line.split()[0] for line in lines if line.endswith(" yes")] == ["base.en"]
    assert run("models", WLK_DATA_DIR=str(data_dir)).stdout == done.stdout


def test_models_into_a_closed_pipe(data_dir: Path) -> None:
    """`wyoming-wlk models | head -1` ends quietly."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-u", "-m", "wyoming_wlk", "models", "--data-dir", str(data_dir)]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_remove(data_dir: Path) -> None:
    """A model can be deleted once; what is not installed is said so with exit code 1."""
    assert "'tiny' is not installed" in the_line(run("models", "rm", "tiny", "--data-dir", data_dir), 1)
    assert "'..' is not installed" in the_line(run("models", "rm", "..", "--data-dir", data_dir), 1)
    assert run("models", "rm", "base.en", "--data-dir", data_dir).returncode == 0
    assert not (data_dir / "models" / "base.en").exists()
    assert "'base.en' is not installed" in the_line(run("models", "rm", "base.en", "--data-dir", data_dir), 1)


def test_options_before_the_action(data_dir: Path, tmp_path: Path) -> None:
    """`models --data-dir X rm NAME` deletes in X, and an option behind the action wins over one before it."""
    elsewhere = tmp_path / "elsewhere"
    for before, after in ((data_dir, None), (elsewhere, data_dir)):
        (data_dir / "models" / "base.en").mkdir(exist_ok=True)
        (data_dir / "models" / "base.en" / "manifest.json").write_text("{}", "utf-8")
        behind = [] if after is None else ["--data-dir", after]
        done = run("models", "--data-dir", before, "rm", "base.en", *behind, WLK_DATA_DIR=str(elsewhere))
        assert done.returncode == 0, done.stderr
        assert not (data_dir / "models" / "base.en").exists()


def test_pull_offline(tmp_path: Path) -> None:
    """A model that is not here cannot be had offline, which is said in one line."""
    line = the_line(run("models", "pull", "tiny", "--data-dir", tmp_path, "--offline"), 1)
    assert "tiny is not on this machine" in line


def serve(tmp_path: Path, port: int, *more: str) -> subprocess.CompletedProcess[str]:
    uri = f"tcp://127.0.0.1:{port}"
    return run("serve", "--no-zeroconf", "--no-http", "--offline", "--data-dir", tmp_path, "--uri", uri, *more)


def test_occupied_port(tmp_path: Path, occupied: int) -> None:
    """A port that somebody else has is a wrong option, in one line."""
    line = the_line(serve(tmp_path, occupied, "--model", "tiny"), 2)
    assert f"cannot listen on tcp://127.0.0.1:{occupied}: " in line and "in use" in line.lower()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("/no/such", "unknown model '/no/such'"),
        ("tiny", "tiny is not on this machine, and the server is offline"),
        ("auto", "no model can be had"),
        ("~nobody-of-this-name/x", "unknown model '~nobody-of-this-name/x'"),
    ],
)
def test_no_model(tmp_path: Path, model: str, words: str) -> None:
    """Without a model the server leaves with exit code 1 and one line that says why."""
    done = serve(tmp_path, 0, "--model", model, "--log-level", "warning")
    assert words in the_line(done, 1)


def test_logs_of_a_failed_start(tmp_path: Path) -> None:
    """With JSON logs every line but the last is JSON, and no traceback is among them."""
    done = serve(tmp_path, 0, "--model", "/no/such", "--log-format", "json", "--log-level", "debug")
    *lines, last = done.stderr.splitlines()
    assert last.startswith("wyoming-wlk: unknown model")
    assert all("traceback" not in json.loads(line) for line in lines) and lines
