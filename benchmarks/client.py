"""Clients that speak a clip in real time and note when the words come: Wyoming, our WebSocket, WhisperLiveKit's `/asr`.

All count time from the microphone's clock: words from the moment the clip begins (its first chunk leaves 0.1 s later),
the final text from the moment the last sample was spoken, even where the server was slow to take it.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from wyoming.asr import Transcribe, Transcript, TranscriptChunk
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.error import Error

from benchmarks.clips import SAMPLE_RATE, Clip

T = TypeVar("T")

CHUNK_SECONDS = 0.1
PATIENCE_SECONDS = 60.0
"""After the last sample; a server that needs longer has failed."""

_ROOM_TONE = 1e-4
_SEED = 0
_WIDTH, _CHANNELS = 2, 1


@dataclass
class Answer:
    """What came back for one clip. `first` and `final` are seconds, None where that never came."""

    clip: Clip
    first: float | None = None
    final: float | None = None
    chunks: str = ""
    """What was said to be final while the client still spoke, joined."""
    transcript: str = ""
    error: str = ""


Ask = Callable[[str, Clip, float], Awaitable[Answer]]
"""Speaks a clip, then so many seconds of room tone, to the server at an address."""


class Microphone:
    """A clip as it is spoken: iterating yields each chunk when its last sample is there."""

    def __init__(self, clip: Clip, quiet: float = 0.0) -> None:
        """`quiet`: seconds of room tone after the speech."""
        self._samples = np.concatenate([clip.samples, room_tone(quiet)])
        self._began = time.perf_counter()

    async def __aiter__(self) -> AsyncIterator[np.ndarray]:
        self._began = time.perf_counter()
        pieces = ((len(chunk) / SAMPLE_RATE, chunk) for chunk in chunks(self._samples))
        async for chunk in paced(pieces, self._began, []):
            yield chunk

    @property
    def seconds(self) -> float:
        return len(self._samples) / SAMPLE_RATE

    @property
    def elapsed(self) -> float:
        """Seconds since the clip began."""
        return time.perf_counter() - self._began

    @property
    def overtime(self) -> float:
        """Seconds since the clip ended."""
        return self.elapsed - self.seconds


def room_tone(seconds: float) -> np.ndarray:
    """What a microphone hears where nobody speaks."""
    tone = np.random.default_rng(_SEED).normal(0, _ROOM_TONE, int(seconds * SAMPLE_RATE))
    return tone.astype(np.float32)


def chunks(samples: np.ndarray) -> Iterator[np.ndarray]:
    """As they are sent; the last may be shorter."""
    step = int(CHUNK_SECONDS * SAMPLE_RATE)
    return (samples[start : start + step] for start in range(0, len(samples), step))


async def paced(pieces: Iterable[tuple[float, T]], began: float, late: list[float]) -> AsyncIterator[T]:
    """Each piece, of so many seconds, when its last sample is spoken; the first sample was at `began`.

    `late` gets by how much later than that each piece came, where it was not the receiver who was slow.
    """
    due = free = began
    for seconds, piece in pieces:
        due += seconds
        await asyncio.sleep(due - time.perf_counter())
        late.append(time.perf_counter() - max(due, free))
        yield piece
        free = time.perf_counter()


Listen = Callable[[ClientConnection, Microphone, Answer], Coroutine[Any, Any, None]]
"""Notes what comes until everything has."""


async def ask_wyoming(uri: str, clip: Clip, quiet: float) -> Answer:
    """One utterance on a connection of its own."""
    answer, microphone = Answer(clip), Microphone(clip, quiet)
    try:
        async with asyncio.timeout(microphone.seconds + PATIENCE_SECONDS):
            speech = (pcm(chunk) async for chunk in microphone)
            await converse_wyoming(uri, speech, lambda client: _listen_wyoming(client, microphone, answer))
    except (OSError, TimeoutError) as err:
        answer.error = answer.error or repr(err)
    return answer


async def converse_wyoming(
    uri: str,
    speech: AsyncIterable[bytes],
    listen: Callable[[AsyncClient], Coroutine[Any, Any, None]],
    leaves: bool = False,
) -> None:
    """Sends s16le and listens meanwhile; a client that `leaves` goes in mid-speech."""
    async with AsyncClient.from_uri(uri) as client:
        listening = asyncio.create_task(listen(client))
        try:
            await client.write_event(Transcribe(language="en").event())
            await client.write_event(AudioStart(SAMPLE_RATE, _WIDTH, _CHANNELS).event())
            async for chunk in speech:
                await client.write_event(AudioChunk(SAMPLE_RATE, _WIDTH, _CHANNELS, chunk).event())
            if not leaves:
                await client.write_event(AudioStop().event())
                await listening
        finally:
            listening.cancel()


async def _listen_wyoming(client: AsyncClient, microphone: Microphone, answer: Answer) -> None:
    while (event := await client.read_event()) is not None:
        if TranscriptChunk.is_type(event.type):
            answer.chunks += TranscriptChunk.from_event(event).text
            if answer.first is None and answer.chunks.strip():
                answer.first = microphone.elapsed
        elif Transcript.is_type(event.type):
            answer.transcript, answer.final = Transcript.from_event(event).text, microphone.overtime
            return
        elif Error.is_type(event.type):
            answer.error = Error.from_event(event).text
            return
    answer.error = "closed without a transcript"


async def ask_context(http: str, clip: Clip, quiet: float) -> Answer:
    """One stream of our `/ws/transcription`; the transcript are the segments' texts at full quality."""
    query = f"client_id={uuid.uuid4()}&format=updates&encoding=s16le&language=en"
    return await _ask_socket(f"ws://{http}/ws/transcription?{query}", clip, quiet, '{"type": "stop"}', _listen_context)


