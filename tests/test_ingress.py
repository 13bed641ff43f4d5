"""The page in Home Assistant: who comes through its ingress, who comes around it, and the page in a real browser."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import ifaddr
import pytest
from aiohttp import WSServerHandshakeError
from browser import browsing, picture
from conftest import Clip
from playwright.async_api import expect
from serving import Server, serving
from supervisor import COOKIE, FOLDER, USER, Supervisor
from wyoming.client import AsyncClient
from wyoming.info import Describe

from wyoming_wlk.config import Address, Config, HttpConfig, LimitsConfig, ServerConfig
from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.errors import AccessError, BusyError
from wyoming_wlk.frontends.gate import LOCAL, Gate, within
from wyoming_wlk.vad import SileroVad

PROXY, OTHER = "127.0.0.3", "127.0.0.2"
INGRESS = (ipaddress.ip_network(PROXY),)
TOKEN = {"Authorization": "Bearer sesame"}
PRETENDING = {
    "X-Ingress-Path": FOLDER.rstrip("/"),
    "X-Hass-Source": "core.ingress",
    "X-Forwarded-For": PROXY,
    "X-Forwarded-Host": "homeassistant.local:8123",
    "X-Real-IP": PROXY,
    "Forwarded": f"for={PROXY}",
    "Cookie": f"{COOKIE}=signed-in",
    **USER,
}
"""All that the ingress would say, said by somebody else."""

SOCKETS = ("/ws/transcription?client_id=x", "/asr", "/v1/listen", "/v1/realtime?intent=transcription", "/ws")
LANGUAGES = "/page/languages.json"


@asynccontextmanager
async def client(address: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client whose connections come from one of the loopback's addresses."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=(address, 0))) as session:
        yield session


async def fetch(
    address: str, url: str, headers: Mapping[str, str] | None = None, method: str = "GET"
) -> tuple[int, str]:
    async with client(address) as session, session.request(method, url, headers=headers) as response:
        return response.status, await response.text()


async def shake_hands(address: str, url: str, headers: Mapping[str, str] | None = None) -> int:
    """The status of a WebSocket handshake."""
    async with client(address) as session:
        try:
            async with session.ws_connect(url, headers=headers):
                return 101
        except WSServerHandshakeError as err:
            return err.status


# --- who comes in -----------------------------------------------------------------------------------------------------


async def test_without_a_token_only_the_ingress_leads_in(engine: Engine, vad: SileroVad) -> None:
    """Whoever comes around it gets a clear 403 for everything, page and WebSockets included, whatever it pretends."""
    async with serving(engine, vad, ingress=INGRESS) as server:
        await server.loading
        for path in ("/", "/page/app.js", LANGUAGES, "/config", "/metrics", "/v1/models"):
            assert (await fetch(PROXY, server.url + path))[0] == 200, path
            for headers in ({}, TOKEN, PRETENDING):
                status, body = await fetch(OTHER, server.url + path, headers)
                assert status == 403, path
                error = json.loads(body)["error"]
                assert error["code"] == "forbidden" and "ingress" in error["message"]
        assert (await fetch(OTHER, server.url + "/no/such/path"))[0] == 403
        assert (await fetch(OTHER, server.url + "/metrics", method="OPTIONS"))[0] == 403
        for path in SOCKETS:
            assert await shake_hands(PROXY, server.url + path) == 101, path
            for headers in ({}, PRETENDING):
                assert await shake_hands(OTHER, server.url + path, headers) == 403, path
        async with AsyncClient.from_uri(server.uri) as wyoming:  # another door
            await wyoming.write_event(Describe().event())
            assert (await wyoming.read_event()) is not None


async def test_with_a_token_others_may_come_too(engine: Engine, vad: SileroVad) -> None:
    """The ingress's users need none; others do, whatever they pretend, except for the page that asks for it."""
    async with serving(engine, vad, ingress=INGRESS, token="sesame") as server:
        assert (await fetch(PROXY, server.url + "/metrics"))[0] == 200
        assert (await fetch(OTHER, server.url + "/metrics", TOKEN))[0] == 200
        assert (await fetch(OTHER, server.url + "/"))[0] == 200
        for headers in ({}, PRETENDING):
            assert (await fetch(OTHER, server.url + "/metrics", headers))[0] == 401
        for path in SOCKETS:
            assert await welcomed(server, PROXY, path), path
            assert await welcomed(server, OTHER, path, TOKEN), path
            for headers in ({}, PRETENDING):
                assert not await welcomed(server, OTHER, path, headers), path


