"""The real Home Assistant: its integration and the whole of it, from the environment of script/setup-home-assistant."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientError, ClientSession, ClientWebSocketResponse

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv-home-assistant"
PROBE = Path(__file__).with_name("home_assistant_probe.py")
_LINE_BYTES = 2**24
_CONFIGURATION = """
homeassistant: {name: Home, time_zone: UTC, unit_system: metric}
config:
"""


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

    async def speak(
        self,
        port: int,
        pcm: bytes,
        language: str = "en",
        pace: float = 0.0,
        silence: float | None = None,
        limit: float = 60.0,
    ) -> Heard:
        """One utterance, 16 kHz mono s16le: in real time with `pace` 1, as fast as it goes with 0.

        `silence`: seconds of it after which Home Assistant's voice activity detection ends the command; None sends all.
        `limit`: seconds behind the audio after which Home Assistant counts as hanging.
        """
        audio = base64.b64encode(pcm).decode()
        question = {"do": "speak", "port": port, "language": language, "pcm": audio, "pace": pace}
        return Heard(**await self._ask(question | {"silence": silence, "limit": limit}))

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


class Core:
    """All of Home Assistant, with a user who is logged in on its WebSocket."""

    def __init__(self, http: ClientSession, url: str, token: str, websocket: ClientWebSocketResponse) -> None:
        self.url, self.token = url, token
        """For those who connect themselves; the token is valid for half an hour."""
        self.websocket = websocket
        self._http = http
        self._numbers = itertools.count(1)
        self._results: dict[int, asyncio.Future[Any]] = {}
        self._events: dict[int, asyncio.Queue[dict[str, Any]]] = {}
        self._reading = asyncio.create_task(self._read())

    async def call(self, kind: str, **fields: object) -> Any:
        """One command; returns its result. Raises RuntimeError with Home Assistant's words where it refuses."""
        return await self._send(next(self._numbers), kind, fields)

    async def subscribe(self, kind: str, **fields: object) -> asyncio.Queue[dict[str, Any]]:
        """One command that is followed by events."""
        number = next(self._numbers)
        events = self._events[number] = asyncio.Queue()
        await self._send(number, kind, fields)
        return events

    async def post(self, path: str, body: object) -> Any:
        headers = {"Authorization": f"Bearer {self.token}"}
        async with self._http.post(self.url + path, json=body, headers=headers) as response:
            response.raise_for_status()
            return await response.json()

    async def state(self, entity: str) -> str:
        return next(str(state["state"]) for state in await self.call("get_states") if state["entity_id"] == entity)

    async def _send(self, number: int, kind: str, fields: dict[str, object]) -> Any:
        result = self._results[number] = asyncio.get_running_loop().create_future()
        await self.websocket.send_json({"id": number, "type": kind} | fields)
        return await asyncio.wait_for(result, 30)

    async def _read(self) -> None:
        async for message in self.websocket:
            answer = message.json()
            if answer["type"] == "event" and answer["id"] in self._events:
                self._events[answer["id"]].put_nowait(answer["event"])
            elif answer["type"] == "result":
                waiting = self._results.pop(answer["id"])
                if answer["success"]:
                    waiting.set_result(answer["result"])
                else:
                    waiting.set_exception(RuntimeError(str(answer["error"])))

    async def close(self) -> None:
        self._reading.cancel()
        await self.websocket.close()


@asynccontextmanager
async def core(folder: Path, configuration: str) -> AsyncIterator[Core]:
    """Home Assistant as a process, new in `folder`, with `configuration` behind what every one needs."""
    port = free_port()
    http = f"http: {{server_host: 127.0.0.1, server_port: {port}}}\n"
    (folder / "configuration.yaml").write_text(_CONFIGURATION + http + configuration, "utf-8")
    with (folder / "output").open("wb") as output:
        # What it needs is there already; it must not look for more.
        command = [VENV / "bin" / "python", "-m", "homeassistant", "--config", folder, "--skip-pip"]
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
        try:
            async with ClientSession() as session:
                running = await _log_in(session, f"http://127.0.0.1:{port}", process)
                try:
                    yield running
                finally:
                    await running.close()
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


async def _log_in(http: ClientSession, url: str, process: asyncio.subprocess.Process) -> Core:
    """Waits for Home Assistant and makes its first user, as its page does."""
    user = {"name": "Test", "username": "test", "password": "test", "language": "en", "client_id": f"{url}/"}
    async with asyncio.timeout(60):
        while True:
            assert process.returncode is None, "Home Assistant has ended; its output says why"
            try:
                async with http.post(f"{url}/api/onboarding/users", json=user) as response:
                    if response.ok:
                        code = (await response.json())["auth_code"]
                        break
            except ClientError:
                pass
            await asyncio.sleep(0.2)
    form = {"client_id": f"{url}/", "grant_type": "authorization_code", "code": code}
    async with http.post(f"{url}/auth/token", data=form) as response:
        token = (await response.json())["access_token"]
    websocket = await http.ws_connect(f"{url}/api/websocket")
    await websocket.receive_json()
    await websocket.send_json({"type": "auth", "access_token": token})
    assert (await websocket.receive_json())["type"] == "auth_ok"
    return Core(http, url, str(token), websocket)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
