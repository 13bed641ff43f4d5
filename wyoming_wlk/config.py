"""Every option of the server, declared once. Command line, environment and secret files are generated from here.

An option is a field of a frozen dataclass; its metadata says how to parse it. For a field `data_dir` there are the flag
``--data-dir``, the variable ``WLK_DATA_DIR`` and ``WLK_DATA_DIR_FILE``, the name of a file that holds the value; the
flag wins over the variable, the variable over the file. Knows nothing about what the options do.
"""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from wyoming_wlk.errors import ConfigError, RequestError
from wyoming_wlk.languages import normalize_language

T = TypeVar("T")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Address:
    """Where to listen."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


# --- how values are parsed --------------------------------------------------------------------------------------------


def text(value: str) -> str:
    return value


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    def parse(value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            raise ValueError("must be a whole number") from None
        _check_range(number, low, high)
        return number

    return parse


def decimal(low: float, high: float | None = None) -> Callable[[str], float]:
    def parse(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            raise ValueError("must be a number") from None
        _check_range(number, low, high)
        return number

    return parse


def one_of(*choices: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return value

    return parse


def several(parse_one: Callable[[str], T], may_be_empty: bool = False) -> Callable[[str], tuple[T, ...]]:
    """A comma-separated list."""

    def parse(value: str) -> tuple[T, ...]:
        values = tuple(parse_one(part.strip()) for part in value.split(",") if part.strip())
        if not values and not may_be_empty:
            raise ValueError("must not be empty")
        return values

    return parse


def off_or(parse_one: Callable[[str], T]) -> Callable[[str], T | None]:
    def parse(value: str) -> T | None:
        return None if value == "off" else parse_one(value)

    return parse


def service_name(value: str) -> str | None:
    """`on` leaves the choice of a name to the server."""
    return None if value == "off" else "" if value == "on" else value


def language(value: str) -> str:
    try:
        return normalize_language(value)
    except RequestError as err:
        raise ValueError(str(err)) from err


def network(value: str) -> Network:
    return ipaddress.ip_network(value, strict=False)


def address(value: str) -> Address:
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError("must be HOST:PORT")
    return Address(host.strip("[]"), int(port))


def uri(value: str) -> str:
    scheme, separator, rest = value.partition("://")
    if not separator or scheme not in ("tcp", "unix", "stdio"):
        raise ValueError("must begin with tcp://, unix:// or stdio://")
    if scheme == "tcp":
        host, _, port = rest.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ValueError("must be tcp://HOST:PORT")
    return value


def folder(value: str) -> Path:
    try:
        return Path(value).expanduser()
    except RuntimeError as err:
        raise ValueError(str(err)) from err


def _check_range(number: float, low: float, high: float | None) -> None:
    if not number >= low or (high is not None and number > high):
        raise ValueError(f"must be at least {low}" if high is None else f"must be from {low} to {high}")


@dataclass(frozen=True)
class Option(Generic[T]):
    """What an option's field carries as metadata."""

    help: str
    parse: Callable[[str], T]
    metavar: str
    bare: str | None = None
    """The value of the flag without a value; None where it needs one."""
    negative: str | None = None
    """The value that ``--no-NAME`` stands for."""
    repeat: bool = False
    """The flag may be given several times; its values are joined by commas."""


def option(
    default: T,
    parse: Callable[[str], T],
    help: str,
    metavar: str = "VALUE",
    bare: str | None = None,
    negative: str | None = None,
    repeat: bool = False,
) -> T:
    metadata = {"option": Option(help, parse, metavar, bare, negative, repeat)}
    return field(default=default, metadata=metadata)


# --- the options ------------------------------------------------------------------------------------------------------

