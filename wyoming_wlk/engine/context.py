"""One client's decoder state between steps, and the store that keeps the state of clients that are away.

Plain data without torch, so that it can leave the process. What can be computed from it again (mel frames, keys and
values: `window.py`) stays behind then; a step interrupted on the device is parked whole by `runner.py`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from wyoming_wlk.errors import BusyError

if TYPE_CHECKING:
    from wyoming_wlk.engine.window import TextMemory, Window

SAMPLE_RATE = 16000
MEL_HOP = 160
_STAGE = "stage."
_APART = ("audio", "options", "stages", "window", "prompt")
_PROMPT_CHARACTERS = 1200  # more than the half of the model's context that a prompt may fill


@dataclass(frozen=True)
class ClientOptions:
    """What a client may choose for itself. Immutable; nothing of it is ever set on the shared model."""

    language: str = "auto"
    task: str = "transcribe"
    prompt: str = ""
    """Static prompt: names and style, before all earlier text."""
    hotwords: tuple[str, ...] = ()
    """Names to expect, those that matter most first."""
    beam_size: int = 1
    """Beams of finals."""
    policy: str = "alignatt"
    frame_threshold: int = 25
    """For alignatt: how many frames (20 ms) before the end of the audio a committed token must look at least."""
    diarization: str = ""
    """What tells speakers apart; empty for nothing."""
    target_language: str = ""
    """The language that text is translated into beside the transcript; empty for none."""
    translation: str = ""
    """What translates."""


@dataclass(eq=False)
class DecoderContext:
    """Everything of one client that must survive a turn.

    Token lists belong to the current window; `attended` is the last encoder frame that committed text looked at.
    """

    options: ClientOptions
    audio: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """The window: float32, 16 kHz mono, at most 30 s."""
    offset: int = 0
    """Position of audio[0] on the client's sample clock."""
    language: str | None = None
    previous_text: str = ""
    """Text before this window, the prompt of the next step."""
    committed: list[int] = field(default_factory=list)
    tentative: list[int] = field(default_factory=list)
    """The last hypothesis after the committed tokens: the next step's draft, and what agreement is judged against."""
    attended: int = 0
    stages: dict[str, bytes] = field(default_factory=dict)
    """What stages should know when the client speaks again, under names of their own."""
    window: Window | None = None
    """What the engine has computed of the window, for the next step; gone with the window."""
    prompt: TextMemory | None = None
    """What it has read of the text before the window."""

    @property
    def end(self) -> int:
        """Sample clock after the window's last sample."""
        return self.offset + len(self.audio)

    def append(self, audio: np.ndarray) -> None:
        self.audio = np.concatenate([self.audio, audio])

    def restart(self, sample: int, text: str) -> None:
        """Begins an empty window at `sample`; `text` is what the closed one said."""
        self.offset = sample
        self.audio = np.zeros(0, np.float32)
        self._forget(text)

    def cut(self, sample: int, text: str, kept: list[int]) -> None:
        """Drops audio before `sample` (on the mel grid); `text` was said there, `kept` are the tokens after."""
        start = (sample - self.offset) // MEL_HOP * MEL_HOP
        self.audio = self.audio[start:].copy()
        self.offset += start
        self._forget(text)
        self.committed = kept

    def _forget(self, text: str) -> None:
        self.previous_text += text
        if len(self.previous_text) > _PROMPT_CHARACTERS:  # a good deal at once: what has been read of it stays good
            self.previous_text = self.previous_text[-_PROMPT_CHARACTERS * 2 // 3 :]
        self.committed, self.tentative, self.attended, self.window = [], [], 0, None

    def to_bytes(self) -> bytes:
        """The context as a safetensors file."""
        state = {name: value for name, value in vars(self).items() if name not in _APART}
        header = {"state": json.dumps(state), "options": json.dumps(asdict(self.options))}
        stages = {_STAGE + name: np.frombuffer(parked, np.uint8) for name, parked in self.stages.items()}
        return save_tensors({"audio": self.audio, **stages}, header)

    @classmethod
    def from_bytes(cls, data: bytes) -> DecoderContext:
        """Raises ValueError or SafetensorError for what `to_bytes` did not write."""
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])["__metadata__"]
        tensors = load_tensors(data)
        stages = {name[len(_STAGE) :]: parked.tobytes() for name, parked in tensors.items() if name.startswith(_STAGE)}
        options = json.loads(header["options"])
        options["hotwords"] = tuple(options["hotwords"])
        return cls(ClientOptions(**options), tensors["audio"], stages=stages, **json.loads(header["state"]))


class ContextStore:
    """Contexts of clients that named themselves, kept for a while after they left.

    One live user per id; what stays unused for `idle_seconds` is dropped, and so is the oldest beyond `limit`.
    """

    def __init__(
        self, idle_seconds: float, limit: int = 1000, clock: Callable[[], float] = lambda: time.monotonic()
    ) -> None:
        """`clock` looks `time.monotonic` up at each call: benchmarks put another in its place."""
        self._idle_seconds, self._limit, self._clock = idle_seconds, limit, clock
        self._away: dict[str, tuple[float, DecoderContext]] = {}
        self._live: set[str] = set()

    def checkout(self, client_id: str) -> DecoderContext | None:
        """The kept context of a client that comes back, None for a new one. Raises `BusyError` while it is in use."""
        self._expire()
        if client_id in self._live:
            raise BusyError(f"client {client_id!r} is already connected")
        self._live.add(client_id)
        return self._away.pop(client_id, (0.0, None))[1]

    def give_back(self, client_id: str, context: DecoderContext) -> None:
        """Ends the use that `checkout` began."""
        self._live.discard(client_id)
        self._away[client_id] = (self._clock(), context)
        self._expire()

    def __len__(self) -> int:
        return len(self._away)

    def _expire(self) -> None:
        oldest = self._clock() - self._idle_seconds
        while self._away:
            client_id, (left, _) = next(iter(self._away.items()))
            if left > oldest and len(self._away) <= self._limit:
                break
            del self._away[client_id]
