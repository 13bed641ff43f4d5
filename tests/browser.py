"""A real browser with a microphone that plays a file, and what it speaks to in the server's place: a reverse proxy that
loses connections when told to, or what a test writes itself."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import soundfile
from aiohttp import ClientSession, WSMsgType, hdrs, web
from conftest import Clip
from playwright.async_api import Page, WebSocketRoute, async_playwright, expect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

_FLAGS = (
    "--use-fake-device-for-media-stream",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP page.test 127.0.0.1",
)


@asynccontextmanager
async def browsing(folder: Path, clip: Clip | None = None, allow: bool = True) -> AsyncIterator[Page]:
    """A browser's page, which waits a minute for what is expected. Its microphone plays `clip` once.

    `allow`: the page may use the microphone. Skips the test where there is no browser.
    """
    if CHROMIUM is None:
        pytest.skip("there is no chromium here; script/test installs it for root")
    flags = [*_FLAGS, "--use-fake-ui-for-media-stream" + ("" if allow else "=deny")]
    if clip is not None:
        soundfile.write(folder / "microphone.wav", clip.samples, 16000, subtype="PCM_16")
        flags.append(f"--use-file-for-fake-audio-capture={folder / 'microphone.wav'}%noloop")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        try:
            page = await browser.new_page(viewport={"width": 1100, "height": 760})
            page.set_default_timeout(60_000)
            expect.set_options(timeout=60_000)
            yield page
        finally:
            await browser.close()


async def picture(page: Page, name: str) -> None:
    """Keeps a screenshot, where somebody wants it."""
    if folder := os.environ.get("WLK_ARTIFACTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        await page.screenshot(path=Path(folder) / f"{name}.png")


class Ingress:
    """A reverse proxy as Home Assistant's: it puts the server into a folder. It records every WebSocket's messages."""

    FOLDER = "/api/hassio_ingress/x7/"

    def __init__(self, target: str) -> None:
        self.target = target
        self._cutting = self._swallowing = False
        self.told: list[list[dict[str, Any]]] = []
        """What the server told on each connection, passed on or not."""
        self.lost: list[dict[str, Any]] = []
        """What of that was not passed on."""
        self.heard: list[bytes] = []
        """The audio that the browser sent on each connection, passed on or not."""
        self._left = 0

    def cut(self, swallow: bool) -> None:
        """Loses the open connection with the next audio; `swallow`: after committed words and then audio are lost."""
        self._cutting, self._swallowing, self._left = True, swallow, 10 if swallow else 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """The address that the page has behind the proxy."""
        application = web.Application()
        application.router.add_route("*", self.FOLDER + "{path:.*}", self._handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5, handler_cancellation=True)
        await runner.setup()
        async with ClientSession(auto_decompress=False) as self._session:
            try:
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                yield f"http://127.0.0.1:{runner.addresses[0][1]}{self.FOLDER}"
            finally:
                await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        url = f"{self.target}/{request.match_info['path']}"
        if request.query_string:
            url += f"?{request.query_string}"
        headers = {"X-Forwarded-Host": request.host, "X-Ingress-Path": self.FOLDER.rstrip("/")}
        if hdrs.ORIGIN in request.headers:
            headers[hdrs.ORIGIN] = request.headers[hdrs.ORIGIN]
        if request.headers.get(hdrs.UPGRADE, "").lower() == "websocket":
            return await self._socket(request, url, headers)
        async with self._session.get(url, headers=headers) as answer:
            kept = {
                name: value for name, value in answer.headers.items() if name.startswith(("Content-T", "Content-S"))
            }
            return web.Response(status=answer.status, body=await answer.read(), headers=kept)

    async def _socket(self, request: web.Request, url: str, headers: dict[str, str]) -> web.StreamResponse:
        browser = web.WebSocketResponse()
        await browser.prepare(request)
        number = len(self.told)
        self.told.append([])
        self.heard.append(b"")
        async with self._session.ws_connect(url, headers=headers) as server:

            async def down() -> None:
                async for message in server:
                    told = json.loads(message.data)
                    self.told[number].append(told)
                    if self._swallowing:
                        self.lost.append(told)
                    else:
                        await browser.send_str(message.data)
                await browser.close()

            async def up() -> None:
                async for message in browser:
                    if message.type is WSMsgType.TEXT:
                        await server.send_str(message.data)
                        continue
                    self.heard[number] += message.data
                    if not self._cutting or (self._swallowing and not any(words(told) for told in self.lost)):
                        await server.send_bytes(message.data)
                    elif self._left:
                        self._left -= 1
                    else:
                        self._cutting = self._swallowing = False
                        assert request.transport is not None
                        request.transport.abort()
                        return

            tasks = [asyncio.create_task(down()), asyncio.create_task(up())]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return browser


class ScriptedServer:
    """Takes the page's WebSockets and tells what the test wants. Its streams have speakers and a translation."""

    SEGMENT = {"speaker": None, "start": None, "end": None, "language": "en", "translation": "", "ended": False}

    def __init__(self) -> None:
        self.sockets: list[WebSocketRoute] = []
        self.resumes = False
        """Whether a page that comes back finds its stream."""
        self._seq = 0

    async def listen(self, page: Page) -> None:
        await page.route_web_socket("**/ws/transcription*", self._open)

    def segment(self, number: int, *said: tuple[float, str], text: str = "", **more: object) -> None:
        """Tells of one segment: the words with their starts, and buffers by their names; `text` is its final one."""
        timed = [{"text": text, "start": start, "end": start + 0.4} for start, text in said]
        buffers = {name: more.pop(name, "") for name in ("transcription", "diarization", "translating")}
        buffers["translation"] = buffers.pop("translating")
        end = {"ended": True, "final_text": text, "kept": 0} if text else {}
        found = self.SEGMENT | {"id": number, "words": timed, "buffer": buffers, **end, **more}
        if timed:
            found |= {"start": said[0][0], "end": timed[-1]["end"]}
        self._seq += 1
        self.tell(type="transcript_update", seq=self._seq, segments=[found], metadata={})

    def tell(self, **message: object) -> None:
        self.sockets[-1].send(json.dumps(message))

    def _open(self, socket: WebSocketRoute) -> None:
        socket.on_message(lambda message: isinstance(message, str) and self.tell(type="end", seq=self._seq))
        resumed = self.resumes and bool(self.sockets)
        self.sockets.append(socket)
        wishes = {"diarization": "online", "target_language": "pt-Latn"}
        self.tell(type="session", resumed=resumed, seq=0, received_samples=0, sample_rate=16000, **wishes)


def words(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The committed words in a message of the server."""
    return [word for segment in message.get("segments", []) for word in segment["words"]]