async def welcomed(server: Server, address: str, path: str, headers: Mapping[str, str] | None = None) -> bool:
    """Whether a WebSocket client is let in, not turned away at the handshake or with an error after it."""
    async with client(address) as session:
        try:
            async with session.ws_connect(server.url + path, headers=headers) as socket:
                received = asyncio.create_task(anext(socket, None))
                while not received.done() and not server.services.clients:
                    await asyncio.sleep(0.01)
                inside = server.services.clients == 1
                received.cancel()
        except WSServerHandshakeError:
            return False
    while server.services.clients:
        await asyncio.sleep(0.01)
    return inside


async def test_changes_are_not_for_every_user_of_the_home(engine: Engine, vad: SileroVad) -> None:
    """Whoever is signed in may use the server; changing it for all wants the token, with and without the ingress."""
    async with serving(engine, vad, ingress=INGRESS) as server:
        assert (await fetch(PROXY, server.url + "/config?lan=en", USER, "POST"))[0] == 401
    async with serving(engine, vad, ingress=INGRESS, token="sesame") as server:
        await server.loading
        assert (await fetch(PROXY, server.url + "/config?lan=en", USER, "POST"))[0] == 401
        assert (await fetch(PROXY, server.url + "/config?lan=en", TOKEN, "POST"))[0] == 200


@pytest.mark.parametrize("token", ["", "sesame"])
async def test_users_of_one_address_do_not_share_streams(engine: Engine, vad: SileroVad, token: str) -> None:
    """A name alone gives nobody another one's stream, though all come from one address; the secret does."""
    async with serving(engine, vad, ingress=INGRESS, token=token) as server, client(PROXY) as session:
        url = f"{server.url}/ws/transcription?client_id=desk&format=updates"
        async with session.ws_connect(url) as ada:
            secret = (await ada.receive_json(timeout=30))["secret"]
            assert secret
            for query in ("", "&resume_from=0"):
                async with session.ws_connect(url + query) as bob:
                    assert (await bob.receive_json(timeout=30))["code"] == "taken"
        async with session.ws_connect(f"{url}&resume_from=0") as bob:
            told = await bob.receive_json(timeout=30)
            assert not told["resumed"] and told["secret"] not in (secret, None)
        async with session.ws_connect(f"{url}&resume_from=0&secret={secret}") as ada:
            assert (await ada.receive_json(timeout=30))["resumed"]


# --- pages ------------------------------------------------------------------------------------------------------------


def named(origin: str, host: str, forwarded: str) -> dict[str, str]:
    return {"Origin": origin, "Host": host, "X-Forwarded-Host": forwarded}


@pytest.mark.parametrize(
    "headers",
    [
        named("http://homeassistant.local:8123", "homeassistant.local:8123", "homeassistant.local:8123"),
        named("https://home.example", "home.example", "home.example"),
        named("https://home.example:8443", "home.example", "home.example"),  # a proxy that drops the port
        named("https://home.example", "127.0.0.1:8123", "home.example"),
        named("https://home.example", "127.0.0.1:8123", "home.example, inner.example"),  # two proxies before it
        named("http://[fd00::1]:8123", "[fd00::1]:8123", "[fd00::1]:8123"),
    ],
)
async def test_home_assistants_own_page(engine: Engine, vad: SileroVad, headers: dict[str, str]) -> None:
    """The page is known by the name that Home Assistant has for the browser, whatever stands before it."""
    async with serving(engine, vad, ingress=INGRESS) as server:
        assert (await fetch(PROXY, f"{server.url}/metrics", headers))[0] == 200
        assert await shake_hands(PROXY, f"{server.url}/asr", headers) == 101


