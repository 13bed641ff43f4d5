"""Clients for a load test: what they say, over which door, and what they were told. Many of them cost little.

Audio is encoded once and shared by all; each client keeps the clock of its own microphone.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import WebSocketException
from wyoming.asr import Transcript, TranscriptChunk
from wyoming.client import AsyncClient
from wyoming.error import Error

from benchmarks.client import PATIENCE_SECONDS, chunks, converse_socket, converse_wyoming, paced, pcm, room_tone
from benchmarks.clips import SAMPLE_RATE, Clip
from benchmarks.words import Delay, SaidWord, Told, delays
from wyoming_wlk.events import Event, Finished, TextUpdate
from wyoming_wlk.services import Pace, Services

_BYTES_PER_SECOND = 2 * SAMPLE_RATE
_AFTER_ERROR_SECONDS = 1.0


@dataclass(frozen=True)
class Sound:
    """A clip, or silence, ready to be sent: its chunks as s16le, what is said in it and when its words end."""

    clip: Clip | None
    chunks: Sequence[bytes]
    words: Sequence[SaidWord] = ()

    @classmethod
    def of(cls, clip: Clip, words: Sequence[SaidWord]) -> Sound:
        return cls(clip, tuple(pcm(chunk) for chunk in chunks(clip.samples)), words)

    @classmethod
    def silence(cls, seconds: float) -> Sound:
        return cls(None, tuple(pcm(chunk) for chunk in chunks(room_tone(seconds))))

    @property
    def seconds(self) -> float:
        return sum(map(len, self.chunks)) / _BYTES_PER_SECOND

    def half(self) -> Sound:
        """Its beginning, of which nobody waits for the words."""
        return Sound(None, self.chunks[: len(self.chunks) // 2])


@dataclass
class Take:
    """What is said on one connection without a break, and all that came back. Times in seconds from its first sample.

    One that `leaves` goes in mid-speech and hears nothing more.
    """

    sounds: Sequence[Sound]
    leaves: bool = False
    began: float = 0.0
    """When the first sample was spoken, on the program's clock."""
    sent: float = 0.0
    """Seconds of audio."""
    told: list[Told] = field(default_factory=list)
    transcript: str | None = None
    """None where the door has none."""
    final: float | None = None
    """From the last sample to the last text."""
    late: list[float] = field(default_factory=list)
    """By how much too late each chunk was sent."""
    error: str = ""

    @cached_property
    def seconds(self) -> float:
        return sum(sound.seconds for sound in self.sounds)

    @property
    def clips(self) -> list[Clip]:
        return [sound.clip for sound in self.sounds if sound.clip is not None]

    @property
    def text(self) -> str:
        """What is said."""
        return " ".join(clip.text for clip in self.clips)

    @property
    def committed(self) -> str:
        """What came back as settled."""
        return self.told[-1].committed if self.told else ""

    def delays(self) -> list[Delay]:
        return delays(self._words(), self.told)

    def _words(self) -> list[SaidWord]:
        words: list[SaidWord] = []
        start = 0.0
        for sound in self.sounds:
            words += [replace(word, end=None if word.end is None else start + word.end) for word in sound.words]
            start += sound.seconds
        return words

    async def speak(self) -> AsyncIterator[bytes]:
        """The chunks in real time."""
        pieces = ((len(chunk) / _BYTES_PER_SECOND, chunk) for sound in self.sounds for chunk in sound.chunks)
        self.began = time.perf_counter()
        async for chunk in paced(pieces, self.began, self.late):
            yield chunk
            self.sent += len(chunk) / _BYTES_PER_SECOND

    def tell(self, committed: str, tentative: str = "") -> None:
        self.told.append(Told(time.perf_counter() - self.began, committed, tentative))

    def finish(self) -> None:
        self.final = time.perf_counter() - self.began - self.seconds


# --- doors ------------------------------------------------------------------------------------------------------------

Door = Callable[[Take], Awaitable[None]]
"""Carries out one take; what goes wrong is noted in it."""


