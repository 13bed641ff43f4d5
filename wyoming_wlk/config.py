"""Every option of the server, declared once. Command line, environment, secret files and the add-on's options are
generated from here.

An option is a field of a frozen dataclass; its metadata says how to parse it. Knows nothing about what the options do.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wyoming_wlk.errors import ConfigError
from wyoming_wlk.options import (
    Address,
    Network,
    address,
    decimal,
    folder,
    home_address,
    language,
    load_section,
    network,
    off_or,
    on_or_off,
    one_of,
    option,
    options,
    service_name,
    several,
    shown,
    target_language,
    text,
    uri,
    whole,
)

_DEFAULT_DATA = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wyoming-wlk"


DIARIZERS = ("online", "diart", "sortformer")
TRANSLATORS = ("bergamot", "nllb", "whisper")

_NAMED_BY_HOST: str | None = ""
_NO_FILE: Path | None = None


@dataclass(frozen=True)
class ServerConfig:
    """Where the server is reached, and by whom."""

    uri: tuple[str, ...] = option(
        ("tcp://0.0.0.0:10300",), several(uri), "where to listen: tcp://HOST:PORT, unix://PATH or stdio://; repeatable",
        "URI", repeat=True,
    )  # fmt: skip
    zeroconf: str | None = option(
        _NAMED_BY_HOST, service_name,
        "announce the server on the local network, under NAME or one made from the host's name [on]",
        "NAME", bare="on", negative="off",
    )  # fmt: skip
    allow: tuple[Network, ...] = option(
        (), several(network, may_be_empty=True),
        "networks that may connect, as CIDR; empty lets everybody in; repeatable", "CIDR", repeat=True,
    )  # fmt: skip


_DEFAULT_HTTP: Address | None = Address("0.0.0.0", 10380)


@dataclass(frozen=True)
class HttpConfig:
    """WebSocket, HTTP and the web page."""

    http: Address | None = option(
        _DEFAULT_HTTP, off_or(address), "where to serve WebSocket, HTTP and the web page, HOST:PORT", "ADDRESS",
        negative="off",
    )  # fmt: skip
    token: str = option("", text, "clients must show this token; better given as a file, WLK_TOKEN_FILE", "TOKEN")
    cors: tuple[str, ...] = option(
        (), several(text, may_be_empty=True),
        "origins besides the server's own whose pages may use it, or *; repeatable", "ORIGIN", repeat=True,
    )  # fmt: skip
    ingress: tuple[Network, ...] = option(
        (), several(network, may_be_empty=True),
        "reverse proxies whose users are signed in already, as Home Assistant's, 172.30.32.2; repeatable", "CIDR",
        repeat=True,
    )  # fmt: skip
    tls_certificate: Path | None = option(
        _NO_FILE, off_or(folder), "serve HTTPS: file with the certificate chain, and with the key", "FILE"
    )
    tls_key: Path | None = option(_NO_FILE, off_or(folder), "file of the private key, where it has its own", "FILE")
    max_upload: int = option(200, whole(1), "largest upload, in MB", "MB")
    resume_seconds: float = option(
        60.0, decimal(0), "how long a stream waits for a client that lost its connection", "SECONDS"
    )


@dataclass(frozen=True)
class ModelConfig:
    """Which model runs, and where."""

    model: str = option("auto", text, "a catalogue name (see `wyoming-wlk models`), a model folder, or auto", "NAME")
    device: str = option(
        "auto", one_of("auto", "cpu", "cuda", "mps"),
        "where the model runs: auto (cuda if there is one), cpu, cuda or mps", "DEVICE",
    )  # fmt: skip
    compute_type: str = option(
        "auto", one_of("auto", "int8", "float32", "float16", "bfloat16"),
        "number type of the model: auto, int8 (CPU only), float32, float16 or bfloat16", "TYPE",
    )  # fmt: skip
    threads: int = option(0, whole(0, 256), "CPU threads of the encoder; 0 takes all cores but one", "N")
    slots: int = option(
        0, whole(0, 4096),
        "utterances decoded at the same time, more wait their turn; 0 for 16, or what a GPU's memory holds", "N",
    )  # fmt: skip
    unload_after: float | None = option(
        None, off_or(decimal(1)),
        "seconds without a client after which the model leaves the memory, until somebody speaks again; off to keep it",
        "SECONDS",
    )  # fmt: skip
    data_dir: Path = option(_DEFAULT_DATA, folder, "where models and state are kept", "FOLDER")
    offline: bool = option(
        False, on_or_off, "never use the network: only models already here",
        "on|off", bare="on",
    )  # fmt: skip


@dataclass(frozen=True)
class DecodingConfig:
    """How speech becomes text. Clients may choose language, task and prompt for themselves."""

    language: str = option(
        "auto", language, "spoken language, as a code or name; auto detects it per utterance", "CODE"
    )
    task: str = option("transcribe", one_of("transcribe", "translate"), "transcribe, or translate to English", "TASK")
    prompt: str = option("", text, "text that shows names and style to expect", "TEXT")
    hotwords: tuple[str, ...] = option(
        (), several(text, may_be_empty=True), "names to expect, separated by commas; repeatable", "NAMES", repeat=True
    )
    policy: str = option(
        "alignatt", one_of("alignatt", "localagreement"),
        "what makes words final while somebody speaks: alignatt or localagreement", "POLICY",
    )  # fmt: skip
    frame_threshold: int = option(
        25, whole(1, 500), "alignatt: frames of 20 ms that a final word keeps at least from the audio's end", "N"
    )
    trim: str = option(
        "segment", one_of("segment", "sentence"),
        "where the window of a long speech is cut: segment, at pauses; sentence, also behind a committed sentence",
        "WHERE",
    )  # fmt: skip
    step: float = option(0.4, decimal(0.1, 10), "seconds of new audio before words are looked for again", "SECONDS")
    beam_size: int = option(2, whole(1, 16), "beams of the final pass over an utterance", "N")
    temperatures: tuple[float, ...] = option(
        (0.0,), several(decimal(0, 1)), "temperatures of the final pass: the next is tried where the text is poor",
        "LIST",
    )  # fmt: skip


@dataclass(frozen=True)
class VoiceConfig:
    """When somebody speaks."""

    vad_threshold: float = option(0.5, decimal(0.01, 0.99), "speech probability that counts as speech", "P")
    pause: float = option(0.3, decimal(0.1, 5), "silence that ends speech and starts the final pass", "SECONDS")
    pre_roll: float = option(0.4, decimal(0, 2), "audio kept from before speech was noticed", "SECONDS")
    endpoint: float | None = option(
        None, off_or(decimal(0.2, 10)),
        "let the server end an utterance after this much silence, instead of waiting for the client; off to wait",
        "SECONDS",
    )  # fmt: skip
    no_speech: float = option(10.0, decimal(1, 600), "with --endpoint: end after so long without any speech", "SECONDS")


@dataclass(frozen=True)
class Program:
    """A named way to decode that clients may choose: `values` of options instead of the server's own."""

    name: str
    values: tuple[tuple[str, Any], ...] = ()

    def of(self, section: type[Any]) -> dict[str, Any]:
        """Those values that belong to one section."""
        names = {name for name, _ in options(section)}
        return {name: value for name, value in self.values if name in names}

    def __str__(self) -> str:
        return f"{self.name}: " + " ".join(f"{name}={shown(value)}" for name, value in self.values)


