"""Runs rows on the device: encode, first pass over the prefix, then one token for all rows at a time. Encoding may run
on another thread than the rest.

Which rows, and when, is the scheduler's business; what their tokens mean is `outcome.py`'s.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from wyoming_wlk.engine.cache import CrossAttention, KVCache
from wyoming_wlk.engine.checkpoint import Checkpoint
from wyoming_wlk.engine.context import DecoderContext
from wyoming_wlk.engine.hypothesis import Beam, Row, repeated_tail, was_spoken
from wyoming_wlk.engine.mel import HOP, SAMPLE_RATE, MelFrontend, MelWindow, normalize
from wyoming_wlk.engine.model import DecoderInput, DecoderOutput, Precision, Whisper
from wyoming_wlk.engine.statistics import Recent
from wyoming_wlk.engine.tokenizer import Tokenizer

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
    slots: int = 16


class Runner:
    """The model, its cache and the slots of the rows that are on the device. Used by one thread."""

    def __init__(self, model: Whisper, tokenizer: Tokenizer, slots: int, threads: int = 0) -> None:
        self.tokenizer = tokenizer
        self.encoding = Recent()
        """Seconds of each batch in the encoder."""
        self._model, self._threads = model, threads
        self._cache: KVCache = model.new_cache(slots)
        self._free = list(range(slots - 1, -1, -1))
        self._mel = MelFrontend(model.dims.n_mels, model.device)
        self._windows: WeakKeyDictionary[DecoderContext, tuple[int, MelWindow]] = WeakKeyDictionary()
        self._suppress = torch.zeros(model.dims.n_vocab, device=model.device)
        self._suppress[list(tokenizer.suppressed)] = -math.inf
        self._suppress[tokenizer.timestamp_begin :] = -math.inf
        self._context_limit = model.dims.n_text_ctx - 1
        self._at_start = torch.tensor([tokenizer.space, tokenizer.eot], device=model.device)

    @classmethod
    def load(cls, checkpoint: Checkpoint, tokenizer_file: Path, settings: DeviceSettings) -> Runner:
        """Puts a checkpoint on the device. Raises `ModelError` where device or tokenizer do not fit."""
        if settings.threads:
            torch.set_num_threads((settings.threads + 1) // 2)
        device = torch.device(settings.device)
        model = Whisper(checkpoint, Precision.choose(settings.compute_type, device), device)
        return cls(model, Tokenizer(tokenizer_file, checkpoint.dims.n_vocab), settings.slots, settings.threads)

    def unload(self) -> None:
        """Frees the device and the memory, whoever still holds the runner; nothing can be run any more."""
        del self._model, self._cache, self._mel, self._windows, self._suppress, self._at_start
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
        outputs = self._decode(rows, [row.prefix + draft for row, draft in zip(rows, drafts, strict=True)])
        # The position of start-of-transcript tells of speech at all; those from the prefix's last on predict text.
        hidden = [
            torch.cat([output.hidden[row.prompt_length][None], output.hidden[len(row.prefix) - 1 :]])
            for row, output in zip(rows, outputs, strict=True)
        ]
        logits = torch.split(self._model.decoder.logits(torch.cat(hidden)), [len(part) for part in hidden])
        for row, draft, output, scores in zip(rows, drafts, outputs, logits, strict=True):
            row.no_speech = float(torch.softmax(scores[0], dim=-1)[self.tokenizer.no_speech])
            self._verify(row, draft, scores[1:], output.attention[:, len(row.prefix) - 1 :].half())

    @torch.inference_mode()
    def advance(self, rows: Sequence[Row]) -> None:
        """One more token for every row."""
        batch = [
            DecoderInput(
                row.slots[0],
                [beam.slot for beam in row.beams],
                [[beam.tokens[-1] if beam.tokens else row.prefix[-1]] for beam in row.beams],
            )
            for row in rows
        ]
        outputs = self._model.decoder(batch, self._cache)
        logits = self._model.decoder.logits(torch.cat([output.hidden for output in outputs]))
        parts = torch.split(logits, [len(row.beams) for row in rows])
        for row, output, scores in zip(rows, outputs, parts, strict=True):
            row.turn_tokens += 1
            self._extend(row, scores, output.attention.half())

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

    def _decode(self, rows: Sequence[Row], tokens: Sequence[list[int]]) -> list[DecoderOutput]:
        """A pass over rows that have one beam yet."""
        batch = [DecoderInput(row.slots[0], row.slots[:1], [new]) for row, new in zip(rows, tokens, strict=True)]
        return self._model.decoder(batch, self._cache)

    def _detect_languages(self, rows: Sequence[Row]) -> None:
        """Whisper's own language detection: the likeliest language token after a bare start of transcript."""
        if not rows:
            return
        outputs = self._decode(rows, [[self.tokenizer.sot]] * len(rows))
        logits = self._model.decoder.logits(torch.cat([output.hidden for output in outputs]))
        first = self.tokenizer.sot + 1
        for row, choice in zip(
            rows, logits[:, first : first + len(self.tokenizer.languages)].argmax(dim=1), strict=True
        ):
            row.language = self.tokenizer.languages[int(choice)]
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

    def _verify(self, row: Row, draft: list[int], logits: Tensor, attention: Tensor) -> None:
        """Takes over the draft as far as the model agrees, and the token it says instead."""
        slot = row.beams[0].slot
        for position in range(len(draft) + 1):
            self._extend(row, logits[position : position + 1], attention[:, position : position + 1])
            if row.done or row.beams[0].tokens[-1] != (draft[position] if position < len(draft) else None):
                break
        if not row.done:
            self._cache.tokens[slot] = len(row.prefix) + len(row.beams[0].tokens) - 1

    def _extend(self, row: Row, logits: Tensor, attention: Tensor) -> None:
        """One step of the search. logits: [beams, n_vocab]; attention: [heads, beams, frames]."""
        logits = logits + self._suppress
        if not row.beams[0].tokens and not row.committed:
            logits[:, self._at_start] = -math.inf
        grown: list[tuple[int, int, float]] = []
        for parent, token, logprob in self._candidates(row, logits):
            if token == self.tokenizer.eot:
                row.finished.append(row.beams[parent].ended(logprob))
            else:
                grown.append((parent, token, logprob))
            if len(grown) == row.search_width:
                break
        if len(row.finished) >= row.search_width:
            grown = []
        beams = self._grow(row, grown, attention)
        row.beams = []
        for beam in beams:
            full = len(beam.tokens) >= row.token_limit or len(row.prefix) + len(beam.tokens) >= self._context_limit
            looped = self._looped(row, beam)
            if looped or full:
                row.finished.append(beam.shortened(looped, row.names))
            else:
                row.beams.append(beam)

    def _looped(self, row: Row, beam: Beam) -> int:
        """How many tokens at the end of a hypothesis are a loop of the model's."""
        repeat = repeated_tail([*row.committed, *beam.tokens], strict=not row.final)
        if repeat is None:
            return 0
        frames = [int(weights.mean(dim=0).argmax()) for weights in beam.attention]
        if was_spoken(repeat, frames, row.request.context.attended):
            return 0
        return min(repeat.drop, len(beam.tokens))

    def _candidates(self, row: Row, logits: Tensor) -> list[tuple[int, int, float]]:
        """(beam, token, log-probability of the token), best first; at a temperature, one sample.

        Names that are expected count in the choice alone; the log-probability is the model's own.
        """
        norms, biased = torch.logsumexp(logits, dim=-1), self._biased(row, logits)
        if row.temperature > 0:
            # Seeded by the position alone, so that a client gets the same whoever else is there.
            generator = torch.Generator(logits.device).manual_seed(len(row.beams[0].tokens))
            weights = torch.softmax(biased[0] / row.temperature, dim=-1)
            token = int(torch.multinomial(weights, 1, generator=generator))
            return [(0, token, float(logits[0, token] - norms[0]))]
        if row.search_width == 1:
            token = int(biased[0].argmax())
            return [(0, token, float(logits[0, token] - norms[0]))]
        tokens = biased.topk(2 * row.search_width, dim=-1).indices
        logprobs = logits.gather(1, tokens) - norms[:, None]
        by_beam = zip(tokens.tolist(), logprobs.tolist(), strict=True)
        found = [
            (beam, token, logprob)
            for beam, pairs in enumerate(by_beam)
            for token, logprob in zip(*pairs, strict=True)
            if logprob > -math.inf
        ]
        return sorted(found, key=lambda item: self._total(row, *item), reverse=True)

    def _biased(self, row: Row, logits: Tensor) -> Tensor:
        """The same with what each token is worth to a name: [beams, n_vocab]."""
        if not row.names:
            return logits
        biased = logits.clone()
        for index, beam in enumerate(row.beams):
            bonuses = row.names.bonuses(beam.match, alone=row.search_width == 1)
            biased[index, list(bonuses)] += torch.tensor(list(bonuses.values()), device=logits.device)
        return biased

    def _total(self, row: Row, index: int, token: int, logprob: float) -> float:
        """What a beam would be worth with one more token."""
        beam = row.beams[index]
        match = row.names.step(beam.match, token)
        return sum(beam.logprobs) + logprob + match.earned + match.pending

    def _grow(self, row: Row, grown: list[tuple[int, int, float]], attention: Tensor) -> list[Beam]:
        """The next beams: each stays in its parent's slot, further children of one parent get copies of its tokens."""
        parents = {row.beams[index].slot for index, _, _ in grown}
        spare = [slot for slot in row.slots if slot not in parents]
        beams: list[Beam] = []
        for index, token, logprob in grown:
            parent = row.beams[index]
            slot = parent.slot
            if any(beam.slot == slot for beam in beams):
                slot = spare.pop()
                self._cache.copy_tokens(parent.slot, slot)
            match = row.names.step(parent.match, token)
            beams.append(parent.extended(slot, token, logprob, attention[:, index], match))
        return beams


def cuda_memory_gb() -> float:
    """Memory of the first GPU in gigabytes, 0 where torch finds none."""
    return torch.cuda.get_device_properties(0).total_memory / 1e9 if torch.cuda.is_available() else 0.0


def release_memory() -> None:
    """Gives freed memory back to the system: the C library keeps what large activations used, for good."""
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
