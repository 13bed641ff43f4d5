"""Speech as a schedule of tokens: what a model with random weights is made to hear, so that it has the work of a real
one. Its passes compute everything; only what they choose is replaced.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from wyoming_wlk.engine.cache import KVCache
from wyoming_wlk.engine.checkpoint import Checkpoint, Dimensions
from wyoming_wlk.engine.context import SAMPLE_RATE, ClientOptions, DecoderContext
from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.engine.hypothesis import Row
from wyoming_wlk.engine.model import Whisper
from wyoming_wlk.engine.request import StepKind, StepRequest
from wyoming_wlk.engine.runner import Runner
from wyoming_wlk.engine.search import Search
from wyoming_wlk.engine.selection import Candidate
from wyoming_wlk.engine.tokenizer import Tokenizer
from wyoming_wlk.engine.windows import FRAME_SAMPLES

_STEP_SECONDS = 0.4
"""New audio before the next partial, as `UtteranceSettings.step`."""

_SURE_FRAMES = 15
"""A word whose end lies 0.3 s back is heard right. The one after it is misheard, and differently at each step: that is
the part of the draft that the next step rejects."""

_WRONG_TOKENS = 1000
_LOGPROB = -0.24
"""Sure enough for a final with one beam."""


@dataclass(frozen=True)
class Script:
    """A clip, the tokens of its transcript, and the encoder frame in which each of them ends."""

    samples: np.ndarray
    tokens: list[int]
    frames: list[int]


@dataclass
class Observation:
    """What clients saw of their steps: seconds from each result to the next within an utterance."""

    intervals: list[float] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    """Windows that the steps heard, all together."""


class ScriptedSearch(Search):
    """Hears what the script of each client says, whatever the answers."""

    def __init__(self, tokenizer: Tokenizer, cache: KVCache, limit: int) -> None:
        super().__init__(tokenizer, cache, limit)
        self.scripts: dict[str, Script] = {}
        self._peaks = torch.eye(cache.audio_limit, dtype=torch.float16)

    def extend(self, row: Row, answers: Sequence[list[Candidate]], evidence: Tensor) -> None:
        script = self.scripts[row.request.client]
        place = len(row.committed) + len(row.beams[0].tokens)
        token, frame = self._tokenizer.eot, row.frames
        if place < len(script.tokens) and script.frames[place] <= row.frames:
            token, frame = script.tokens[place], script.frames[place]
            if frame > row.frames - _SURE_FRAMES and not row.final:
                token = (token + row.frames) % _WRONG_TOKENS
        frames = evidence.shape[2]
        peak = self._peaks[min(frame, frames - 1), :frames].expand(evidence.shape[0], 1, -1)
        super().extend(row, [[(token, _LOGPROB)]], peak)


class ScriptedRunner(Runner):
    def __init__(self, model: Whisper, tokenizer: Tokenizer, slots: int, threads: int = 0) -> None:
        super().__init__(model, tokenizer, slots, threads)
        search = ScriptedSearch(tokenizer, self._cache, self._context_limit)
        self._search, self.scripts = search, search.scripts


def random_checkpoint(dims: Dimensions, device: torch.device) -> Checkpoint:
    """Weights of no meaning, small enough for any number type."""
    audio, text = dims.n_audio_state, dims.n_text_state
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.conv1.weight": (audio, dims.n_mels, 3),
        "encoder.conv1.bias": (audio,),
        "encoder.conv2.weight": (audio, audio, 3),
        "encoder.conv2.bias": (audio,),
        "encoder.positional_embedding": (dims.n_audio_ctx, audio),
        "decoder.positional_embedding": (dims.n_text_ctx, text),
        "decoder.token_embedding.weight": (dims.n_vocab, text),
    }
    norms = {"encoder.ln_post": audio, "decoder.ln": text}
    parts = (
        ("encoder", dims.n_audio_layer, audio, ("attn",)),
        ("decoder", dims.n_text_layer, text, ("attn", "cross_attn")),
    )
    for part, layers, state, attentions in parts:
        for block in (f"{part}.blocks.{layer}" for layer in range(layers)):
            norms |= {f"{block}.{name}_ln": state for name in (*attentions, "mlp")}
            linears = {f"{block}.{a}.{p}": (state, state) for a in attentions for p in ("query", "key", "value", "out")}
            linears |= {f"{block}.mlp.0": (4 * state, state), f"{block}.mlp.2": (state, 4 * state)}
            shapes |= {f"{name}.weight": shape for name, shape in linears.items()}
            shapes |= {f"{name}.bias": shape[:1] for name, shape in linears.items() if not name.endswith("key")}
    generator = torch.Generator(device).manual_seed(0)
    tensors = {
        name: 0.02 * torch.randn(shape, generator=generator, device=device, dtype=torch.float32)
        for name, shape in shapes.items()
    }
    for name, state in norms.items():
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = torch.ones(state), torch.zeros(state)
    return Checkpoint(dims, tensors, None)


async def transcribe(engine: Engine, samples: Sequence[np.ndarray]) -> list[tuple[str, Script]]:
    """What the engine hears in clips, all at once, as text and as scripts."""

    async def one(clip: np.ndarray) -> tuple[str, Script]:
        context = DecoderContext(ClientOptions(language="en"), clip)
        result = await engine.step(StepRequest(context, StepKind.FINAL, 0.0, "clip"))
        heard = [
            (token, round(word.end * SAMPLE_RATE / FRAME_SAMPLES)) for word in result.words for token in word.tokens
        ]
        script = Script(clip, [token for token, _ in heard], [frame for _, frame in heard])
        return "".join(word.text for word in result.words), script

    return list(await asyncio.gather(*(one(clip) for clip in samples)))


async def crowd(
    engine: Engine, runner: ScriptedRunner, scripts: Sequence[Script], clients: int, warm_up: float, seconds: float
) -> Observation:
    """So many clients speak without pause, in real time; observed once they have done so for `warm_up` seconds."""
    seen = Observation()
    begin = time.monotonic() + warm_up
    end = begin + seconds

    async def client(number: int) -> None:
        name = f"client {number}"
        own = random.Random(number)
        await asyncio.sleep(own.uniform(0, min(warm_up, 3.0)))
        for script in itertools.islice(itertools.cycle(scripts), number % len(scripts), None):
            runner.scripts[name] = script
            await speak(name, script)
            if time.monotonic() > end:
                return

    async def speak(name: str, script: Script) -> None:
        context = DecoderContext(ClientOptions(language="en"))
        began = asked = time.monotonic()
        last: float | None = None
        while len(context.audio) < len(script.samples) and time.monotonic() < end:
            wanted = min(len(context.audio) + int(_STEP_SECONDS * SAMPLE_RATE), len(script.samples))
            await asyncio.sleep(max(0.0, began + wanted / SAMPLE_RATE - time.monotonic()))
            asked, deadline = time.monotonic(), asked
            context.append(script.samples[len(context.audio) : int((asked - began) * SAMPLE_RATE) + 1])
            whole = len(context.audio) == len(script.samples)
            kind = StepKind.FINAL if whole else StepKind.PARTIAL
            await engine.step(StepRequest(context, kind, deadline, name))
            now = time.monotonic()
            if begin < now < end:
                seen.steps, seen.seconds = seen.steps + 1, seen.seconds + len(context.audio) / SAMPLE_RATE
                if last is not None:
                    seen.intervals.append(now - last)
            last = now

    await asyncio.gather(*(client(number) for number in range(clients)))
    return seen
