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

import torch

from wyoming_wlk.engine.attention import DecoderInput
from wyoming_wlk.engine.cache import CrossAttention, KVCache, default_slots
from wyoming_wlk.engine.checkpoint import Checkpoint
from wyoming_wlk.engine.decoder import DecoderPass
from wyoming_wlk.engine.hypothesis import Beam, Row, continuation
from wyoming_wlk.engine.layers import Precision
from wyoming_wlk.engine.model import Whisper
from wyoming_wlk.engine.prefixes import PrefixReader
from wyoming_wlk.engine.search import Search
from wyoming_wlk.engine.selection import Question, Selector
from wyoming_wlk.engine.statistics import Recent
from wyoming_wlk.engine.tokenizer import Tokenizer
from wyoming_wlk.engine.transfer import to_host, upload
from wyoming_wlk.engine.windows import WindowEncoder

_GUESSED_TOKENS = 8
"""So many tokens that may come next are read along with one that is known."""

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
        self._cache: KVCache = model.new_cache(slots + 1)  # the last one's audio is silence: prompts are read beside it
        self._free = list(range(slots - 1, -1, -1))
        self._windows = WindowEncoder(model)
        self._passes = model.passes(self._cache)
        # Passes may have tried themselves out in the slots, so that silence comes after them.
        self._cache.set_audio(slots, CrossAttention(model.silence.cross, 0))
        self._prefixes = PrefixReader(tokenizer, self._cache, self._passes, silence=slots)
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
        del self._model, self._cache, self._passes, self._selector, self._search, self._windows, self._prefixes
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
        return self._cache.slots - 1

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
        encoded = self._windows.encode(rows)
        self.encoding.add(time.monotonic() - began)
        return encoded

    def start(self, rows: Sequence[Row]) -> None:
        """Encodes and begins."""
        self.begin(rows, self.encode(rows))

    @torch.inference_mode()
    def begin(self, rows: Sequence[Row], crosses: Sequence[CrossAttention]) -> None:
        """Makes rows of encoded windows ready for their first pass. Each takes `width` slots."""
        for row, cross in zip(rows, crosses, strict=True):
            row.slots, row.turn_tokens = [self._free.pop() for _ in range(row.width)], 0
            row.beams, row.finished = [Beam(row.slots[0])], []
            self._cache.set_audio(row.slots[0], cross)
            for slot in row.slots[1:]:
                self._cache.clear(slot)
        self._detect_languages([row for row in rows if not row.language])
        self._prefixes.prepare(rows)

    @torch.inference_mode()
    def advance(self, rows: Sequence[Row]) -> None:
        """Lets every row grow by a token at least; in its first pass one reads its prefix, and the draft along with it.

        On a CPU all rows share a pass, for which the weights are read once. Elsewhere a pass of one token per row has a
        graph of its own.
        """
        self._cache.settle()
        fresh = [row for row in rows if row.unread] if self._model.padded else []
        for together in (fresh, [row for row in rows if row not in fresh]):
            if together:
                self._pass(together)

    def retry(self, row: Row) -> None:
        """Decodes a finished row once more in its next way; the audio is in its slots still."""
        row.attempt += 1
        row.finished, row.beams = [], [Beam(row.slots[0])]
        self._cache.tokens[row.slots[0]] = len(row.prefix) - 1

    def keep(self, row: Row) -> None:
        """After a partial step: keeps what the client's next one can go on with."""
        self._windows.settle(row)
        self._prefixes.keep(row)

    # --- parts of a pass ----------------------------------------------------------------------------------------------

    def _pass(self, rows: Sequence[Row]) -> None:
        guesses = [row.draft if row.unread else self._guess(row) for row in rows]
        outputs = self._passes([self._input(row, guess) for row, guess in zip(rows, guesses, strict=True)])
        counts = [len(row.beams) + len(guess) for row, guess in zip(rows, guesses, strict=True)]
        hidden, attention = outputs.hidden, outputs.attention
        fresh = [(row, span) for row, span in zip(rows, outputs.tokens, strict=True) if row.unread]
        # The position of start-of-transcript tells of speech at all; the last ones of a row predict its text.
        starts = [span.start + max(0, row.prompt_length - row.known) for row, span in fresh]
        if fresh:
            spans = zip(outputs.tokens, counts, strict=True)
            texts = [place for span, count in spans for place in range(span.stop - count, span.stop)]
            hidden = hidden[upload(starts + texts, self._model.device)]
            attention = attention[:, upload(texts, self._model.device)]
        logits = self._model.decoder.logits(hidden)
        no_speech = (
            to_host(torch.softmax(logits[: len(starts)], dim=-1)[:, self.tokenizer.no_speech]) if fresh else None
        )
        evidence = to_host(attention.half())
        questions = [
            question for row, guess in zip(rows, guesses, strict=True) for question in self._questions(row, guess)
        ]
        answers = self._selector.choose(logits[len(starts) :], questions)
        if no_speech is not None:
            for (row, _), silent in zip(fresh, no_speech.tolist(), strict=True):
                row.no_speech = silent if row.known <= row.prompt_length else 0.0  # something was said already
                row.unread = []
        begin = 0
        for row, guess, count, frames in zip(rows, guesses, counts, outputs.frames, strict=True):
            span, begin = slice(begin, begin + count), begin + count
            row.turn_tokens += 1
            if len(row.beams) == 1:
                self._search.verify(row, guess, answers[span], evidence[:, span, :frames])
            else:
                self._search.extend(row, answers[span], evidence[:, span, :frames])

    def _input(self, row: Row, guess: list[int]) -> DecoderInput:
        """What the row reads next: what is unread of its prefix, or each beam's last token; and what may follow."""
        if row.unread:
            read = [[*row.unread, *guess]]
        else:
            read = [[beam.tokens[-1] if beam.tokens else row.prefix[-1], *guess] for beam in row.beams]
        return DecoderInput(row.slots[0], [beam.slot for beam in row.beams], read)

    def _questions(self, row: Row, guess: list[int]) -> list[Question]:
        if len(row.beams) == 1:
            return self._search.questions(row, guess)
        return [self._search.question(row, beam.match, len(beam.tokens)) for beam in row.beams]

    def _guess(self, row: Row) -> list[int]:
        """Tokens that may come next, read along with the last one."""
        if row.search_width > 1 or row.temperature > 0 or self._model.padded:
            return []
        tokens = row.beams[0].tokens
        room = min(row.token_limit - len(tokens), self._context_limit - len(row.prefix) - len(tokens))
        return continuation(row.draft, tokens, min(_GUESSED_TOKENS, room))

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
