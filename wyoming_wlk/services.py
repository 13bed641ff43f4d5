"""What every frontend shares: the engine once it is loaded, defaults, limits, and the contexts of named clients.

A frontend asks for an utterance and gets a running session; where the model is, and who else is there, it never learns.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from wyoming_wlk.config import Config
from wyoming_wlk.engine.context import ClientOptions, ContextStore, DecoderContext
from wyoming_wlk.engine.statistics import SessionStatistics
from wyoming_wlk.errors import BusyError, RequestError, WlkError
from wyoming_wlk.events import Event
from wyoming_wlk.session import GULP_SECONDS, Session, Speech
from wyoming_wlk.utterance import Utterance, UtteranceSettings
from wyoming_wlk.vad import VadSettings


@dataclass(frozen=True)
class ModelInfo:
    """What the server tells about its model, known before the model is loaded."""

    name: str
    languages: tuple[str, ...]


Load = Callable[[Config], Awaitable[tuple[Speech, ModelInfo]]]
"""Loads the model that a configuration names. Raises `ModelError`."""


@dataclass(frozen=True)
class Pace:
    """When text is wanted. Lengths in seconds.

    `endpoint`: silence after which the server ends the utterance (None: the client says when). `close_pause`: silence
    that ends a segment. `partials`: whether words are wanted while somebody speaks. `recording`: audio comes much
    faster than it is spoken; nothing is decoded before its segment has ended, and the segments do not depend on how
    fast it comes.
    """

    endpoint: float | None = None
    close_pause: float = 1.5
    partials: bool = True
    recording: bool = False


class Services:
    """Admission, defaults and named contexts; one for the whole process."""

    def __init__(self, config: Config, model: ModelInfo, load: Load) -> None:
        """`model` is what `load` is expected to bring."""
        self.config, self.model = config, model
        self._load = load
        self._speech: asyncio.Future[Speech] = asyncio.get_running_loop().create_future()
        self._changing = asyncio.Lock()
        self._contexts = ContextStore(config.limits.context_seconds)
        self._numbers = itertools.count(1)
        self.clients = 0
        """Utterances and streams under way."""
        self.statistics = SessionStatistics()

    @property
    def loaded(self) -> bool:
        return self._speech.done() and not self._speech.cancelled() and self._speech.exception() is None

    @property
    def speech(self) -> Speech | None:
        """What new sessions run on, once it is loaded."""
        return self._speech.result() if self.loaded else None

    @property
    def contexts(self) -> int:
        """Contexts kept for clients that are away."""
        return len(self._contexts)

    async def load(self) -> None:
        """Loads what the configuration asks for. Raises `ModelError`; clients that wait for the model get it, too."""
        try:
            speech, self.model = await self._load(self.config)
        except WlkError as err:
            self._speech.set_exception(err)
            self._speech.exception()
            await asyncio.sleep(0.1)  # for their answers, before the server ends
            raise
        self._speech.set_result(speech)

    async def change(self, language: str | None, model: str | None) -> None:
        """New defaults for utterances that begin from now on; those under way end with what they began with.

        Raises `RequestError` for a language that the model does not know and `ModelError` for one that cannot be had.
        """
        async with self._changing:
            config = self.config
            if model is not None:
                config = replace(config, model=replace(config.model, model=model))
            if language is not None:
                config = replace(config, decoding=replace(config.decoding, language=language))
            old = await asyncio.shield(self._speech)
            speech, info = await self._load(config) if model not in (None, self.model.name) else (old, self.model)
            try:
                speech.engine.check(ClientOptions(config.decoding.language, config.decoding.task))
            except RequestError:
                if speech is not old:
                    speech.retire()
                raise
            self.config, self.model = config, info
            if speech is not old:
                self._speech = asyncio.get_running_loop().create_future()
                self._speech.set_result(speech)
                old.retire()

    async def close(self) -> None:
        """Ends the model; whoever still waits for it is told."""
        if (speech := self.speech) is not None:
            await asyncio.to_thread(speech.engine.stop)
        else:
            self._speech.cancel()

    @property
    def defaults(self) -> ClientOptions:
        decoding = self.config.decoding
        return ClientOptions(
            decoding.language, decoding.task, decoding.prompt, decoding.policy, decoding.frame_threshold
        )

    def next_number(self) -> int:
        """A number for a connection's id in the log."""
        return next(self._numbers)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Counts an utterance. Raises `BusyError` where the server has as many as it may."""
        if self.clients >= self.config.limits.max_clients:
            raise BusyError(f"the server is busy with {self.clients} clients; try again later")
        self.clients += 1
        try:
            yield
        finally:
            self.clients -= 1

    @contextmanager
    def context(self, client_id: str | None, options: ClientOptions) -> Iterator[DecoderContext]:
        """A context for one utterance: a new one, or that which a named client left behind.

        Raises `BusyError` where the named client is in the middle of another utterance.
        """
        kept = self._contexts.checkout(client_id) if client_id is not None else None
        context = DecoderContext(options, previous_text=kept.previous_text if kept else "")
        try:
            yield context
        finally:
            if client_id is not None:
                # its audio is answered; what lives on is the text
                left = DecoderContext(options, previous_text=context.previous_text)
                self._contexts.give_back(client_id, left)

    async def session(
        self, context: DecoderContext, client: str, emit: Callable[[Event], Awaitable[None]], pace: Pace
    ) -> Session:
        """A session over `context`, once the model is there. Raises `RequestError` for options it cannot serve."""
        speech = await asyncio.shield(self._speech)
        speech.engine.check(context.options)
        voice, decoding = self.config.voice, self.config.decoding
        settings = UtteranceSettings(
            max_window=speech.engine.max_window_seconds,
            step=decoding.step if pace.partials and not pace.recording else math.inf,
            pre_roll=voice.pre_roll,
            close_pause=pace.close_pause,
            short_close_pause=min(voice.pause, pace.close_pause),
            trim_sentences=decoding.trim == "sentence",
            endpoint=pace.endpoint,
            no_speech=voice.no_speech,
        )
        pause = pace.close_pause if pace.recording else min(voice.pause, pace.close_pause)
        vad = VadSettings(threshold=voice.vad_threshold, min_silence=pause)
        lookahead = max(0.0, pace.close_pause - pause - GULP_SECONDS)
        utterance = Utterance(context, settings, client)
        return Session(speech, utterance, vad, emit, self.statistics, lookahead, live=not pace.recording)
