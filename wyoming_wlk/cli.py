"""The command `wyoming-wlk`: serve, the models on this machine, and clients."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from wyoming_wlk import __version__, addon, config, logs
from wyoming_wlk.catalogue import CATALOGUE
from wyoming_wlk.errors import ConfigError, WlkError
from wyoming_wlk.models import ModelStore
from wyoming_wlk.options import add_arguments, load_section

USAGE_ERROR, FAILURE = 2, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 2 for a wrong option, 1 for what failed later."""
    try:
        parsed = _parser().parse_args(arguments)
        return int(parsed.run(parsed))
    except ConfigError as err:
        print(f"wyoming-wlk: {err}", file=sys.stderr)
        return USAGE_ERROR
    except WlkError as err:
        print(f"wyoming-wlk: {err}", file=sys.stderr)
        return FAILURE
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser that leaves with one line instead of the whole usage."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise ConfigError(f"{message} (see `{self.prog} --help`)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="wyoming-wlk", description="Streaming speech-to-text for many clients on one model.")
    parser.add_argument("--version", action="version", version=f"wyoming-wlk {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser(
        "serve",
        help="run the server",
        description="Runs the server until SIGTERM or ctrl-C.",
        epilog="Each option is also an environment variable, WLK_ and its name (WLK_DATA_DIR), and the name of a file "
        "that holds the value, with _FILE behind it (WLK_DATA_DIR_FILE).",
    )
    add_arguments(serve, config.SECTIONS)
    serve.set_defaults(run=_serve)

    models = commands.add_parser("models", help="list, fetch and delete models", description="Lists the models.")
    store = {"model": config.ModelConfig}
    models.set_defaults(run=_list_models)
    actions = models.add_subparsers(metavar="ACTION")
    for name, run, text in (("pull", _pull_model, "fetch a model"), ("rm", _remove_model, "delete a model")):
        action = actions.add_parser(name, help=text, description=f"{text.capitalize()}.")
        action.add_argument("name", metavar="NAME")
        add_arguments(action, store, only=("data_dir", "offline"))
        action.set_defaults(run=run)
    add_arguments(models, store, only=("data_dir", "offline"))
    _add_clients(commands)
    return parser


def _add_clients(commands: argparse._SubParsersAction[_Parser]) -> None:
    transcribe = commands.add_parser(
        "transcribe",
        help="recordings to text or subtitles",
        description="Writes what is said in recordings (any format that FFmpeg knows), by a model on this machine or "
        "by a server. The exit code is 1 where one of several files fails.",
    )
    transcribe.add_argument("file", metavar="FILE", nargs="+", type=Path)
    transcribe.add_argument("--format", choices=("txt", "srt", "vtt", "json", "rttm"), default="txt", help="[txt]")
    transcribe.add_argument("--output-dir", metavar="DIR", type=Path, help="write files there instead of to stdout")
    transcribe.add_argument("--server", metavar="URL", help="of a server that does the work: http://HOST:10380")
    add_arguments(transcribe, {"http": config.HttpConfig}, only=("token",))
    own = {"decoding": config.DecodingConfig, "model": config.ModelConfig}
    chosen = ("language", "task", "prompt", "hotwords", "beam_size", "model", "device", "compute_type", "threads")
    add_arguments(transcribe, own, only=(*chosen, "data_dir", "offline"))
    add_arguments(transcribe, {"stages": config.StagesConfig})
    transcribe.set_defaults(run=_transcribe)

    listen = commands.add_parser(
        "listen",
        help="live captions of a microphone or of what the machine plays",
        description="Shows what is said, as it is said, until ctrl-C. Needs a server.",
    )
    listen.add_argument("--server", metavar="URL", default="ws://127.0.0.1:10380", help="[ws://127.0.0.1:10380]")
    listen.add_argument("--source", choices=("mic", "system", "both"), default="mic", help="what to listen to [mic]")
    add_arguments(listen, {"http": config.HttpConfig}, only=("token",))
    add_arguments(listen, own, only=("language", "task", "prompt", "hotwords"))
    add_arguments(listen, {"stages": config.StagesConfig}, only=("diarization", "target_language", "translation"))
    listen.set_defaults(run=_listen)

    health = commands.add_parser(
        "health",
        help="ask a server whether it is well",
        description="Asks a server on this machine, or another, by Wyoming's describe. The exit code is 0 or 1.",
    )
    add_arguments(health, {"server": config.ServerConfig}, only=("uri",))
    health.set_defaults(run=_health)


