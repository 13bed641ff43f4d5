"""`/v1/realtime?intent=transcription`: OpenAI's Realtime API, of which this server speaks the transcription.

A changed session applies to the audio that follows: what came before is completed as it was asked for. Mistakes in a
message are answered with an `error` and change nothing; the connection goes on.
"""

from __future__ import annotations

import asyncio
import base64
import math
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from aiohttp import web

from wyoming_wlk.engine.request import Word
from wyoming_wlk.errors import AccessError, AudioError, ProtocolError, RequestError, WlkError
from wyoming_wlk.events import Event, Finished, Flushed, SegmentEnded, SpeechStarted, SpeechStopped, TextUpdate
from wyoming_wlk.frontends.door import Dialect, Door, Json, parse_json
from wyoming_wlk.frontends.openai_session import RealtimeSession
from wyoming_wlk.frontends.security import offered_protocols
from wyoming_wlk.streams import Stream, Update

_BETA_HEADER, _BETA_VALUE, _BETA_PROTOCOL = "OpenAI-Beta", "realtime=v1", "openai-beta.realtime-v1"
_MISTAKES = (ProtocolError, RequestError, AudioError)


@dataclass(frozen=True)
class _Part:
    """The audio of a connection that one stream takes, with the choices that it began with."""

    stream: Stream
    session: RealtimeSession
    offset: float
    """Seconds of audio that came before."""
    answer: Json | None
    """To the message that began it; sent once all that came before is answered."""


class OpenAIRealtime(Dialect):
    """One connection; each choice of options has a stream of its own."""

    def __init__(self, door: Door, request: web.Request, client: str) -> None:
        super().__init__(door, request, client)
        self._id = _new_id("sess")
        self._beta = _BETA_VALUE in request.headers.get(_BETA_HEADER, "") or _BETA_PROTOCOL in offered_protocols(
            request
        )
        self._session = RealtimeSession()
        self._parts: asyncio.Queue[_Part] = asyncio.Queue(maxsize=1)
        """Parts after the present one; while one waits already, the client waits, too."""
        self._streams: list[Stream] = []
        """Those that are not rendered to the end."""
        self._items = _Items(self._beta)
        self._rate, self._offset = 0, 0.0
        self._uncommitted = False
        self._answered = asyncio.Event()
        """Set when a commit is answered."""

    async def start(self) -> Iterable[Json]:
        intent = self.request.query.get("intent", "")
        if intent not in ("", "transcription"):
            raise RequestError("this server only transcribes: intent must be transcription")
        return [self._described("transcription_session.created" if self._beta and intent else "session.created")]

    def _described(self, kind: str) -> Json:
        flat = self._beta or kind.startswith("transcription_session")
        return _event(kind) | {"session": self._session.described(self.door.services, self._id, flat)}

    # --- in -----------------------------------------------------------------------------------------------------------

    async def receive(self, data: str | bytes) -> None:
        event_id: object = None
        try:
            if isinstance(data, bytes):
                raise ProtocolError("messages are text; audio comes in input_audio_buffer.append, encoded in base64")
            message = parse_json(data)
            event_id = message.get("event_id")
            await self._obey(message)
        except _MISTAKES as err:
            if self.opened.done() and self.stream.ended:
                raise  # not the message is wrong, the stream is broken
            await self.send(_error(err, event_id if isinstance(event_id, str) else None))

    async def _obey(self, message: Json) -> None:
        kind = message.get("type")
        if kind == "input_audio_buffer.append":
            await self._append(message.get("audio"))
        elif kind == "input_audio_buffer.commit":
            await self._commit()
        elif kind == "input_audio_buffer.clear":
            await self._clear()
        elif kind in ("session.update", "transcription_session.update"):
            await self._update(message.get("session"), f"{kind}d")
        else:
            raise RequestError(f"this server does not know the event {str(kind)[:100]!r}")

    async def _append(self, audio: object) -> None:
        try:
            data = base64.b64decode(audio, validate=True) if isinstance(audio, str) else None
        except ValueError:
            data = None
        if data is None:
            raise RequestError("audio is not a string in base64")
        if not self.opened.done():
            await self._begin(None)
        self._uncommitted = self._uncommitted or bool(data)
        await self.stream.hear(data)

    async def _commit(self) -> None:
        """The client's next message waits for the answer, so that audio after the commit is not taken into its item."""
        if not self._uncommitted:
            raise RequestError("there is nothing to commit: the input audio buffer is empty")
        self._uncommitted = False
        self._answered.clear()
        self.stream.flush()
        await self._answered.wait()

    async def _clear(self) -> None:
        """Forgets what was not committed. What was is answered already."""
        answer = _event("input_audio_buffer.cleared")
        if not self._uncommitted:
            await self.send(answer)
            return
        self._uncommitted = False
        old = self.stream
        await self._begin(answer)
        await old.discard()

    async def _update(self, wishes: object, answer: str) -> None:
        if not isinstance(wishes, dict):
            raise RequestError("session is not an object")
        session = self._session.updated(wishes)
        session.options(self.door.services)
        changed = session != self._session
        self._session = session
        if not changed or not self.opened.done():
            await self.send(self._described(answer))
            return
        self._uncommitted = False
        old = self.stream
        await self._begin(self._described(answer))
        await old.finish()

    async def _begin(self, answer: Json | None) -> None:
        """A stream with the session's present choices, for the audio that follows."""
        services, session = self.door.services, self._session
        options = session.options(services)
        if self.opened.done():
            self._offset += self.stream.received / self._rate
            self.opened = asyncio.get_running_loop().create_future()
        self._rate = session.rate
        self.open(options, session.pace(services), session.audio())
        self._streams.append(self.stream)
        await self._parts.put(_Part(self.stream, session, self._offset, answer))

    # --- out ----------------------------------------------------------------------------------------------------------

    async def updates(self) -> AsyncIterator[Update]:
        while True:
            part = await self._parts.get()
            self._items.begin(part.session, part.offset)
            if part.answer is not None:
                await self.send(part.answer)
            async for update in part.stream.updates():
                yield update
            self._streams.remove(part.stream)
            if part.stream is self.stream:  # none follows: the server stops
                return

    def render(self, update: Update) -> Iterator[Json]:
        events = [entry.event for entry in update.entries]
        for event, following in zip_longest(events, events[1:]):
            yield from self._items.tell(event, following)
            if isinstance(event, Flushed):
                self._answered.set()

    def failure(self, error: WlkError) -> Json:
        return _error(error, None)

    async def left(self, done: bool) -> None:
        for stream in self._streams:
            await stream.cancel()