@pytest.mark.parametrize(
    "headers",
    [
        named("https://evil.example", "home.example", "home.example"),
        named("https://home.example.evil.example", "home.example", "home.example"),
        named("null", "home.example", "home.example"),
        named("null", "", ""),
        named("https://[evil", "home.example", "home.example"),
        named("https://evil.example", "home.example", "[, home.example"),
    ],
)
async def test_strangers_pages(engine: Engine, vad: SileroVad, headers: dict[str, str]) -> None:
    """A page from elsewhere is refused though its user is signed in."""
    async with serving(engine, vad, ingress=INGRESS) as server:
        assert (await fetch(PROXY, f"{server.url}/metrics", headers))[0] == 401
        assert await shake_hands(PROXY, f"{server.url}/asr", headers) == 401


async def test_only_the_ingress_may_drop_a_port(engine: Engine, vad: SileroVad) -> None:
    """For everybody else the origin has to be right to the last digit, as ever."""
    async with serving(engine, vad, ingress=INGRESS, token="sesame") as server:
        for headers, status in (
            (named("https://home.example:8443", "home.example", "home.example"), 401),
            (named("https://home.example", "x", "home.example, inner.example"), 401),
            (named("https://home.example", "x", "Home.example"), 200),
        ):
            assert (await fetch(OTHER, f"{server.url}/metrics", headers | TOKEN))[0] == status


# --- limits and health ------------------------------------------------------------------------------------------------


def test_the_gate_counts_no_proxys_connections() -> None:
    """One address stands for all users: only the total holds for it, and it need not be allowed anew."""
    limits = LimitsConfig(max_connections=3, max_connections_per_address=1)
    allowed = ServerConfig(allow=(ipaddress.ip_network("10.0.0.0/8"),))
    http = HttpConfig(ingress=(ipaddress.ip_network("172.30.32.2"),))
    gate = Gate(Config(server=allowed, http=http, limits=limits))
    assert isinstance(gate.objection("172.30.32.3"), AccessError)
    gate.enter("10.0.0.1")
    assert isinstance(gate.objection("10.0.0.1"), BusyError)
    for address in ("172.30.32.2", "::ffff:172.30.32.2"):
        assert gate.objection(address) is None
        gate.enter(address)
    assert isinstance(gate.objection("172.30.32.2"), BusyError)
    assert isinstance(gate.objection(LOCAL), BusyError)


def test_addresses_and_networks() -> None:
    """IPv6 with a zone, IPv4 in IPv6 clothes, and those without an address."""
    networks = (ipaddress.ip_network("172.30.32.2"), ipaddress.ip_network("fe80::/10"))
    assert all(within(address, networks) for address in ("172.30.32.2", "::ffff:172.30.32.2", "fe80::1%eth0"))
    assert not any(within(address, networks) for address in ("172.30.32.20", "fd00::1", LOCAL))
    assert not within("172.30.32.2", ())


async def test_many_users_at_once(engine: Engine, vad: SileroVad) -> None:
    """More pages than one address may open connect through the ingress; elsewhere the limit holds."""
    limits = {"max_connections_per_address": 2}
    async with serving(engine, vad, ingress=INGRESS, token="sesame", **limits) as server:
        assert await welcome(server, PROXY, 5) == 5
        assert await welcome(server, OTHER, 5) == 2


async def welcome(server: Server, address: str, count: int) -> int:
    """How many of so many connections at once get a session."""
    url = f"{server.url}/ws/transcription?format=updates&client_id={address}"
    async with client(address) as session:
        sockets = [await session.ws_connect(f"{url}-{number}", headers=TOKEN) for number in range(count)]
        told = [(await socket.receive_json(timeout=30))["type"] for socket in sockets]
        for socket in sockets:
            await socket.close()
    return told.count("session")


