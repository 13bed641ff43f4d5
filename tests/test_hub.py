"""Models from the model hub: the hub's own client against a small hub on this machine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from wyoming_wlk.catalogue import CatalogueEntry
from wyoming_wlk.errors import ModelError
from wyoming_wlk.models import ModelStore

COMMIT = "c" * 40
FILES = {"config.json": b"{}", "tokenizer.json": b'{"added_tokens": []}', "model.bin": b"weights" * 1000}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Hub(BaseHTTPRequestHandler):
    """Knows one repository, us/fake, at one commit. `model.bin` is what the hub calls a large file."""

    files = FILES
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        name = self.path.rpartition("/")[2]
        if self.path.startswith(f"/api/models/us/fake/revision/{COMMIT}"):
            sha = digest(FILES["model.bin"])
            large = {"sha256": sha, "size": len(FILES["model.bin"]), "pointerSize": 130}
            siblings = [{"rfilename": name} | ({"lfs": large} if name == "model.bin" else {}) for name in FILES]
            self._answer(json.dumps({"id": "us/fake", "sha": COMMIT, "siblings": siblings}).encode())
        elif self.path == f"/us/fake/resolve/{COMMIT}/{name}" and name in self.files:
            self._answer(self.files[name], ("X-Repo-Commit", COMMIT), ("ETag", f'"{digest(FILES[name])}"'))
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def _answer(self, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(200)
        for name, value in (("Content-Length", str(len(body))), ("Accept-Ranges", "bytes"), *headers):
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """The running hub, with this test's own files and list of requests."""
    handler = type("TestHub", (Hub,), {"files": dict(FILES), "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    point_to(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    yield handler
    server.shutdown()
    server.server_close()


def point_to(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """What HF_ENDPOINT and HF_HUB_OFFLINE do, which are read at import."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    constants = "huggingface_hub.constants."
    monkeypatch.setattr(constants + "ENDPOINT", address)
    monkeypatch.setattr(constants + "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants + "HF_HUB_OFFLINE", False)


def entry(**pins: str) -> CatalogueEntry:
    return CatalogueEntry("fake", 1, repository="us/fake", revision=COMMIT, sha256=pins)


def test_fetch(hub: type[Hub], tmp_path: Path) -> None:
    """The files of a commit are fetched and verified, and nothing of the hub's bookkeeping is kept."""
    folder = ModelStore(tmp_path).fetch(entry(**{"model.bin": digest(FILES["model.bin"])}))
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    assert {path.name for path in folder.iterdir()} == {*FILES, "manifest.json"}
    assert json.loads((folder / "manifest.json").read_text("utf-8")) == {name: digest(FILES[name]) for name in FILES}
    asked = len(hub.asked)
    assert ModelStore(tmp_path).fetch(entry()) == folder and len(hub.asked) == asked


def test_named_files(hub: type[Hub], tmp_path: Path) -> None:
    """Of a repository that is no Whisper folder, the files that are named are fetched, and no others."""
    folder = ModelStore(tmp_path).fetch(replace(entry(), hub_files=("model.bin",)))
    assert {path.name for path in folder.iterdir()} == {"model.bin", "manifest.json"}


@pytest.mark.parametrize("pins", [{}, {"model.bin": digest(FILES["model.bin"])}])
def test_tampered_file(hub: type[Hub], tmp_path: Path, pins: dict[str, str]) -> None:
    """Weights that are not what the hub's own list or the catalogue says are refused."""
    hub.files["model.bin"] = b"Weights" * 1000
    with pytest.raises(ModelError, match="model.bin has a wrong checksum"):
        ModelStore(tmp_path).fetch(entry(**pins))
    assert list((tmp_path / "models").iterdir()) == []


def test_pin_beats_the_hub(hub: type[Hub], tmp_path: Path) -> None:
    """A hub that changed both the file and its list is not believed."""
    with pytest.raises(ModelError, match="model.bin has a wrong checksum"):
        ModelStore(tmp_path).fetch(entry(**{"model.bin": digest(b"what it was")}))


def test_missing_file(hub: type[Hub], tmp_path: Path) -> None:
    """A repository without one of the files is a `ModelError`, and nothing stays."""
    del hub.files["tokenizer.json"]
    with pytest.raises(ModelError, match="cannot fetch fake .the model hub: "):
        ModelStore(tmp_path).fetch(entry())
    assert list((tmp_path / "models").iterdir()) == []


def test_hub_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A hub that cannot be reached is asked once; after that its models are known not to be had."""
    point_to(monkeypatch, "http://127.0.0.1:9")
    store = ModelStore(tmp_path)
    for words in ("cannot fetch fake .the model hub: ", "cannot fetch fake .the model hub cannot be reached"):
        with pytest.raises(ModelError, match=words):
            store.fetch(entry())
    assert list((tmp_path / "models").iterdir()) == []
