"""Translation models from where Firefox gets its own: Mozilla's Remote Settings list them, a CDN has the files."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import sys
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from wyoming_wlk import __version__
from wyoming_wlk.errors import ModelError, RequestError

RECORDS = "https://firefox.settings.services.mozilla.com/v1/buckets/main/collections/translations-models-v2/records"
ATTACHMENTS = "https://firefox-settings-attachments.cdn.mozilla.net/"

_TIMEOUT = 20.0
_VERSION = re.compile(r"3\.(\d+)")
"""Releases of the format that the libraries read; what has more behind it is being tried out."""
_FOR_EVERYBODY = ("", "env.appinfo.OS != 'Android'", "env.appinfo.OS != 'Android' || env.channel != 'release'")
"""Filters of records that are meant for every Firefox on a desktop."""
_FILES = {
    "model": "model.bin",
    "lex": "lex.bin",
    "vocab": "vocab.spm",
    "srcvocab": "srcvocab.spm",
    "trgvocab": "trgvocab.spm",
}


class _Attachment(TypedDict):
    location: str


class Record(TypedDict, total=False):
    """What is used of a record: one file of a model."""

    fileType: str
    version: str
    architecture: str
    filter_expression: str
    decompressedHash: str
    attachment: _Attachment


def download_pair(source: str, target: str, folder: Path) -> dict[str, str]:
    """Writes the newest model of a pair into a folder; returns the SHA-256 that Mozilla states for each file.

    Raises `RequestError` where there is no such model, and `ModelError` or OSError where it cannot be had.
    """
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as err:
        raise ModelError("not installed: pip install wyoming-wlk[bergamot]") from err
    query = urllib.parse.urlencode({"sourceLanguage": source, "targetLanguage": target})
    try:
        with _open(f"{RECORDS}?{query}") as response:
            records: list[Record] = json.load(response)["data"]
        files = choose_files(records)
        if not files:
            raise RequestError(f"Mozilla has no model that translates from {source!r} to {target!r}")
        for name, record in files.items():
            with _open(ATTACHMENTS + record["attachment"]["location"]) as response, (folder / name).open("wb") as file:
                shutil.copyfileobj(zstd.open(response), file)
        return {name: record["decompressedHash"] for name, record in files.items()}
    except (ValueError, KeyError, TypeError, zstd.ZstdError, http.client.HTTPException) as err:
        raise ModelError(f"{type(err).__name__}: {err}") from err


def choose_files(records: Sequence[Record]) -> dict[str, Record]:
    """The files of the newest complete model for everybody, by our names for them; none where there is no model."""
    models: dict[tuple[int, bool, str], dict[str, Record]] = {}
    for record in records:
        version = _VERSION.fullmatch(record["version"])
        if version and record.get("filter_expression", "").strip() in _FOR_EVERYBODY and record["fileType"] in _FILES:
            architecture = record.get("architecture", "")
            key = (int(version[1]), architecture == "base-memory", architecture)
            models.setdefault(key, {})[_FILES[record["fileType"]]] = record
    complete = [
        key
        for key, files in models.items()
        if "model.bin" in files and ("vocab.spm" in files or {"srcvocab.spm", "trgvocab.spm"} <= files.keys())
    ]
    return models[max(complete)] if complete else {}


def _open(url: str) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers={"User-Agent": f"wyoming-wlk/{__version__}"})
    response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT)
    return response
