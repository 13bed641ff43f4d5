"""`/v1/listen`: Deepgram's streaming protocol.

A segment is a result: interim ones, where asked for, hold its committed and tentative words, the final one its words at
full quality. `speech_final` tells that a pause ended it. Confidences are the model's probabilities of the words.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import zip_longest

from aiohttp import web

import wyoming_wlk
from wyoming_wlk.audio.input import AudioInput, ContainerInput, RawInput
from wyoming_wlk.audio.pcm import SAMPLE_RATE
from wyoming_wlk.audio.telephone import TelephoneInput
from wyoming_wlk.engine.request import Word
from wyoming_wlk.errors import AudioError, ClientTimeoutError, ProtocolError, RequestError, WlkError
from wyoming_wlk.events import Flushed, SegmentEnded, SpeechStarted, SpeechStopped, TextUpdate
from wyoming_wlk.frontends.door import Dialect, Door, Json, client_options, flag, number, parse_json
from wyoming_wlk.services import Pace
from wyoming_wlk.streams import Update

_CONTAINERS = ("flac", "opus", "ogg-opus")
_REFUSED = ("callback", "multichannel", "redact", "replace", "search", "detect_entities")
"""What would be missed if it were passed over in silence."""

_MAX_PAUSE = 60_000
_UTTERANCE_MARGIN = 0.6
"""Seconds of audio that may be on its way through voice activity detection."""

_CHANNEL = [0, 1]  # the first of one


Spoken = tuple[Word, int | None]
"""A word and who says it, from 1, where that is known."""


class Deepgram(Dialect):
    """One connection."""

    refuses_handshake = True
    close_codes = {**Dialect.close_codes, AudioError: 1008, ProtocolError: 1008, ClientTimeoutError: 1011}

    def __init__(self, door: Door, request: web.Request, client: str) -> None:
        super().__init__(door, request, client)
        self._request_id = str(uuid.uuid4())
        self._created = datetime.now(UTC)
        self._digest = hashlib.sha256()
        self._open: list[Spoken] = []
        """Committed words that no final result has had."""
        self._waiting = False
        """Whether there are words that have no speaker yet."""
        self._interim_text = ""
        self._settled = 0.0
        """Where the last final result ended, in seconds."""
        self._speaking = False
        self._last_word: float | None = None
        """Where the last word ended whose utterance's end was not told yet."""

    async def start(self) -> Iterable[Json]:
        query, services = self.request.query, self.door.services
        if refused := [name for name in _REFUSED if query.get(name, "").lower() not in ("", "false")]:
            raise RequestError(f"this server has no {refused[0]}")
        wishes = {name: query[name] for name in query}
        wishes["language"] = "auto" if query.get("language") == "multi" else query.get("language", "")
        wishes["hotwords"] = ", ".join([*query.getall("keyterm", []), *map(_unweighted, query.getall("keywords", []))])
        diarize = flag(wishes, "diarize") or bool(wishes.get("diarize_model"))
        options = client_options(wishes | {"diarize": ""}, services)
        if diarize:
            options = services.stages.chosen(options, {"diarization": "true"})
        self._interim = flag(query, "interim_results")
        self._vad_events = flag(query, "vad_events")
        self._punctuated = flag(query, "punctuate", True) or flag(query, "smart_format")
        self._utterance_end = number(query, "utterance_end_ms", 0, 1, _MAX_PAUSE) / 1000
        pause = _endpointing(query.get("endpointing", ""))
        self._endpoints = pause is not None
        # Voice activity detection needs a while to be sure of a pause; shorter ones are not to be had.
        close_pause = Pace.close_pause if pause is None else max(pause, services.config.voice.pause)
        self._rate, audio = _input(self.request)
        self.open(options, Pace(close_pause=close_pause, partials=self._interim), audio)
        return ()

    # --- in -----------------------------------------------------------------------------------------------------------

    async def receive(self, data: str | bytes) -> None:
        if isinstance(data, bytes) and data:
            self._digest.update(data)
            await self.stream.hear(data)
            if self._utterance_is_over():
                await self.send(self._utterance_ended())
            return
        kind = parse_json(data).get("type") if isinstance(data, str) else "CloseStream"
        if kind == "Finalize":
            self.stream.flush()
        elif kind == "CloseStream":
            await self.stream.finish()
        elif kind == "Configure":
            await self.send(
                {
                    "type": "ConfigureFailure",
                    "request_id": self._request_id,
                    "code": "CONFIGURE_KEYTERMS_NOT_SUPPORTED",
                    "description": "options cannot be changed while a stream is open",
                }
            )
        elif kind != "KeepAlive":
            raise ProtocolError("a text message is a KeepAlive, Finalize or CloseStream; audio comes in binary ones")

    def _utterance_is_over(self) -> bool:
        """Whether nothing was said since the last final word for as long as the client wants to be told of."""
        if not self._utterance_end or self._last_word is None or self._speaking or self._open:
            return False
        if self._waiting:
            return False
        lag = max(self.stream.lag, self.stream.speaker_lag)
        looked_at = self.stream.received / self._rate - lag - _UTTERANCE_MARGIN
        all_told = self.stream.delivered == self.stream.seq
        return all_told and looked_at >= self._last_word + self._utterance_end

    def _utterance_ended(self) -> Json:
        message = {"type": "UtteranceEnd", "channel": _CHANNEL, "last_word_end": self._last_word}
        self._last_word = None
        return message

    # --- out ----------------------------------------------------------------------------------------------------------

    def render(self, update: Update) -> Iterator[Json]:
        events = [entry.event for entry in update.entries]
        finalized = False
        for event, following in zip_longest(events, events[1:]):
            if isinstance(event, SpeechStarted):
                yield from self._speech_started(event)
            elif isinstance(event, SpeechStopped):
                self._speaking = False
            elif isinstance(event, TextUpdate):
                self._open += [(word, event.speaker) for word in event.committed]
            elif isinstance(event, SegmentEnded):
                finalized = isinstance(following, Flushed)
                self._open = self._open[len(self._open) - event.kept :]
                yield self._final([(word, event.speaker) for word in event.words], finalized)
            elif isinstance(event, Flushed):
                if not finalized:
                    yield self._final((), True)
                finalized = False
        volatile = update.volatile
        self._waiting = bool(volatile.waiting)
        words = [*self._open, *((word, None) for word in (*volatile.waiting, *volatile.tentative))]
        if self._interim and words and (text := self._text(words)) != self._interim_text:
            self._interim_text = text
            yield self._results(words)

    def _speech_started(self, event: SpeechStarted) -> Iterator[Json]:
        self._speaking = True
        if self._utterance_end and self._last_word is not None:
            if event.time >= self._last_word + self._utterance_end:
                yield self._utterance_ended()
        if self._vad_events:
            yield {"type": "SpeechStarted", "channel": _CHANNEL, "timestamp": round(event.time, 3)}

    def _final(self, words: Sequence[Spoken], finalized: bool) -> Json:
        message = self._results(words) | {
            "is_final": True,
            "speech_final": bool(words) and self._endpoints and not self._speaking,
            "from_finalize": finalized,
        }
        if words:
            self._settled = self._last_word = words[-1][0].end
        self._interim_text = ""
        return message

    def _results(self, words: Sequence[Spoken]) -> Json:
        """A result that is not final; it begins where the last final one ended."""
        start = self._settled
        end = max(start, words[-1][0].end) if words else start
        alternative: Json = {
            "transcript": self._text(words),
            "confidence": _mean([word.probability for word, _ in words]),
            "words": [_word(word, speaker) for word, speaker in words if _bare(word)],
        }
        if self.request.query.get("language") == "multi" and self.stream.language is not None:
            alternative["languages"] = [self.stream.language]
        return {
            "type": "Results",
            "channel_index": _CHANNEL,
            "start": round(start, 3),
            "duration": round(end - start, 3),
            "is_final": False,
            "speech_final": False,
            "from_finalize": False,
            "channel": {"alternatives": [alternative]},
            "metadata": {"request_id": self._request_id, "model_uuid": self._model_id, "model_info": self._model_info},
        }

    def _text(self, words: Sequence[Spoken]) -> str:
        if self._punctuated:
            return "".join(word.text for word, _ in words).strip()
        return " ".join(filter(None, (_bare(word) for word, _ in words)))

    def farewell(self) -> Iterable[Json]:
        yield {
            "type": "Metadata",
            "transaction_key": "deprecated",
            "request_id": self._request_id,
            "sha256": self._digest.hexdigest(),
            "created": self._created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "duration": round(self.stream.received / self._rate, 3),
            "channels": 1,
            "models": [self._model_id],
            "model_info": {self._model_id: self._model_info},
        }

    def failure(self, error: WlkError) -> Json:
        return {"type": "Error", "variant": error.code, "description": str(error), "request_id": self._request_id}

    @property
    def _model_info(self) -> Json:
        return {"name": self.door.services.model.name, "version": wyoming_wlk.__version__, "arch": "whisper"}

    @property
    def _model_id(self) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, self.door.services.model.name))


