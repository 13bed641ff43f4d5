"""The names of a home, read from the real Home Assistant, and from one that misbehaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import home_assistant
import pytest
from aiohttp import web

from wyoming_wlk import home_assistant as ours
from wyoming_wlk.home_assistant import follow_names, websocket_address

HOUSE = """
assist_pipeline:
input_boolean:
light:
  - platform: template
    lights:
      lamp: {unique_id: lamp, friendly_name: Küchenlampe, value_template: "{{ true }}", turn_on: [], turn_off: []}
"""


class Notes:
    """What was learnt last, and a way to wait for something in it."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.languages: list[str] = []
        self.times = 0
        self._learnt = asyncio.Condition()
        self._telling: set[asyncio.Task[None]] = set()

    def learn(self, names: Iterable[str], languages: Collection[str]) -> None:
        self.names, self.languages = list(names), list(languages)
        self.times += 1
        telling = asyncio.create_task(self._tell())
        self._telling.add(telling)

    async def _tell(self) -> None:
        async with self._learnt:
            self._learnt.notify_all()

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(30), self._learnt:
            await self._learnt.wait_for(true)


@asynccontextmanager
async def following(url: str, token: str) -> AsyncIterator[tuple[Notes, asyncio.Task[None]]]:
    notes = Notes()
    task = asyncio.create_task(follow_names(url, token, notes.learn))
    try:
        yield notes, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "_SETTLE_SECONDS", 0.2)
    monkeypatch.setattr(ours, "_RETRY_SECONDS", (0.05,))


@pytest.mark.skipif(bool(home_assistant.missing()), reason=home_assistant.missing() or "it is there")
async def test_a_real_home(tmp_path: Path) -> None:
    """Areas, exposed entities and their aliases are learnt at once, and again when they change."""
    async with (
        home_assistant.core(tmp_path, HOUSE) as home,
        following(websocket_address(home.url), home.token) as (
            notes,
            _,
        ),
    ):
        await notes.until(lambda: "Küchenlampe" in notes.names)
        assert "Living Room" in notes.names and notes.languages == ["en"]
        await home.call("config/area_registry/create", name="Mudroom", aliases=["Boot Room"])
        await notes.until(lambda: {"Mudroom", "Boot Room"} <= set(notes.names))
        await home.call("input_boolean/create", name="Secret Switch")
        await home.call("config/entity_registry/update", entity_id="light.lamp", name="EcoBee", aliases=["The Cooker"])
        await notes.until(lambda: {"EcoBee", "The Cooker"} <= set(notes.names))
        assert not {"Küchenlampe", "Secret Switch"} & set(notes.names)


Handler = Callable[[web.WebSocketResponse], Awaitable[None]]


