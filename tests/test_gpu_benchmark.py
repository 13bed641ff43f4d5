"""The benchmark for GPUs, on the CPU: what it lets a model hear, and that it prints what it should."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.gpu import SMALL
from benchmarks.schedule import Script, ScriptedRunner, random_checkpoint
from wyoming_wlk.engine.context import ClientOptions, DecoderContext
from wyoming_wlk.engine.engine import DecodingSettings, Engine
from wyoming_wlk.engine.request import StepKind, StepRequest, StepResult, Word
from wyoming_wlk.engine.runner import DeviceSettings, Runner
from wyoming_wlk.models import InstalledModel

ROOT = Path(__file__).resolve().parent.parent
RATE = 16000


def tokens(words: tuple[Word, ...]) -> list[int]:
    return [token for word in words for token in word.tokens]


async def test_a_random_model_hears_the_script(tiny_en: InstalledModel) -> None:
    """Partials commit what lies back far enough and mishear the end; the final has it all."""
    runners: list[ScriptedRunner] = []

    def load() -> Runner:
        checkpoint = random_checkpoint(SMALL, torch.device("cpu"))
        runners.append(ScriptedRunner.load(checkpoint, tiny_en.tokenizer, DeviceSettings()))  # type: ignore[arg-type]
        return runners[0]

    engine = Engine.start(load, DecodingSettings())
    text = runners[0].tokenizer.encode(" turn on the lamp in the kitchen")
    script = Script(np.zeros(4 * RATE, np.float32), text, [20 * (n + 1) for n in range(len(text))])
    runners[0].scripts["client"] = script
    context = DecoderContext(ClientOptions(language="en"))

    async def step(seconds: float, kind: StepKind) -> StepResult:
        context.append(script.samples[len(context.audio) : int(seconds * RATE)])
        return await engine.step(StepRequest(context, kind, 0.0, "client"))

    try:
        first = await step(1.7, StepKind.PARTIAL)
        assert tokens(first.words) == text[:2]
        assert tokens(first.tentative)[0] == text[2] and tokens(first.tentative)[1:] != text[3:4]
        second = await step(2.4, StepKind.PARTIAL)
        assert tokens(second.words) == text[2 : 2 + len(tokens(second.words))] != []
        final = await step(4.0, StepKind.FINAL)
    finally:
        engine.stop()
    assert tokens(final.words) == text


def test_it_prints_all_tables(tiny_en: InstalledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A try on the CPU compares transcripts, times passes and parking, and serves a client."""
    monkeypatch.setenv("WLK_DATA_DIR", str(tiny_en.folder.parent.parent))
    options = ["--device", "cpu", "--small", "--clients", "1", "--seconds", "2", "--limit", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *options], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    for title in ("tiny.en, 2 clips", "Encoder, windows", "Decoder, one token", "Parking and restoring", "Clients who"):
        assert f"### {title}" in done.stdout
    assert "| 1 |" in done.stdout.partition("Clients who")[2]
