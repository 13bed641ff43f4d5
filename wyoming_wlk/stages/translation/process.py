"""A program of ours beside the server that answers lines with lines. Knows nothing of what they mean."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

from wyoming_wlk.errors import ModelError


class LineProcess:
    """Started when it is first asked, and again after it has died. Used by one thread at a time."""

    def __init__(self, program: Path, timeout: float) -> None:
        """`program` is a Python file. What takes longer than `timeout` seconds has failed."""
        self._program, self._timeout = program, timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._end: Callable[[], object] = lambda: None

    def ask(self, request: Mapping[str, object]) -> dict[str, str]:
        """The answer to one request. Raises `ModelError` where the program dies of it or takes too long."""
        if self._process is None:
            self._process = self._start()
        try:
            answer: dict[str, str] = json.loads(self._exchange(self._process, json.dumps(request).encode()))
            return answer
        except (OSError, ValueError) as err:
            self.close()
            raise ModelError(f"{self._program.stem} failed: {err}") from err

    def close(self) -> None:
        """Ends the program, at once."""
        self._end()
        self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        # -P: what lies beside the program must not hide modules of other names.
        command = [sys.executable, "-P", str(self._program)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self._end = weakref.finalize(self, _kill, process)
        return process

    def _exchange(self, process: subprocess.Popen[bytes], request: bytes) -> bytes:
        assert process.stdin and process.stdout
        process.stdin.write(request + b"\n")
        until = time.monotonic() + self._timeout
        poll = select.poll()
        poll.register(process.stdout, select.POLLIN)
        answer = b""
        while not answer.endswith(b"\n"):
            if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
                raise TimeoutError(f"no answer within {self._timeout:g} s")
            part = process.stdout.read(1 << 16)
            if not part:
                raise OSError("it has died")
            answer += part
        return answer


def _kill(process: subprocess.Popen[bytes]) -> None:
    with process:
        process.kill()
