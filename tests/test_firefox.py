"""Mozilla's list of translation models and the files behind it, from a server that plays both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest

from wyoming_wlk import firefox
from wyoming_wlk.catalogue import translation_entry
from wyoming_wlk.errors import ModelError, RequestError
from wyoming_wlk.firefox import Record, choose_files
from wyoming_wlk.models import ModelStore

zstd = pytest.importorskip("backports.zstd", reason="the extra bergamot is not installed")

ANDROID = "env.appinfo.OS == 'Android'"
DESKTOP = "env.appinfo.OS != 'Android'"
NIGHTLY = "env.channel == 'default' || env.channel == 'nightly'"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Mozilla:
    """Serves records and attachments. `spoil` is applied to every attachment."""

    def __init__(self) -> None:
        self.records: list[dict[str, object]] = []
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.status = 200

    def add(self, source: str, target: str, kind: str, data: bytes, **more: object) -> None:
        location = f"main-workspace/{len(self.files)}.zst"
        self.files[location] = zstd.compress(data)
        record = {
            "fileType": kind,
            "sourceLanguage": source,
            "targetLanguage": target,
            "version": "3.0",
            "architecture": "base-memory",
            "filter_expression": "",
            "decompressedHash": digest(data),
            "attachment": {"location": location, "hash": digest(self.files[location]), "size": 1},
        }
        self.records.append(record | more)

    def answer(self, path: str) -> bytes:
        self.asked.append(path)
        parts = urlsplit(path)
        if parts.path != "/records":
            return self.files[parts.path.removeprefix("/files/")]
        query = parse_qs(parts.query)
        found = [record for record in self.records if all([record[key]] == value for key, value in query.items())]
        return json.dumps({"data": found}).encode()


@pytest.fixture
def mozilla(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mozilla]:
    """From English to German with one vocabulary, from Japanese to English with two."""
    mozilla = Mozilla()
    for kind in ("model", "vocab", "lex"):
        mozilla.add("en", "de", kind, f"en-de {kind}".encode())
    for kind in ("model", "srcvocab", "trgvocab"):
        mozilla.add("ja", "en", kind, f"ja-en {kind}".encode())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = mozilla.answer(self.path)
            self.send_response(mozilla.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(firefox, "RECORDS", f"{address}/records")
        monkeypatch.setattr(firefox, "ATTACHMENTS", f"{address}/files/")
        monkeypatch.setenv("no_proxy", "*")
        yield mozilla
        server.shutdown()
        thread.join()


def test_fetch(mozilla: Mozilla, tmp_path: Path) -> None:
    """The files of a pair are unpacked under our names; once they are there, nobody is asked again."""
    store = ModelStore(tmp_path)
    folder = store.fetch(translation_entry("en", "de"))
    assert folder == tmp_path / "models" / "bergamot-en-de"
    names = {"model.bin": b"en-de model", "vocab.spm": b"en-de vocab", "lex.bin": b"en-de lex"}
    assert {name: (folder / name).read_bytes() for name in names} == names
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert manifest == {name: digest(data) for name, data in names.items()}
    asked = list(mozilla.asked)
    assert ModelStore(tmp_path, offline=True).fetch(translation_entry("en", "de")) == folder
    assert store.fetch(translation_entry("en", "de")) == folder and mozilla.asked == asked


def test_two_vocabularies(mozilla: Mozilla, tmp_path: Path) -> None:
    """Languages that share no letters have a vocabulary each; a shortlist there may be or not."""
    folder = ModelStore(tmp_path).fetch(translation_entry("ja", "en"))
    names = {"model.bin", "srcvocab.spm", "trgvocab.spm", "manifest.json"}
    assert {path.name for path in folder.iterdir()} == names


def test_unknown_pair(mozilla: Mozilla, tmp_path: Path) -> None:
    """What Mozilla does not have is the client's mistake."""
    with pytest.raises(RequestError, match="no model that translates from 'en' to 'haw'"):
        ModelStore(tmp_path).fetch(translation_entry("en", "haw"))


@pytest.mark.parametrize("name", ["model", "lex"])
@pytest.mark.parametrize("damage", ["content", "cut", "garbage", "missing"])
def test_damage(name: str, damage: str, mozilla: Mozilla, tmp_path: Path) -> None:
    """A file that is not what the record says is refused, and nothing of the model stays."""
    (record,) = (r for r in mozilla.records if r["sourceLanguage"] == "en" and r["fileType"] == name)
    location = record["attachment"]["location"]  # type: ignore[index]
    packed = mozilla.files[location]
    mozilla.files[location] = {
        "content": zstd.compress(b"something else"),
        "cut": packed[:-5],
        "garbage": b"<html>",
        "missing": b"",
    }[damage]
    with pytest.raises(ModelError, match="cannot fetch bergamot-en-de"):
        ModelStore(tmp_path).fetch(translation_entry("en", "de"))
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize("key", ["decompressedHash", "attachment", "version", "fileType"])
def test_incomplete_records(key: str, mozilla: Mozilla, tmp_path: Path) -> None:
    """A list in another form is an error that says so."""
    for record in mozilla.records:
        del record[key]
    with pytest.raises(ModelError, match=f"cannot fetch bergamot-en-de .*{key}"):
        ModelStore(tmp_path).fetch(translation_entry("en", "de"))


def test_out_of_order(mozilla: Mozilla, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that is down or cannot be reached is an error that names it."""
    mozilla.status = 503
    with pytest.raises(ModelError, match="Mozilla: HTTPError: HTTP Error 503"):
        ModelStore(tmp_path).fetch(translation_entry("en", "de"))
    monkeypatch.setattr(firefox, "RECORDS", "http://127.0.0.1:9/records")
    with pytest.raises(ModelError, match="Mozilla: URLError"):
        ModelStore(tmp_path).fetch(translation_entry("en", "de"))


# --- the choice -------------------------------------------------------------------------------------------------------


def model(version: str, rule: str = "", architecture: str = "tiny", kinds: str = "model vocab") -> list[Record]:
    return [
        Record(fileType=kind, version=version, filter_expression=rule, architecture=architecture)
        for kind in kinds.split()
    ]


@pytest.mark.parametrize(
    ("records", "version", "architecture"),
    [
        (model("3.0") + model("3.1"), "3.1", "tiny"),
        (model("3.2") + model("3.10"), "3.10", "tiny"),
        (model("3.0") + model("3.1a1") + model("4.0") + model("2.0"), "3.0", "tiny"),
        (model("3.0") + model("3.1", NIGHTLY), "3.0", "tiny"),
        (model("3.1", ANDROID, "base-memory") + model("3.0", DESKTOP, "base"), "3.0", "base"),
        (model("3.0", "", "tiny") + model("3.0", "", "base-memory"), "3.0", "base-memory"),
        (model("3.0") + model("3.1", kinds="model lex srcvocab"), "3.0", "tiny"),
        (model("3.0") + model("3.1", kinds="vocab lex"), "3.0", "tiny"),
        (model("3.0", kinds="model srcvocab trgvocab lex qualityModel"), "3.0", "tiny"),
    ],
)
def test_choice(records: list[Record], version: str, architecture: str) -> None:
    """The newest complete model that every Firefox on a desktop gets, all files of one kind."""
    files = choose_files(records)
    assert files and {(r["version"], r["architecture"]) for r in files.values()} == {(version, architecture)}
    assert "model.bin" in files


@pytest.mark.parametrize("records", [[], model("4.0"), model("3.0", NIGHTLY), model("3.0", kinds="model lex")])
def test_no_choice(records: list[Record]) -> None:
    """Without a complete model there is none."""
    assert choose_files(records) == {}
