"""`/ws/transcription?client_id=ID`: the context-switching server's protocol, and our own richer form of it.

By default one `transcript` message for each piece of text. With `format=updates` the client learns its secret, gets
`transcript_update` messages with words, times and tentative text, and can go on after a lost connection.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from wyoming_wlk.audio.input import AudioInput, ContainerInput, NumpyInput, RawInput
from wyoming_wlk.captions import joined
from wyoming_wlk.errors import RequestError, TakenError
from wyoming_wlk.events import SegmentEnded, SpeechStarted, SpeechStopped, StageNotice, TextUpdate, TranslationUpdate
from wyoming_wlk.frontends.door import Dialect, Json, client_options, number, parse_json
from wyoming_wlk.frontends.security import shows_token
from wyoming_wlk.services import Pace
from wyoming_wlk.streams import Identity, Update, new_secret

_MAX_NAME = 200
_MAX_SEQ = 10**12


class ContextSocket(Dialect):
    """One connection of a named client."""

    _client_id = ""
    _identity: Identity | None = None

    async def start(self) -> Iterable[Json]:
        query, services = self.request.query, self.door.services
        self._client_id = _name(query.get("client_id", ""), "client_id")
        self._updates = query.get("format", "") == "updates"
        if query.get("format", "") not in ("", "transcript", "updates"):
            raise RequestError("format is neither transcript nor updates")
        options = client_options(query, services, stages=self._updates)
        rate = number(query, "sample_rate", 16000, 4000, 384_000)
        audio = _input(query.get("encoding", "npy"), rate)
        resume = "resume_from" in query
        # Whoever shows the server's token is trusted with any name; others must know the stream's secret.
        trusted = shows_token(self.request, services.config.http)
        given = _name(query["secret"], "secret") if query.get("secret") else None
        identity = Identity(self._client_id, "" if trusted else given or new_secret())
        await self._take_place(identity, resume)
        stream, resumed = self.door.streams.named(identity, self.client, options, Pace(), audio, rate, resume)
        self.opened.set_result(stream)
        if resumed:
            await stream.settle()
            self.after = number(query, "resume_from", stream.delivered, 0, _MAX_SEQ)
        if not self._updates:
            return ()
        session = {
            "type": "session",
            "client_id": self._client_id,
            "secret": identity.secret or None,
            "resumed": resumed,
            "seq": self.after,
            "received_samples": stream.received,
            "sample_rate": stream.rate,
        }
        # A stream keeps the wishes that it began with, and the server may have some of its own.
        stages = {"diarization": stream.options.diarization, "target_language": stream.options.target_language}
        return [session | {name: wish for name, wish in stages.items() if wish}]

    async def _take_place(self, identity: Identity, resume: bool) -> None:
        """Raises `TakenError` where the name is in use; a client that resumes replaces its own lost connection.

        The owner of a stream gets its place back even where somebody else has taken the name meanwhile.
        """
        named = self.door.named
        if (other := named.get(identity)) is not None and resume:
            other.evicted.set()
            await other.gone.wait()
        used = any(other.client_id == self._client_id for other in named)
        if identity in named or (used and not self.door.streams.knows(identity)):
            raise TakenError("Client already connected")
        named[identity] = self
        self._identity = identity

    async def left(self, done: bool) -> None:
        if self._identity is not None and self.door.named.get(self._identity) is self:
            del self.door.named[self._identity]
            if self.opened.done():
                self.door.streams.leave(self._identity, done)

    async def receive(self, data: str | bytes) -> None:
        if isinstance(data, bytes):
            await self.stream.hear(data) if data else await self.stream.finish()
            return
        kind = parse_json(data).get("type")
        if kind == "stop":
            await self.stream.finish()
        elif kind == "flush":
            self.stream.flush()
        else:
            raise RequestError("a text message is {'type': 'stop'} or {'type': 'flush'}; audio comes in binary ones")

    def render(self, update: Update) -> Iterable[Json]:
        return self._rich(update) if self._updates else self._plain(update)

    def _plain(self, update: Update) -> Iterator[Json]:
        words = [w for entry in update.entries if isinstance(entry.event, TextUpdate) for w in entry.event.committed]
        if words:
            yield {
                "type": "transcript",
                "client_id": self._client_id,
                "text": "".join(word.text for word in words),
                "timestamp": time.time(),
            }

    def _rich(self, update: Update) -> Iterator[Json]:
        segments: dict[int, Json] = {}
        for entry in update.entries:
            event = entry.event
            if isinstance(event, TextUpdate):
                segment = segments.setdefault(entry.segment, _segment(entry.segment))
                _append(segment, event)
            elif isinstance(event, SegmentEnded) and entry.segment:
                segment = segments.setdefault(entry.segment, _segment(entry.segment))
                text = "".join(word.text for word in event.words).strip()
                segment |= {"speaker": event.speaker, "ended": True, "final_text": text, "kept": event.kept}
            elif isinstance(event, TranslationUpdate):
                segment = segments.setdefault(event.segment, _segment(event.segment))
                segment["translation"] += "".join(part.text for part in event.stable)
                if event.complete:
                    segment["translated"] = True
            elif isinstance(event, StageNotice):
                yield {"type": "notice", "stage": event.stage, "text": event.text, "failed": event.failed}
            elif isinstance(event, SpeechStarted | SpeechStopped):
                yield {"type": "speech", "speaking": isinstance(event, SpeechStarted), "time": round(event.time, 3)}
        segment = segments.setdefault(update.segment, _segment(update.segment))
        segment["buffer"] |= {
            "transcription": joined(update.volatile.tentative),
            "diarization": joined(update.volatile.waiting),
        }
        if update.volatile.translating:
            number = update.volatile.translated_segment
            segment = segments.setdefault(number, _segment(number))
            segment["buffer"]["translation"] = update.volatile.translating
        for found in segments.values():
            found["language"] = self.stream.language
        yield {
            "type": "transcript_update",
            "seq": update.seq,
            "status": "active_transcription",
            "segments": list(segments.values()),
            "metadata": {
                "remaining_time_transcription": round(self.stream.lag, 2),
                "remaining_time_diarization": round(self.stream.speaker_lag, 2),
            },
        }

    def farewell(self) -> Iterable[Json]:
        return [{"type": "end", "seq": self.stream.seq}] if self._updates else ()


def _segment(number: int) -> Json:
    """What is new of one segment: `text` and `words` are to be appended, the buffers to be replaced."""
    return {
        "id": number,
        "speaker": None,
        "text": "",
        "start_speaker": None,
        "start": None,
        "end": None,
        "language": None,
        "translation": "",
        "words": [],
        "buffer": {"transcription": "", "diarization": "", "translation": ""},
        "ended": False,
    }


def _append(segment: Json, update: TextUpdate) -> None:
    if update.speaker is not None:
        segment["speaker"] = update.speaker
    for word in update.committed:
        if segment["start"] is None:
            segment["start"] = word.start
            segment["start_speaker"] = word.start if update.speaker is not None else None
        segment["end"] = word.end
        segment["text"] += word.text
        segment["words"].append(
            {
                "text": word.text,
                "start": word.start,
                "end": word.end,
                "probability": word.probability,
                "validated": {"text": True, "speaker": update.speaker is not None},
            }
        )


def _name(value: str, what: str) -> str:
    if not 0 < len(value) <= _MAX_NAME:
        raise RequestError(f"{what} must have 1 to {_MAX_NAME} characters")
    return value


def _input(encoding: str, rate: int) -> AudioInput:
    if encoding == "npy":
        return NumpyInput(rate)
    if encoding in ("s16le", "float32"):
        return RawInput(rate, floating=encoding == "float32")
    if encoding == "container":
        return ContainerInput()
    raise RequestError("encoding is not npy, s16le, float32 or container")
