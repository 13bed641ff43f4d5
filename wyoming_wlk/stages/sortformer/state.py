"""One client's diarization between steps: plain data, without tensors, that can leave the process."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from wyoming_wlk.stages.diarizer import DiarizationOptions

_PREFIX = "memory."


@dataclass(eq=False)
class SortformerState:
    """Everything of one client that must survive a turn. A channel is a voice that the model tells apart."""

    options: DiarizationOptions
    memory: dict[str, np.ndarray]
    """The fields of NeMo's `StreamingSortformerState` that are set, for a batch of one: the speaker cache, the FIFO,
    the predictions of both, and what silence sounds like."""
    active: list[bool]
    """Which channels spoke in the last frame."""
    speakers: list[int]
    """By channel: the speaker that the client knows it as; 0 before it has heard of it."""
    spoken: list[int]
    """By channel: frames of speech."""
    audio: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """float32 at 16 kHz, from what the next window needs on."""
    origin: int = 0
    """Position of audio[0] on the client's sample clock."""
    frame: int = 0
    """Where the next chunk begins."""
    told: int = 0
    """Sample up to which the client knows who spoke: behind `frame` where all was settled before more was heard."""
    crowded: bool = False

    @property
    def clock(self) -> int:
        """Samples heard."""
        return self.origin + len(self.audio)

    def to_bytes(self) -> bytes:
        """The state as a safetensors file."""
        plain = {name: value for name, value in vars(self).items() if name not in ("audio", "memory", "options")}
        header = {"state": json.dumps(plain), "options": json.dumps(asdict(self.options))}
        memory = {_PREFIX + name: np.ascontiguousarray(value) for name, value in self.memory.items()}
        return save_tensors({"audio": self.audio, **memory}, header)

    @classmethod
    def from_bytes(cls, data: bytes) -> SortformerState:
        """Raises ValueError for what `to_bytes` did not write."""
        try:
            size = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + size])["__metadata__"]
            tensors = load_tensors(data)
            audio = tensors.pop("audio")
            memory = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
            options = DiarizationOptions(**json.loads(header["options"]))
            return cls(options, memory, audio=audio, **json.loads(header["state"]))
        except (KeyError, TypeError, SafetensorError) as err:
            raise ValueError(f"no state of Sortformer: {err}") from err
