"""A client's running transcription, apart from the connection that it came in by.

What was said can be read from any point on, so that a slow reader gets it in larger pieces and a client that lost its
connection goes on where it was. Knows no wire format.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import secrets
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wyoming_wlk.audio.input import AudioInput
from wyoming_wlk.audio.pcm import SAMPLE_RATE
from wyoming_wlk.engine.context import ClientOptions, DecoderContext
from wyoming_wlk.engine.request import Word
from wyoming_wlk.errors import RequestError
from wyoming_wlk.events import Event, Flushed, SpeakersHeard, StageNotice, TextUpdate, TranslationUpdate
from wyoming_wlk.segments import SegmentNumbers
from wyoming_wlk.services import Pace, Services
from wyoming_wlk.session import Session
from wyoming_wlk.tasks import to_the_end

_LOG = logging.getLogger(__name__)
_KEPT_NAMED, _KEPT_ANONYMOUS = 4000, 1000
"""Events kept of a stream: an hour of speech for a client that may come back, for others what a slow reader needs."""


@dataclass(frozen=True)
class Entry:
    """One event of a stream; `segment` numbers the stretch of speech, from 1, that it belongs to."""

    seq: int
    segment: int
    event: Event


@dataclass(frozen=True)
class Volatile:
    """What is replaced by every update: words that are certain but have no speaker yet, words that may still change,
    which stand behind them, and a translation that may still change of words of `translated_segment`."""

    waiting: tuple[Word, ...] = ()
    tentative: tuple[Word, ...] = ()
    translating: str = ""
    translated_segment: int = 0


@dataclass(frozen=True)
class Update:
    """What is new for a reader: the number of the last event, the events in order, and what is volatile.

    The volatile words belong to `segment`.
    """

    seq: int
    segment: int
    entries: tuple[Entry, ...]
    volatile: Volatile


@dataclass(frozen=True)
class Identity:
    """Who may come back to a stream: a name, and a secret that only its client was told."""

    client_id: str
    secret: str


class Stream:
    """One transcription from its first sample to its end. Made by `Streams`."""

    def __init__(
        self,
        services: Services,
        client: str,
        options: ClientOptions,
        pace: Pace,
        audio: AudioInput,
        rate: int = SAMPLE_RATE,
        context_id: str | None = None,
    ) -> None:
        """`rate`: of the samples that the client counts."""
        self.client, self.options, self.rate = client, options, rate
        self.received = 0
        """Samples taken, as the client counts them."""
        self.seq = 0
        """Number of the last event."""
        self.delivered = 0
        """Number of the last event that a connection has sent."""
        self._services, self._pace, self._context_id = services, pace, context_id
        self._audio = audio
        self._hearing = asyncio.Lock()
        self._log: deque[Entry] = deque(maxlen=_KEPT_NAMED if context_id else _KEPT_ANONYMOUS)
        self._segments = SegmentNumbers()
        self._volatile = Volatile()
        self._horizon = 0.0
        self._changed = asyncio.Event()
        self._context: DecoderContext | None = None
        self._session: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        self._stopping = self._discarded = False
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(lambda _: self._changed.set())

    async def hear(self, data: bytes) -> None:
        """Audio as the client encodes it; waits while the stream is behind.

        Raises `AudioError` for what is no audio, and what ended the stream. A caller that is cancelled leaves no half
        of it behind: it is heard to the end all the same.
        """
        await to_the_end(self._hear(data))

    async def finish(self) -> None:
        """The client has said everything: the rest is decoded, then the updates end. Raises like `hear`."""
        await to_the_end(self._finish())

    async def settle(self) -> None:
        """For a client that has come back: waits until all that its lost connection brought is heard and counted."""
        async with self._hearing:
            self._audio.realign()

    async def _hear(self, data: bytes) -> None:
        async with self._hearing:
            await self._feed(*await self._audio.decode(data))

    async def _finish(self) -> None:
        async with self._hearing:
            if not self._stopping:
                await self._feed(*await self._audio.flush())
        self.stop()

    async def _feed(self, audio: np.ndarray, samples: int) -> None:
        if (session := await self._ready()) is not None and not self._stopping:
            await session.feed(audio)
            self.received += samples

    def flush(self) -> None:
        """Asks for the words of what was heard so far; `Flushed` follows them."""
        if self._session.done() and not self._session.cancelled():
            self._session.result().flush()
        else:  # nothing was heard yet
            self._append(0, Flushed())

    def stop(self) -> None:
        """Ends the stream with what was heard so far."""
        self._stopping = True
        if self._session.done() and not self._session.cancelled():
            self._session.result().stop()

    async def cancel(self) -> None:
        """Ends it at once; what was not decoded is lost."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._task

    async def discard(self) -> None:
        """As `cancel`, by the client's own wish: the updates end in peace."""
        self._discarded = True
        await self.cancel()

    @property
    def ready(self) -> bool:
        """Whether the model is there, so that audio is heard."""
        return self._session.done()

    @property
    def ended(self) -> bool:
        return self._task.done()

    @property
    def lag(self) -> float:
        """Seconds of audio not yet looked at."""
        return self._session.result().lag if self._session.done() and not self._session.cancelled() else 0.0

    @property
    def speaker_lag(self) -> float:
        """Seconds of audio of which it is not known who speaks; 0 where nobody asked."""
        return max(0.0, self.received / self.rate - self._horizon) if self.options.diarization else 0.0

    @property
    def language(self) -> str | None:
        """The language spoken, once it is known."""
        return self._context.language if self._context is not None else None

    async def updates(self, after: int = 0) -> AsyncIterator[Update]:
        """What happened after event number `after`, until the stream's end. Raises what broke the stream.

        Whatever happens while the reader is busy comes in one piece. Raises `RequestError` for events no longer kept.
        """
        self._check(after)
        shown = Volatile()
        while True:
            ended = self._task.done()
            self._changed.clear()
            if self.seq > after or self._volatile != shown:
                shown = self._volatile
                self._check(after)
                entries = tuple(itertools.islice(reversed(self._log), self.seq - after))[::-1]
                after = self.seq
                yield Update(self.seq, self._segments.current, entries, shown)
            elif ended:
                if not self._discarded:
                    await self._task
                return
            else:
                await self._changed.wait()

    def _check(self, after: int) -> None:
        if after > self.seq or (self._log and after < self._log[0].seq - 1):
            raise RequestError(f"updates after {after} are not kept; the last is {self.seq}")

    async def _ready(self) -> Session | None:
        """The session, once the model is there. Raises what ended the stream; None where it has ended in peace."""
        either: set[asyncio.Future[Any]] = {self._session, self._task}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            await self._task
            return None
        return self._session.result()

    async def _run(self) -> None:
        try:
            with self._services.context(self._context_id, self.options) as context:
                self._context = context
                session = await self._services.session(context, self.client, self._on_event, self._pace)
                self._session.set_result(session)
                if self._stopping:
                    session.stop()
                await session.run()
        finally:
            self._session.cancel()

    async def _on_event(self, event: Event) -> None:
        segment = self._segments.take(event)
        if isinstance(event, TextUpdate):
            self._volatile = replace(self._volatile, waiting=event.waiting, tentative=event.tentative)
            self._changed.set()
            if event.committed:
                self._append(segment, TextUpdate(event.committed, (), (), event.speaker))
        elif isinstance(event, TranslationUpdate):
            self._volatile = replace(self._volatile, translating=event.tentative, translated_segment=event.segment)
            self._changed.set()
            if event.stable or event.complete:
                self._append(event.segment, replace(event, tentative=""))
        elif isinstance(event, SpeakersHeard):
            self._horizon = event.horizon
        else:
            if isinstance(event, StageNotice) and event.failed and event.stage == "diarization":
                self._horizon = math.inf  # nothing is waited for any more
            self._append(segment, event)

    def _append(self, segment: int, event: Event) -> None:
        self.seq += 1
        self._log.append(Entry(self.seq, segment, event))
        self._changed.set()