def _word(word: Word, speaker: int | None) -> Json:
    found: Json = {
        "word": _bare(word),
        "start": round(word.start, 3),
        "end": round(word.end, 3),
        "confidence": round(word.probability, 4),
        "punctuated_word": word.text.strip(),
    }
    return found if speaker is None else found | {"speaker": speaker - 1}  # Deepgram counts from 0


def _bare(word: Word) -> str:
    """The word without case and the punctuation around it."""
    return re.sub(r"^\W+|\W+$", "", word.text.lower())


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4) if values else 0.0


# --- the query --------------------------------------------------------------------------------------------------------


def _unweighted(keyword: str) -> str:
    """A keyword may come with its boost, `word:2`; ours are all alike."""
    return re.sub(r":-?[0-9.]+$", "", keyword)


def _endpointing(value: str) -> float | None:
    """The pause in seconds that ends speech, 0 for the shortest, None for no end."""
    if value.lower() in ("", "true"):
        return 0.0
    if value.lower() == "false":
        return None
    return number({"endpointing": value}, "endpointing", 0, 0, _MAX_PAUSE) / 1000


def _input(request: web.Request) -> tuple[int, AudioInput]:
    """The rate at which the client counts samples, and what decodes them. Without an encoding it is a container."""
    query = request.query
    encoding = query.get("encoding", "").lower()
    if not encoding or encoding in _CONTAINERS:
        return SAMPLE_RATE, ContainerInput()
    channels = number(query, "channels", 1, 1, 32)
    if encoding in ("linear16", "linear32"):
        rate = number(query, "sample_rate", 16000, 4000, 384_000)
        return rate, RawInput(rate, floating=encoding == "linear32", channels=channels)
    if encoding in ("mulaw", "alaw"):
        rate = number(query, "sample_rate", 8000, 4000, 384_000)
        return rate, TelephoneInput(rate, encoding == "alaw", channels)
    raise RequestError(f"encoding is not one of linear16, linear32, mulaw, alaw, {', '.join(_CONTAINERS)}")
