"""Reads from Home Assistant what its home is called: entities that may be spoken to, areas, floors and their aliases.

Over its WebSocket API, and again whenever something there changes. Knows nothing of what the names are for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from wyoming_wlk.errors import AccessError, RequestError, WlkError
from wyoming_wlk.languages import normalize_language

_LOG = logging.getLogger(__name__)

SUPERVISOR = "ws://supervisor/core/websocket"
"""Home Assistant, as add-ons reach it."""

_CHANGES = ("entity_registry_updated", "device_registry_updated", "area_registry_updated", "floor_registry_updated")
_SETTLE_SECONDS = 2.0
"""Changes come in swarms: this long after the last one the names are read again."""

_SETTLE_AT_MOST_SECONDS = 30.0

_REFRESH_SECONDS = 600.0
"""Not every change is told of: what is exposed to voice assistants may change without."""

_ANSWER_SECONDS = 30.0
_RETRY_SECONDS = (2.0, 5.0, 15.0, 60.0)
_MAX_MESSAGE = 64 * 2**20
_MAX_NAME = 100

Learn = Callable[[Iterable[str], Collection[str]], None]
"""Is told all names there are, and the languages in which they are spoken."""


class HomeError(WlkError):
    """Home Assistant answers with an error or not at all."""

    code = "home"


def websocket_address(url: str) -> str:
    """The WebSocket API of the Home Assistant at `url`, which may be the address of its web page."""
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    path = parts.path if parts.path.endswith("websocket") else parts.path.rstrip("/") + "/api/websocket"
    return urlunsplit((scheme, parts.netloc, path, "", ""))


async def follow_names(url: str, token: str, learn: Learn) -> None:
    """Tells `learn` of the names, now and whenever they change, until cancelled; connects again where need be.

    Returns where Home Assistant refuses the token: asking again would only lock it.
    """
    failures = 0
    told: tuple[list[str], list[str]] | None = None
    while True:
        try:
            async with (
                aiohttp.ClientSession() as http,
                http.ws_connect(url, heartbeat=30, max_msg_size=_MAX_MESSAGE) as socket,
            ):
                connection = _Connection(socket)
                await connection.authenticate(token)
                async for names, languages in connection.names():
                    failures = 0  # only now: one that takes the token may refuse all the rest
                    learn(names, languages)
                    if (names, languages) != told:
                        spoken = ", ".join(languages) or "any language"
                        _LOG.info("%d names of the home are expected, in %s", len(names), spoken)
                    told = names, languages
        except AccessError as err:
            _LOG.error("cannot learn the names of the home: %s", err)
            return
        except Exception as err:  # whatever Home Assistant may answer one day
            level = logging.DEBUG if failures else logging.WARNING
            known = isinstance(err, HomeError | aiohttp.ClientError | OSError)
            reason = str(err) or type(err).__name__
            _LOG.log(level, "cannot learn the names of the home now: %s", reason, exc_info=None if known else err)
        await asyncio.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
        failures += 1


class _Connection:
    """One authenticated WebSocket: commands with their results, and events between them."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self._changed = False

    async def authenticate(self, token: str) -> None:
        """Raises `AccessError` for a token that Home Assistant does not take."""
        await self._receive(_ANSWER_SECONDS)  # auth_required
        await self._socket.send_json({"type": "auth", "access_token": token})
        answer = await self._receive(_ANSWER_SECONDS)
        if answer.get("type") == "auth_invalid":
            raise AccessError("Home Assistant does not accept the token")

    async def names(self) -> AsyncIterator[tuple[list[str], list[str]]]:
        """All names there are and the languages in which they are spoken, now and after every change."""
        for kind in _CHANGES:
            await self._call({"type": "subscribe_events", "event_type": kind})
        while True:
            self._changed = False
            yield await self._names(), await self._languages()
            with contextlib.suppress(TimeoutError):
                while not self._changed:
                    await self._receive(_REFRESH_SECONDS)
                async with asyncio.timeout(_SETTLE_AT_MOST_SECONDS):
                    while True:
                        await self._receive(_SETTLE_SECONDS)

    async def _names(self) -> list[str]:
        """In the order of the home: what is larger first."""
        names: list[str] = []
        for registry in ("floor", "area"):
            for place in await self._call({"type": f"config/{registry}_registry/list"}, optional=True) or []:
                names += [place.get("name"), *(place.get("aliases") or [])]
        names += await self._entities()
        named = [name.strip() for name in names if isinstance(name, str)]
        return list(dict.fromkeys(name for name in named if name and len(name) <= _MAX_NAME))

    async def _entities(self) -> list[Any]:
        """Names and aliases of the entities that Home Assistant exposes to its voice assistants."""
        found = await self._call({"type": "homeassistant/expose_entity/list"})
        exposed = {entity for entity, to in found["exposed_entities"].items() if to.get("conversation")}
        names = []
        for state in await self._call({"type": "get_states"}):
            if state["entity_id"] in exposed:
                names.append(state["attributes"].get("friendly_name"))
        registered = {"type": "config/entity_registry/get_entries", "entity_ids": sorted(exposed)}
        for entry in (await self._call(registered)).values():
            names += (entry or {}).get("aliases") or []
        return names

    async def _languages(self) -> list[str]:
        """The codes of the languages in which the home's pipelines hear."""
        found = await self._call({"type": "assist_pipeline/pipeline/list"}, optional=True) or {}
        languages = []
        for pipeline in found.get("pipelines", []):
            with contextlib.suppress(RequestError):  # one that Whisper does not know
                languages.append(normalize_language(pipeline.get("stt_language") or pipeline.get("language") or ""))
        return sorted(set(languages))

    async def _call(self, command: Mapping[str, object], optional: bool = False) -> Any:
        """The result of a command; None for an `optional` one that this Home Assistant does not know.

        Raises `HomeError` where it fails.
        """
        self._number += 1
        await self._socket.send_json({"id": self._number, **command})
        while True:
            try:
                message = await self._receive(_ANSWER_SECONDS)
            except TimeoutError as err:
                raise HomeError(f"no answer to {command['type']}") from err
            if message.get("type") != "result" or message.get("id") != self._number:
                continue
            if message.get("success"):
                return message.get("result")
            error = message.get("error") or {}
            if optional and error.get("code") == "unknown_command":
                return None
            raise HomeError(f"{command['type']}: {error.get('message') or error.get('code')}")

    async def _receive(self, seconds: float) -> dict[str, Any]:
        """The next message, and a note of what it says has changed. Raises TimeoutError and `HomeError`."""
        message = await self._socket.receive(seconds)
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise HomeError("Home Assistant has closed the connection")
        try:
            found = message.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise HomeError("Home Assistant speaks another protocol")
        self._changed = self._changed or found.get("type") == "event"
        return found
