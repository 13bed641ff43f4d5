"""Who may use the HTTP door: tokens, and which web pages a browser may let at it."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from wyoming_wlk.config import HttpConfig
from wyoming_wlk.errors import AccessError

_SCHEMES = ("bearer", "token")
_KEY_PROTOCOLS = ("token", "bearer")
_OPENAI_KEY = "openai-insecure-api-key."


def check_token(request: web.Request, config: HttpConfig) -> None:
    """Raises `AccessError` where a token is asked for and none of those shown is it."""
    if config.token and not shows_token(request, config):
        raise AccessError("a valid token is needed")


def shows_token(request: web.Request, config: HttpConfig) -> bool:
    """Whether there is a token and the client has shown it."""
    wanted = config.token.encode()
    # Headers may hold bytes that are no text.
    shown = (token.encode("utf-8", "surrogateescape") for token in _shown_tokens(request))
    return bool(wanted) and any(hmac.compare_digest(token, wanted) for token in shown)


def _shown_tokens(request: web.Request) -> Iterator[str]:
    """Tokens wherever the protocols put them: header, query, or the list of WebSocket subprotocols."""
    scheme, _, value = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() in _SCHEMES:
        yield value.strip()
    for name in ("x-api-key", "api-key"):
        if name in request.headers:
            yield request.headers[name]
    if "token" in request.query:
        yield request.query["token"]
    protocols = offered_protocols(request)
    for name, following in zip(protocols, protocols[1:], strict=False):
        if name.lower() in _KEY_PROTOCOLS:
            yield following
    for name in protocols:
        if name.startswith(_OPENAI_KEY):
            yield name.removeprefix(_OPENAI_KEY)


def offered_protocols(request: web.Request) -> list[str]:
    """The WebSocket subprotocols that the client offers."""
    return [name.strip() for name in request.headers.get(hdrs.SEC_WEBSOCKET_PROTOCOL, "").split(",") if name.strip()]


def check_origin(request: web.Request, config: HttpConfig) -> str | None:
    """The foreign origin that the request comes from, None where it is our own page or no browser at all.

    Raises `AccessError` for a foreign one that is not allowed.
    """
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is None:
        return None
    try:
        host = urlsplit(origin).netloc.lower()
    except ValueError:
        host = ""
    # A reverse proxy, as Home Assistant's ingress, tells the name that the browser knows. Pages cannot set it.
    ours = {request.headers.get(name, "").lower() for name in (hdrs.HOST, hdrs.X_FORWARDED_HOST)}
    if host and host in ours:
        return None
    if "*" in config.cors or origin in config.cors:
        return origin
    raise AccessError(f"pages from {origin[:100]} may not use this server; --cors allows them")
