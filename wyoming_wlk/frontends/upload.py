"""Reads a form with a file in it (multipart/form-data) as it comes, within limits."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import BinaryIO

from aiohttp import BodyPartReader, ClientPayloadError, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from wyoming_wlk.errors import ClientTimeoutError, RequestError, TooLargeError
from wyoming_wlk.frontends.door import Door

_MAX_FIELDS, _MAX_FIELD = 64, 2**16
_SLOWEST = 1000
"""Bytes a second; a slower upload keeps its place for no use."""

_TORN = (ValueError, AssertionError, EOFError, ClientPayloadError, HttpProcessingError, web.RequestPayloadError)
"""What aiohttp raises for a form that is none."""


@dataclass(frozen=True)
class Form:
    """What came beside the content of the file."""

    fields: dict[str, str]
    file_name: str
    """As the client calls it: any text, also none."""


async def read_form(door: Door, request: web.Request, field: str, file: BinaryIO) -> Form:
    """Writes the field `field` to `file`; returns the others, several values of one joined by commas.

    The brackets that mark a list (`name[]`) are taken off. Raises `TooLargeError`, `ClientTimeoutError` and, for what
    is no such form, `RequestError`.
    """
    form = _Reader(door, field, file)
    if (request.content_length or 0) > form.limit + _MAX_FIELDS * _MAX_FIELD:
        raise form.too_large
    if request.content_type != "multipart/form-data":
        raise RequestError(f"the body must be multipart/form-data with a field `{field}`")
    try:
        await form.read(await request.multipart())
    except _TORN as err:
        raise RequestError("the form is not complete or not valid") from err
    except web.HTTPRequestEntityTooLarge as err:
        raise form.too_large from err
    except TimeoutError as err:
        raise ClientTimeoutError("the upload does not go on") from err
    if not form.has_file:
        raise RequestError(f"there is no `{field}` in the form")
    return Form(form.fields, form.file_name)


class _Reader:
    def __init__(self, door: Door, field: str, file: BinaryIO) -> None:
        config = door.services.config
        self.fields: dict[str, str] = {}
        self.has_file, self.file_name = False, ""
        self.limit = config.http.max_upload * 2**20
        self.too_large = TooLargeError(f"the file is larger than {config.http.max_upload} MB")
        self._field, self._file = field, file
        self._patience = config.limits.frame_timeout
        self._began, self._size = time.monotonic(), 0

    async def read(self, reader: MultipartReader) -> None:
        for _ in range(_MAX_FIELDS):
            async with asyncio.timeout(self._patience):
                part = await reader.next()
            if part is None:
                return
            if not isinstance(part, BodyPartReader):
                raise RequestError("a field of the form is a form itself")
            name = (part.name or "").removesuffix("[]")
            if name == self._field:
                await self._read_file(part)
            else:
                await self._read_text(part, name)
        raise RequestError(f"the form has more than {_MAX_FIELDS} fields")

    async def _read_file(self, part: BodyPartReader) -> None:
        if self.has_file:
            raise RequestError(f"there is more than one `{self._field}` in the form")
        self.has_file, self.file_name = True, part.filename or ""
        size = 0
        while data := await self._chunk(part):
            size += len(data)
            if size > self.limit:
                raise self.too_large
            await asyncio.to_thread(self._file.write, data)  # which may have to wait for the disk

    async def _read_text(self, part: BodyPartReader, name: str) -> None:
        value = bytearray()
        while data := await self._chunk(part):
            value += data
            if len(value) > _MAX_FIELD:
                raise RequestError(f"the field {name[:40]!r} is longer than {_MAX_FIELD} bytes")
        try:
            text = value.decode().strip()
        except UnicodeDecodeError as err:
            raise RequestError(f"the field {name[:40]!r} is not UTF-8") from err
        self.fields[name] = f"{self.fields[name]},{text}" if name in self.fields else text

    async def _chunk(self, part: BodyPartReader) -> bytes:
        """The next piece. Raises TimeoutError where none comes, or all of them drip."""
        async with asyncio.timeout(self._patience):
            data = await part.read_chunk(_MAX_FIELD)
        self._size += len(data)
        if time.monotonic() - self._began > self._patience + self._size / _SLOWEST:
            raise TimeoutError
        return data