_DEFAULT_DATA = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wyoming-wlk"


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
    device: str = option("auto", one_of("auto", "cpu", "cuda"), "where the model runs: auto, cpu or cuda", "DEVICE")
    compute_type: str = option(
        "auto", one_of("auto", "int8", "float32", "float16", "bfloat16"),
        "number type of the model: auto, int8 (CPU only), float32, float16 or bfloat16", "TYPE",
    )  # fmt: skip
    threads: int = option(0, whole(0, 256), "CPU threads of the model; 0 takes all cores but one", "N")
    slots: int = option(16, whole(1, 4096), "utterances decoded at the same time; more wait their turn", "N")
    data_dir: Path = option(_DEFAULT_DATA, folder, "where models and state are kept", "FOLDER")
    offline: bool = option(
        False, lambda value: one_of("on", "off")(value) == "on", "never use the network: only models already here",
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
    policy: str = option(
        "alignatt", one_of("alignatt", "localagreement"),
        "what makes words final while somebody speaks: alignatt or localagreement", "POLICY",
    )  # fmt: skip
    frame_threshold: int = option(
        25, whole(1, 500), "alignatt: frames of 20 ms that a final word keeps from the audio's end", "N"
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
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        if self.decoding.beam_size > self.model.slots:
            raise ConfigError(f"--beam-size {self.decoding.beam_size} needs at least as many --slots")
        if self.model.compute_type == "int8" and self.model.device == "cuda":
            raise ConfigError("--compute-type int8 runs on the CPU only")


# --- command line, environment and files ------------------------------------------------------------------------------


def options(section: type[Any]) -> Iterator[tuple[str, Option[Any]]]:
    """Name and declaration of each option of one section."""
    for item in dataclasses.fields(section):
        yield item.name, item.metadata["option"]


SECTIONS: dict[str, type[Any]] = {
    "server": ServerConfig,
    "http": HttpConfig,
    "model": ModelConfig,
    "decoding": DecodingConfig,
    "voice": VoiceConfig,
    "limits": LimitsConfig,
    "log": LogConfig,
}


def add_arguments(
    parser: argparse.ArgumentParser, sections: Mapping[str, type[Any]] = SECTIONS, only: Sequence[str] = ()
) -> None:
    """Declares the flags of `sections`, or those in `only`. Values stay text, so that one code parses all sources."""
    for section in sections.values():
        group = parser.add_argument_group((section.__doc__ or "").rstrip("."))
        defaults = section()
        for name, declared in options(section):
            if only and name not in only:
                continue
            flag = "--" + name.replace("_", "-")
            shown = _shown(getattr(defaults, name))
            group.add_argument(
                flag,
                dest=name,
                default=argparse.SUPPRESS,  # None would hide what the parser of the command above has read
                metavar=declared.metavar,
                help=f"{declared.help} [{shown}]".replace("%", "%%") if shown else declared.help,
                action="append" if declared.repeat else "store",
                nargs=None if declared.bare is None else "?",
                const=declared.bare,
            )
            if declared.negative is not None:
                group.add_argument(
                    f"--no-{flag[2:]}",
                    dest=name,
                    default=argparse.SUPPRESS,
                    action="store_const",
                    const=declared.negative,
                    help=f"no {name}",
                )


def load_section(section: type[T], arguments: argparse.Namespace, environment: Mapping[str, str]) -> T:
    """Builds one section from flags, environment and secret files. Raises `ConfigError` for a wrong value."""
    values = {}
    for name, declared in options(section):
        source, raw = _raw_value(name, arguments, environment)
        if raw is None:
            continue
        try:
            values[name] = declared.parse(raw)
        except ValueError as err:
            raise ConfigError(f"{source}: {raw!r} is wrong: {err}") from err
    return section(**values)


def parse_option(section: type[Any], name: str, value: str) -> Any:
    """One value, wherever it comes from. Raises `RequestError` for a wrong one."""
    declared = dict(options(section))[name]
    try:
        return declared.parse(value)
    except ValueError as err:
        raise RequestError(f"{name}: {value[:40]!r} is wrong: {err}") from err


def load(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Config:
    """The whole configuration. Raises `ConfigError`."""
    return Config(**{name: load_section(section, arguments, environment) for name, section in SECTIONS.items()})


def _raw_value(name: str, arguments: argparse.Namespace, environment: Mapping[str, str]) -> tuple[str, str | None]:
    given = getattr(arguments, name, None)
    if given is not None:
        return "--" + name.replace("_", "-"), ",".join(given) if isinstance(given, list) else str(given)
    variable = "WLK_" + name.upper()
    if variable in environment:
        return variable, environment[variable]
    secret = environment.get(variable + "_FILE")
    if secret is None:
        return variable, None
    try:
        return f"{variable}_FILE", Path(secret).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"{variable}_FILE: cannot read {secret}: {err}") from err


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    if isinstance(value, Path):
        return f"~/{value.relative_to(Path.home())}" if value.is_relative_to(Path.home()) else str(value)
    return "off" if value is None else str(value)
