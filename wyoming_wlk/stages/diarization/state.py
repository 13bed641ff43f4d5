"""One client's diarization between steps: plain data, without networks, that can leave the process."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from wyoming_wlk.stages.diarization.networks import FRAME, FRAME_START, POWERSET, WINDOW, WINDOW_FRAMES
from wyoming_wlk.stages.diarizer import DiarizationOptions

SAMPLE_RATE = 16000
HOP = 30
"""Frames between the windows: half a second."""

_ARRAYS: dict[str, tuple[type[np.generic], tuple[int | str, ...]]] = {
    "audio": (np.float32, ("samples",)),
    "windows": (np.float32, ("windows", WINDOW_FRAMES, len(POWERSET))),
    "embeddings": (np.float32, ("pieces", "dimensions")),
    "masks": (np.bool_, ("pieces", WINDOW_FRAMES)),
    "ends": (np.int64, ("pieces",)),
    "purities": (np.float64, ("pieces",)),
    "labels": (np.int64, ("pieces",)),
    "links": (np.float64, ("pieces", "pieces")),
    "sums": (np.float64, ("voices", "dimensions")),
    "weights": (np.float64, ("voices",)),
    "voices": (np.int64, ("voices",)),
}
_NUMBERS = ("heard", "horizon", "padding", "next_voice", "crowded")


@dataclass(eq=False)
class DiarizationState:
    """Everything of one client that must survive a turn. Frames count from the beginning of what was heard.

    A piece is a second or so in which one voice is heard alone; its embedding is what speakers are told apart by. A
    voice is a cluster of pieces; it becomes a speaker when the client first hears of it.
    """

    options: DiarizationOptions
    network: str
    """Name of the network that made the embeddings."""
    embeddings: np.ndarray
    """float32, of the last pieces; one row each, as in masks, ends, purities, labels and links."""
    sums: np.ndarray
    """Of each voice that has pieces no longer kept: their weighted sum; one row each, as in weights and voices."""
    audio: np.ndarray = field(default_factory=lambda: np.zeros(WINDOW * FRAME, np.float32))
    """float32 from `heard - WINDOW` on; a stream begins with silence."""
    heard: int = 0
    """Frame at which the last window ended."""
    horizon: int = 0
    """Sample up to which the client knows who spoke."""
    padding: int = 0
    """Samples of silence that were heard beside the client's own, at its pauses."""
    windows: np.ndarray = field(default_factory=lambda: np.zeros((0, WINDOW_FRAMES, len(POWERSET)), np.float32))
    """The segmentation's probabilities in the last windows, HOP frames apart, as far as they reach over `horizon`."""
    masks: np.ndarray = field(default_factory=lambda: np.zeros((0, WINDOW_FRAMES), bool))
    """Which frames of its window a piece is made of."""
    ends: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Where a piece's window ended."""
    purities: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """How far later windows, which heard what followed, agree that a piece is one voice alone: 0 to 1."""
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """A piece's voice; -1 before it has one."""
    links: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    """What the segmentation says of each two pieces: above 0 for one voice, below for two."""
    weights: np.ndarray = field(default_factory=lambda: np.zeros(0))
    voices: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Which voices these are."""
    next_voice: int = 0
    speakers: list[int] = field(default_factory=list)
    """The voices that the client has heard of; its number of a speaker is the place in this list, from 1."""
    crowded: bool = False
    """Voices had to be taken for others, since there are more than the client wants."""

    @classmethod
    def begin(cls, options: DiarizationOptions, network: str, dimensions: int) -> DiarizationState:
        return cls(options, network, np.zeros((0, dimensions), np.float32), np.zeros((0, dimensions)))

    @property
    def end(self) -> int:
        """Where the audio ends: samples taken in, with the padding."""
        return len(self.audio) + (self.heard - WINDOW) * FRAME

    @property
    def told(self) -> int:
        """The first frame of which the client does not know all."""
        return (self.horizon - FRAME_START) // FRAME

    @property
    def lost(self) -> list[int]:
        """The voices that the client has heard of and that turned out to be others."""
        alive = {*self.labels.tolist(), *self.voices.tolist()}
        return [voice for voice in self.speakers if voice not in alive]

    @property
    def room(self) -> int:
        """How many more voices the client may hear of."""
        return self.options.max_speakers - len(self.speakers) + len(self.lost)

    def number(self, voice: int) -> int:
        """The client's number of a voice, from now on if it has none; where there are no more, that of a lost one."""
        if voice not in self.speakers:
            if len(self.speakers) < self.options.max_speakers:
                self.speakers.append(voice)
            else:
                self.speakers[self.speakers.index(self.lost[0])] = voice
        return self.speakers.index(voice) + 1

    def seconds(self, sample: int) -> float:
        """A sample at or after the horizon, on the client's clock."""
        return (sample - self.padding) / SAMPLE_RATE

    def to_bytes(self) -> bytes:
        """The state as a safetensors file."""
        numbers = {name: vars(self)[name] for name in _NUMBERS}
        header = {"options": asdict(self.options), "network": self.network, "speakers": self.speakers, **numbers}
        arrays = {name: np.ascontiguousarray(vars(self)[name]) for name in _ARRAYS}
        return save_tensors(arrays, {"state": json.dumps(header)})

    @classmethod
    def from_bytes(cls, data: bytes) -> DiarizationState:
        """What `to_bytes` has written. Raises ValueError for anything else."""
        try:
            arrays = load_tensors(data)
            header = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["state"])
            options = DiarizationOptions(**header.pop("options"))
            state = cls(options, header["network"], arrays["embeddings"], arrays["sums"])
        except (SafetensorError, KeyError, TypeError, ValueError) as err:
            raise ValueError(f"not the state of a diarization: {err}") from err
        _check(header, arrays)
        vars(state).update(arrays | header)
        return state


def _check(header: dict[str, object], arrays: dict[str, np.ndarray]) -> None:
    """Raises ValueError where something is missing or does not fit the rest."""
    if header.keys() != {"network", "speakers", *_NUMBERS} or arrays.keys() != _ARRAYS.keys():
        raise ValueError("not the state of a diarization: other fields")
    speakers = header["speakers"]
    numbers = [header[name] for name in _NUMBERS]
    if not isinstance(speakers, list) or not all(isinstance(value, int) for value in [*speakers, *numbers]):
        raise ValueError("not the state of a diarization: no numbers")
    sizes: dict[str, int] = {}
    for name, (kind, shape) in _ARRAYS.items():
        array = arrays[name]
        fits = array.dtype == kind and array.ndim == len(shape)
        for size, found in zip(shape, array.shape, strict=fits):
            fits &= found == (size if isinstance(size, int) else sizes.setdefault(size, found))
        if not fits:
            raise ValueError(f"not the state of a diarization: {name} is {array.dtype}{list(array.shape)}")
