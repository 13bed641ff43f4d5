"""Stages without models: who speaks is known beforehand, and translations are capitals."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

from wyoming_wlk.config import Config
from wyoming_wlk.engine.request import Word
from wyoming_wlk.errors import RequestError
from wyoming_wlk.stages.diarizer import DiarizationOptions, Diarizer, Heard, Settled, SpeakerTurn
from wyoming_wlk.stages.library import Stages
from wyoming_wlk.stages.translator import Said, Translated, Translation, Translator

RATE = 16000


@dataclass
class ScriptedState:
    """How far one client was heard, in samples, and until where it was told."""

    heard: int = 0
    told: float = 0.0

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()


class ScriptedDiarizer(Diarizer[ScriptedState]):
    """Speaker 1 for the first `turn` seconds, then speaker 2, then again 1; told `latency` seconds later.

    Fails once it has heard `fails_at` seconds; `gate` is what it waits for at each step.
    """

    def __init__(self, turn: float = 2.0, latency: float = 1.0, fails_at: float = 1e9, crowded_at: float = 1e9) -> None:
        self.turn, self.latency, self.fails_at, self.crowded_at = turn, latency, fails_at, crowded_at
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []

    def begin(self, options: DiarizationOptions) -> ScriptedState:
        return ScriptedState()

    def restore(self, data: bytes) -> ScriptedState:
        return ScriptedState(**json.loads(data))

    def step(self, items: Sequence[Heard[ScriptedState]]) -> list[Settled | Exception]:
        self.gate.wait(30)
        self.batches.append(len(items))
        return [self._step(item) for item in items]

    def _step(self, item: Heard[ScriptedState]) -> Settled | Exception:
        state = item.state
        state.heard += len(item.audio)
        seconds = state.heard / RATE
        if seconds >= self.fails_at:
            return ZeroDivisionError("the script says so")
        horizon = seconds if item.last else max(state.told, seconds - self.latency)
        turns = []
        while state.told < horizon:
            number = int(state.told / self.turn)
            end = min(horizon, (number + 1) * self.turn)
            turns.append(SpeakerTurn(state.told, end, number % 2 + 1))
            state.told = end
        return Settled(tuple(turns), horizon, seconds >= self.crowded_at)


@dataclass
class ScriptedText:
    """The words of a sentence that goes on."""

    target: str
    words: list[Word] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        return self.target.encode()


class ScriptedTranslator(Translator[ScriptedText]):
    """Capitals, sentence by sentence; it cannot do Welsh, and fails on the word "boom"."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, str]] = []

    def begin(self, source: str, target: str) -> ScriptedText:
        self.begun.append((source, target))
        if target.startswith("cy"):
            raise RequestError(f"no translation from {source} to {target}")
        return ScriptedText(target)

    def restore(self, data: bytes) -> ScriptedText:
        return ScriptedText(data.decode())

    def step(self, items: Sequence[Said[ScriptedText]]) -> list[Translated | Exception]:
        return [self._step(item) for item in items]

    def _step(self, item: Said[ScriptedText]) -> Translated | Exception:
        state, stable = item.state, []
        for word in item.words:
            if "boom" in word.text:
                return ValueError("boom")
            state.words.append(word)
            if word.text.endswith((".", "?", "!")):
                stable.append(self._translation(state))
        if item.last and state.words:
            stable.append(self._translation(state))
        return Translated(tuple(stable), "".join(word.text for word in state.words).upper())

    def _translation(self, state: ScriptedText) -> Translation:
        words, state.words = state.words, []
        return Translation(words[0].start, words[-1].end, "".join(word.text for word in words).upper())


class ScriptedStages(Stages):
    """With these instead of models."""

    def __init__(self, config: Config, diarizer: ScriptedDiarizer | None = None, **stages: object) -> None:
        """`stages`: options of the server's stages."""
        super().__init__(replace(config, stages=replace(config.stages, **stages)))
        self.diarizer, self.translator = diarizer or ScriptedDiarizer(), ScriptedTranslator()

    def _load_online(self) -> ScriptedDiarizer:
        return self.diarizer

    def _load_bergamot(self) -> ScriptedTranslator:
        return self.translator


async def until(condition: object) -> None:
    """Waits for something that another task brings about. Raises TimeoutError."""
    assert callable(condition)
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)