def wyoming_door(uri: str) -> Door:
    async def listen(take: Take, client: AsyncClient) -> None:
        text = ""
        while (event := await client.read_event()) is not None:
            if TranscriptChunk.is_type(event.type):
                text += TranscriptChunk.from_event(event).text
                take.tell(text)
            elif Transcript.is_type(event.type):
                take.transcript = Transcript.from_event(event).text
                take.finish()
                return
            elif Error.is_type(event.type):
                take.error = Error.from_event(event).text
                return
        take.error = "closed without a transcript"

    async def converse(take: Take) -> None:
        await converse_wyoming(uri, take.speak(), partial(listen, take), take.leaves)

    return partial(_carry_out, converse)


def asr_door(uri: str) -> Door:
    """WhisperLiveKit's `/asr`, which shows lines, that are settled, and a buffer, that is not."""

    async def listen(take: Take, socket: ClientConnection) -> None:
        async for data in socket:
            message = json.loads(data)
            if "lines" in message:
                take.tell(
                    " ".join(line["text"] or "" for line in message["lines"]), f" {message['buffer_transcription']}"
                )
            elif message.get("type") == "ready_to_stop":
                take.finish()
                return
            elif message.get("type") == "error":
                take.error = message["error"]
                return
        take.error = "closed without ready_to_stop"

    async def converse(take: Take) -> None:
        await converse_socket(uri, take.speak(), None if take.leaves else b"", partial(listen, take))

    return partial(_carry_out, converse)


def session_door(services: Services) -> Door:
    """Sessions in this process, without a socket."""

    async def converse(take: Take) -> None:
        text = ""

        async def note(event: Event) -> None:
            nonlocal text
            if isinstance(event, TextUpdate):
                text += "".join(word.text for word in event.committed)
                take.tell(text, "".join(word.text for word in event.tentative))
            elif isinstance(event, Finished):
                take.transcript = event.text
                take.finish()

        with services.context(None, services.defaults) as context:
            session = await services.session(context, "talker", note, Pace())
            running = asyncio.create_task(session.run())
            try:
                async for chunk in take.speak():
                    await session.feed(np.frombuffer(chunk, "<i2").astype(np.float32) / 32768)
                if not take.leaves:
                    session.stop()
                    await running
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    return partial(_carry_out, converse)


async def _carry_out(converse: Door, take: Take) -> None:
    try:
        async with asyncio.timeout(take.seconds + PATIENCE_SECONDS):
            await converse(take)
    except (OSError, TimeoutError, WebSocketException) as err:
        take.error = take.error or repr(err)


# --- clients ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Habit:
    """What a client does over and over: it says a clip of some kind, is `quiet` for some seconds and then `away`.

    One that `leaves` never says a clip to its end.
    """

    kind: str = "short"
    quiet: float = 0.0
    away: float = 0.0
    leaves: bool = False


MONOLOGUE = Habit()
COMMANDS = Habit("command", quiet=0.7, away=2.0)
PAUSES = Habit(quiet=1.0, away=3.0)
LEAVES = Habit(away=1.0, leaves=True)


@dataclass(frozen=True)
class Talker:
    """One client. One that `streams` says everything over one connection and is never away; any other has a
    connection for each clip."""

    door: Door
    streams: bool
    habit: Habit = MONOLOGUE

    async def talk(self, sounds: Iterator[Sound], until: float) -> list[Take]:
        """Talks until that time on the program's clock, and what was begun to its end. `sounds` never end."""
        takes: list[Take] = []
        while (left := until - time.perf_counter()) > 0:
            take = Take(list(self._said(sounds, left)), self.habit.leaves)
            takes.append(take)
            await self.door(take)
            await asyncio.sleep(_AFTER_ERROR_SECONDS if take.error else self.habit.away)
        return takes

    def _said(self, sounds: Iterator[Sound], left: float) -> Iterator[Sound]:
        if self.habit.leaves:
            yield next(sounds).half()
            return
        silence = Sound.silence(self.habit.quiet + (self.habit.away if self.streams else 0.0))
        while left > 0:
            sound = next(sounds)
            yield sound
            yield silence
            left = left - sound.seconds - silence.seconds if self.streams else 0.0


def starting_at(sounds: Sequence[Sound], number: int) -> Iterator[Sound]:
    """All of them for ever, for each client from another one on."""
    first = 7 * number % len(sounds)
    return itertools.cycle([*sounds[first:], *sounds[:first]])
