"""Wyoming over TCP, Unix sockets and stdio: its messages to sessions and back.

One connection carries any number of utterances, one after the other. Whatever breaks the protocol gets one `error` and
a close; it touches nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.error import Error
from wyoming.event import Event as Message
from wyoming.info import Describe
from wyoming.ping import Pong
from wyoming.vad import VoiceStarted, VoiceStopped

from wyoming_wlk.audio.pcm import PcmDecoder
from wyoming_wlk.config import STANDARD, Program
from wyoming_wlk.engine.context import ClientOptions
from wyoming_wlk.errors import AudioError, ClientTimeoutError, ProtocolError, RequestError, WlkError
from wyoming_wlk.events import Event, Finished, SpeechStarted, SpeechStopped, TextUpdate
from wyoming_wlk.frontends.extras import Extras
from wyoming_wlk.frontends.framing import FrameReader, encode
from wyoming_wlk.frontends.messages import client_id_of, describe, field, pcm_format, stage_wishes, transcribe_of
from wyoming_wlk.languages import normalize_language
from wyoming_wlk.services import Pace, Services
from wyoming_wlk.session import Session

_LOG = logging.getLogger(__name__)
_READ_BYTES = 64 * 1024
_MAX_NAME = 100

_SENSITIVITY_SECONDS = {"default": 0.7, "relaxed": 1.25, "aggressive": 0.25}
"""Home Assistant's names for the silence that ends a command."""


