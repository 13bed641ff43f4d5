"""Finds and loads what the options ask for: the speech model, voice activity detection, and the threads they run on."""

from __future__ import annotations

import logging
import os
import time
from concurrent.futures import Executor
from pathlib import Path

from wyoming_wlk.catalogue import CATALOGUE, VAD, automatic_choices
from wyoming_wlk.config import Config
from wyoming_wlk.engine.engine import DecodingSettings, Engine
from wyoming_wlk.engine.runner import DeviceSettings, available_devices, cuda_memory_gb
from wyoming_wlk.errors import ModelError
from wyoming_wlk.hosting import ModelInfo
from wyoming_wlk.models import InstalledModel, ModelStore
from wyoming_wlk.session import Speech
from wyoming_wlk.vad import SileroVad

_LOG = logging.getLogger(__name__)


def choose_device(config: Config) -> str:
    """Raises `ModelError` where a GPU is asked for and there is none."""
    if config.model.device != "auto":
        if config.model.device not in available_devices():
            raise ModelError(f"--device {config.model.device}: torch finds no GPU here")
        return config.model.device
    return "cuda" if cuda_memory_gb() else "cpu"


def expected_model(config: Config) -> ModelInfo:
    """What `describe` tells until the model is there."""
    name = config.model.model if config.model.model != "auto" else _choices(config)[0][0]
    if name in CATALOGUE:
        return ModelInfo(name, CATALOGUE[name].languages)
    return ModelInfo(Path(name).name, CATALOGUE["base"].languages)


def find_model(config: Config) -> InstalledModel:
    """The model that the options ask for, fetched if need be; blocking. Raises `ModelError`."""
    store = ModelStore(config.model.data_dir, config.model.offline)
    if config.model.model != "auto":
        return store.resolve(config.model.model)
    names, reason = _choices(config)
    model = store.resolve_first(names)
    _LOG.info("auto picked the model %s: %s; of %s the first that can be had", model.name, reason, ", ".join(names))
    return model


def load_speech(config: Config, executor: Executor) -> tuple[Speech, ModelInfo]:
    """Everything that hears; blocking, for minutes where a model has to be fetched. Raises `ModelError`.

    `executor` runs voice activity detection.
    """
    device = choose_device(config)
    model = find_model(config)
    began = time.monotonic()
    vad = SileroVad(ModelStore(config.model.data_dir, config.model.offline).fetch(VAD) / "silero_vad.onnx")
    on = DeviceSettings(device, config.model.compute_type, model_threads(config), config.model.slots)
    how = DecodingSettings(temperatures=config.decoding.temperatures)
    engine = Engine.load(model.folder, model.tokenizer, on, how)
    _LOG.info("loaded %s on %s in %.1f s", model.name, device, time.monotonic() - began)
    return Speech(engine, vad, executor), ModelInfo(model.name, engine.languages)


def model_threads(config: Config) -> int:
    """One core stays free: a pass waits for its slowest thread, and one that shares a core with another program makes
    every pass many times slower."""
    return config.model.threads or max(1, (os.cpu_count() or 1) - 1)


def _choices(config: Config) -> tuple[list[str], str]:
    cores = config.model.threads or os.cpu_count() or 1
    return automatic_choices(config.decoding.language, choose_device(config), cores, cuda_memory_gb())
