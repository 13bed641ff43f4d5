"""`/asr`: WhisperLiveKit's protocol, with its full updates or its diffs, and the older one of whisper_streaming_web.

A diff can only drop lines in front and append lines. So that it never has to send a line twice, it has complete lines
alone, and the words of the open segment stand in the buffer until its line is complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from wyoming_wlk.audio.input import AudioInput, ContainerInput, GuessedInput, RawInput
from wyoming_wlk.audio.pcm import SAMPLE_RATE
from wyoming_wlk.captions import Captions, Line, View, change
from wyoming_wlk.errors import AccessError, ProtocolError, RequestError, WlkError
from wyoming_wlk.events import Finished, StageNotice
from wyoming_wlk.frontends.door import Dialect, Json, client_options
from wyoming_wlk.services import Pace
from wyoming_wlk.streams import Update

_MODES = ("full", "diff", "legacy")
_UNKNOWN, _SILENCE = -1, -2


class LiveKit(Dialect):
    """One connection."""

    close_codes = {**Dialect.close_codes, RequestError: 4400, AccessError: 4401}

    async def start(self) -> Iterable[Json]:
        query = self.request.query
        self._mode = query.get("mode") or "full"
        if self._mode not in _MODES:
            raise RequestError(f"mode is none of {', '.join(_MODES)}")
        options = client_options(query, self.door.services, stages=self._mode != "legacy")
        audio, worklet = _input(query.get("audio", ""))
        self._captions = Captions(translated=bool(options.target_language))
        self._diarized, self._notice = bool(options.diarization), ""
        self._sent, self._seq = View(), 0
        self._ended = False
        self._detecting = options.language == "auto"
        self.open(options, Pace(), audio)
        # A legacy page takes every message for a transcript.
        return [{"type": "config", "useAudioWorklet": worklet, "mode": self._mode}] if self._mode != "legacy" else []

    async def receive(self, data: str | bytes) -> None:
        if not data:
            self._ended = True
            await self.stream.finish()
        elif isinstance(data, str):
            raise ProtocolError("audio comes in binary messages, and an empty one ends it; this is a text message")
        elif not self._ended:  # a browser's recorder sends the rest of its file after the end
            await self.stream.hear(data)

    def render(self, update: Update) -> Iterator[Json]:
        self._captions.take(update, self.stream.language if self._detecting else None)
        before, view = self._sent, self._captions.complete() if self._mode == "diff" else self._captions.view()
        finished = any(isinstance(entry.event, Finished) for entry in update.entries)
        notices = [entry.event.text for entry in update.entries if isinstance(entry.event, StageNotice)]
        self._notice = " ".join(notices)
        if view == before and not notices and not (finished and not self._seq):  # even of silence there is one message
            return
        self._sent, self._seq = view, self._seq + 1
        if self._mode == "legacy":
            yield _legacy(view)
        elif self._mode == "full":
            yield self._full(view)
        elif self._seq == 1:
            yield {"type": "snapshot", "seq": self._seq, **self._full(view)}
        else:
            yield self._diff(before, view)

    def farewell(self) -> Iterable[Json]:
        return [{"type": "ready_to_stop"}] if self._mode != "legacy" else []

    def failure(self, error: WlkError) -> Json:
        message: Json = {"type": "error", "error": str(error)}
        if not self.opened.done() or self._mode != "full":
            return message
        # Its page shows the lines of every message it gets: without them it would be blank.
        return self._full(self._captions.view()) | {"status": "error"} | message

    def _full(self, view: View) -> Json:
        return {"lines": [self._line(line) for line in view.lines], **self._volatile(view)}

    def _diff(self, before: View, view: View) -> Json:
        dropped, added = change(before.lines, view.lines)
        message = {"type": "diff", "seq": self._seq, "n_lines": len(view.lines), **self._volatile(view)}
        if dropped:
            message["lines_pruned"] = dropped
        if added:
            message["new_lines"] = [self._line(line) for line in added]
        return message

    def _volatile(self, view: View) -> Json:
        """What is replaced at every update."""
        heard = view.lines or view.buffer or view.waiting
        message = {
            "status": "active_transcription" if heard else "no_audio_detected",
            "buffer_transcription": view.buffer,
            "buffer_diarization": view.waiting,
            "buffer_translation": view.translating,
            "remaining_time_transcription": round(self.stream.lag, 1),
            "remaining_time_diarization": round(self.stream.speaker_lag, 1),
        }
        return message | {"notice": self._notice} if self._notice else message

    def _line(self, line: Line) -> Json:
        message: Json = {
            "speaker": self._speaker(line),
            "text": line.text,
            "start": _time(line.start),
            "end": _time(line.end),
        }
        if line.language is not None:
            message["detected_language"] = line.language
        if line.translation:
            message["translation"] = line.translation
        return message

    def _speaker(self, line: Line) -> int:
        """Without diarization everybody is the first."""
        if line.silent:
            return _SILENCE
        return line.speaker or (_UNKNOWN if self._diarized else 1)


def _input(audio: str) -> tuple[AudioInput, bool]:
    """The decoder, and whether a page is to send PCM rather than what its browser records."""
    if audio == "":
        return GuessedInput(), True
    if audio == "pcm":
        return RawInput(SAMPLE_RATE), True
    if audio == "container":
        return ContainerInput(), False
    raise RequestError("audio is neither pcm nor container")


def _legacy(view: View) -> Json:
    text = " ".join(line.text for line in view.lines if not line.silent)
    return {"lines": [{"speaker": "0", "text": text}], "buffer": view.buffer}


def _time(seconds: float) -> str:
    """H:MM:SS.cc"""
    hundredths = round(seconds * 100)
    minutes, hundredths = divmod(hundredths, 6000)
    return f"{minutes // 60}:{minutes % 60:02}:{hundredths // 100:02}.{hundredths % 100:02}"