class WyomingConnection:
    """One client, from connect to close."""

    def __init__(
        self, services: Services, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: str
    ) -> None:
        self._services, self._reader, self._writer = services, reader, writer
        self.client = client
        self._limits = services.config.limits
        self._frames = FrameReader()
        self._request: Transcribe | None = None
        self._program = STANDARD
        """For all utterances from now on."""
        self._turn: _Turn | None = None
        self._frame_began = 0.0
        self._sending = asyncio.Lock()

    @property
    def busy(self) -> bool:
        """Whether an utterance is under way."""
        return self._turn is not None and not self._turn.done

    async def run(self) -> None:
        """Serves the client until it leaves or breaks the rules. Never raises for what a client did."""
        try:
            await self._converse()
        except WlkError as err:
            _LOG.warning("%s: %s", self.client, err)
            await self._refuse(err)
        except OSError as err:
            _LOG.info("%s: connection lost: %s", self.client, err.strerror or type(err).__name__)
        except Exception:
            _LOG.exception("%s: internal error", self.client)
            await self._refuse(WlkError("internal error"))
        finally:
            if self._turn is not None:
                await self._turn.abandon()
            await self._close()

    async def _close(self) -> None:
        """Lets what was written go out for a moment, then closes whatever the client does."""
        self._writer.close()
        try:
            async with asyncio.timeout(1):
                await self._writer.wait_closed()
        except TimeoutError:
            self._writer.transport.abort()
        except OSError:
            pass  # it was lost already

    def finish(self) -> None:
        """The server is stopping: a running utterance ends with what was heard so far."""
        if self._turn is not None:
            self._turn.stop()

    async def refuse(self, error: WlkError) -> None:
        """For a client that may not stay: still answers one `describe`, then says why."""
        with contextlib.suppress(WlkError, OSError):
            async with asyncio.timeout(1):
                message = await self._first_message()
            if message is not None and Describe.is_type(message.type):
                await self.send(describe(self._services).event())
        await self._refuse(error)
        await self._close()

    # --- reading ------------------------------------------------------------------------------------------------------

    async def _first_message(self) -> Message | None:
        while data := await self._reader.read(_READ_BYTES):
            for message in self._frames.feed(data):
                return message
        return None

    async def _converse(self) -> None:
        """Reads messages until the end of the stream, or until the running turn fails."""
        while True:
            read = asyncio.create_task(self._reader.read(_READ_BYTES))
            try:
                await self._arrival(read)
            finally:
                read.cancel()
            if not (data := read.result()):
                break
            if not self._frames.mid_frame:
                self._frame_began = asyncio.get_running_loop().time()
            for message in self._frames.feed(data):
                await self._handle(message)
                self._frame_began = asyncio.get_running_loop().time()
        if self._frames.mid_frame:
            _LOG.info("%s: left in the middle of a message", self.client)
        if self._turn is not None and self._turn.stopping:
            await self._turn.task  # it may still read, though it will not write

    async def _arrival(self, read: asyncio.Task[bytes]) -> None:
        """Waits for data. Raises what ends the running turn, and `ClientTimeoutError` where the client is too slow."""
        began = self._frame_began if self._frames.mid_frame else asyncio.get_running_loop().time()
        speaking = self._turn is not None and not self._turn.stopping
        hurry = self._frames.mid_frame or speaking
        limit = self._limits.frame_timeout if hurry else self._limits.idle_timeout
        waiting: set[asyncio.Task[Any]] = {read} if self._turn is None else {read, self._turn.task}
        try:
            async with asyncio.timeout_at(began + limit):
                while not read.done():
                    done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    for task in done - {read}:
                        task.result()
        except TimeoutError as err:
            raise ClientTimeoutError(f"no complete message for {limit:g} seconds") from err

    async def _handle(self, message: Message) -> None:
        handlers: dict[str, Callable[[Message], Awaitable[None]]] = {
            "describe": self._on_describe,
            "ping": self._on_ping,
            "select-program": self._on_select_program,
            "transcribe": self._on_transcribe,
            "audio-start": self._on_audio_start,
            "audio-chunk": self._on_audio_chunk,
            "audio-stop": self._on_audio_stop,
        }
        if (handler := handlers.get(message.type)) is None:
            _LOG.debug("%s: ignoring %s", self.client, message.type)
            return
        await handler(message)

    async def _on_describe(self, message: Message) -> None:
        await self.send(describe(self._services).event())

    async def _on_ping(self, message: Message) -> None:
        await self.send(Pong(text=field(message, "text", str, None)).event())

    async def _on_select_program(self, message: Message) -> None:
        name = field(message, "name", str)
        if name not in self._programs:
            raise RequestError(f"there is no program {name[:_MAX_NAME]!r}; there are {', '.join(self._programs)}")
        self._program = self._programs[name]

    async def _on_transcribe(self, message: Message) -> None:
        self._request = transcribe_of(message)
        name = self._request.name
        if name and name != self._services.model.name and name not in self._programs:
            known = ", ".join([self._services.model.name, *self._programs])
            raise RequestError(f"there is no model or program {name[:_MAX_NAME]!r}; there are {known}")

    @property
    def _programs(self) -> dict[str, Program]:
        return {program.name: program for program in (STANDARD, *self._services.config.programs.program)}

    async def _on_audio_start(self, message: Message) -> None:
        if self._turn is not None:
            if not self._turn.stopping:
                raise ProtocolError("audio-start before the audio-stop of the last one")
            await self._turn.task
        decoder = PcmDecoder(*pcm_format(message))
        request, self._request = self._request or Transcribe(), None
        program = self._programs.get(request.name or "", self._program)
        self._turn = _Turn(self._services, self, request, program, decoder)

    async def _on_audio_chunk(self, message: Message) -> None:
        if self._turn is None:
            raise ProtocolError("audio-chunk before audio-start")
        await self._turn.feed(pcm_format(message), message.payload or b"")

    async def _on_audio_stop(self, message: Message) -> None:
        if self._turn is None:
            raise ProtocolError("audio-stop before audio-start")
        await self._turn.flush()
        self._turn.stop()

    # --- writing ------------------------------------------------------------------------------------------------------

    async def send(self, *messages: Message) -> None:
        """Messages that belong together, nothing in between. Raises `ClientTimeoutError` for one who won't read."""
        async with self._sending:
            self._writer.write(b"".join(encode(message) for message in messages))
            try:
                await asyncio.wait_for(self._writer.drain(), self._limits.write_timeout)
            except TimeoutError as err:
                self._writer.transport.abort()
                raise ClientTimeoutError("the client does not read its answers") from err

    async def _refuse(self, error: WlkError) -> None:
        with contextlib.suppress(WlkError, OSError):
            await self.send(Error(text=str(error), code=error.code).event())


