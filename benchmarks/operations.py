"""What Whisper costs, as formulas: operations and bytes of each part, and the least time a device needs for them.

docs/cost.md explains them. Counted are the matrix products and convolutions, a multiplication and an addition being two
operations, and the bytes of weights, keys and values, each read once a pass. Knows nothing of torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from wyoming_wlk.engine.checkpoint import Dimensions

FRAMES_PER_SECOND = 50
PADDING_SECONDS = 0.7
SILENCE_STRIDE = 10
_WINDOW_FRAMES = 50


def _whisper(mels: int, state: int, heads: int, encoder: int, decoder: int, vocabulary: int) -> Dimensions:
    return Dimensions(mels, 1500, state, heads, encoder, vocabulary, 448, state, heads, decoder)


SIZES = {
    "tiny": _whisper(80, 384, 6, 4, 4, 51865),
    "base": _whisper(80, 512, 8, 6, 6, 51865),
    "small": _whisper(80, 768, 12, 12, 12, 51865),
    "medium": _whisper(80, 1024, 16, 24, 24, 51865),
    "large-v3": _whisper(128, 1280, 20, 32, 32, 51866),
    "large-v3-turbo": _whisper(128, 1280, 20, 32, 4, 51866),
}


@dataclass(frozen=True)
class Cost:
    """Operations of products with weights, operations of everything else (attention, convolutions), and bytes."""

    linear: float = 0.0
    other: float = 0.0
    bytes: float = 0.0

    @property
    def operations(self) -> float:
        return self.linear + self.other

    def __add__(self, cost: Cost) -> Cost:
        return Cost(self.linear + cost.linear, self.other + cost.other, self.bytes + cost.bytes)

    def __mul__(self, times: float) -> Cost:
        return Cost(self.linear * times, self.other * times, self.bytes * times)


@dataclass(frozen=True)
class Device:
    """What a device does at most: operations a second of products with weights and of others, bytes a second."""

    name: str
    linear: float
    other: float
    bandwidth: float

    def floor(self, cost: Cost) -> float:
        """Seconds: products follow each other, and memory is read beside them."""
        return max(cost.linear / self.linear + cost.other / self.other, cost.bytes / self.bandwidth)


H200 = Device("H200, 16 bits", 989e12, 989e12, 4.8e12)
H200_INT8 = Device("H200, products in int8", 1979e12, 989e12, 4.8e12)
"""Dense products, from NVIDIA's data sheet of the H200 SXM."""


@dataclass(frozen=True)
class Formats:
    """Bytes per number: of weights, of keys and values in the caches, and of the encoder's attention."""

    weight: int
    state: int
    attention: int


INT8 = Formats(1, 4, 2)
"""As the engine has it on a CPU with fast int8 products and bfloat16; without bfloat16 attention takes 4."""
HALF = Formats(2, 2, 2)
INT8_ON_GPU = Formats(1, 2, 2)


def encoded_frames(seconds: float) -> int:
    """Frames that the runner encodes for a window: with padding, whole seconds, at most 30."""
    padded = math.ceil((seconds + PADDING_SECONDS) * FRAMES_PER_SECOND / _WINDOW_FRAMES) * _WINDOW_FRAMES
    return min(1500, padded)


def entries(dims: Dimensions, frames: float) -> float:
    """Keys in cross-attention, and in the encoder's: the frames and the kept silence behind them."""
    return frames + (dims.n_audio_ctx - frames) / SILENCE_STRIDE