STANDARD = Program("wyoming-wlk")
"""What the server's own options say."""

_PROGRAM_OPTIONS = ("language", "task", "policy", "frame_threshold", "beam_size", "endpoint")


def program(value: str) -> Program:
    name, colon, rest = value.partition(":")
    if not colon or not name.strip():
        raise ValueError("must be NAME: OPTION=VALUE ...")
    declared = dict([*options(DecodingConfig), *options(VoiceConfig)])
    values: dict[str, Any] = {}
    for pair in rest.split():
        key, _, raw = pair.partition("=")
        if key not in _PROGRAM_OPTIONS:
            raise ValueError(f"{key} is none of {', '.join(_PROGRAM_OPTIONS)}")
        try:
            values[key] = declared[key].parse(raw)
        except ValueError as err:
            raise ValueError(f"{key} {err}") from err
    return Program(name.strip(), tuple(values.items()))


@dataclass(frozen=True)
class ProgramsConfig:
    """What Wyoming clients may choose by name."""

    program: tuple[Program, ...] = option(
        (Program("fast", (("beam_size", 1),)), Program("accurate", (("beam_size", 5),))),
        several(program, may_be_empty=True),
        "another way to decode on the same model, as NAME: OPTION=VALUE ...; options are "
        f"{', '.join(_PROGRAM_OPTIONS)}; repeatable",
        "PROGRAM", repeat=True,
    )  # fmt: skip


