"""One utterance of one client, without I/O: audio, speech events and results in; step requests and events out.

No asyncio, no torch, no clock of its own: times are sample positions, and the arrival times that deadlines need are
passed in. The caller asks `next_request` after every call that may have changed something, runs the request, which is
to `fill` its window first, and hands its result to `apply` (or calls `dropped`).

While the client speaks, partial steps commit words. At each pause a final is decoded ahead, so that the answer is there
when the client says stop; if speech goes on it is thrown away. A long pause, or a long window, closes the segment: its
final becomes part of the transcript and a new window begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from wyoming_wlk.engine.alignment import FRAME_SECONDS
from wyoming_wlk.engine.context import SAMPLE_RATE, DecoderContext
from wyoming_wlk.engine.request import StepKind, StepRequest, StepResult, Word
from wyoming_wlk.events import Event, Finished, Flushed, SegmentEnded, SpeechStarted, SpeechStopped, TextUpdate
from wyoming_wlk.timeline import Timeline, matches
from wyoming_wlk.vad import SpeechEnd, SpeechEvent, SpeechStart

_CROWDED_TOKENS = 160
"""So many tokens in one window leave little room in Whisper's context of 448: cut it early (dense scripts)."""

_EARLY_SECONDS = 1.3
"""In so short a window words are looked for twice as often where an utterance begins: its first words come sooner."""

_IDLE_SECONDS = 10.0
"""After so long a silence what the engine has read of the prompt is given up."""

_SENTENCE_ENDS = (".", "?", "!", "。", "？", "！")


@dataclass(frozen=True)
class UtteranceSettings:
    """Lengths in seconds.

    `step`: new audio before the next partial. `pre_roll`: audio kept from before speech starts. `close_pause`: silence
    that closes a segment, already `short_close_pause` once it is longer than `long_segment`; `trim_sentences`: such a
    segment is then also closed behind a committed sentence. `max_window`: what the model takes at once. `endpoint`:
    silence after which the server itself ends the utterance (None: the client says when), then also without any speech
    for `no_speech` and in any case after `max_utterance`.
    """

    max_window: float
    step: float = 0.4
    pre_roll: float = 0.4
    close_pause: float = 1.5
    short_close_pause: float = 0.3
    long_segment: float = 12.0
    trim_sentences: bool = False
    endpoint: float | None = None
    no_speech: float = 10.0
    max_utterance: float = 60.0


@dataclass(frozen=True)
class _Boundary:
    """Between an open segment, which hears up to sample `end`, and the next speech, which began at `start`."""

    end: int
    start: int


