"""Wyoming's messages: what `info` says of us, and the fields of what clients send, checked. Knows no sockets."""

from __future__ import annotations

from typing import Any, TypeVar

from wyoming.asr import Transcribe
from wyoming.event import Event as Message
from wyoming.info import AsrModel, AsrProgram, Attribution, Info

from wyoming_wlk import __version__
from wyoming_wlk.config import STANDARD, Program
from wyoming_wlk.errors import ProtocolError, RequestError
from wyoming_wlk.services import Services

T = TypeVar("T")

_MAX_CLIENT_ID = 200
_MAX_TERMS = 10_000
"""Characters of the names and terms that a client sends along."""

_STAGE_WISHES = ("diarization", "target_language", "translation")
_REQUIRED: Any = object()


def describe(services: Services) -> Info:
    """The answer to `describe`; needs no loaded model. Home Assistant uses the first program."""
    model = AsrModel(
        name=services.model.name,
        attribution=Attribution(name="OpenAI", url="https://github.com/openai/whisper"),
        installed=True,
        description=f"Whisper {services.model.name}",
        version=None,
        languages=list(services.model.languages),
    )
    programs = [_described(services, STANDARD, "Streaming Whisper for many clients", model)]
    programs += [_described(services, program, str(program), model) for program in services.config.programs.program]
    return Info(asr=programs)


def _described(services: Services, program: Program, description: str, model: AsrModel) -> AsrProgram:
    return AsrProgram(
        name=program.name,
        attribution=Attribution(name="wyoming-wlk", url="https://github.com/wyoming-wlk/wyoming-wlk"),
        installed=True,
        description=description,
        version=__version__,
        models=[model],
        supports_transcript_streaming=True,
        requires_external_vad=services.endpoint(program) is None,
    )


def transcribe_of(message: Message) -> Transcribe:
    """The request in a message. Raises `ProtocolError` for wrong fields and `RequestError` for too many names."""
    return Transcribe(
        name=field(message, "name", str, None),
        language=field(message, "language", str, None),
        context=field(message, "context", dict, None),
        vad_sensitivity=field(message, "vad_sensitivity", str, None),
        transcript_names=_strings(message, "transcript_names"),
        transcript_terms=_strings(message, "transcript_terms"),
    )


def field(message: Message, name: str, kind: type[T], default: Any = _REQUIRED) -> Any:
    """A typed field of a message. Raises `ProtocolError` for a missing or wrong one."""
    value = message.data.get(name)
    if value is None and default is not _REQUIRED:
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ProtocolError(f"{message.type}: {name} is not a {kind.__name__}")
    return value


def _strings(message: Message, name: str) -> list[str] | None:
    values = field(message, name, list, None)
    if values is not None and not all(isinstance(value, str) for value in values):
        raise ProtocolError(f"{message.type}: {name} is not a list of strings")
    if values is not None and sum(map(len, values)) > _MAX_TERMS:
        raise RequestError(f"{message.type}: {name} has more than {_MAX_TERMS} characters")
    return values  # type: ignore[no-any-return]


def pcm_format(message: Message) -> tuple[int, int, int]:
    """Rate, bytes of a sample, channels. Raises `ProtocolError`."""
    return (field(message, "rate", int), field(message, "width", int), field(message, "channels", int))


def client_id_of(request: Transcribe) -> str | None:
    """The name that a client gave itself, if any. Raises `ProtocolError` for one that is none."""
    client_id = (request.context or {}).get("client_id")
    if client_id is None:
        return None
    if not isinstance(client_id, str) or not 0 < len(client_id) <= _MAX_CLIENT_ID:
        raise ProtocolError(f"client_id is not a string of 1 to {_MAX_CLIENT_ID} characters")
    return client_id


def stage_wishes(request: Transcribe) -> dict[str, str]:
    """What a client asks for in the context of its request, beside the transcript. Raises `ProtocolError`."""
    wishes = {}
    for name in _STAGE_WISHES:
        value = (request.context or {}).get(name)
        if isinstance(value, bool):
            value = "true" if value else "false"
        if value is not None and not isinstance(value, str):
            raise ProtocolError(f"{name} in the context is not a string")
        wishes[name] = value or ""
    return wishes