@dataclass(frozen=True)
class StagesConfig:
    """Speakers and translations. Clients may choose for themselves whether they want them, and by which means."""

    diarization: str = option(
        "off", one_of("off", *DIARIZERS),
        f"tell speakers apart: {', '.join(DIARIZERS)} (diart is online) or off", "HOW",
    )  # fmt: skip
    diarization_latency: float = option(
        5.0, decimal(0.3, 31), "seconds after which it is told who spoke; more is more accurate", "SECONDS"
    )
    max_speakers: int = option(10, whole(1, 64), "speakers of one client told apart; further ones share a number", "N")
    segmentation_model: Path | None = option(
        _NO_FILE, off_or(folder), "ONNX file instead of the segmentation network of online diarization", "FILE"
    )
    embedding_model: Path | None = option(
        _NO_FILE, off_or(folder), "ONNX file instead of the embedding network of online diarization", "FILE"
    )
    sortformer_model: str = option(
        "nvidia/diar_streaming_sortformer_4spk-v2.1", text, "name on the hub, or .nemo file, of the sortformer", "NAME"
    )
    target_language: str = option(
        "", target_language, "translate into this language, as a code or name; off for none", "LANGUAGE"
    )
    translation: str = option(
        "bergamot", one_of(*TRANSLATORS),
        "what translates: bergamot, nllb, or whisper (the speech model itself, to English)", "HOW",
    )  # fmt: skip
    nllb_model: str = option("600M", text, "size on the hub (600M, 1.3B), or folder, of the nllb model", "NAME")
    nllb_backend: str = option(
        "ctranslate2", one_of("ctranslate2", "transformers"), "what runs nllb: ctranslate2 or transformers", "HOW"
    )


_OF_THE_ADD_ON: str | None = "on"


@dataclass(frozen=True)
class HomeConfig:
    """The home whose names satellites hear of."""

    home_assistant: str | None = option(
        _OF_THE_ADD_ON, home_address,
        "expect the names of this Home Assistant's entities and rooms: http://HOST:8123, on (the one whose add-on this "
        "is) or off", "URL", bare="on", negative="off",
    )  # fmt: skip
    home_assistant_token: str = option("", text, "long-lived access token for it", "TOKEN")


@dataclass(frozen=True)
class LimitsConfig:
    """What a client may take."""

    max_clients: int = option(
        64, whole(1), "utterances at the same time; beyond it a client is told to come later", "N"
    )
    max_connections: int = option(512, whole(1), "open connections", "N")
    max_connections_per_address: int = option(256, whole(1), "open connections from one address", "N")
    max_utterance: float = option(3600.0, decimal(1), "length of one utterance", "SECONDS")
    idle_timeout: float = option(600.0, decimal(1), "a connection without a message is closed", "SECONDS")
    frame_timeout: float = option(
        20.0, decimal(0.1), "a message once begun must be complete, and audio once begun go on, by then", "SECONDS"
    )
    write_timeout: float = option(20.0, decimal(0.1), "a client must have read its answer by then", "SECONDS")
    context_seconds: float = option(
        60.0, decimal(0), "how long a named client's context is kept after it left", "SECONDS"
    )


@dataclass(frozen=True)
class LogConfig:
    """What the log says, on stderr."""

    log_level: str = option(
        "info", one_of("debug", "info", "warning", "error"), "debug, info, warning or error", "LEVEL"
    )
    log_format: str = option("text", one_of("text", "json"), "text, or one JSON object per line", "FORMAT")


@dataclass(frozen=True)
class Config:
    """All options of `wyoming-wlk serve`."""

    server: ServerConfig = field(default_factory=ServerConfig)
    http: HttpConfig = field(default_factory=HttpConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    voice: VoiceConfig = field(default_factory=VoiceConfig)
    programs: ProgramsConfig = field(default_factory=ProgramsConfig)
    stages: StagesConfig = field(default_factory=StagesConfig)
    home: HomeConfig = field(default_factory=HomeConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        if 0 < self.model.slots < self.decoding.beam_size:
            raise ConfigError(f"--beam-size {self.decoding.beam_size} needs at least as many --slots")
        names = [program.name for program in (STANDARD, *self.programs.program)]
        if len(set(names)) < len(names):
            raise ConfigError(f"--program: two programs have the same name; {STANDARD.name} is the server's own")
        if self.model.compute_type == "int8" and self.model.device in ("cuda", "mps"):
            raise ConfigError("--compute-type int8 runs on the CPU only")


SECTIONS: dict[str, type[Any]] = {
    "server": ServerConfig,
    "http": HttpConfig,
    "model": ModelConfig,
    "decoding": DecodingConfig,
    "voice": VoiceConfig,
    "programs": ProgramsConfig,
    "stages": StagesConfig,
    "home": HomeConfig,
    "limits": LimitsConfig,
    "log": LogConfig,
}


def load(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Config:
    """The whole configuration. Raises `ConfigError`."""
    return Config(**{name: load_section(section, arguments, environment) for name, section in SECTIONS.items()})
