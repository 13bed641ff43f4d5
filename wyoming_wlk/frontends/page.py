"""The web page: its files, as they lie in the package, and what it has to know of the server before it connects.

Anybody may fetch them: the page itself then asks for the token. All addresses in it are relative, so that it also works
behind a proxy that puts it into a folder.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files

from aiohttp import ETag, hdrs, web

from wyoming_wlk.languages import LANGUAGES
from wyoming_wlk.services import Services

PAGE_FOLDER = "/page/"
"""All but the page itself is in here."""

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "Permissions-Policy": "microphone=(self), display-capture=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    hdrs.CACHE_CONTROL: "no-cache",  # ask every time: after an update no old module meets a new one
}
"""Nothing foreign runs on the page or frames it; Home Assistant's ingress frames it from the same origin."""


class Page:
    """All files, read once."""

    def __init__(self, services: Services) -> None:
        folder = files("wyoming_wlk") / "page"
        self._files = {
            path.name: path.read_bytes() for path in folder.iterdir() if path.name.rpartition(".")[2] in _TYPES
        }
        self._services = services

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self._index),
            web.get(f"{PAGE_FOLDER}languages.json", self._tell_languages),
            web.get(f"{PAGE_FOLDER}{{name}}", self._file),
        ]

    async def _index(self, request: web.Request) -> web.StreamResponse:
        return self._answer(request, "index.html")

    async def _file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in self._files or name == "index.html":  # whose addresses are relative to the root
            raise web.HTTPNotFound
        return self._answer(request, name)

    async def _tell_languages(self, request: web.Request) -> web.StreamResponse:
        """The languages that the page may offer, as codes: those that the model hears, which can change, and those that
        it may be asked to translate into. Not every pair can be had; the client then gets a notice."""
        by_whisper = self._services.config.stages.translation == "whisper"
        offered = {
            "spoken": list(self._services.model.languages),
            "targets": ["en"] if by_whisper else list(LANGUAGES),
        }
        return web.json_response(offered, headers=_HEADERS)

    def _answer(self, request: web.Request, name: str) -> web.Response:
        body = self._files[name]
        tag = hashlib.sha256(body).hexdigest()[:20]
        known = request.if_none_match or ()
        if any(shown.value in (tag, "*") for shown in known):
            response = web.Response(status=304, headers=_HEADERS)
        else:
            content_type = _TYPES[name.rpartition(".")[2]]
            response = web.Response(body=body, content_type=content_type, charset="utf-8", headers=_HEADERS)
        response.etag = ETag(tag)
        return response
