"""`wyoming-wlk transcribe`: recordings to text and subtitles, in this process or by a server with OpenAI's API."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from tqdm import tqdm

from wyoming_wlk import subtitles
from wyoming_wlk.audio.container import duration
from wyoming_wlk.config import Config
from wyoming_wlk.errors import ConfigError, RequestError, WlkError
from wyoming_wlk.hosting import ModelInfo
from wyoming_wlk.loading import load_speech
from wyoming_wlk.services import Services
from wyoming_wlk.session import Speech
from wyoming_wlk.transcription import Transcription, decoding, file_pieces

Hear = Callable[[Path], Awaitable[str]]
"""What is said in a file, as text in the format that is wanted. Raises `WlkError` and `OSError`."""

_UPLOAD_BLOCK = 2**18
_BAR = "{desc} {percentage:3.0f}% |{bar}| {elapsed}, {remaining} left"
_BAR_OF_UNKNOWN = "{desc} {n:.0f} s, {elapsed}"


@dataclass(frozen=True)
class Output:
    """What is written for each file, and where: a folder, or None for stdout."""

    form: str
    folder: Path | None

    def check(self, files: Sequence[Path]) -> None:
        """Raises `ConfigError` where two files would be written to the same place."""
        names = Counter(self._name(file) for file in files)
        for name, count in names.items():
            if self.folder is not None and count > 1:
                raise ConfigError(f"{count} of the files would be written to {self.folder / name}")

    def write(self, file: Path, text: str) -> None:
        if self.folder is None:
            sys.stdout.write(text)
            sys.stdout.flush()
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / self._name(file)).write_text(text, "utf-8")

    def _name(self, file: Path) -> str:
        return f"{file.stem}.{self.form}"


def transcribe_here(config: Config, files: Sequence[Path], output: Output) -> bool:
    """All files by a model in this process; whether all went well. Raises `ModelError` where there is no model."""
    output.check(files)
    with ThreadPoolExecutor(1, "vad") as executor:
        loaded = load_speech(config, executor)
        return asyncio.run(_all_here(config, loaded, files, output))


async def transcribe_there(server: str, config: Config, files: Sequence[Path], output: Output) -> bool:
    """All files by a server, `http://...`; whether all went well."""
    output.check(files)
    patience = aiohttp.ClientTimeout(total=None, sock_connect=10)
    headers = {"Authorization": f"Bearer {config.http.token}"} if config.http.token else {}
    async with aiohttp.ClientSession(timeout=patience, headers=headers) as http:
        client = _ServerClient(http, server, config, output.form)
        return await _all(client.hear, files, output)


async def _all_here(config: Config, loaded: tuple[Speech, ModelInfo], files: Sequence[Path], output: Output) -> bool:
    async def load(_: Config) -> tuple[Speech, ModelInfo]:
        return loaded

    services = Services(config, loaded[1], load)
    try:
        await services.host.borrow()
        await services.stages.load(services.stages.usual(services.defaults))
        return await _all(lambda file: _hear(services, file, output.form), files, output)
    finally:
        await services.host.close()
        services.stages.close()


async def _all(hear: Hear, files: Sequence[Path], output: Output) -> bool:
    """One after the other; a file that fails is told of on stderr and does not stop the others."""
    good = True
    for file in files:
        try:
            output.write(file, await hear(file))
        except (WlkError, OSError, aiohttp.ClientError) as err:
            good = False
            print(f"wyoming-wlk: {file}: {err or type(err).__name__}", file=sys.stderr)
    return good


# --- in this process --------------------------------------------------------------------------------------------------


async def _hear(services: Services, file: Path, form: str) -> str:
    with _bar(file, await asyncio.to_thread(duration, file)) as bar:
        options = services.stages.usual(services.defaults)
        async with decoding(services, str(file), options, file_pieces(file)) as work:
            segments = []
            async for segment in work.segments():
                segments.append(segment)
                bar.update(min(segment.end, bar.total or segment.end) - bar.n)
            found = await work.whole(segments)
    for notice in found.notices:
        print(f"wyoming-wlk: {file}: {notice.text}", file=sys.stderr)
    return _written(found, form, services.defaults.task, file.stem)


def _written(found: Transcription, form: str, task: str, name: str) -> str:
    if form == "rttm":
        found.check_speakers()
        return subtitles.rttm(found.turns, name)
    if form == "json":
        return _pretty(subtitles.verbose_json(found, task, words=True))
    return {"txt": subtitles.plain, "srt": subtitles.srt, "vtt": subtitles.vtt}[form](found)


# --- by a server ------------------------------------------------------------------------------------------------------


class _ServerClient:
    def __init__(self, http: aiohttp.ClientSession, server: str, config: Config, form: str) -> None:
        self._http, self._form = http, form
        decoding, stages = config.decoding, config.stages
        path = "translations" if decoding.task == "translate" else "transcriptions"
        self._url = f"{server.rstrip('/')}/v1/audio/{path}"
        self._fields = {
            "model": "whisper-1",
            "response_format": {"txt": "text", "json": "verbose_json"}.get(form, form),
        }
        if stages.diarization != "off":
            self._fields["diarization"] = stages.diarization
        if stages.target_language:
            self._fields |= {"target_language": stages.target_language, "translation": stages.translation}
        if decoding.language != "auto":
            self._fields["language"] = decoding.language
        if decoding.prompt:
            self._fields["prompt"] = decoding.prompt
        if decoding.hotwords:
            self._fields["keywords"] = ",".join(decoding.hotwords)

    async def hear(self, file: Path) -> str:
        form = aiohttp.FormData(self._fields)
        for granularity in ("segment", "word"):
            form.add_field("timestamp_granularities[]", granularity)
        with _bar(file, file.stat().st_size) as bar:
            form.add_field("file", _upload(file, bar), filename=file.name, content_type="application/octet-stream")
            async with self._http.post(self._url, data=form) as response:
                text = await response.text()
                if response.status != 200:
                    raise RequestError(f"the server answers {response.status}: {_reason(text)}")
        return _pretty(_parsed(text)) if self._form == "json" else text


async def _upload(file: Path, bar: tqdm[None]) -> AsyncIterator[bytes]:
    with file.open("rb") as opened:
        while data := await asyncio.to_thread(opened.read, _UPLOAD_BLOCK):
            yield data
            bar.update(len(data))


def _reason(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return text[:200]


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as err:
        raise RequestError("the server's answer is not JSON") from err


def _pretty(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _bar(file: Path, total: float | None) -> tqdm[None]:
    """On a terminal, how far a file is; in seconds of audio or in bytes."""
    form = _BAR if total else _BAR_OF_UNKNOWN
    return tqdm(desc=file.name, total=total, bar_format=form, leave=False, disable=not sys.stderr.isatty())
