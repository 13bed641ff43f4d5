"""The real Home Assistant: its integration and the whole of it, from the environment of script/setup-home-assistant."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv-home-assistant"
PROBE = Path(__file__).with_name("home_assistant_probe.py")
_LINE_BYTES = 2**24


def missing() -> str:
    """Why there is no Home Assistant here; empty where there is one."""
    if list(VENV.glob(".installed-*")):
        return ""
    note = VENV / "missing"
    return note.read_text("utf-8").strip() if note.exists() else "script/setup-home-assistant was not run"


@dataclass(frozen=True)
class Heard:
    """What Home Assistant made of one utterance."""

    state: str
    """success, error, or hangs where it would wait for ever."""
    text: str | None
    seconds: float
    """From the end of the audio to the result; from its beginning where the audio never ended."""
    spoken: float
    """Seconds of audio that were taken."""


@dataclass(frozen=True)
class Described:
    """What Home Assistant learnt of a server, and how long each time took."""

    name: str
    platforms: list[str]
    languages: list[str]
    seconds: list[float]


class Probe:
    """One running Home Assistant integration; any number of calls may be under way."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reading = asyncio.create_task(self._read())

    async def describe(self, port: int, times: int = 1) -> Described:
        return Described(**await self._ask({"do": "describe", "port": port, "times": times}))

    async def speak(self, port: int, pcm: bytes, language: str = "en", pace: float = 0.0, limit: float = 60.0) -> Heard:
        """One utterance, 16 kHz mono s16le: in real time with `pace` 1, as fast as it goes with 0.

        `limit`: seconds behind the audio after which Home Assistant counts as hanging.
        """
        audio = base64.b64encode(pcm).decode()
        question = {"do": "speak", "port": port, "language": language, "pcm": audio, "pace": pace, "limit": limit}
        return Heard(**await self._ask(question))

    async def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._process.stdin.write(json.dumps({"id": number} | question).encode() + b"\n")
        await self._process.stdin.drain()
        return await answer

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            answer = json.loads(line)
            self._answers.pop(answer.pop("id")).set_result(answer)
        for waiting in self._answers.values():
            waiting.set_exception(RuntimeError("the probe has ended; its stderr says why"))

    async def close(self) -> None:
        self._reading.cancel()
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def probe() -> AsyncIterator[Probe]:
    """Home Assistant's integration as a process. Only where there is nothing `missing`."""
    process = await asyncio.create_subprocess_exec(
        VENV / "bin" / "python",
        PROBE,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES,
    )
    running = Probe(process)
    try:
        yield running
    finally:
        await running.close()
