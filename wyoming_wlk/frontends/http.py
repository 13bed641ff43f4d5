"""The HTTP door: one port for all WebSocket and HTTP protocols and the web page, with the checks common to them."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import ssl
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from wyoming_wlk.config import HttpConfig
from wyoming_wlk.engine.engine import StepFailed
from wyoming_wlk.errors import (
    AccessError,
    BusyError,
    ClientTimeoutError,
    ConfigError,
    ForbiddenError,
    ModelError,
    TooLargeError,
    UnknownModelError,
    WlkError,
)
from wyoming_wlk.frontends.context_socket import ContextSocket
from wyoming_wlk.frontends.control import control_routes
from wyoming_wlk.frontends.deepgram import Deepgram
from wyoming_wlk.frontends.door import Door, address_of, socket_route
from wyoming_wlk.frontends.doorkeeper import Doorkeeper, keep
from wyoming_wlk.frontends.gate import Gate, within
from wyoming_wlk.frontends.livekit import LiveKit
from wyoming_wlk.frontends.openai_realtime import OpenAIRealtime
from wyoming_wlk.frontends.openai_rest import openai_routes
from wyoming_wlk.frontends.page import PAGE_FOLDER, Page
from wyoming_wlk.frontends.security import check_origin, check_token, check_way
from wyoming_wlk.frontends.whisper_flow import flow_routes
from wyoming_wlk.options import Address
from wyoming_wlk.services import Services
from wyoming_wlk.streams import Streams

_WATCHED = ("/health", "/ready")
"""What watches the server. On the same machine, as a container's health check, it is answered whoever else may come in
and however many are there: a server that is full is not ill."""

_PUBLIC = ("/", *_WATCHED)
"""What anybody may fetch beside the page's files: the page then asks for the token."""

_LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1"))

_STATUS: dict[type[WlkError], int] = {
    ForbiddenError: 403,
    AccessError: 401,
    UnknownModelError: 404,
    ClientTimeoutError: 408,
    TooLargeError: 413,
    StepFailed: 500,
    BusyError: 503,
    ModelError: 503,
}
"""Whatever else a client did wrong is 400."""

_ALLOWED_METHODS, _ALLOWED_HEADERS = "GET, POST, OPTIONS", "Authorization, Content-Type, X-Api-Key"

_SERVER_LOG = logging.getLogger("aiohttp.server")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HttpServer:
    """Listens on one address."""

    def __init__(self, services: Services, gate: Gate) -> None:
        self._config: HttpConfig = services.config.http
        self._door = Door(services, Streams(services), gate)
        self._doorkeeper = Doorkeeper(services.config.limits)
        self._keeping: asyncio.Task[None] | None = None
        application = web.Application(middlewares=[self._guard], client_max_size=self._config.max_upload * 2**20)
        application.add_routes(self._routes())
        application.on_response_prepare.append(self._add_cors)
        _SERVER_LOG.addFilter(_shorten_malformed)
        # Who is cut off in the middle is not waited for: every connection ends in `stop`.
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0, handler_cancellation=True)

    def _routes(self) -> list[web.RouteDef]:
        door = self._door
        return [
            *control_routes(door),
            *openai_routes(door),
            socket_route("/ws/transcription", "context", door, ContextSocket),
            socket_route("/asr", "livekit", door, LiveKit),
            socket_route("/v1/realtime", "realtime", door, OpenAIRealtime),
            socket_route("/v1/listen", "deepgram", door, Deepgram),
            *flow_routes(door),
            *Page(door.services).routes(),
        ]

    async def start(self) -> list[str]:
        """Opens the port; returns the address as a URL with the real port. Raises `ConfigError` where it cannot."""
        assert self._config.http is not None
        address = self._config.http
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, address.host, address.port, ssl_context=self._tls(), backlog=512).start()
        except OSError as err:
            raise ConfigError(f"cannot listen on {address}: {err.strerror or err}") from err
        self._keeping = asyncio.create_task(keep(self._doorkeeper, self._transports))
        scheme = "http" if self._config.tls_certificate is None else "https"
        return [f"{scheme}://{Address(*bound[:2])}" for bound in self._runner.addresses]

    async def stop(self, grace: float) -> None:
        """Nobody new; streams end with what was heard and get their last words, for at most `grace` seconds."""
        if self._keeping is not None:
            self._keeping.cancel()
        for site in list(self._runner.sites):
            await site.stop()
        for connection in list(self._door.connections):
            connection.finish()
        deadline = asyncio.get_running_loop().time() + grace
        while self._door.connections and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
        await self._door.streams.close()
        await self._runner.cleanup()

    def _transports(self) -> list[asyncio.Transport | None]:
        server = self._runner.server
        return [] if server is None else [handler.transport for handler in server.connections]

    def _tls(self) -> ssl.SSLContext | None:
        if self._config.tls_certificate is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self._config.tls_certificate, self._config.tls_key)
        except (OSError, ssl.SSLError) as err:
            raise ConfigError(f"--tls-certificate, --tls-key: cannot be used: {err}") from err
        return context

    # --- every request ------------------------------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Checks way, origin, token and address. WebSockets check for themselves, all but the way: they tell of errors
        in their own way."""
        with self._doorkeeper.serving(request.transport):
            if request.path in _WATCHED and within(address_of(request), _LOOPBACK):
                return await handler(request)
            try:
                check_way(request, self._config)
            except ForbiddenError as err:
                return error_response(err)
            if request.path in self._door.sockets:  # whatever the headers say: anybody can ask for an upgrade anywhere
                return await handler(request)
            return await self._checked(request, handler)

    async def _checked(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            origin = check_origin(request, self._config)
            if origin is not None and request.method == hdrs.METH_OPTIONS:
                return web.Response(status=204)
            if request.path not in _PUBLIC and not request.path.startswith(PAGE_FOLDER):
                check_token(request, self._config)
            with self._door.gate.inside(address_of(request)):
                return await handler(request)
        except WlkError as err:
            return error_response(err)

    async def _add_cors(self, request: web.Request, response: web.StreamResponse) -> None:
        """Lets the browser give the answer to the foreign page that asked, where that is allowed to."""
        with contextlib.suppress(AccessError):
            if (origin := check_origin(request, self._config)) is not None:
                response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
                response.headers[hdrs.VARY] = hdrs.ORIGIN
                response.headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = _ALLOWED_METHODS
                response.headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = _ALLOWED_HEADERS


def error_response(error: WlkError) -> web.Response:
    """An error as the OpenAI API words it, which tools understand best."""
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 400)
    return web.json_response({"error": {"message": str(error), "type": error.code, "code": error.code}}, status=status)


def _shorten_malformed(record: logging.LogRecord) -> bool:
    """What is no HTTP is the client's mistake and worth a line, not a traceback."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.levelno, record.levelname = logging.INFO, "INFO"
        record.msg, record.args, record.exc_info = "a request that is no HTTP: %s", (error.message,), None
    return True
