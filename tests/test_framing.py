"""Frames: whatever bytes arrive, in whatever pieces, there are events, a `ProtocolError`, or a wait for more."""

from __future__ import annotations

import asyncio
import importlib
import io
import json
import pkgutil
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
import wyoming
from hypothesis import given, settings
from hypothesis import strategies as st
from wyoming.event import Event, Eventable, async_read_event, read_event, write_event

from wyoming_wlk.errors import ProtocolError
from wyoming_wlk.frontends import framing
from wyoming_wlk.frontends.framing import MAX_DATA, MAX_HEADER, MAX_PAYLOAD, FrameReader, encode

OURS = """describe info select-program transcribe audio-start audio-chunk audio-stop transcript-start transcript-chunk
transcript-stop transcript voice-started voice-stopped ping pong error user-event""".split()


def message_classes() -> list[type[Any]]:
    """Every message class in the modules of the package (its sub-packages need a web server and hold none)."""
    names = [f"wyoming.{module.name}" for module in pkgutil.iter_modules(wyoming.__path__) if not module.ispkg]
    found = [
        cls
        for name in names
        for cls in vars(importlib.import_module(name)).values()
        if isinstance(cls, type) and issubclass(cls, Eventable) and is_dataclass(cls) and cls.__module__ == name
    ]
    return sorted(found, key=lambda cls: cls.__name__)


def example(hint: Any) -> Any:
    """A value of an annotated type, with every optional part present."""
    if get_origin(hint) is Union:
        return example(get_args(hint)[0])
    if get_origin(hint) is list:
        return [example(get_args(hint)[0])]
    if get_origin(hint) is dict:
        return {"clé": {"nested": [1, 0.5, None, "\n"]}}
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        return hint(**{item.name: example(hints[item.name]) for item in fields(hint)})  # type: ignore[operator]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return next(iter(hint))
    return {str: 'grüße\n"', int: 7, float: 0.25, bool: True, bytes: b"\x00\n\xff{", Any: [None]}[hint]


def messages(cls: type[Any]) -> Iterator[Any]:
    """A message with every field, and one with those that it must have."""
    yield example(cls)
    hints = get_type_hints(cls)
    required = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    yield cls(**{name: example(hints[name]) for name in required})


def one(stream: bytes) -> Event:
    [event] = FrameReader().feed(stream)
    return event


def frame(block: bytes = b"", payload: bytes = b"", **header: Any) -> bytes:
    return json.dumps({"type": "x"} | header).encode() + b"\n" + block + payload


# --- what is right comes through --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", message_classes(), ids=lambda cls: cls.__name__)
async def test_every_message_class(cls: type[Any]) -> None:
    """Each message of the library survives our writer with our reader and with its own, and its writer with ours."""
    for message in messages(cls):
        event = message.event()
        theirs = io.BytesIO()
        write_event(event, theirs)
        stream = asyncio.StreamReader()
        stream.feed_data(encode(event))
        stream.feed_eof()
        by_library = [read_event(io.BytesIO(encode(event))), await async_read_event(stream)]
        for read in [one(encode(event)), one(theirs.getvalue()), *by_library]:
            assert read is not None
            assert (read.type, read.data, read.payload) == (event.type, event.data, event.payload)
            assert cls.from_event(read) == cls.from_event(event)


def test_no_message_of_ours_is_forgotten() -> None:
    """The walk over the library finds all the messages that the protocol lists."""
    types = {message.event().type for cls in message_classes() for message in messages(cls)}
    assert set(OURS) <= types


def test_inline_data() -> None:
    """Data in the header counts, and the data block wins over it key by key."""
    assert one(b'{"type":"x","data":{"a":1,"b":2}}\n').data == {"a": 1, "b": 2}
    block = b'{"b":3,"c":4}'
    assert one(frame(block, data={"a": 1, "b": 2}, data_length=len(block))).data == {"a": 1, "b": 3, "c": 4}
    assert one(frame(data=None, data_length=0, payload_length=None)) == Event("x", {}, None)


def test_data_never_goes_inline() -> None:
    """What we write has its data behind the header, with lengths in bytes."""
    header, _, rest = encode(Event("x", {"text": "ü"}, b"\n\n")).partition(b"\n")
    assert json.loads(header) == {"type": "x", "version": "1.10.2", "data_length": 14, "payload_length": 2}
    assert rest == '{"text": "ü"}'.encode() + b"\n\n"
    assert encode(Event("x")).count(b"\n") == 1


def test_half_a_character_can_be_written() -> None:
    """Text with a lone surrogate, which JSON can bring in, can be sent back."""
    text = one(b'{"type":"ping","data":{"text":"a\\ud83d"}}\n').data["text"]
    assert one(encode(Event("pong", {"text": text}))).data["text"].startswith("a")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
_EVENTS = st.builds(
    Event,
    st.text(max_size=8),
    st.dictionaries(st.text(max_size=5), _JSON, max_size=3),
    st.none() | st.binary(min_size=1, max_size=40),
)


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in zip(places, places[1:], strict=False)]


@settings(deadline=None)
@given(st.lists(_EVENTS, max_size=5), st.lists(st.integers(min_value=0), max_size=12))
def test_any_cut(events: list[Event], cuts: list[int]) -> None:
    """Valid frames come out as they went in, wherever the network cuts them."""
    stream = b"".join(encode(event) for event in events)
    reader = FrameReader()
    assert [event for piece in pieces(stream, cuts) for event in reader.feed(piece)] == events
    assert not reader.mid_frame


