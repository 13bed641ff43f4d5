"""OpenAI's `/v1/audio/transcriptions`, `/v1/audio/translations` and `/v1/models`.

`temperature` is checked and changes nothing: what is tried when is the server's choice. Fields that OpenAI does not
know either are ignored.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import BinaryIO, cast

from aiohttp import hdrs, web

from wyoming_wlk import subtitles
from wyoming_wlk.engine.context import ClientOptions
from wyoming_wlk.errors import ClientTimeoutError, RequestError, UnknownModelError, WlkError
from wyoming_wlk.frontends.door import Door, Json, address_of, client_options, flag
from wyoming_wlk.frontends.upload import Form, read_form
from wyoming_wlk.transcription import Decoding, Segment, Transcription, decoding, file_pieces

_LOG = logging.getLogger(__name__)

_BUILT_IN = re.compile(r"whisper-1|gpt-([\w.]+-)*transcribe(-diarize)?(-\d{4}-\d\d-\d\d)?")
"""Names that clients know by themselves; whoever asks for one gets the model there is."""

_PLAIN: dict[str, tuple[Callable[[Transcription], str], str]] = {
    "text": (subtitles.plain, "text/plain"),
    "srt": (subtitles.srt, "text/plain"),
    "vtt": (subtitles.vtt, "text/vtt"),
}
_FORMATS = ("json", "verbose_json", "diarized_json", "rttm", *_PLAIN)
_OF_SPEAKERS = ("diarized_json", "rttm")
_STREAMED_FORMATS = ("json", "text")
_GRANULARITIES = {"segment", "word"}
_UNSUPPORTED = {
    "include": "this server does not return logprobs; verbose_json has the probability of each word",
    "known_speaker_names": "this server knows no speakers by name",
    "known_speaker_references": "this server knows no speakers by their voice",
}
_IN_MEMORY = 2**20
"""Bytes of an upload that stay off the disk."""

_LONGEST_NAME = 100
_PROMPT_CHARACTERS = 800
"""About what the model reads of a prompt; it is the end that counts."""


@dataclass(frozen=True)
class _Wish:
    """What a request asks for."""

    options: ClientOptions
    form: str
    name: str
    """Of the recording."""
    stream: bool
    segments: bool
    words: bool


def openai_routes(door: Door) -> list[web.RouteDef]:
    began = int(time.time())

    def model(name: str) -> Json:
        return {"id": name, "object": "model", "created": began, "owned_by": "wyoming-wlk"}

    async def transcriptions(request: web.Request) -> web.StreamResponse:
        return await _answer(door, request, "transcribe")

    async def translations(request: web.Request) -> web.StreamResponse:
        return await _answer(door, request, "translate")

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [model(door.services.model.name)]})

    async def one_model(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        _check_model(door, name)
        return web.json_response(model(name))

    return [
        web.post("/v1/audio/transcriptions", transcriptions),
        web.post("/v1/audio/translations", translations),
        web.get("/v1/models", models),
        web.get("/v1/models/{name:.+}", one_model),
    ]


async def _answer(door: Door, request: web.Request, task: str) -> web.StreamResponse:
    """Hears an upload. A client that leaves cancels this, and the work with it."""
    client = f"openai-{door.services.next_number()} {address_of(request)}"
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as spool:
        file = cast(BinaryIO, spool)
        wish = _wish(door, await read_form(door, request, "file", file), task)
        file.seek(0)
        async with decoding(door.services, client, wish.options, file_pieces(file)) as work:
            if wish.stream:
                return await _stream(door, request, client, work)
            return _response(wish, await work.whole())


# --- what is asked ----------------------------------------------------------------------------------------------------


def _wish(door: Door, sent: Form, task: str) -> _Wish:
    """Raises `RequestError` for what we do not have."""
    fields = sent.fields
    _check_model(door, fields.get("model", ""))
    for name, reason in _UNSUPPORTED.items():
        if fields.get(name):
            raise RequestError(f"{name}: {reason}")
    _check_temperature(fields.get("temperature", ""))
    form = fields.get("response_format") or "json"
    if form not in _FORMATS:
        raise RequestError(f"response_format: {form[:40]!r} is not one of {', '.join(_FORMATS)}")
    stream = flag(fields, "stream")
    if stream and form not in _STREAMED_FORMATS:
        raise RequestError(f"stream: {form} is not streamed; take {' or '.join(_STREAMED_FORMATS)}")
    granularities = set(fields.get("timestamp_granularities", "segment").split(","))
    if not granularities <= _GRANULARITIES:
        raise RequestError(f"timestamp_granularities: must be of {', '.join(sorted(_GRANULARITIES))}")
    asked = {
        "language": fields.get("language", ""),
        "prompt": fields.get("prompt", "")[-_PROMPT_CHARACTERS:],
        "hotwords": fields.get("keywords", ""),
        **{name: fields.get(name, "") for name in ("diarization", "target_language", "translation")},
    }
    if form in _OF_SPEAKERS and not asked["diarization"]:
        asked["diarization"] = "true"
    options = replace(client_options(asked, door.services, stages=not stream), task=task)
    if form in _OF_SPEAKERS and not options.diarization:
        raise RequestError(f"response_format: {form} needs diarization")
    name = PurePath(sent.file_name).stem[:_LONGEST_NAME] or "recording"
    return _Wish(options, form, name, stream, "segment" in granularities, "word" in granularities)


def _check_model(door: Door, name: str) -> None:
    """Raises `UnknownModelError` for a model that we neither are nor stand in for."""
    if name and name != door.services.model.name and not _BUILT_IN.fullmatch(name):
        raise UnknownModelError(f"the model {name[:100]!r} does not exist; this is {door.services.model.name}")


def _check_temperature(value: str) -> None:
    try:
        if not 0 <= float(value or 0) <= 1:
            raise ValueError
    except ValueError as err:
        raise RequestError("temperature: must be a number from 0 to 1") from err


# --- what is answered -------------------------------------------------------------------------------------------------


def _response(wish: _Wish, transcription: Transcription) -> web.Response:
    if wish.form in _PLAIN:
        write, kind = _PLAIN[wish.form]
        return web.Response(text=write(transcription), content_type=kind)
    if wish.form in _OF_SPEAKERS:
        transcription.check_speakers()
    if wish.form == "rttm":
        return web.Response(text=subtitles.rttm(transcription.turns, wish.name), content_type="text/plain")
    if wish.form == "diarized_json":
        return web.json_response(subtitles.diarized_json(transcription, wish.options.task))
    if wish.form == "verbose_json":
        body = subtitles.verbose_json(transcription, wish.options.task, wish.segments, wish.words)
        return web.json_response(body)
    return web.json_response(subtitles.short_json(transcription))


async def _stream(door: Door, request: web.Request, client: str, work: Decoding) -> web.StreamResponse:
    """Server-sent events: each segment's text, then all of it."""
    segments = work.segments()
    segment = await anext(segments, None)  # most of what can be wrong shows here, while the status can still tell
    response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "text/event-stream", hdrs.CACHE_CONTROL: "no-cache"})
    await response.prepare(request)
    said: list[Segment] = []
    try:
        while segment is not None:
            delta = segment.text if said else segment.text.lstrip()
            await _send(door, response, {"type": "transcript.text.delta", "delta": delta})
            said.append(segment)
            segment = await anext(segments, None)
        whole = subtitles.short_json(await work.whole(said))
        await _send(door, response, {"type": "transcript.text.done"} | whole)
    except ClientTimeoutError as err:
        _LOG.warning("%s: %s", client, err)
        if request.transport is not None:
            request.transport.abort()
    except WlkError as err:
        error = {"message": str(err), "type": err.code, "code": err.code}
        await _send(door, response, {"type": "error", "error": error})
    return response


async def _send(door: Door, response: web.StreamResponse, message: Json) -> None:
    try:
        async with asyncio.timeout(door.services.config.limits.write_timeout):
            await response.write(f"data: {json.dumps(message, ensure_ascii=False)}\n\n".encode())
    except TimeoutError as err:
        raise ClientTimeoutError("the client does not read its answers") from err