class _Turn:
    """One utterance on a connection: opened by audio-start, ended by its transcript."""

    def __init__(
        self,
        services: Services,
        connection: WyomingConnection,
        request: Transcribe,
        program: Program,
        decoder: PcmDecoder,
    ) -> None:
        self._services, self._connection, self._decoder = services, connection, decoder
        self._request, self._program = request, program
        self._format = (decoder.rate, decoder.width, decoder.channels)
        self._seconds_left = services.config.limits.max_utterance
        self._session: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        self._started = False
        self._extras = Extras()
        self.stopping = False
        self.task = asyncio.create_task(self._run())

    @property
    def done(self) -> bool:
        return self.task.done()

    async def feed(self, form: tuple[int, int, int], data: bytes) -> None:
        """One chunk. Raises `AudioError` for audio that is none, or too long."""
        if self.stopping:
            return  # the server ended the utterance: what the client still sends is not for us
        if form != self._format:
            await self.flush()
            self._decoder, self._format = PcmDecoder(*form), form
        second = form[0] * form[1] * form[2]
        self._seconds_left -= len(data) / second
        if self._seconds_left < 0:
            raise AudioError(f"the utterance is longer than {self._services.config.limits.max_utterance:g} seconds")
        for start in range(0, len(data), second):  # a megabyte may be minutes of audio: not all at once
            if (session := await self._ready()) is not None:
                await session.feed(self._decoder.decode(data[start : start + second]))

    async def flush(self) -> None:
        """Feeds what the resampler holds."""
        if not self.stopping and (session := await self._ready()) is not None:
            await session.feed(self._decoder.flush())

    def stop(self) -> None:
        """No more audio."""
        self.stopping = True
        if self._session.done() and not self._session.cancelled():
            self._session.result().stop()

    async def abandon(self) -> None:
        """The client is gone."""
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self.task

    async def _ready(self) -> Session | None:
        """The session, once the model is there; None where the turn failed first (its task tells why)."""
        waiting: set[asyncio.Future[Any]] = {self._session, self.task}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        return self._session.result() if self._session.done() and not self._session.cancelled() else None

    async def _run(self) -> None:
        try:
            client_id = client_id_of(self._request)
            client = self._connection.client if client_id is None else f"{self._connection.client} {client_id!r}"
            options = self._options()
            with self._services.admitted(), self._services.context(client_id, options) as context:
                pace = Pace(endpoint=self._endpoint())
                if extras := bool(options.diarization or options.target_language):
                    # the transcript is the words alone: it does not wait for what the stages make of them
                    emit, early = self._extras.take, self._on_event
                else:
                    emit, early = self._on_event, None
                session = await self._services.session(context, client, emit, pace, early)
                self._session.set_result(session)
                if self.stopping:
                    session.stop()
                await session.run()
                if extras:
                    await self._connection.send(self._extras.message(options, self._request.context))
        finally:
            self.stopping = True
            self._session.cancel()

    def _options(self) -> ClientOptions:
        request, options = self._request, self._services.options(self._program)
        if request.language:
            options = replace(options, language=normalize_language(request.language))
        asked = [*(request.transcript_names or []), *(request.transcript_terms or [])]
        home = self._services.home.expected(options.language)
        options = replace(options, hotwords=tuple(dict.fromkeys([*asked, *options.hotwords, *home])))
        return self._services.stages.chosen(options, stage_wishes(request))

    def _endpoint(self) -> float | None:
        endpoint = self._services.endpoint(self._program)
        if endpoint is None or self._request.vad_sensitivity is None:
            return endpoint
        sensitivity = str(self._request.vad_sensitivity)
        if sensitivity not in _SENSITIVITY_SECONDS:
            raise RequestError(f"unknown vad_sensitivity {sensitivity[:_MAX_NAME]!r}")
        return _SENSITIVITY_SECONDS[sensitivity]

    async def _on_event(self, event: Event) -> None:
        context = self._request.context
        if isinstance(event, SpeechStarted):
            await self._connection.send(VoiceStarted(timestamp=int(event.time * 1000)).event())
        elif isinstance(event, SpeechStopped):
            await self._connection.send(VoiceStopped(timestamp=int(event.time * 1000)).event())
        elif isinstance(event, TextUpdate) and event.committed:
            text = "".join(word.text for word in event.committed)
            await self._connection.send(*self._start_once(), TranscriptChunk(text=text).event())
        elif isinstance(event, Finished):
            self.stopping = True
            transcript = Transcript(text=event.text, language=event.language, context=context)
            _LOG.info("%s: %r", self._connection.client, event.text)
            self._services.home.heard(event.text)
            await self._connection.send(*self._start_once(), transcript.event(), TranscriptStop().event())

    def _start_once(self) -> list[Message]:
        if self._started:
            return []
        self._started = True
        return [TranscriptStart(context=self._request.context).event()]