def test_byte_by_byte() -> None:
    """Each frame comes out with its last byte, not before, and `mid_frame` tells when one is under way."""
    events = [Event("a"), Event("b", {"k": "ü"}), Event("c", {}, b"12\n"), Event("d", {"k": [1]}, b"\x00")]
    reader = FrameReader()
    for event in events:
        assert not reader.mid_frame
        *body, last = encode(event)
        for byte in body:
            assert list(reader.feed(bytes([byte]))) == []
            assert reader.mid_frame
        assert list(reader.feed(bytes([last]))) == [event]
    assert not reader.mid_frame


# --- what is wrong does not -------------------------------------------------------------------------------------------


BAD_HEADERS = [
    *(
        text.encode() + b"\n"
        for text in ("", "[]", "{}", "null", '"type"', "{'type': 'x'}", '{"type":7}', '{"type":null}')
    ),
    b'{"type":"\xff"}\n',
    b"[" * 50_000 + b"\n",
    b'{"a":' * 10_000 + b"\n",
    b'{"type":"x","data":' + b"[" * 50_000 + b"}\n",
    b'{"type":"x","data_length":' + b"9" * 5000 + b"}\n",
    *(frame(data_length=length) for length in ("3", -1, True, 2.0, [], {}, MAX_DATA + 1, 10**10, 10**400)),
    *(frame(payload_length=length) for length in ("3", -1, True, 2.0, [], {}, MAX_PAYLOAD + 1, 10**10, 10**400)),
]
BAD_DATA = [
    *(frame(data=value) for value in ("text", [1], 7, True, "", [], 0, False)),
    *(frame(block, data_length=len(block)) for block in (b"[]", b'"a"', b"7", b"null", b"{", b'{"a":"\xff"}', b"{}{}")),
    frame(b"[" * MAX_DATA, data_length=MAX_DATA),
]


@pytest.mark.parametrize("stream", BAD_HEADERS + BAD_DATA, ids=lambda stream: repr(stream[:60])[2:-1])
def test_bad_frames(stream: bytes) -> None:
    """A frame that breaks a rule is a `ProtocolError` with a text that can be sent back."""
    with pytest.raises(ProtocolError) as caught:
        list(FrameReader().feed(stream))
    assert 0 < len(str(caught.value)) < 1000 and "\n" not in str(caught.value)


def test_lengths_are_refused_early() -> None:
    """A declared length beyond the limit ends it at the header; its bytes are not waited for."""
    with pytest.raises(ProtocolError, match="payload_length 1048577 is over the limit"):
        list(FrameReader().feed(b'{"type":"x","payload_length":1048577}\n'))


def test_largest_frame() -> None:
    """Header, data and payload may each be as long as the limit says."""
    data = b'{"t":"' + b"a" * (MAX_DATA - 8) + b'"}'
    payload = bytes(MAX_PAYLOAD)
    header = frame(data_length=MAX_DATA, payload_length=MAX_PAYLOAD)[:-1]
    header += b" " * (MAX_HEADER - len(header)) + b"\n"
    event = one(header + data + payload)
    assert len(event.data["t"]) == MAX_DATA - 8 and event.payload == payload
    with pytest.raises(ProtocolError, match="header is longer"):
        list(FrameReader().feed(b" " + header))


@pytest.mark.parametrize("size", [1, 1000, 4096])
def test_endless_header(size: int) -> None:
    """A header without an end is given up as soon as it is over the limit."""
    reader = FrameReader()
    fed = 0
    with pytest.raises(ProtocolError, match="header is longer"):
        while fed < 2 * MAX_HEADER:
            fed += size
            list(reader.feed(b"x" * size))
    assert MAX_HEADER < fed <= MAX_HEADER + size


_FRAGMENTS = st.binary(max_size=12) | st.sampled_from(
    [
        *(text.encode() for text in "\n|{}|[]|{|1|-1|,|:|}\n|null|999999999".split("|")),
        *(text.encode() for text in '{"type":"x"|"data_length":|"payload_length":|"data":'.split("|")),
        *(frame(), frame(b"{}", data_length=2), frame(b"{", data_length=1), frame(b"", b"123", payload_length=3)),
        *(frame(payload_length=40), frame(data_length=40), frame(data_length=31), frame(payload_length=32)),
    ]
)


@settings(deadline=None, max_examples=300)
@given(st.lists(_FRAGMENTS, max_size=30), st.lists(st.integers(min_value=0), max_size=12))
def test_anything(fragments: list[bytes], cuts: list[int]) -> None:
    """Arbitrary bytes raise nothing but `ProtocolError`, and no more is kept than the limits allow."""
    with pytest.MonkeyPatch.context() as small:
        for name, limit in (("MAX_HEADER", 64), ("MAX_DATA", 32), ("MAX_PAYLOAD", 32)):
            small.setattr(framing, name, limit)
        reader = FrameReader()
        for piece in pieces(b"".join(fragments), cuts):
            try:
                for event in reader.feed(piece):
                    assert isinstance(event.type, str) and isinstance(event.data, dict)
                    assert event.payload is None or 0 < len(event.payload) <= 32
            except ProtocolError:
                break
            assert len(reader._buffer) <= 64


def test_events_before_a_bad_frame_are_not_lost() -> None:
    """What arrived whole counts, even if nonsense follows in the same packet."""
    events = FrameReader().feed(b'{"type":"audio-stop"}\nnonsense\n')
    assert next(events).type == "audio-stop"
    with pytest.raises(ProtocolError):
        next(events)