async def test_a_full_server_is_not_ill(engine: Engine, vad: SileroVad) -> None:
    """The health check of the same machine is answered when no more connections are taken, and past `--allow`."""
    changes: dict[str, Any] = {"max_connections": 1, "allow": (ipaddress.ip_network("127.0.0.0/8"),)}
    async with serving(engine, vad, **changes) as server:
        await server.loading
        async with client(OTHER) as session, session.ws_connect(f"{server.url}{SOCKETS[0]}&format=updates") as socket:
            await socket.receive_json(timeout=30)
            assert (await fetch(OTHER, f"{server.url}/metrics"))[0] == 503
            for path in ("/health", "/ready"):
                assert (await fetch(OTHER, server.url + path))[0] == 200
    nobody = (ipaddress.ip_network("10.0.0.0/8"),)
    async with serving(engine, vad, allow=nobody) as server:
        assert (await fetch("127.0.0.1", f"{server.url}/health"))[0] == 200
        assert (await fetch("127.0.0.1", f"{server.url}/metrics"))[0] == 401


async def test_health_through_and_around_the_ingress(engine: Engine, vad: SileroVad) -> None:
    """The container's own health check is answered; from other machines only what the ingress brings."""
    addresses = [ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips if isinstance(ip.ip, str)]
    outside = next((ip for ip in addresses if not ipaddress.ip_address(ip).is_loopback), None)
    everywhere = Address("0.0.0.0", 0)
    async with serving(engine, vad, ingress=INGRESS, http=everywhere) as server:
        port = server.url.rpartition(":")[2]
        for path in ("/health", "/ready"):
            assert (await fetch(OTHER, f"http://127.0.0.1:{port}{path}"))[0] in (200, 503)
        if outside is None:
            pytest.skip("this machine has no address but the loopback's")
        for headers in ({}, PRETENDING):
            assert (await fetch(outside, f"http://{outside}:{port}/health", headers))[0] == 403


# --- in a browser -----------------------------------------------------------------------------------------------------


async def test_the_page_in_home_assistant(
    engine: Engine, vad: SileroVad, clips: dict[str, Clip], tmp_path: Path
) -> None:
    """Framed by Home Assistant, in its folder and behind its cookie: speech becomes text without any token, and the
    server's figures are there."""
    failures: list[str] = []
    async with serving(engine, vad, ingress=INGRESS, token="sesame", max_connections_per_address=1) as server:
        supervisor = Supervisor(server.url, PROXY)
        async with supervisor.running() as home, browsing(tmp_path, clips["1688-142285-0003"]) as browser:
            browser.on("pageerror", lambda error: failures.append(str(error)))
            browser.on("console", lambda line: failures.append(line.text) if line.type == "error" else None)
            assert (await fetch("127.0.0.1", home + FOLDER))[0] == 401, "nobody is signed in"
            await browser.goto(f"{home}/panel")
            page = browser.frame_locator("iframe")
            await page.locator("#start").click()
            await expect(page.locator(".lane[data-state=live]")).to_have_count(1)
            await expect(page.locator("#transcript")).to_contain_text("himself", ignore_case=True)
            await picture(browser, "page-ingress")
            await page.locator("#start").click()
            await expect(page.locator("#start")).to_have_attribute("data-state", "idle")
            await expect(page.locator("#spoken")).to_contain_text("himself", ignore_case=True)
            await page.locator("#tab-server").click()
            await expect(page.locator("#plots .card h3").first).to_have_text("Clients")
            await expect(page.locator("#token-dialog")).to_be_hidden()
    assert not failures
    assert {status for status, _ in supervisor.seen} <= {200, 304, 101}
    assert {"", "page/app.js", "page/languages.json", "ws/transcription", "metrics"} <= {p for _, p in supervisor.seen}


async def test_refusals_are_told_through_the_ingress(engine: Engine, vad: SileroVad, tmp_path: Path) -> None:
    """The page says what is wrong though the ingress loses the code that a WebSocket is closed with."""
    async with serving(engine, vad, ingress=INGRESS, max_clients=1) as server:
        supervisor = Supervisor(server.url, PROXY)
        async with supervisor.running() as home, browsing(tmp_path) as browser, client(PROXY) as session:
            await browser.goto(f"{home}/panel")
            page = browser.frame_locator("iframe")
            async with session.ws_connect(f"{server.url}{SOCKETS[0]}&format=updates") as socket:
                await socket.receive_json(timeout=30)
                await page.locator("#start").click()
                await expect(page.locator(".lane:visible .status")).to_contain_text("The server is busy")
            await expect(page.locator(".lane[data-state=live]")).to_have_count(1)