@asynccontextmanager
async def pretending(handle: Handler) -> AsyncIterator[str]:
    """A WebSocket server; yields its address."""

    async def answer(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await handle(socket)
        return socket

    app = web.Application()
    app.router.add_get("/api/websocket", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}/api/websocket"
    finally:
        await runner.cleanup()


RESULTS = {
    "config/area_registry/list": [{"name": "Attic", "aliases": [None, "", "x" * 101, "Loft"]}, {}],
    "homeassistant/expose_entity/list": {"exposed_entities": {"light.a": {"conversation": True}, "light.b": {}}},
    "get_states": [
        {"entity_id": "light.a", "attributes": {"friendly_name": "Lamp"}},
        {"entity_id": "light.b", "attributes": {"friendly_name": "Hidden"}},
        {"entity_id": "sun.sun", "attributes": {}},
    ],
    "config/entity_registry/get_entries": {"light.a": None},
    "assist_pipeline/pipeline/list": {
        "pipelines": [{"stt_language": "de-DE"}, {"language": "tlh"}, {"stt_language": None, "language": "fr"}]
    },
    "subscribe_events": None,
}


async def welcome(socket: web.WebSocketResponse) -> None:
    await socket.send_json({"type": "auth_required"})
    await socket.receive_json()
    await socket.send_json({"type": "auth_ok"})


async def obey(socket: web.WebSocketResponse) -> None:
    """Knows some commands and no floors."""
    async for message in socket:
        command = json.loads(message.data)
        answer = {"id": command["id"], "type": "result"}
        if command["type"] in RESULTS:
            await socket.send_json(answer | {"success": True, "result": RESULTS[command["type"]]})
        else:
            await socket.send_json(answer | {"success": False, "error": {"code": "unknown_command"}})


async def test_an_older_home_with_odd_names() -> None:
    """Commands that it does not know are left out, as are names that are none and languages that Whisper lacks."""

    async def handle(socket: web.WebSocketResponse) -> None:
        await welcome(socket)
        await obey(socket)

    async with pretending(handle) as url, following(url, "token") as (notes, _):
        await notes.until(lambda: notes.times > 0)
        assert notes.names == ["Attic", "Loft", "Lamp"]
        assert notes.languages == ["de", "fr"]


async def test_a_wrong_token_is_shown_once(caplog: pytest.LogCaptureFixture) -> None:
    """Home Assistant warns its owner, or bans us, where we try again."""
    connections = 0

    async def handle(socket: web.WebSocketResponse) -> None:
        nonlocal connections
        connections += 1
        await socket.send_json({"type": "auth_required"})
        await socket.receive_json()
        await socket.send_json({"type": "auth_invalid", "message": "no"})

    async with pretending(handle) as url, following(url, "wrong") as (notes, task):
        await asyncio.wait_for(task, 10)
    assert connections == 1 and notes.times == 0
    assert "does not accept the token" in caplog.text and "wrong" not in caplog.text


@pytest.mark.parametrize("nonsense", ["close", "list", "binary", "refuse", "text"])
async def test_a_home_that_comes_back(nonsense: str) -> None:
    """Lost connections, refusals and nonsense are met by connecting again; the names come once they can be had."""
    connections = 0

    async def handle(socket: web.WebSocketResponse) -> None:
        nonlocal connections
        connections += 1
        await welcome(socket)
        if connections > 2:
            await obey(socket)
        elif nonsense == "list":
            await socket.send_json([])
        elif nonsense == "binary":
            await socket.send_bytes(b"\0")
        elif nonsense == "text":
            await socket.send_str("hello")
        elif nonsense == "refuse":
            command = await socket.receive_json()
            error = {"code": "unauthorized", "message": "Unauthorized"}
            await socket.send_json({"id": command["id"], "type": "result", "success": False, "error": error})
        await socket.close()

    async with pretending(handle) as url, following(url, "token") as (notes, _):
        await notes.until(lambda: notes.times > 0)
    assert connections == 3 and notes.names == ["Attic", "Loft", "Lamp"]


async def test_a_home_that_refuses_for_good(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes the token and answers nothing else, or with nonsense, is asked ever less often, and the log has it
    once."""
    monkeypatch.setattr(ours, "_RETRY_SECONDS", (0.0, 0.0, 0.0, 60.0))
    connections = 0
    tried = asyncio.Event()

    async def handle(socket: web.WebSocketResponse) -> None:
        nonlocal connections
        connections += 1
        await welcome(socket)
        async for message in socket:
            command = json.loads(message.data)
            answer = {"id": command["id"], "type": "result", "success": True, "result": None}
            if command["type"] == "homeassistant/expose_entity/list":
                answer |= {"result": {"exposed_entities": []}} if connections % 2 else {"success": False}
                if connections == 4:
                    tried.set()
            await socket.send_json(answer)

    async with pretending(handle) as url, following(url, "token") as (notes, _):
        await asyncio.wait_for(tried.wait(), 20)
        await asyncio.sleep(0.5)
    assert connections == 4 and notes.times == 0
    assert len([record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]) == 1


async def test_no_news(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that are read again and are the same as before are no line in the log."""
    caplog.set_level("INFO")
    monkeypatch.setattr(ours, "_REFRESH_SECONDS", 0.01)

    async def handle(socket: web.WebSocketResponse) -> None:
        await welcome(socket)
        await obey(socket)

    async with pretending(handle) as url, following(url, "token") as (notes, _):
        await notes.until(lambda: notes.times > 2)
    assert caplog.text.count("names of the home are expected") == 1


async def test_changes_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A home that is never quiet is read now and then all the same."""
    monkeypatch.setattr(ours, "_SETTLE_AT_MOST_SECONDS", 0.5, raising=False)

    async def handle(socket: web.WebSocketResponse) -> None:
        await welcome(socket)

        async def flap() -> None:
            while True:
                await socket.send_json({"type": "event"})
                await asyncio.sleep(0.02)

        flapping = asyncio.create_task(flap())
        await obey(socket)
        flapping.cancel()

    async with pretending(handle) as url, following(url, "token") as (notes, _):
        await notes.until(lambda: notes.times > 2)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://homeassistant.local:8123", "ws://homeassistant.local:8123/api/websocket"),
        ("https://home.example/", "wss://home.example/api/websocket"),
        ("ws://supervisor/core/websocket", "ws://supervisor/core/websocket"),
    ],
)
def test_addresses(url: str, address: str) -> None:
    """The address of the web page will do."""
    assert websocket_address(url) == address
