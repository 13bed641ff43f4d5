"""One client's diarization between steps: plain data, without networks, that can leave the process."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from wyoming_wlk.stages.diarization.networks import DIMENSIONS, FRAME, LOCAL_SPEAKERS

HOP = 30
"""Frames between the windows: half a second."""
WINDOW = 420
"""Frames of audio that a window hears: seven seconds."""
WINDOW_FRAMES = 417
"""Frames that the segmentation makes of a window; the last few have no full context."""

_ARRAYS = (
    "audio",
    "windows",
    "embeddings",
    "masks",
    "ends",
    "purities",
    "labels",
    "links",
    "sums",
    "weights",
    "voices",
)


@dataclass(frozen=True)
class SpeakerTurn:
    """Somebody speaks from `start` to `end` (seconds). What goes on at a horizon is continued by a turn from there."""

    start: float
    end: float
    speaker: int
    """Counted from 0 in the order in which the client hears of them."""


@dataclass(frozen=True)
class DiarizationOptions:
    """What a client may choose for itself."""

    latency: float = 5.0
    """Seconds after which it is told, at the latest, who spoke. More is more accurate; at least 0.6."""
    max_speakers: int = 10
    """Further voices are taken for the most alike of these."""


@dataclass(eq=False)
class DiarizationState:
    """Everything of one client that must survive a turn. Frames count from the beginning of its audio.

    A piece is a second or so in which one voice is heard alone; its embedding is what speakers are told apart by. A
    voice is a cluster of pieces; it becomes a speaker when the client first hears of it.
    """

    options: DiarizationOptions = DiarizationOptions()
    audio: np.ndarray = field(default_factory=lambda: np.zeros(WINDOW * FRAME, np.float32))
    """float32 from `heard - WINDOW` on; a stream begins with silence."""
    heard: int = 0
    """Frame at which the last window ended."""
    told: int = 0
    """Frame up to which the client knows who spoke."""
    windows: np.ndarray = field(default_factory=lambda: np.zeros((0, WINDOW_FRAMES, LOCAL_SPEAKERS), bool))
    """The local speakers' activity in the last windows, HOP frames apart, as far as they reach over `told`."""
    embeddings: np.ndarray = field(default_factory=lambda: np.zeros((0, DIMENSIONS), np.float32))
    """Of the last pieces; one row each, as in the arrays that follow."""
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
    sums: np.ndarray = field(default_factory=lambda: np.zeros((0, DIMENSIONS)))
    """Of each voice that has pieces no longer kept: their weighted sum."""
    weights: np.ndarray = field(default_factory=lambda: np.zeros(0))
    voices: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Which voices these are."""
    next_voice: int = 0
    speakers: list[int] = field(default_factory=list)
    """The voices that the client has heard of; its number of a speaker is the place in this list."""
    crowded: bool = False
    """Voices had to be taken for others, since there are more than the client wants."""

    @property
    def clock(self) -> int:
        """Samples taken in."""
        return len(self.audio) + (self.heard - WINDOW) * FRAME

    def to_bytes(self) -> bytes:
        """The state as a safetensors file."""
        plain = {name: value for name, value in vars(self).items() if name not in (*_ARRAYS, "options")}
        header = {"state": json.dumps(plain), "options": json.dumps(asdict(self.options))}
        return save_tensors({name: np.ascontiguousarray(vars(self)[name]) for name in _ARRAYS}, header)

    @classmethod
    def from_bytes(cls, data: bytes) -> DiarizationState:
        """Raises ValueError, KeyError, TypeError or SafetensorError for what is no such file."""
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])["__metadata__"]
        options = DiarizationOptions(**json.loads(header["options"]))
        state = cls(options)
        vars(state).update(load_tensors(data) | json.loads(header["state"]))
        return state
