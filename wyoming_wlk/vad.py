"""Voice activity: Silero's network on onnxruntime, and the rules that turn its probabilities into starts and ends.

`SileroVad` is shared by all clients and must be called off the event loop; `SpeechDetector` is one client's and pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from wyoming_wlk.errors import ModelError

SAMPLE_RATE = 16000
WINDOW = 512
"""Samples per probability: 32 ms."""

_CONTEXT = 64  # samples of the window before that the network wants to see again


class SileroVad:
    """The network. Thread-safe; each stream's state is its own `VadStream`."""

    def __init__(self, model: Path) -> None:
        """Raises `ModelError` where the file cannot be loaded."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as err:  # onnxruntime raises classes of its own without a common base
            raise ModelError(f"cannot load voice activity model {model}: {err}") from err

    def run(self, windows: np.ndarray, state: np.ndarray) -> tuple[float, np.ndarray]:
        """One window [1, _CONTEXT + WINDOW] and the state [2, 1, 128] -> speech probability and the next state."""
        feed = {"input": windows, "state": state, "sr": np.array(SAMPLE_RATE, dtype=np.int64)}
        probability, state = self._session.run(None, feed)
        return float(probability[0, 0]), state


class VadStream:
    """One client's stream through the network."""

    def __init__(self, vad: SileroVad) -> None:
        self._vad = vad
        self._state = np.zeros((2, 1, 128), np.float32)
        self._buffer = np.zeros(_CONTEXT, np.float32)

    def probabilities(self, samples: np.ndarray) -> list[float]:
        """Speech probability of each window that `samples` completes."""
        self._buffer = np.concatenate([self._buffer, samples])
        found: list[float] = []
        start = 0
        while len(self._buffer) - start >= _CONTEXT + WINDOW:
            window = self._buffer[None, start : start + _CONTEXT + WINDOW]
            probability, self._state = self._vad.run(window, self._state)
            found.append(probability)
            start += WINDOW
        self._buffer = self._buffer[start:]
        return found


@dataclass(frozen=True)
class SpeechStart:
    sample: int
    """Where speech begins, on the client's sample clock."""


@dataclass(frozen=True)
class SpeechEnd:
    sample: int
    """Where speech ended; known only once the pause is long enough."""
    noticed: int = 0
    """Where the pause was long enough."""


SpeechEvent = SpeechStart | SpeechEnd


@dataclass(frozen=True)
class VadSettings:
    """`threshold` to begin speech, `threshold - hysteresis` to keep it; `min_speech` against clicks, `min_silence`
    before an end is believed, in seconds."""

    threshold: float = 0.5
    hysteresis: float = 0.15
    min_speech: float = 0.096
    min_silence: float = 0.3


class SpeechDetector:
    """Probabilities in, starts and ends out."""

    def __init__(self, settings: VadSettings) -> None:
        self._settings = settings
        self._clock = 0
        self._speaking = False
        self._since: int | None = None
        """Where the run that may change the state began."""

    def push(self, probabilities: Sequence[float]) -> list[SpeechEvent]:
        """Takes the windows that follow; returns what they decide."""
        events: list[SpeechEvent] = []
        for probability in probabilities:
            start = self._clock
            self._clock += WINDOW
            settings = self._settings
            limit = settings.threshold - (settings.hysteresis if self._speaking else 0)
            if (probability >= limit) == self._speaking:
                self._since = None
                continue
            if self._since is None:
                self._since = start
            needed = settings.min_silence if self._speaking else settings.min_speech
            if self._clock - self._since >= needed * SAMPLE_RATE:
                self._speaking = not self._speaking
                events.append(SpeechStart(self._since) if self._speaking else SpeechEnd(self._since, self._clock))
                self._since = None
        return events