@dataclass(frozen=True)
class Whisper:
    """The formulas for one size and its number formats. `frames` are encoder frames of one window."""

    dims: Dimensions
    formats: Formats

    @property
    def weights(self) -> float:
        """Bytes."""
        read = self.encoder(self.dims.n_audio_ctx, 0) + self.cross(0, 0) + self.decoder(0, 0, 0, 0) + self.logits(0)
        return read.bytes

    def encoder(self, frames: float, windows: float = 1.0, earlier: float = 0.0) -> Cost:
        """Convolutions and layers of so many windows at once, behind `earlier` frames that are encoded already."""
        d, mels, layers = self.dims.n_audio_state, self.dims.n_mels, self.dims.n_audio_layer
        seen = entries(self.dims, earlier + frames)
        convolutions = 2 * (2 * frames) * 3 * mels * d + 2 * frames * 3 * d * d
        weights = layers * 12 * d * d * self.formats.weight + (3 * mels * d + 3 * d * d) * self.formats.attention
        others = layers * 2 * (seen - frames) * d * self.formats.attention
        return Cost(
            windows * layers * 24 * frames * d * d,
            windows * (convolutions + layers * 4 * frames * seen * d),
            weights + others,
        )

    def cross(self, frames: float, windows: float = 1.0, earlier: float = 0.0) -> Cost:
        """The decoder's keys and values of the encoder's output, written into the cache with those of `earlier`
        frames."""
        d, layers = self.dims.n_text_state, self.dims.n_text_layer
        written = 2 * entries(self.dims, earlier + frames) * d * self.formats.state
        return Cost(
            windows * layers * 4 * frames * d * d,
            0.0,
            layers * (2 * d * d * self.formats.weight + windows * written),
        )

    def decoder(self, rows: float, new: float, earlier: float, frames: float, windows: float | None = None) -> Cost:
        """A pass without logits: `new` tokens in each of `rows` rows behind `earlier` ones.

        `windows`: how many windows the rows look at, where several are beams of one.
        """
        d, layers = self.dims.n_text_state, self.dims.n_text_layer
        seen, read = entries(self.dims, frames), rows if windows is None else windows
        own = rows * 2 * (earlier + new) * d * self.formats.state
        audio = read * 2 * seen * d * self.formats.state
        return Cost(
            layers * rows * new * 28 * d * d,
            layers * rows * new * 4 * (earlier + new + seen) * d,
            layers * (14 * d * d * self.formats.weight + own + audio),
        )

    def logits(self, tokens: float) -> Cost:
        d, vocabulary = self.dims.n_text_state, self.dims.n_vocab
        return Cost(tokens * 2 * d * vocabulary, 0.0, d * vocabulary * self.formats.weight)


@dataclass(frozen=True)
class Steps:
    """One kind of step, per second of speech: how many there are, and what each does on average.

    `seconds` of window, of which the last `encoded` are encoded, with the silence behind them; tokens of the `prefix`
    (prompt, start, committed), of which so many are `known` from the last step, and of the `draft`: what is not known
    the first pass takes; `passes` of one token each after that; `beams` in these.
    """

    rate: float
    seconds: float
    encoded: float
    prefix: float
    known: float
    draft: float
    passes: float
    beams: float = 1.0


@dataclass(frozen=True)
class Schedule:
    """What the engine is asked for while one client speaks."""

    partial: Steps
    final: Steps

    def every(self, interval: float) -> Schedule:
        """With another time between partial steps; as much audio and as many tokens are new, in fewer steps or more."""
        partial = self.partial
        passes = partial.passes * partial.rate * interval
        encoded = min(partial.encoded + interval - 1 / partial.rate, partial.seconds + PADDING_SECONDS)
        return replace(self, partial=replace(partial, rate=1 / interval, passes=passes, encoded=encoded))

    def whole(self) -> Schedule:
        """The same where windows are always encoded from their beginning, as on a GPU: in whole seconds."""
        encoded = self.partial.seconds + PADDING_SECONDS + 0.5
        return replace(self, partial=replace(self.partial, encoded=encoded))


def parts(whisper: Whisper, steps: Steps, batch: float = 1.0) -> dict[str, Cost]:
    """Cost per second of one client's speech, by part, where `batch` clients share every pass.

    To the encoder belong cross-attention's keys and values, to the passes their logits.
    """
    encoded = min(FRAMES_PER_SECOND * steps.encoded, whisper.dims.n_audio_ctx)
    frames = max(encoded, min(FRAMES_PER_SECOND * (steps.seconds + PADDING_SECONDS), whisper.dims.n_audio_ctx))
    earlier = frames - encoded
    first = steps.prefix + steps.draft
    rows = batch * steps.beams
    token = whisper.decoder(rows, 1, first + steps.passes / 2, frames, batch) + whisper.logits(rows)
    read = whisper.decoder(batch, first - steps.known, steps.known, frames)
    costs = {
        "encoder": whisper.encoder(encoded, batch, earlier) + whisper.cross(encoded, batch, earlier),
        "first pass": read + whisper.logits(batch * (2 + steps.draft)),
        "token passes": token * steps.passes,
    }
    return {name: cost * (steps.rate / batch) for name, cost in costs.items()}


def per_second(whisper: Whisper, schedule: Schedule, batch: float = 1.0) -> dict[str, Cost]:
    """Partial and final steps together."""
    partial, final = (parts(whisper, steps, batch) for steps in (schedule.partial, schedule.final))
    return {name: partial[name] + final[name] for name in partial}


def total(costs: Sequence[Cost]) -> Cost:
    return sum(costs, Cost())


def floor(device: Device, costs: dict[str, Cost]) -> float:
    """Seconds: the parts come one after the other."""
    return sum(device.floor(cost) for cost in costs.values())
