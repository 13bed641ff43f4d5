"""Recorded clips with their texts, and the word error rate. Knows nothing about servers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
import soundfile

SAMPLE_RATE = 16000
DEFAULT_AUDIO = Path(__file__).resolve().parent.parent / "tests" / "audio"


@dataclass(frozen=True)
class Clip:
    """A recorded clip: float32 samples at 16 kHz mono, and what is said in it (empty for noise)."""

    path: Path
    samples: np.ndarray
    text: str


def load_clips(folder: Path, kind: str, language: str | None = None, limit: int | None = None) -> list[Clip]:
    """The clips of one kind (short, command, long, noise) that `manifest.jsonl` in `folder` names, in its order.

    Each line of it is an object with `file` (relative to the folder), `text`, `language` and `kind`. `language` None
    takes them all. Raises ValueError for audio that is not 16 kHz mono.
    """
    lines = (folder / "manifest.jsonl").read_text("utf-8").splitlines()
    entries = [json.loads(line) for line in lines if line.strip()]
    wanted = [entry for entry in entries if entry["kind"] == kind and language in (None, entry.get("language"))]
    return [_load(folder / entry["file"], entry.get("text") or "") for entry in wanted[:limit]]


def normalize(text: str) -> str:
    """The words alone, as the word error rate compares them."""
    text = text.lower().replace("’", "'").replace("‘", "'")
    text = re.sub(r"\[[^\]]*\]|\([^)]*\)", " ", text)
    text = re.sub(r"[^\w\s']|_", " ", text)
    text = re.sub(r"\bmr\b", "mister", text)
    text = re.sub(r"\bmrs\b", "missus", text)
    return " ".join(text.split())


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Errors over all words of all references; NaN where there are none. An empty hypothesis lost all its words."""
    pairs = [(normalize(said), normalize(heard)) for said, heard in zip(references, hypotheses, strict=True)]
    pairs = [pair for pair in pairs if pair[0]]
    if not pairs:
        return float("nan")
    said, heard = zip(*pairs, strict=True)
    return float(jiwer.wer(list(said), list(heard)))


def _load(path: Path, text: str) -> Clip:
    samples, rate = soundfile.read(path, dtype="float32")
    if rate != SAMPLE_RATE or samples.ndim != 1:
        raise ValueError(f"{path}: {rate} Hz, {samples.ndim} dimensions; 16 kHz mono is needed")
    return Clip(path, samples, text)
