"""What the catalogue promises, what `auto` picks from it, and models of one's own beside it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from wyoming_wlk.catalogue import (
    CATALOGUE,
    DIARIZATION,
    VAD,
    CatalogueEntry,
    automatic_choices,
    nllb_entry,
    translation_entry,
)
from wyoming_wlk.errors import ModelError
from wyoming_wlk.languages import LANGUAGES
from wyoming_wlk.models import ModelStore


@pytest.mark.parametrize("entry", [*CATALOGUE.values(), VAD, DIARIZATION], ids=lambda entry: entry.name)
def test_catalogue_entry(entry: CatalogueEntry) -> None:
    """Each model has a source and pinned weights; what comes from packages is pinned file by file."""
    assert entry.sources and entry.megabytes > 0 and re.fullmatch(r"[a-z0-9.-]+", entry.name)
    assert entry.sha256.keys() & {"model.bin", "silero_vad.onnx", "segmentation.pt"}
    assert all(re.fullmatch("[0-9a-f]{64}", checksum) for checksum in entry.sha256.values())
    assert entry.revision is None or re.fullmatch("[0-9a-f]{40}", entry.revision)
    assert entry.repository is None or entry.revision or entry.package
    for file in entry.package:
        assert file.name in entry.sha256
        assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", requirement) for requirement, _ in file.parts)


@pytest.mark.parametrize("pair", [("en", "pt"), ("pt", "en"), ("en", "de")])
def test_bergamot_entry(pair: tuple[str, str]) -> None:
    """English and Portuguese are pinned file by file, out of a package; Mozilla states the checksums of all others."""
    entry = translation_entry(*pair)
    assert entry.name == f"bergamot-{pair[0]}-{pair[1]}" and entry.sources == (
        ("package",) if "pt" in pair else ("firefox",)
    )
    assert {file.name for file in entry.package} == set(entry.sha256) and entry.wheel_of or "pt" not in pair
    assert all(re.fullmatch("[0-9a-f]{64}", checksum) for checksum in entry.sha256.values())


@pytest.mark.parametrize("size", ["600M", "1.3B"])
@pytest.mark.parametrize("library", ["ctranslate2", "transformers"])
def test_nllb_entry(size: str, library: str) -> None:
    """NLLB's commits on the hub are pinned; the hub states the checksums of its files."""
    entry = nllb_entry(size.lower(), library)
    assert entry.repository and entry.sources == ("hub",) and re.fullmatch("[0-9a-f]{40}", entry.revision or "")
    assert ("model.bin" in entry.hub_files) == (library == "ctranslate2") and "tokenizer.json" in entry.hub_files


def test_catalogue_languages() -> None:
    """English models know English, the newest 100 languages, and all others the 99 before Cantonese."""
    for name, entry in CATALOGUE.items():
        assert entry.name == name
        if name.endswith(".en") or name.startswith("distil-"):
            assert entry.languages == ("en",)
        else:
            newest = name in ("large-v3", "large-v3-turbo")
            assert len(entry.languages) == (100 if newest else 99) and ("yue" in entry.languages) == newest
    weights = [entry.sha256["model.bin"] for entry in CATALOGUE.values()]
    assert len(set(weights)) == len(weights)


@pytest.mark.parametrize(
    ("language", "device", "cores", "memory", "names"),
    [
        ("auto", "cpu", 4, 0, ["base", "tiny"]),
        ("de", "cpu", 7, 0, ["base", "tiny"]),
        ("de", "cpu", 8, 0, ["small", "base", "tiny"]),
        ("en", "cpu", 2, 0, ["base.en", "base", "tiny.en", "tiny"]),
        ("en", "cpu", 64, 0, ["small.en", "small", "base.en", "base", "tiny.en", "tiny"]),
        ("auto", "cuda", 1, 5.9, ["small", "base", "tiny"]),
        ("auto", "cuda", 1, 6, ["large-v3-turbo", "small", "base", "tiny"]),
        ("en", "cuda", 1, 80, ["large-v3-turbo", "small.en", "small", "base.en", "base", "tiny.en", "tiny"]),
    ],
)
def test_automatic_choices(language: str, device: str, cores: int, memory: float, names: list[str]) -> None:
    """The largest model that the machine carries comes first, and the reason names the machine."""
    choices, reason = automatic_choices(language, device, cores, memory)
    assert choices == names and set(names) <= set(CATALOGUE)
    assert (f"{memory:.0f} GB" if device == "cuda" else f"{cores} CPU cores") in reason
    assert ("English" in reason) == (language == "en")


# --- models of one's own ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("end", "english"), [(50256, True), (50257, False)])
def test_local_folder(end: int, english: bool, tmp_path: Path) -> None:
    """A folder with a tokenizer is used as it is, and its vocabulary tells whether it knows English only."""
    folder = tmp_path / "my-model"
    folder.mkdir()
    text = json.dumps(
        {"added_tokens": [{"content": "<|x|>", "id": 50256 - english}, {"content": "<|endoftext|>", "id": end}]}
    )
    (folder / "tokenizer.json").write_text(text, "utf-8")
    (folder / "weights.pt").write_bytes(b"")
    store = ModelStore(tmp_path / "data", offline=True)
    for path in (folder, folder / "weights.pt"):
        model = store.resolve(str(path))
        assert (model.name, model.folder, model.tokenizer) == (path.name, path, folder / "tokenizer.json")
        assert model.languages == (("en",) if english else tuple(LANGUAGES)[:99])
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"added_tokens": 7}', '{"added_tokens": [{"id": 1}]}', "\x00"])
def test_broken_tokenizer(text: str, tmp_path: Path) -> None:
    """A tokenizer that cannot be read is a `ModelError` that names the file."""
    (tmp_path / "tokenizer.json").write_text(text, "utf-8")
    with pytest.raises(ModelError, match=f"cannot read tokenizer {re.escape(str(tmp_path))}"):
        ModelStore(tmp_path).resolve(str(tmp_path))


@pytest.mark.parametrize("name", ["nonsense", "/no/such", "~/no-such", "~nobody-of-this-name/x", "tiny/"])
def test_unknown_model(name: str, tmp_path: Path) -> None:
    """What is neither a name nor a folder is refused, with a hint."""
    with pytest.raises(ModelError, match=f"unknown model '{re.escape(name)}'; `wyoming-wlk models`"):
        ModelStore(tmp_path).resolve(name)
