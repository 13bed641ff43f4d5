"""Wyoming's frames, without I/O: bytes in, events out, with limits on everything a stranger may declare.

A frame is one line of JSON (type, data_length?, payload_length?, data?), then data_length bytes of JSON, merged over
the inline data, then payload_length raw bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from wyoming.event import Event

from wyoming_wlk.errors import ProtocolError

MAX_HEADER = 64 * 1024
MAX_DATA = 1024 * 1024
MAX_PAYLOAD = 1024 * 1024
_VERSION = "1.10.2"


class FrameReader:
    """Cuts a byte stream into events. After a `ProtocolError` the stream is lost and must be closed."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._header: dict[str, Any] | None = None
        self._lengths = (0, 0)

    @property
    def mid_frame(self) -> bool:
        """Whether a frame has begun and is not complete."""
        return bool(self._buffer) or self._header is not None

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that `data` completes, one by one; those before a bad frame are out before `ProtocolError` is."""
        self._buffer += data
        while (event := self._next()) is not None:
            yield event

    def _next(self) -> Event | None:
        if self._header is None and not self._read_header():
            return None
        assert self._header is not None
        data_length, payload_length = self._lengths
        if len(self._buffer) < data_length + payload_length:
            return None
        inline = self._header.get("data")
        if inline is None:
            inline = {}
        if not isinstance(inline, dict):
            raise ProtocolError("data is not a JSON object")
        data = inline | (_parse_object(bytes(self._buffer[:data_length]), "data") if data_length else {})
        payload = bytes(self._buffer[data_length : data_length + payload_length]) or None
        del self._buffer[: data_length + payload_length]
        event = Event(type=self._header["type"], data=data, payload=payload)
        self._header = None
        return event

    def _read_header(self) -> bool:
        end = self._buffer.find(b"\n", self._searched)
        if max(end, len(self._buffer) if end < 0 else 0) > MAX_HEADER:
            raise ProtocolError(f"header is longer than {MAX_HEADER} bytes")
        if end < 0:
            self._searched = len(self._buffer)
            return False
        header = _parse_object(bytes(self._buffer[:end]), "header")
        del self._buffer[: end + 1]
        self._searched = 0
        if not isinstance(header.get("type"), str):
            raise ProtocolError("header has no type")
        self._lengths = (
            _length(header, "data_length", MAX_DATA),
            _length(header, "payload_length", MAX_PAYLOAD),
        )
        self._header = header
        return True


def encode(event: Event) -> bytes:
    """One frame. Data never goes inline, as the reference implementation writes it."""
    # JSON can bring in half a surrogate pair, which UTF-8 has no bytes for.
    data = json.dumps(event.data, ensure_ascii=False).encode("utf-8", "replace") if event.data else b""
    payload = event.payload or b""
    header: dict[str, Any] = {"type": event.type, "version": _VERSION}
    if data:
        header["data_length"] = len(data)
    if payload:
        header["payload_length"] = len(payload)
    return json.dumps(header).encode() + b"\n" + data + payload


def _length(header: dict[str, Any], name: str, limit: int) -> int:
    value = header.get(name)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ProtocolError(f"{name} is not a length")
    if value > limit:
        raise ProtocolError(f"{name} {value} is over the limit of {limit} bytes")
    return value


def _parse_object(text: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as err:  # ValueError covers bad JSON, bad UTF-8 and absurdly long numbers
        raise ProtocolError(f"{what} is not valid JSON") from err
    if not isinstance(value, dict):
        raise ProtocolError(f"{what} is not a JSON object")
    return value
