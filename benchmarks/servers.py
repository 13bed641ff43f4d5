"""Servers as subprocesses: started on a free port, watched through /proc, stopped."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from benchmarks.client import Ask, ask_wyoming
from wyoming_wlk import config
from wyoming_wlk.options import add_arguments

MODEL = "tiny.en"
_START_SECONDS = 180.0
_STOP_SECONDS = 15.0
_LOG_LINES = 30


@dataclass(frozen=True)
class Launch:
    """How to run a server and how to talk to it."""

    name: str
    command: Sequence[str | Path]
    uri: str
    ask: Ask
    ready: str
    """What its log says once it may be used."""
    environment: Mapping[str, str] = field(default_factory=dict)
    http: str = ""
    """HOST:PORT of the HTTP door, of ours."""


class Server:
    """A running server; leaving the context stops it."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch

    def __enter__(self) -> Server:
        """Returns once the server is ready. Raises RuntimeError, with the end of its log, where it never is."""
        self._log = tempfile.NamedTemporaryFile(prefix="server-", suffix=".log")
        environment = os.environ | self.launch.environment
        with open(self._log.name, "wb") as log:
            self._process = subprocess.Popen(self.launch.command, stdout=log, stderr=log, env=environment)
        try:
            self._wait()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def cpu_seconds(self) -> float:
        """User and system time of all its threads."""
        # The name in the second field may hold spaces, and ends with the last bracket.
        values = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def foreign_seconds(self) -> float:
        """Processor time that went to neither the server nor this program, since the machine started: what grows
        here while something is measured disturbs it."""
        return machine_seconds() - self.cpu_seconds - time.process_time()

    @property
    def memory_mb(self) -> float:
        """Resident memory now."""
        return resident_mb(self._process.pid)

    @property
    def peak_memory_mb(self) -> float:
        """The most resident memory since `reset_peak`."""
        return resident_mb(self._process.pid, "VmHWM")

    def reset_peak(self) -> None:
        with contextlib.suppress(OSError):  # not allowed everywhere: the peak is then that since the start
            Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def check(self) -> None:
        """Raises RuntimeError, with the end of its log, where the server is not running any more."""
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.launch.name} ended with {self._process.returncode}:\n{self._log_end()}")

    def _wait(self) -> None:
        limit = time.monotonic() + _START_SECONDS
        while self.launch.ready not in self._log_text():
            self.check()
            if time.monotonic() > limit:
                raise RuntimeError(f"{self.launch.name} does not start:\n{self._log_end()}")
            time.sleep(0.1)
        time.sleep(1)  # some say so a moment before they listen

    def _log_text(self) -> str:
        return Path(self._log.name).read_text(errors="replace")

    def _log_end(self) -> str:
        return "\n".join(self._log_text().splitlines()[-_LOG_LINES:])

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def machine_seconds() -> float:
    """Processor time of all programs together since the machine started."""
    busy = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = busy[3] + busy[4]
    return (sum(busy) - idle) / os.sysconf("SC_CLK_TCK")


def resident_mb(process: int | str, of: str = "VmRSS") -> float:
    """Memory of a process, by its number or `self`, that is in RAM now; `VmHWM` for the most there ever was."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    values = [int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{of}:")]
    return values[0] if values else float("nan")  # a process that has died has none


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def with_defaults(options: Sequence[str]) -> list[str]:
    """Options of `wyoming-wlk serve` as the benchmarks run it; the user's come last and win."""
    return ["--no-zeroconf", "--model", MODEL, "--language", "en", *options]


def our_config(options: Sequence[str]) -> config.Config:
    """The configuration that our server has with these options. Raises `ConfigError`."""
    parser = argparse.ArgumentParser()
    add_arguments(parser, config.SECTIONS)
    return config.load(parser.parse_args(with_defaults(options)), os.environ)


def our_server(options: Sequence[str]) -> Launch:
    uri, http = f"tcp://127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "wyoming_wlk", "serve", "--uri", uri, "--http", http, *with_defaults(options)]
    return Launch("wyoming-wlk", command, uri, ask_wyoming, "Ready: model", http=http)