class _Items:
    """The items of a connection: events of its streams in, messages out.

    An item is a turn: with turn detection it ends at a pause, without at the client's commit, however many segments it
    has. Its deltas are committed text, sent while the client speaks; `completed` is the text at full quality.
    """

    def __init__(self, beta: bool) -> None:
        self._beta = beta
        self._last: str | None = None
        self._session, self._offset = RealtimeSession(), 0.0
        self._next()

    def begin(self, session: RealtimeSession, offset: float) -> None:
        """Events of another stream follow, whose clock begins at `offset`. An item that is open has no end."""
        self._session, self._offset = session, offset
        self._next()

    def _next(self) -> None:
        self._id = _new_id("item")
        self._shown = self._speaking = False
        self._said: list[Word] = []
        self._start = self._end = 0.0

    def tell(self, event: Event, following: Event | None) -> Iterator[Json]:
        """`following`: the next event, where it is there already."""
        if isinstance(event, SpeechStarted | SpeechStopped):
            yield from self._speech(event)
        elif isinstance(event, TextUpdate) and event.committed:
            yield from self._delta(event.committed)
        elif isinstance(event, SegmentEnded):
            self._said += event.words
            if self._session.pause is not None and not self._speaking and not isinstance(following, Flushed):
                yield from self._complete()
        elif isinstance(event, Flushed) or (isinstance(event, Finished) and (self._shown or self._said)):
            yield from self._complete()

    def _speech(self, event: SpeechStarted | SpeechStopped) -> Iterator[Json]:
        milliseconds = round((self._offset + event.time) * 1000)
        self._speaking = isinstance(event, SpeechStarted)
        if self._speaking:
            self._start = self._start or event.time
            message = _event("input_audio_buffer.speech_started") | {"audio_start_ms": milliseconds}
        else:
            self._end = event.time
            message = _event("input_audio_buffer.speech_stopped") | {"audio_end_ms": milliseconds}
        if self._session.pause is not None:
            yield message | {"item_id": self._id}

    def _delta(self, words: Sequence[Word]) -> Iterator[Json]:
        text = "".join(word.text for word in words)
        if not self._shown:
            self._shown = True
            text = text.lstrip()
            yield self._item("added", "in_progress", None)
        yield self._transcription("delta", words) | {"delta": text}

    def _complete(self) -> Iterator[Json]:
        text = "".join(word.text for word in self._said).strip()
        yield _event("input_audio_buffer.committed") | {"item_id": self._id, "previous_item_id": self._last}
        if not self._shown:
            yield self._item("added", "completed", None)
        end = max([self._start, self._end, *(word.end for word in self._said)])
        usage = {"type": "duration", "seconds": round(end - self._start, 2)}
        yield self._transcription("completed", self._said) | {"transcript": text, "usage": usage}
        if not self._beta:
            yield self._item("done", "completed", text)
        speaking, self._last = self._speaking, self._id
        self._next()
        self._speaking, self._start = speaking, end if speaking else 0.0

    def _item(self, what: str, status: str, transcript: str | None) -> Json:
        item = {
            "id": self._id,
            "object": "realtime.item",
            "type": "message",
            "status": status,
            "role": "user",
            "content": [{"type": "input_audio", "transcript": transcript}],
        }
        kind = "conversation.item.created" if self._beta else f"conversation.item.{what}"
        return _event(kind) | {"previous_item_id": self._last, "item": item}

    def _transcription(self, what: str, words: Sequence[Word]) -> Json:
        message = _event(f"conversation.item.input_audio_transcription.{what}")
        message |= {"item_id": self._id, "content_index": 0}
        return message | ({"logprobs": [_logprob(word) for word in words]} if self._session.logprobs else {})


def _logprob(word: Word) -> Json:
    """Words stand in for tokens."""
    logprob = math.log(max(word.probability, 1e-10))
    return {"token": word.text, "logprob": logprob, "bytes": list(word.text.encode())}


def _event(kind: str) -> Json:
    return {"type": kind, "event_id": _new_id("event")}


def _error(error: WlkError, event_id: str | None) -> Json:
    """`event_id`: that of the client's message which it answers."""
    invalid = isinstance(error, (*_MISTAKES, AccessError))
    detail = {
        "type": "invalid_request_error" if invalid else "server_error",
        "code": "invalid_api_key" if isinstance(error, AccessError) else error.code,
        "message": str(error),
        "param": None,
        "event_id": event_id,
    }
    return _event("error") | {"error": detail}


def _new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(10)}"