class Streams:
    """All streams of the server: who may open one, who may come back to one, and how long it waits for that."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._named: dict[Identity, Stream] = {}
        self._expiries: dict[Identity, asyncio.TimerHandle] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def anonymous(self, client: str, options: ClientOptions, pace: Pace, audio: AudioInput) -> Stream:
        """A stream that nobody comes back to: whoever opened it cancels it."""
        return Stream(self._services, client, options, pace, audio)

    def knows(self, identity: Identity) -> bool:
        return identity in self._named

    def named(
        self,
        identity: Identity,
        client: str,
        options: ClientOptions,
        pace: Pace,
        audio: AudioInput,
        rate: int,
        resume: bool,
    ) -> tuple[Stream, bool]:
        """The stream of a client that comes back, or a new one; and whether it is the old one.

        One that has ended is of use only to those who want the rest of its updates, `resume`.
        """
        if (expiry := self._expiries.pop(identity, None)) is not None:
            expiry.cancel()
        stream = self._named.get(identity)
        if stream is not None and (resume or not stream.ended):
            stream.client = client
            return stream, True
        context_id = f"{identity.client_id} {identity.secret}"
        stream = Stream(self._services, client, options, pace, audio, rate, context_id)
        self._named[identity] = stream
        return stream, False

    def leave(self, identity: Identity, done: bool) -> None:
        """The connection of a named stream is gone. Unless it is `done`, the stream waits for its client for a while,
        then ends with what it has heard."""
        if done:
            del self._named[identity]
            return
        loop = asyncio.get_running_loop()
        config = self._services.config
        self._expiries[identity] = loop.call_later(config.http.resume_seconds, self._expire, identity)
        if len(self._expiries) > config.limits.max_clients:  # those who left first have waited longest
            oldest = next(iter(self._expiries))
            self._expiries[oldest].cancel()
            self._expire(oldest)

    def _expire(self, identity: Identity) -> None:
        del self._expiries[identity]
        stream = self._named.pop(identity)
        _LOG.info("%s: has not come back", stream.client)
        task = asyncio.create_task(self._end(stream))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    @staticmethod
    async def _end(stream: Stream) -> None:
        """Decodes the rest, so that the client's context has all its text, and lets the stream go."""
        stream.stop()
        try:
            async for _ in stream.updates(stream.seq):
                pass
        except Exception as err:
            _LOG.warning("%s: ended with %s", stream.client, err)

    async def close(self) -> None:
        """The server stops: nobody comes back."""
        for expiry in self._expiries.values():
            expiry.cancel()
        for task in self._ending:
            task.cancel()
        for stream in list(self._named.values()):  # the connections that lose theirs go meanwhile
            await stream.cancel()


def new_secret() -> str:
    return secrets.token_urlsafe(16)
