"""Options as fields of frozen dataclasses: how values are parsed, and where they come from. Knows no option by name.

For a field `data_dir` there are the flag ``--data-dir``, the variable ``WLK_DATA_DIR`` and ``WLK_DATA_DIR_FILE``, the
name of a file that holds the value; the flag wins over the variable, the variable over the file.
"""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from wyoming_wlk.errors import ConfigError, RequestError
from wyoming_wlk.languages import normalize_language

T = TypeVar("T")
N = TypeVar("N", int, float)
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
    return _number(int, "a whole number", low, high)


def decimal(low: float, high: float | None = None) -> Callable[[str], float]:
    return _number(float, "a number", low, high)


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


def on_or_off(value: str) -> bool:
    return one_of("on", "off")(value) == "on"


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


def target_language(value: str) -> str:
    """As it is written: how the translators write it is theirs to know. Empty and `off` are none."""
    if value.lower() not in ("", "off"):
        from wyoming_wlk.stages.translation.languages import language_tag  # whose tables take a moment

        try:
            language_tag(value)
        except RequestError as err:
            raise ValueError(str(err)) from err
    return value


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


def home_address(value: str) -> str | None:
    if value in ("on", "off"):
        return value if value == "on" else None
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https", "ws", "wss") or not parts.hostname or parts.port == 0:
        raise ValueError("must be http://HOST:PORT, on or off")
    return value


def folder(value: str) -> Path:
    try:
        return Path(value).expanduser()
    except RuntimeError as err:
        raise ValueError(str(err)) from err


def _number(kind: Callable[[str], N], what: str, low: float, high: float | None) -> Callable[[str], N]:
    def parse(value: str) -> N:
        try:
            number = kind(value)
        except ValueError:
            raise ValueError(f"must be {what}") from None
        if not number >= low or (high is not None and number > high):
            raise ValueError(f"must be at least {low}" if high is None else f"must be from {low} to {high}")
        return number

    return parse


# --- declarations -----------------------------------------------------------------------------------------------------


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


def options(section: type[Any]) -> Iterator[tuple[str, Option[Any]]]:
    """Name and declaration of each option of one section."""
    for item in dataclasses.fields(section):
        yield item.name, item.metadata["option"]


# --- command line, environment and files ------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser, sections: Mapping[str, type[Any]], only: Sequence[str] = ()) -> None:
    """Declares the flags of `sections`, or those in `only`. Values stay text, so that one code parses all sources."""
    for section in sections.values():
        group = parser.add_argument_group((section.__doc__ or "").rstrip("."))
        defaults = section()
        for name, declared in options(section):
            if only and name not in only:
                continue
            flag = "--" + name.replace("_", "-")
            default = shown(getattr(defaults, name))
            group.add_argument(
                flag,
                dest=name,
                default=argparse.SUPPRESS,  # None would hide what the parser of the command above has read
                metavar=declared.metavar,
                help=f"{declared.help} [{default}]".replace("%", "%%") if default else declared.help,
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


def shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    if isinstance(value, Path):
        return f"~/{value.relative_to(Path.home())}" if value.is_relative_to(Path.home()) else str(value)
    return "off" if value is None else str(value)
