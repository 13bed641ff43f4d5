"""What every frontend shares: the engine once it is loaded, defaults, limits, and the contexts of named clients.

A frontend asks for an utterance and gets a running session; where the model is, and who else is there, it never learns.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from wyoming_wlk.config import Config
from wyoming_wlk.engine.context import ClientOptions, ContextStore, DecoderContext
from wyoming_wlk.errors import BusyError
from wyoming_wlk.session import Session, Speech
from wyoming_wlk.utterance import Event, Utterance, UtteranceSettings
from wyoming_wlk.vad import VadSettings


@dataclass(frozen=True)
class ModelInfo:
    """What the server tells about its model, known before the model is loaded."""

    name: str
    languages: tuple[str, ...]


@dataclass(frozen=True)
class Pace:
    """When text is wanted. Lengths in seconds.

    `endpoint`: silence after which the server ends the utterance (None: the client says when). `close_pause`: silence
    that ends a segment. `partials`: whether words are wanted while somebody speaks.
    """

    endpoint: float | None = None
    close_pause: float = 1.5
    partials: bool = True


class Services:
    """Admission, defaults and named contexts; one for the whole process."""

    def __init__(self, config: Config, model: ModelInfo, speech: asyncio.Future[Speech]) -> None:
        self.config, self.model = config, model
        self._speech = speech
        self._contexts = ContextStore(config.limits.context_seconds)
        self._clients = 0
        self._numbers = itertools.count(1)

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
        if self._clients >= self.config.limits.max_clients:
            raise BusyError(f"the server is busy with {self._clients} clients; try again later")
        self._clients += 1
        try:
            yield
        finally:
            self._clients -= 1

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
            step=decoding.step if pace.partials else math.inf,
            pre_roll=voice.pre_roll,
            close_pause=pace.close_pause,
            short_close_pause=min(voice.pause, pace.close_pause),
            trim_sentences=decoding.trim == "sentence",
            endpoint=pace.endpoint,
            no_speech=voice.no_speech,
        )
        vad = VadSettings(threshold=voice.vad_threshold, min_silence=min(voice.pause, pace.close_pause))
        return Session(speech, Utterance(context, settings, client), vad, emit)
