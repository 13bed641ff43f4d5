"""Who may use the HTTP door: tokens, the ingress, and which web pages a browser may let at it.

The ingress is a reverse proxy whose users are signed in already. It is known by the address of its connections and by
nothing that a request says: `X-Ingress-Path`, `X-Forwarded-For`, `X-Remote-User-*` are not even read.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from wyoming_wlk.config import HttpConfig
from wyoming_wlk.errors import AccessError, ForbiddenError
from wyoming_wlk.frontends.gate import LOCAL, within

_SCHEMES = ("bearer", "token")
_KEY_PROTOCOLS = ("token", "bearer")
_OPENAI_KEY = "openai-insecure-api-key."


def from_ingress(request: web.Request, config: HttpConfig) -> bool:
    """Whether a signed-in user of the ingress asks.

    That is worth as much as the token for what everybody may do here, and no more. All users of a home come from this
    one address, so it says nothing of who they are: a named stream is its owner's by its secret alone, or one could
    read on where another has spoken. And none of them need be the one who runs the server, whose token changes it.
    """
    return within(request.remote or LOCAL, config.ingress)


def check_way(request: web.Request, config: HttpConfig) -> None:
    """Raises `ForbiddenError` where only the ingress leads in, and the request comes another way."""
    if config.ingress and not config.token and not from_ingress(request, config):
        raise ForbiddenError("this server is used through its ingress only; with --token others may come, too")


def check_token(request: web.Request, config: HttpConfig) -> None:
    """Raises `AccessError` where a token is asked for and none of those shown is it."""
    if config.token and not from_ingress(request, config) and not shows_token(request, config):
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
    if _is_ours(origin, request, config):
        return None
    if "*" in config.cors or origin in config.cors:
        return origin
    raise AccessError(f"pages from {origin[:100]} may not use this server; --cors allows them")


def _is_ours(origin: str, request: web.Request, config: HttpConfig) -> bool:
    """Whether an origin names this server, as the browser knows it.

    A reverse proxy tells that name; pages cannot set it. Before Home Assistant there is often another proxy, which may
    add to the name or drop its port, so that for requests of the ingress the host alone has to be right: a stranger's
    page on another port of it does not know the ingress's secret path.
    """
    told = [request.headers.get(name, "") for name in (hdrs.HOST, hdrs.X_FORWARDED_HOST)]
    try:
        asking = urlsplit(origin)
        if from_ingress(request, config):
            hosts = {urlsplit(f"//{name.strip()}").hostname for value in told for name in value.split(",")}
            return asking.hostname is not None and asking.hostname in hosts
    except ValueError:
        return False
    return bool(asking.netloc) and asking.netloc.lower() in [name.lower() for name in told]
