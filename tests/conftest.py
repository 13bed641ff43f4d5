"""What the tests share: real models (fetched once into the user's cache) and the recorded clips beside this file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wyoming_wlk.catalogue import VAD
from wyoming_wlk.config import ModelConfig
from wyoming_wlk.engine.engine import DecodingSettings, Engine
from wyoming_wlk.engine.runner import DeviceSettings
from wyoming_wlk.models import InstalledModel, ModelStore
from wyoming_wlk.vad import SileroVad

AUDIO = Path(__file__).parent / "audio"


@dataclass(frozen=True)
class Clip:
    """A recorded clip: float32 samples at 16 kHz, and what is said in it."""

    name: str
    samples: np.ndarray
    text: str
    language: str | None
    kind: str

    @property
    def pcm(self) -> bytes:
        """The clip as s16le."""
        return (np.clip(self.samples, -1, 1) * 32767).astype("<i2").tobytes()


def load_clips() -> dict[str, Clip]:
    clips = {}
    for line in (AUDIO / "manifest.jsonl").read_text("utf-8").splitlines():
        entry = json.loads(line)
        samples, rate = soundfile.read(AUDIO / entry["file"], dtype="float32")
        assert rate == 16000
        name = entry["file"].removesuffix(".flac")
        clips[name] = Clip(name, samples, entry["text"] or "", entry["language"], entry["kind"])
    return clips


@pytest.fixture(scope="session")
def clips() -> dict[str, Clip]:
    return load_clips()


@pytest.fixture(scope="session")
def store() -> ModelStore:
    data_dir = os.environ.get("WLK_DATA_DIR")
    return ModelStore(Path(data_dir) if data_dir else ModelConfig().data_dir)


@pytest.fixture(scope="session")
def tiny_en(store: ModelStore) -> InstalledModel:
    """The small English model; voice activity detection comes along, so that a server can start offline on both."""
    store.fetch(VAD)
    return store.resolve("tiny.en")


@pytest.fixture(scope="session")
def base(store: ModelStore) -> InstalledModel:
    return store.resolve("base")


@pytest.fixture(scope="session")
def vad(store: ModelStore) -> SileroVad:
    return SileroVad(store.fetch(VAD) / "silero_vad.onnx")


def start_engine(model: InstalledModel, decoding: DecodingSettings | None = None, slots: int = 16) -> Engine:
    device = DeviceSettings(slots=slots)
    return Engine.load(model.folder, model.tokenizer, device, decoding or DecodingSettings())


@pytest.fixture(scope="session")
def engine(tiny_en: InstalledModel) -> Iterator[Engine]:
    """tiny.en with greedy finals, shared by tests that only use it."""
    engine = start_engine(tiny_en)
    yield engine
    engine.stop()
