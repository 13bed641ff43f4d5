"""Home Assistant's ingress for tests: what Home Assistant and its Supervisor together make of a browser's requests.

Headers are passed on and added as both do it. The close code of a WebSocket gets lost on the way, as it does there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import ClientResponse, ClientSession, ClientWebSocketResponse, TCPConnector, WSMsgType, hdrs, web
from multidict import CIMultiDict

FOLDER = "/api/hassio_ingress/Rk3xGz0-tOKEN/"
USER = {"X-Remote-User-Id": "3f1c", "X-Remote-User-Name": "ada", "X-Remote-User-Display-Name": "Ada"}
COOKIE = "ingress_session"

_KEPT_BACK = {hdrs.CONTENT_LENGTH, hdrs.CONTENT_ENCODING, hdrs.TRANSFER_ENCODING, hdrs.ACCEPT_ENCODING}
_KEPT_BACK |= {hdrs.SEC_WEBSOCKET_EXTENSIONS, hdrs.SEC_WEBSOCKET_PROTOCOL}
_KEPT_BACK |= {hdrs.SEC_WEBSOCKET_VERSION, hdrs.SEC_WEBSOCKET_KEY}
_NOT_BROUGHT_BACK = {hdrs.TRANSFER_ENCODING, hdrs.CONTENT_LENGTH, hdrs.CONTENT_TYPE, hdrs.CONTENT_ENCODING}


class Supervisor:
    """One add-on's ingress, and the panel of Home Assistant that frames it."""

    def __init__(self, target: str, address: str) -> None:
        """`address`: where its connections to the add-on come from."""
        self._target, self._address = target, address
        self.seen: list[tuple[int, str]] = []
        """Status and path of everything that was asked for."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Home Assistant's address, without a slash at the end."""
        application = web.Application()
        application.router.add_get("/panel", self._panel)
        application.router.add_route("*", FOLDER + "{path:.*}", self._handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5, handler_cancellation=True)
        await runner.setup()
        connector = TCPConnector(local_addr=(self._address, 0))
        async with ClientSession(auto_decompress=False, connector=connector) as self._session:
            try:
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                yield f"http://127.0.0.1:{runner.addresses[0][1]}"
            finally:
                await runner.cleanup()

    async def _panel(self, request: web.Request) -> web.Response:
        frame = f'<iframe src="{FOLDER}" style="position:fixed;inset:0;width:100%;height:100%;border:0"></iframe>'
        icon = '<link rel="icon" href="data:,">'
        answer = web.Response(
            text=f"<!doctype html><title>Home Assistant</title>{icon}{frame}", content_type="text/html"
        )
        answer.set_cookie(COOKIE, "signed-in", path="/api/hassio_ingress/", samesite="Strict")
        return answer

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.cookies.get(COOKIE) != "signed-in":
            raise web.HTTPUnauthorized
        url = f"{self._target}/{request.match_info['path']}"
        if request.query_string:
            url += f"?{request.query_string}"
        if request.headers.get(hdrs.UPGRADE, "").lower() == "websocket":
            return await self._socket(request, url)
        sent = {"headers": headers(request), "data": await request.read(), "allow_redirects": False}
        async with self._session.request(request.method, url, **sent) as result:
            self.seen.append((result.status, request.match_info["path"]))
            return await _brought_back(result)

    async def _socket(self, request: web.Request, url: str) -> web.StreamResponse:
        protocols = [name.strip() for name in request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(",") if name]
        browser = web.WebSocketResponse(protocols=protocols, autoclose=False, autoping=False)
        await browser.prepare(request)
        options = {"headers": headers(request), "protocols": protocols, "autoclose": False, "autoping": False}
        async with self._session.ws_connect(url, **options) as server:
            self.seen.append((101, request.match_info["path"]))
            tasks = [asyncio.create_task(_forward(browser, server)), asyncio.create_task(_forward(server, browser))]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return browser


def headers(request: web.Request) -> CIMultiDict[str]:
    """What the add-on is told: all that the browser said, its Host too, and who it is."""
    kept = CIMultiDict((name, value) for name, value in request.headers.items() if name not in _KEPT_BACK)
    kept.update(USER)
    kept["X-Hass-Source"] = "core.ingress"
    kept["X-Ingress-Path"] = FOLDER.rstrip("/")
    kept[hdrs.X_FORWARDED_FOR] = f"{request.remote}, 172.30.32.1"
    kept[hdrs.X_FORWARDED_HOST] = request.headers.get(hdrs.X_FORWARDED_HOST, request.host)
    kept[hdrs.X_FORWARDED_PROTO] = request.headers.get(hdrs.X_FORWARDED_PROTO, request.scheme)
    return kept


async def _brought_back(result: ClientResponse) -> web.Response:
    kept = CIMultiDict((name, value) for name, value in result.headers.items() if name not in _NOT_BROUGHT_BACK)
    answer = web.Response(status=result.status, headers=kept, body=await result.read())
    answer.content_type = result.content_type
    return answer


async def _forward(
    source: web.WebSocketResponse | ClientWebSocketResponse, sink: web.WebSocketResponse | ClientWebSocketResponse
) -> None:
    async for message in source:
        if message.type is WSMsgType.TEXT:
            await sink.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await sink.send_bytes(message.data)
        elif message.type is WSMsgType.PING:
            await sink.ping()
        elif message.type is WSMsgType.PONG:
            await sink.pong()
