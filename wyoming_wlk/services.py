"""What every frontend shares: the engine once it is loaded, defaults, limits, and the contexts of named clients.

A frontend asks for an utterance and gets a running session; where the model is, and who else is there, it never learns.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from wyoming_wlk.config import STANDARD, Config, DecodingConfig, Program, VoiceConfig
from wyoming_wlk.engine.context import ClientOptions, ContextStore, DecoderContext
from wyoming_wlk.engine.statistics import SessionStatistics
from wyoming_wlk.errors import BusyError
from wyoming_wlk.events import Event
from wyoming_wlk.hosting import Load, ModelHost, ModelInfo
from wyoming_wlk.session import GULP_SECONDS, Session
from wyoming_wlk.stages.client import Emit
from wyoming_wlk.stages.library import Stages
from wyoming_wlk.tasks import to_the_end
from wyoming_wlk.utterance import Utterance, UtteranceSettings
from wyoming_wlk.vad import VadSettings
from wyoming_wlk.vocabulary import Vocabulary


@dataclass(frozen=True)
class Pace:
    """When text is wanted. Lengths in seconds.

    `endpoint`: silence after which the server ends the utterance (None: the client says when). `close_pause`: silence
    that ends a segment. `partials`: whether words are wanted while somebody speaks. `recording`: audio comes much
    faster than it is spoken; nothing is decoded before its segment has ended, and the segments do not depend on how
    fast it comes.
    """

    endpoint: float | None = None
    close_pause: float = 0.8
    partials: bool = True
    recording: bool = False


class Services:
    """Admission, defaults and named contexts; one for the whole process."""

    def __init__(self, config: Config, model: ModelInfo, load: Load) -> None:
        """`model` is what `load` is expected to bring."""
        self.config = config
        self.host = ModelHost(config, model, load)
        self.stages = Stages(config)
        self.home = Vocabulary()
        """The names of the home, for those who speak to it."""
        self._contexts = ContextStore(config.limits.context_seconds)
        self._numbers = itertools.count(1)
        self._changing = asyncio.Lock()
        self.clients = 0
        """Utterances and streams under way."""
        self.statistics = SessionStatistics()

    @property
    def model(self) -> ModelInfo:
        return self.host.info

    @property
    def contexts(self) -> int:
        """Contexts kept for clients that are away."""
        return len(self._contexts)

    async def change(self, language: str | None, model: str | None) -> None:
        """New defaults for utterances that begin from now on; those under way end with what they began with.

        Raises `RequestError` for a language that the model does not know and `ModelError` for one that cannot be had.
        Whoever asks may leave: a model that is being loaded cannot be stopped, and would stay without being used.
        """
        await to_the_end(self._change(language, model))

    async def _change(self, language: str | None, model: str | None) -> None:
        async with self._changing:
            config = self.config
            if model is not None:
                config = replace(config, model=replace(config.model, model=model))
            if language is not None:
                config = replace(config, decoding=replace(config.decoding, language=language))
            options = ClientOptions(config.decoding.language, config.decoding.task)
            await self.host.change(config, lambda speech: speech.engine.check(options))
            self.config = config

    @property
    def defaults(self) -> ClientOptions:
        return self.options(STANDARD)

    def options(self, program: Program) -> ClientOptions:
        """What a client has that chooses nothing but a program."""
        decoding = replace(self.config.decoding, **program.of(DecodingConfig))
        return ClientOptions(
            language=decoding.language,
            task=decoding.task,
            prompt=decoding.prompt,
            hotwords=decoding.hotwords,
            beam_size=decoding.beam_size,
            policy=decoding.policy,
            frame_threshold=decoding.frame_threshold,
        )

    def endpoint(self, program: Program) -> float | None:
        """Silence after which the server ends an utterance, None where the client does."""
        return replace(self.config.voice, **program.of(VoiceConfig)).endpoint

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
        context = DecoderContext(options)
        if kept is not None:
            context.previous_text, context.stages = kept.previous_text, kept.stages
        try:
            yield context
        finally:
            if client_id is not None:
                # its audio is answered; what lives on is the text, and what the stages know of the client
                left = DecoderContext(options, previous_text=context.previous_text, stages=context.stages)
                self._contexts.give_back(client_id, left)

    async def session(
        self, context: DecoderContext, client: str, emit: Emit, pace: Pace, early: Emit | None = None
    ) -> Session:
        """A session over `context`, once the model is there. Raises `RequestError` for options it cannot serve.

        `emit` hears of what comes out of the client's stages; `early`, if any, of what goes into them.
        """
        speech = await self.host.borrow()
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
        stages, entry = self.stages.of(context, speech.engine, client, emit, patient=pace.recording)
        first = entry if early is None else _both(early, entry)
        return Session(speech, utterance, vad, first, self.statistics, lookahead, not pace.recording, stages)


def _both(early: Emit, late: Emit) -> Emit:
    async def emit(event: Event) -> None:
        await early(event)
        await late(event)

    return emit