def _serve(arguments: argparse.Namespace) -> int:
    settings = config.load(arguments, addon.environment(os.environ))
    logs.set_up(settings.log.log_level, settings.log.log_format)
    # oneDNN keeps compiled code for every shape of product it meets; by default that grows to a hundred megabytes
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
    from wyoming_wlk.app import serve  # torch takes a second to import: wrong options should not have to wait for it

    asyncio.run(serve(settings))
    if threading.active_count() > 1:  # a model is still being loaded; the end of the interpreter would abort on that
        logging.shutdown()
        os._exit(0)
    return 0


def _list_models(arguments: argparse.Namespace) -> int:
    installed = _store(arguments).installed()
    print(f"{'name':20} {'MB':>5}  {'languages':10} {'sources':12} installed")
    for entry in CATALOGUE.values():
        languages = "English" if len(entry.languages) == 1 else str(len(entry.languages))
        sources = ", ".join(entry.sources)
        mark = "yes" if entry.name in installed else ""
        print(f"{entry.name:20} {entry.megabytes:5}  {languages:10} {sources:12} {mark}".rstrip())
    return 0


def _pull_model(arguments: argparse.Namespace) -> int:
    logs.set_up("info", "text")
    if arguments.name not in CATALOGUE:
        raise ConfigError(f"unknown model {arguments.name!r}; `wyoming-wlk models` lists them")
    print(_store(arguments).fetch(CATALOGUE[arguments.name]))
    return 0


def _remove_model(arguments: argparse.Namespace) -> int:
    _store(arguments).remove(arguments.name)
    return 0


def _transcribe(arguments: argparse.Namespace) -> int:
    settings, files = config.load(arguments, os.environ), arguments.file
    if arguments.server is not None:
        _check_url(arguments.server)
    if arguments.format == "rttm" and settings.stages.diarization == "off":
        raise ConfigError("--format rttm needs --diarization")
    logs.set_up("warning", "text")
    from wyoming_wlk.clients.transcribe import Output, transcribe_here, transcribe_there

    output = Output(arguments.format, arguments.output_dir)
    if arguments.server is None:
        good = transcribe_here(settings, files, output)
    else:
        work = transcribe_there(arguments.server, settings, files, output)
        good = asyncio.run(work)
    return 0 if good else FAILURE


def _listen(arguments: argparse.Namespace) -> int:
    settings = config.load(arguments, os.environ)
    _check_url(arguments.server)
    from wyoming_wlk.clients.capture import sources
    from wyoming_wlk.clients.listen import listen
    from wyoming_wlk.clients.screen import Screen

    found = sources(arguments.source)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    screen = Screen(sys.stdout, [source.name for source in found], width)
    asyncio.run(listen(found, arguments.server, settings, screen))
    return 0


def _health(arguments: argparse.Namespace) -> int:
    settings = load_section(config.ServerConfig, arguments, os.environ)
    uris = [uri for uri in settings.uri if not uri.startswith("stdio:")]
    if not uris:
        raise ConfigError("health: a server on stdio cannot be asked; give --uri tcp://HOST:PORT")
    from wyoming_wlk.clients.health import health

    well, line = asyncio.run(health(uris[0]))
    print(line)
    return 0 if well else FAILURE


def _check_url(server: str) -> None:
    if server.partition("://")[0] not in ("http", "https", "ws", "wss"):
        raise ConfigError(f"--server: {server!r} is no URL: http://HOST:PORT")


def _store(arguments: argparse.Namespace) -> ModelStore:
    settings = load_section(config.ModelConfig, arguments, os.environ)
    return ModelStore(settings.data_dir, settings.offline)