class Utterance:
    """From the first sample to the transcript."""

    def __init__(self, context: DecoderContext, settings: UtteranceSettings, client: str) -> None:
        """`context` may come from an earlier utterance of the same client: its language and text then live on."""
        self.context = context
        self.timeline = Timeline()
        self.finished = False
        self._settings, self._client = settings, client
        self._clock = 0
        self._silent_since = self._quiet_at = 0
        """Where speech ended last, and where that was noticed."""
        self._boundary: _Boundary | None = None
        self._flush_at: int | None = None
        self._speaking = self._open = self._stopped = self._cutting = False
        self._pre_roll = np.zeros(0, np.float32)
        self._pending: list[np.ndarray] = []
        self._oldest_arrival = 0.0
        self._running: StepRequest | None = None
        self._final: StepResult | None = None
        self._events: list[Event] = []

    # --- in -----------------------------------------------------------------------------------------------------------

    def push(self, audio: np.ndarray, speech: Sequence[SpeechEvent], now: float) -> None:
        """Audio (16 kHz mono float32) that arrived at `now`, and what voice activity detection says up to its end."""
        if self._stopped:
            return
        self._clock += len(audio)
        if self._open:
            self._enqueue(audio, now)
        else:
            self._pre_roll = np.concatenate([self._pre_roll, audio])
        for event in speech:
            if isinstance(event, SpeechStart):
                self._speech_started(event, now)
            else:
                self._speech_stopped(event)
        if not self._open:
            if self._clock - self._silent_since > _IDLE_SECONDS * SAMPLE_RATE:
                self.context.prompt = None  # it takes memory, and is soon read again
            self._pre_roll = self._pre_roll[-self._samples(self._settings.pre_roll) - SAMPLE_RATE // 2 :]
        self._look_for_end()

    def stop(self) -> None:
        """The client has said everything."""
        self._stopped = True
        if self._running is not None:
            self._running.awaited = True
        self._look_for_end()

    def flush(self) -> None:
        """Ends the open segment with what was heard so far; `Flushed` tells when its words are out."""
        self._flush_at = self._clock
        if self._running is not None:
            self._running.awaited = True
        self._look_for_end()

    def apply(self, result: StepResult) -> None:
        """The result of the request that `next_request` returned last."""
        self._running = None
        if result.kind is StepKind.PARTIAL:
            self._update(result.words, result.tentative)
            self._trim()
        elif self._settled and self._covers(result):
            self._final = result
        elif self._cutting:
            self._cut(result)
        self._cutting = False
        self._look_for_end()

    def dropped(self) -> None:
        """The request that `next_request` returned last was cancelled; its audio stays in the window."""
        self._running, self._cutting = None, False

    # --- out ----------------------------------------------------------------------------------------------------------

    def next_request(self) -> StepRequest | None:
        """The step to run now, if any. Cancels a running one that has become pointless."""
        if not self._open or self._final is not None:
            return None
        kind = StepKind.FINAL if self._settled or self._full else StepKind.PARTIAL
        if self._running is not None:
            if self._running.kind is not kind and not self._cutting:
                self._running.cancelled = True
            return None
        if kind is StepKind.PARTIAL and self._pending_samples < self._wanted * SAMPLE_RATE:
            return None
        request = StepRequest(self.context, kind, self._oldest_arrival, self._client, self._awaited)
        self._running = request
        if kind is StepKind.PARTIAL:
            request.fill, request.coming = partial(self._hear_more, request), self._pending_samples / SAMPLE_RATE
        else:
            whole = self._fill_window()
            self._cutting = not (self._settled and whole)
        return request

    def events(self) -> list[Event]:
        """What happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    @property
    def backlog(self) -> float:
        """Seconds of audio that no step has seen yet: where it grows, the caller should wait before pushing more."""
        return self._pending_samples / SAMPLE_RATE if self._open and self._final is None else 0.0

    # --- speech and windows -------------------------------------------------------------------------------------------

    @property
    def _settled(self) -> bool:
        """Nothing more is coming for the open segment, as far as is known."""
        return self._awaited or self._boundary is not None or not self._speaking

    @property
    def _awaited(self) -> bool:
        return self._stopped or self._flush_at is not None

    def _covers(self, final: StepResult) -> bool:
        """Whether a final saw all the speech there is, or that there was when a flush was asked for."""
        heard = round(final.audio_end * SAMPLE_RATE)
        if self._boundary is not None:
            return self._boundary.end <= heard
        if not self._speaking:
            return self._silent_since <= heard
        if self._flush_at is not None and not self._stopped:
            return self._flush_at <= heard
        return not self._pending

    @property
    def _wanted(self) -> float:
        """Seconds of new audio worth a partial step; a window's first step needs speech beyond the pre-roll."""
        if not len(self.context.audio):
            return self._settings.step / 2 + self._settings.pre_roll
        begins = not self.timeline.begun and len(self.context.audio) < self._samples(_EARLY_SECONDS)
        return self._settings.step / 2 if begins else self._settings.step

    @property
    def _full(self) -> bool:
        window = len(self.context.audio) + self._pending_samples
        crowded = len(self.context.committed) + len(self.context.tentative) > _CROWDED_TOKENS
        return crowded or window > self._samples(self._settings.max_window - 1.0)

    @property
    def _pending_samples(self) -> int:
        return sum(len(audio) for audio in self._pending)

    def _speech_started(self, event: SpeechStart, now: float) -> None:
        self._speaking = True
        self._events.append(SpeechStarted(event.sample / SAMPLE_RATE))
        if self._boundary is not None:
            return
        if self._open and event.sample - self._silent_since >= self._closing_pause:
            # The pause was long enough, though its final may not be there yet: it decides, not how fast we decode.
            self._boundary = _Boundary(self._quiet_at, event.sample)
            return
        self._final = None
        if self._open:
            return
        self._open = True
        wanted = self._clock - event.sample + self._samples(self._settings.pre_roll)
        audio = self._pre_roll[-wanted:]
        self.context.restart(self._clock - len(audio), "")
        self._pre_roll = np.zeros(0, np.float32)
        self._enqueue(audio, now)

    def _speech_stopped(self, event: SpeechEnd) -> None:
        self._speaking = False
        self._silent_since, self._quiet_at = event.sample, max(event.sample, event.noticed)
        self._events.append(SpeechStopped(event.sample / SAMPLE_RATE))

    def _enqueue(self, audio: np.ndarray, now: float) -> None:
        if not self._pending:
            self._oldest_arrival = now
        self._pending.append(audio)

    def _hear_more(self, request: StepRequest) -> None:
        """A partial hears everything that has come when its turn comes, unless it has become pointless."""
        request.coming = 0.0
        if self._running is request and not request.cancelled:
            self._fill_window()

    def _fill_window(self) -> bool:
        """Moves pending audio into the window, as much as fits and belongs to it; tells whether that is all of it.

        A final hears just the silence in which the pause was noticed, however much more has come meanwhile: its text
        depends on what was said alone.
        """
        audio = np.concatenate([*self._pending, np.zeros(0, np.float32)])
        end = self.context.end + len(audio)
        if self._boundary is not None:
            end = min(end, self._boundary.end)
        elif not self._speaking:
            end = min(end, self._quiet_at)
        elif self._flush_at is not None and not self._stopped:
            end = min(end, self._flush_at)
        room = self._samples(self._settings.max_window) - len(self.context.audio)
        taken = max(0, min(room, end - self.context.end))
        self.context.append(audio[:taken])
        self._pending = [audio[taken:]] if len(audio) > taken else []
        return self.context.end >= end

    # --- ends ---------------------------------------------------------------------------------------------------------

    def _look_for_end(self) -> None:
        """Closes the segment after a pause; ends the utterance where that is the server's task."""
        settings = self._settings
        silence = 0.0 if self._speaking else (self._clock - self._silent_since) / SAMPLE_RATE
        if settings.endpoint is not None:
            spoken = self._open or self.timeline.begun
            limit = settings.endpoint if spoken else settings.no_speech
            if silence >= limit or self._clock >= self._samples(settings.max_utterance):
                self._stopped = True
        over = self._awaited or self._boundary is not None or silence * SAMPLE_RATE >= self._closing_pause
        if self._final is not None and over:
            self._close(self._final)
        if self._flush_at is not None and (not self._open or self._flush_at <= self.context.offset):
            self._flush_at = None
            self._events.append(Flushed())
        if self._stopped and not self._open and not self.finished:
            self.finished = True
            self._events.append(Finished(self.timeline.transcript(), self.context.language))

    @property
    def _closing_pause(self) -> float:
        """Samples of silence that end the open segment; may be infinite."""
        long = self._quiet_at - self.context.offset > self._samples(self._settings.long_segment)
        return (self._settings.short_close_pause if long else self._settings.close_pause) * SAMPLE_RATE

    def _close(self, final: StepResult) -> None:
        """Ends the segment. The next one is open already where speech has begun again, or goes on behind a flush; else
        the silence after it is the pre-roll of the next."""
        self._close_segment(final)
        self._final = None
        pending = np.concatenate([*self._pending, np.zeros(0, np.float32)])
        if self._boundary is not None:
            start = self._boundary.start - self._samples(self._settings.pre_roll)
            silence = max(0, start - self.context.end)
            self.context.restart(self.context.end + silence, "")
            self._pending, self._boundary = [pending[silence:]], None
        elif self._stopped or not self._speaking:
            self._pre_roll, self._pending, self._open = pending, [], False

    def _close_segment(self, final: StepResult) -> None:
        """Takes a final over as the segment's text; the next window begins where its audio ended."""
        # A final that hears no speech where words were committed is wrong about one of the two: text is not taken back.
        words = final.words or tuple(self.timeline.open_words)
        self._end_segment(words)
        if final.language:
            self.context.language = final.language
        self.context.restart(self.context.end, _text(words))

    def _end_segment(self, words: Sequence[Word], kept: int = 0) -> None:
        tentative = self.timeline.tentative
        self._tell(self.timeline.close(words, kept), tentative)
        if words:
            self._events.append(SegmentEnded(tuple(words), kept))

    def _update(self, committed: Sequence[Word], tentative: Sequence[Word]) -> None:
        before = self.timeline.tentative
        self.timeline.commit(committed, tentative)
        self._tell(tuple(committed), before)

    def _tell(self, committed: tuple[Word, ...], before: tuple[Word, ...]) -> None:
        """Tells of new words; `before` is what was tentative."""
        if committed or self.timeline.tentative != before:
            self._events.append(TextUpdate(committed, self.timeline.tentative))

    def _cut(self, final: StepResult) -> None:
        """Shortens a window that is full while speech goes on: at a committed word well before the end, best at the
        end of a sentence."""
        limit = final.audio_end - self._settings.max_window / 3
        open_words = self.timeline.open_words
        common = [
            (mine, theirs) for mine, theirs in matches(open_words, final.words) if final.words[theirs].end < limit
        ]
        if not open_words:  # without partial steps nothing is committed yet
            common = [(-1, theirs) for theirs, word in enumerate(final.words) if word.end < limit]
        if not common:
            self._close_segment(final)
            return
        mine, theirs = ([pair for pair in common if _ends_sentence(final.words[pair[1]])] or common)[-1]
        if final.language:
            self.context.language = final.language
        after = final.words[theirs + 1].start if theirs + 1 < len(final.words) else final.words[theirs].end
        self._shorten(final.words[: theirs + 1], open_words[mine + 1 :], after)

    def _trim(self) -> None:
        """Shortens a long window to what follows the last committed sentence."""
        if not self._settings.trim_sentences or len(self.context.audio) <= self._samples(self._settings.long_segment):
            return
        words = self.timeline.open_words
        count = max((index + 1 for index, word in enumerate(words) if _ends_sentence(word)), default=0)
        if count:
            following = [*words[count:], *self.timeline.tentative]
            self._shorten(words[:count], words[count:], following[0].start if following else words[-1].end)

    def _shorten(self, said: Sequence[Word], kept: Sequence[Word], after: float) -> None:
        """Closes the segment behind `said`; what follows it, from `after` on and with `kept` committed, is the next."""
        boundary = (said[-1].end + after) / 2
        self._end_segment(said, len(kept))
        tokens = [token for word in kept for token in word.tokens]
        self.context.cut(self._samples(boundary), _text(said), tokens)
        if kept:
            since = self._samples(kept[-1].start) - self.context.offset
            self.context.attended = max(0, round(since / SAMPLE_RATE / FRAME_SECONDS))

    @staticmethod
    def _samples(seconds: float) -> int:
        return int(seconds * SAMPLE_RATE)


def _ends_sentence(word: Word) -> bool:
    return word.text.rstrip().endswith(_SENTENCE_ENDS)


def _text(words: Sequence[Word]) -> str:
    return "".join(word.text for word in words)
