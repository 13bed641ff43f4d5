"""What a client of OpenAI's Realtime API chooses for its session, in both shapes that its fields have had.

The older (beta) shape is flat, `input_audio_format` and so on; the present one has `audio.input.format`. Either is
taken at any time. Answers tell what is really in effect: the server's model, its voice detection, no noise reduction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from wyoming_wlk.audio.input import AudioInput, RawInput
from wyoming_wlk.audio.telephone import TelephoneInput
from wyoming_wlk.engine.context import ClientOptions
from wyoming_wlk.errors import RequestError
from wyoming_wlk.frontends.door import Json, client_options
from wyoming_wlk.services import Pace, Services

LOGPROBS = "item.input_audio_transcription.logprobs"
_MAX_PAUSE = 60_000
_BETA_FIELDS = {
    "input_audio_format": "format",
    "input_audio_transcription": "transcription",
    "turn_detection": "turn_detection",
}
_FORMATS = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
_TELEPHONE_RATE = 8000


@dataclass(frozen=True)
class RealtimeSession:
    """One client's choices."""

    format: str = "audio/pcm"
    rate: int = 24000
    language: str = ""
    prompt: str = ""
    keywords: tuple[str, ...] = ()
    pause: int | None = 500
    """Milliseconds of silence that end a turn; None where only the client says when."""
    logprobs: bool = False

    def updated(self, wishes: Json) -> RealtimeSession:
        """These choices with what a `session.update` asks for. Raises `RequestError` for what cannot be."""
        if wishes.get("type", "transcription") != "transcription":
            raise RequestError("this server only transcribes: session.type must be transcription")
        chosen = self
        asked = dict(_object(_object(wishes, "audio"), "input"))
        asked |= {name: wishes[beta] for beta, name in _BETA_FIELDS.items() if beta in wishes}
        if asked.get("format") is not None:
            chosen = chosen._with_format(asked["format"])
        if "transcription" in asked:
            chosen = chosen._with_transcription(_object(asked, "transcription"))
        if "turn_detection" in asked:
            chosen = replace(chosen, pause=_pause(asked["turn_detection"]))
        if "include" in wishes:
            chosen = replace(chosen, logprobs=LOGPROBS in _strings(wishes, "include"))
        return chosen

    def _with_format(self, wanted: object) -> RealtimeSession:
        kind, rate = wanted, None
        if isinstance(wanted, dict):
            kind, rate = wanted.get("type"), wanted.get("rate")
        if isinstance(kind, str):
            kind = _FORMATS.get(kind, kind)
        if kind not in _FORMATS.values():
            raise RequestError(f"the audio format is not one of {', '.join([*_FORMATS, *_FORMATS.values()])}")
        default = 24000 if kind == "audio/pcm" else _TELEPHONE_RATE
        if rate is None:
            rate = default
        low, high = (8000, 48_000) if kind == "audio/pcm" else (default, default)
        if not isinstance(rate, int) or isinstance(rate, bool) or not low <= rate <= high:
            raise RequestError(f"the rate of {kind} is not a whole number from {low} to {high}")
        return replace(self, format=str(kind), rate=rate)

    def _with_transcription(self, wanted: Json) -> RealtimeSession:
        """Any model's name is taken: there is one model, and the answer tells which."""
        _string(wanted, "model")
        chosen = self
        if "language" in wanted:
            chosen = replace(chosen, language=_string(wanted, "language"))
        if "prompt" in wanted:
            chosen = replace(chosen, prompt=_string(wanted, "prompt"))
        if "keywords" in wanted:
            chosen = replace(chosen, keywords=tuple(_strings(wanted, "keywords")))
        return chosen

    # --- for the stream -----------------------------------------------------------------------------------------------

    def options(self, services: Services) -> ClientOptions:
        """Raises `RequestError` for a language that is not known here, or a prompt that is too long."""
        query = {"language": self.language, "prompt": self.prompt, "hotwords": ", ".join(self.keywords)}
        options = client_options(query, services)
        if options.language not in ("auto", *services.model.languages):
            raise RequestError(f"the model {services.model.name} does not know the language {options.language}")
        return options

    def pace(self, services: Services) -> Pace:
        """Without turn detection the segments' pauses are the usual ones: they are not shown, but put together."""
        if self.pause is None:
            return Pace()
        return Pace(close_pause=max(self.pause / 1000, services.config.voice.pause))

    def audio(self) -> AudioInput:
        if self.format == "audio/pcm":
            return RawInput(self.rate)
        return TelephoneInput(self.rate, a_law=self.format == "audio/pcma")

    # --- for the client -----------------------------------------------------------------------------------------------

    def described(self, services: Services, session_id: str, beta: bool) -> Json:
        """The session as the client is told, in its own shape."""
        transcription = {"model": services.model.name, "language": self.language or None, "prompt": self.prompt}
        common: Json = {"id": session_id, "object": "realtime.transcription_session"}
        common["include"] = [LOGPROBS] if self.logprobs else None
        turns = self._turns(services)
        if beta:
            names = {kind: name for name, kind in _FORMATS.items()}
            return common | {
                "modalities": ["text"],
                "input_audio_format": names[self.format],
                "input_audio_transcription": transcription,
                "input_audio_noise_reduction": None,
                "turn_detection": turns,
                "client_secret": None,
            }
        audio_format: Json = {"type": self.format}
        if self.format == "audio/pcm":
            audio_format["rate"] = self.rate
        audio = {
            "format": audio_format,
            "transcription": transcription,
            "noise_reduction": None,
            "turn_detection": turns,
        }
        return common | {"type": "transcription", "audio": {"input": audio}}

    def _turns(self, services: Services) -> Json | None:
        if self.pause is None:
            return None
        voice = services.config.voice
        return {
            "type": "server_vad",
            "threshold": voice.vad_threshold,
            "prefix_padding_ms": round(voice.pre_roll * 1000),
            "silence_duration_ms": round(self.pace(services).close_pause * 1000),
        }


def _pause(wanted: object) -> int | None:
    """What `turn_detection` asks for, as `RealtimeSession.pause`."""
    if wanted is None:
        return None
    if not isinstance(wanted, dict) or wanted.get("type", "server_vad") != "server_vad":
        raise RequestError("turn_detection is neither null nor of the type server_vad")
    _number(wanted, "threshold", 0.5, 1)
    _number(wanted, "prefix_padding_ms", 300, _MAX_PAUSE)
    return round(_number(wanted, "silence_duration_ms", 500, _MAX_PAUSE))


# --- fields of a stranger's JSON --------------------------------------------------------------------------------------


def _object(holder: Mapping[str, object], name: str) -> Json:
    """Empty where there is none."""
    value = holder.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RequestError(f"{name} is not an object")
    return value


def _string(holder: Mapping[str, object], name: str) -> str:
    value = holder.get(name)
    if value is not None and not isinstance(value, str):
        raise RequestError(f"{name} is not a string")
    return value or ""


def _strings(holder: Mapping[str, object], name: str) -> list[str]:
    value = holder.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise RequestError(f"{name} is not a list of strings")
    return value


def _number(holder: Mapping[str, object], name: str, default: float, high: float) -> float:
    value = holder.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= high:
        raise RequestError(f"{name} is not a number from 0 to {high}")
    return value