async def _listen_context(socket: ClientConnection, microphone: Microphone, answer: Answer) -> None:
    async for data in socket:
        message = json.loads(data)
        if message["type"] == "end":
            answer.final = microphone.overtime
            return
        if message["type"] == "error":
            answer.error = message["error"]
            return
        for segment in message.get("segments", ()):
            answer.chunks += segment["text"]
            answer.transcript += " " + segment.get("final_text", "")
            if answer.first is None and answer.chunks.strip():
                answer.first = microphone.elapsed
    answer.error = "closed before the end"


async def ask_asr(uri: str, clip: Clip, quiet: float) -> Answer:
    """One session of WhisperLiveKit's `/asr` with s16le audio; `first` are its first words, settled or not."""
    return await _ask_socket(uri, clip, quiet, b"", _listen_asr)


async def _listen_asr(socket: ClientConnection, microphone: Microphone, answer: Answer) -> None:
    async for data in socket:
        message = json.loads(data)
        if message.get("type") == "ready_to_stop":
            answer.final = microphone.overtime
            return
        if message.get("type") == "error":
            answer.error = message["error"]
            return
        if "lines" in message:
            lines = [line["text"] or "" for line in message["lines"]]
            answer.transcript = " ".join([*lines, message["buffer_transcription"]]).strip()
            if answer.first is None and answer.transcript:
                answer.first = microphone.elapsed
    answer.error = "closed without ready_to_stop"


async def _ask_socket(uri: str, clip: Clip, quiet: float, end: str | bytes, listen: Listen) -> Answer:
    """Streams a clip, then `end`."""
    answer, microphone = Answer(clip), Microphone(clip, quiet)
    try:
        async with asyncio.timeout(microphone.seconds + PATIENCE_SECONDS):
            speech = (pcm(chunk) async for chunk in microphone)
            await converse_socket(uri, speech, end, lambda socket: listen(socket, microphone, answer))
    except (OSError, TimeoutError, WebSocketException) as err:
        answer.error = answer.error or repr(err)
    return answer


async def converse_socket(
    uri: str,
    speech: AsyncIterable[bytes],
    end: str | bytes | None,
    listen: Callable[[ClientConnection], Coroutine[Any, Any, None]],
) -> None:
    """Sends s16le, then `end`, and listens meanwhile; a client without an end leaves in mid-speech."""
    async with connect(uri, max_size=None, ping_interval=None, open_timeout=None) as socket:
        listening = asyncio.create_task(listen(socket))
        try:
            async for chunk in speech:
                await socket.send(chunk)
            if end is None:
                socket.transport.close()  # what was sent arrives, but nothing says goodbye
            else:
                await socket.send(end)
                await listening
        finally:
            listening.cancel()


def pcm(samples: np.ndarray) -> bytes:
    """As s16le."""
    return bytes((np.clip(samples, -1, 1) * 32767).astype("<i2"))
