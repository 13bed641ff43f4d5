"""Runs rows on the device: encode, first pass over the prefix, then one token for all rows at a time. Encoding may run
on another thread than the rest.

Which rows, and when, is the scheduler's business; what their tokens mean is `outcome.py`'s.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from wyoming_wlk.engine.attention import DecoderInput
from wyoming_wlk.engine.cache import CrossAttention, KVCache, default_slots
from wyoming_wlk.engine.checkpoint import Checkpoint
from wyoming_wlk.engine.context import DecoderContext
from wyoming_wlk.engine.decoder import DecoderPass
from wyoming_wlk.engine.hypothesis import Beam, Row
from wyoming_wlk.engine.layers import Precision
from wyoming_wlk.engine.mel import HOP, SAMPLE_RATE, MelFrontend, MelWindow, normalize
from wyoming_wlk.engine.model import Whisper
from wyoming_wlk.engine.search import Search
from wyoming_wlk.engine.selection import Selector
from wyoming_wlk.engine.statistics import Recent
from wyoming_wlk.engine.tokenizer import Tokenizer
from wyoming_wlk.engine.transfer import to_host, upload

PADDING_SECONDS = 0.7
"""Real silence after the audio, before the thinned-out silence begins: the model then finds the end by itself."""

_WINDOW_FRAMES = 50
"""Windows are encoded in whole seconds: each length costs compiled code and scratch memory of its own."""

FRAME_SAMPLES = 2 * HOP
"""Samples of one encoder frame."""

MAX_WINDOW_SECONDS = 29.0


@dataclass(frozen=True)
class DeviceSettings:
    """Where the model runs and how much of the device it takes. `threads`: of the encoder, and about half as many of
    the decoder, whose products are small; 0 leaves the choice to torch."""

    device: str = "cpu"
    compute_type: str = "auto"
    threads: int = 0
    slots: int = 0
    """0: what suits the device."""


class Runner:
    """The model, its cache and the slots of the rows that are on the device. Used by one thread, but for `encode`,
    which one other may run meanwhile."""

    def __init__(self, model: Whisper, tokenizer: Tokenizer, slots: int, threads: int = 0) -> None:
        self.tokenizer = tokenizer
        self.encoding = Recent()
        """Seconds of each batch in the encoder."""
        self._model, self._threads = model, threads
        self._cache: KVCache = model.new_cache(slots)
        self._free = list(range(slots - 1, -1, -1))
        self._mel = MelFrontend(model.dims.n_mels, model.device)
        self._windows: WeakKeyDictionary[DecoderContext, tuple[int, MelWindow]] = WeakKeyDictionary()
        self._passes = model.passes(self._cache)
        self._selector = Selector(tokenizer, model.dims.n_vocab, model.device)
        self._context_limit = model.dims.n_text_ctx - 1
        self._search = Search(tokenizer, self._cache, self._context_limit)

    @classmethod
    def load(cls, checkpoint: Checkpoint, tokenizer_file: Path, settings: DeviceSettings) -> Runner:
        """Puts a checkpoint on the device. Raises `ModelError` where device or tokenizer do not fit."""
        if settings.threads:
            torch.set_num_threads((settings.threads + 1) // 2)
        device = torch.device(settings.device)
        model = Whisper(checkpoint, Precision.choose(settings.compute_type, device), device)
        slots = settings.slots or default_slots(model.dims, model.precision.state, device)
        return cls(model, Tokenizer(tokenizer_file, checkpoint.dims.n_vocab), slots, settings.threads)

    def unload(self) -> None:
        """Frees the device and the memory, whoever still holds the runner; nothing can be run any more."""
        del self._model, self._cache, self._passes, self._selector, self._search, self._mel, self._windows
        gc.collect()  # loading leaves some cycles behind
        release_memory()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def together_seconds(self) -> float:
        """Audio worth encoding at once: on a CPU that is no faster than one window after the other."""
        return 0.0 if self._model.device.type == "cpu" else 60.0

    # --- slots --------------------------------------------------------------------------------------------------------

    @property
    def slots(self) -> int:
        return self._cache.slots

    @property
    def free_slots(self) -> int:
        return len(self._free)

    def park(self, row: Row) -> None:
        """Moves a row's state to host memory and frees its slots."""
        self._cache.settle()
        row.parked = {slot: self._cache.park(slot) for slot in row.slots}
        self.release(row)

    def restore(self, row: Row) -> None:
        """Puts a parked row back on the device, bit for bit, in whatever slots are free."""
        moved = {old: self._free.pop() for old in row.parked}
        for old, parked in row.parked.items():
            self._cache.restore(moved[old], parked)
        for beam in row.beams:
            beam.slot = moved[beam.slot]
        row.slots, row.parked, row.turn_tokens = list(moved.values()), {}, 0

    def release(self, row: Row) -> None:
        """Frees a row's slots; what is in them is lost."""
        self._cache.settle()
        self._free.extend(row.slots)
        row.slots = []

    # --- passes -------------------------------------------------------------------------------------------------------

    def use_encoder_threads(self) -> None:
        """To be called on the thread that encodes beside the decoding."""
        if self._threads:
            torch.set_num_threads(self._threads)

    @torch.inference_mode()
    def encode(self, rows: Sequence[Row]) -> list[CrossAttention]:
        """Encodes the rows' windows."""
        began = time.monotonic()
        encoded = self._model.encode([self._window_mel(row) for row in rows])
        self.encoding.add(time.monotonic() - began)
        return encoded

    def start(self, rows: Sequence[Row]) -> None:
        """Encodes and begins."""
        self.begin(rows, self.encode(rows))

    @torch.inference_mode()
    def begin(self, rows: Sequence[Row], crosses: Sequence[CrossAttention]) -> None:
        """The first pass over encoded windows. Each row takes `width` slots."""
        for row, cross in zip(rows, crosses, strict=True):
            row.slots, row.turn_tokens = [self._free.pop() for _ in range(row.width)], 0
            row.beams, row.finished = [Beam(row.slots[0])], []
            self._cache.set_audio(row.slots[0], cross)
            for slot in row.slots[1:]:
                self._cache.clear(slot)
        self._detect_languages([row for row in rows if not row.language])
        for row in rows:
            row.prefix = self._prefix(row)
        drafts = [self._draft(row) for row in rows]
        self._read_prefixes(rows, drafts)

    @torch.inference_mode()
    def advance(self, rows: Sequence[Row]) -> None:
        """One more token for every row."""
        self._cache.settle()
        batch = [
            DecoderInput(
                row.slots[0],
                [beam.slot for beam in row.beams],
                [[beam.tokens[-1] if beam.tokens else row.prefix[-1]] for beam in row.beams],
            )
            for row in rows
        ]
        outputs = self._passes(batch)
        evidence = to_host(outputs.attention.half())
        questions = [self._search.question(row, beam.match, len(beam.tokens)) for row in rows for beam in row.beams]
        answers = self._selector.choose(self._model.decoder.logits(outputs.hidden), questions)
        for row, span, frames in zip(rows, outputs.tokens, outputs.frames, strict=True):
            row.turn_tokens += 1
            self._search.extend(row, answers[span], evidence[:, span, :frames])

    def retry(self, row: Row) -> None:
        """Decodes a finished row once more in its next way; the audio is in its slots still."""
        row.attempt += 1
        row.finished, row.beams = [], [Beam(row.slots[0])]
        self._cache.tokens[row.slots[0]] = len(row.prefix) - 1

    # --- parts of a pass ----------------------------------------------------------------------------------------------

    def _window_mel(self, row: Row) -> Tensor:
        """The row's window, then silence up to a whole number of silence entries: [n_mels, 2 * frames]."""
        context = row.request.context
        row.frames = len(context.audio) // FRAME_SAMPLES
        start, window = self._windows.get(context, (context.offset, None))
        if window is None or context.offset < start:
            window = MelWindow(self._mel)
        elif context.offset > start:
            window.drop((context.offset - start) // HOP)
        self._windows[context] = (context.offset, window)
        padded = len(context.audio) + int(PADDING_SECONDS * SAMPLE_RATE)
        step = _WINDOW_FRAMES * FRAME_SAMPLES
        frames = min(self._model.dims.n_audio_ctx, -(-padded // step) * _WINDOW_FRAMES)
        return normalize(window.update(context.audio, 2 * frames))

    def _decode(self, rows: Sequence[Row], tokens: Sequence[list[int]]) -> DecoderPass:
        """A pass over rows that have one beam yet."""
        batch = [DecoderInput(row.slots[0], row.slots[:1], [new]) for row, new in zip(rows, tokens, strict=True)]
        return self._passes(batch)

    def _detect_languages(self, rows: Sequence[Row]) -> None:
        """Whisper's own language detection: the likeliest language token after a bare start of transcript."""
        if not rows:
            return
        outputs = self._decode(rows, [[self.tokenizer.sot]] * len(rows))
        logits = self._model.decoder.logits(outputs.hidden)
        first = self.tokenizer.sot + 1
        choices = logits[:, first : first + len(self.tokenizer.languages)].argmax(dim=1).tolist()
        for row, choice in zip(rows, choices, strict=True):
            row.language = self.tokenizer.languages[choice]
            self._cache.tokens[row.beams[0].slot] = 0

    def _prefix(self, row: Row) -> list[int]:
        """Previous text, start of transcript, and for a partial step what is committed already."""
        context, options = row.request.context, row.request.context.options
        prompt = self._prompt(options.prompt, context.previous_text)
        start = self.tokenizer.start_sequence(row.language, options.task)
        row.prompt_length = len(prompt)
        return prompt + start + row.committed

    def _prompt(self, static: str, previous: str) -> list[int]:
        room = self._model.dims.n_text_ctx // 2 - 1
        fixed = self.tokenizer.encode(" " + static.strip())[: room // 2] if static.strip() else []
        recent = self.tokenizer.encode(previous) if previous else []
        tokens = fixed + recent[-(room - len(fixed)) :]
        return [self.tokenizer.sot_prev, *tokens] if tokens else []

    def _draft(self, row: Row) -> list[int]:
        """The last hypothesis: checked in one pass, it costs little and saves a pass for each token that still holds.

        The outcome is the same as without it, so beams, which need every alternative, simply have none.
        """
        if row.search_width > 1:
            return []
        context = row.request.context
        draft = context.committed + context.tentative if row.final else context.tentative
        return draft[: max(0, min(row.token_limit, self._context_limit - len(row.prefix)))]

    def _read_prefixes(self, rows: Sequence[Row], drafts: Sequence[list[int]]) -> None:
        """The first pass: over prefix and draft at once, from which the text begins."""
        outputs = self._decode(rows, [row.prefix + draft for row, draft in zip(rows, drafts, strict=True)])
        # The position of start-of-transcript tells of speech at all; those from the prefix's last on predict text.
        starts = [span.start + row.prompt_length for row, span in zip(rows, outputs.tokens, strict=True)]
        texts = [
            place
            for row, span in zip(rows, outputs.tokens, strict=True)
            for place in range(span.start + len(row.prefix) - 1, span.stop)
        ]
        logits = self._model.decoder.logits(outputs.hidden[upload(starts + texts, self._model.device)])
        no_speech = to_host(torch.softmax(logits[: len(rows)], dim=-1)[:, self.tokenizer.no_speech])
        evidence = to_host(outputs.attention[:, upload(texts, self._model.device)].half())
        questions = [
            question for row, draft in zip(rows, drafts, strict=True) for question in self._search.questions(row, draft)
        ]
        answers = self._selector.choose(logits[len(rows) :], questions)
        begin = 0
        for row, draft, frames, silent in zip(rows, drafts, outputs.frames, no_speech.tolist(), strict=True):
            end = begin + len(draft) + 1
            row.no_speech = silent
            self._search.verify(row, draft, answers[begin:end], evidence[:, begin:end, :frames])
            begin = end


def available_devices() -> list[str]:
    """Where models can run, by torch's names."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return [name for name, is_there in there.items() if is_there]


def cuda_memory_gb() -> float:
    """Memory of the first GPU in gigabytes, 0 where torch finds none."""
    return torch.cuda.get_device_properties(0).total_memory / 1e9 if torch.cuda.is_available() else 0.0


def release_memory() -> None:
    """Gives freed memory back to the system: the C library keeps what large activations used, for good."""
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
