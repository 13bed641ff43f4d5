"""Options: each from the command line, the environment or a file, in this order, and wrong ones named in one line."""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wyoming_wlk.config import SECTIONS, Config, Program, ProgramsConfig, load
from wyoming_wlk.errors import ConfigError
from wyoming_wlk.options import Address, Option, add_arguments, options, parse_option, shown

OPTIONS = [(section, name, declared) for section, cls in SECTIONS.items() for name, declared in options(cls)]
NAMES = [name for _, name, _ in OPTIONS]

TEXTS: dict[str, tuple[str, Any]] = {
    "uri": ("unix:///run/x,stdio://", ("unix:///run/x", "stdio://")),
    "zeroconf": ("Flat", "Flat"),
    "allow": ("10.1.2.3/8, ::1", (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128"))),
    "http": ("[::1]:8080", Address("::1", 8080)),
    "token": ("sesame", "sesame"),
    "ingress": ("172.30.32.2, fd00::2", (ipaddress.ip_network("172.30.32.2"), ipaddress.ip_network("fd00::2"))),
    "cors": ("https://a.example, *", ("https://a.example", "*")),
    "tls_certificate": ("/etc/x.pem", Path("/etc/x.pem")),
    "tls_key": ("/etc/x.key", Path("/etc/x.key")),
    "model": ("tiny", "tiny"),
    "device": ("cuda", "cuda"),
    "compute_type": ("bfloat16", "bfloat16"),
    "threads": ("3", 3),
    "slots": ("48", 48),
    "data_dir": ("/srv/x", Path("/srv/x")),
    "offline": ("on", True),
    "language": ("German", "de"),
    "task": ("translate", "translate"),
    "prompt": ("Names: Ünal, O'Neill", "Names: Ünal, O'Neill"),
    "hotwords": ("EcoBee, Küchenlampe", ("EcoBee", "Küchenlampe")),
    "policy": ("localagreement", "localagreement"),
    "trim": ("sentence", "sentence"),
    "vad_threshold": ("0.9", 0.9),
    "temperatures": ("0, 0.4,1", (0.0, 0.4, 1.0)),
    "endpoint": ("0.5", 0.5),
    "program": ("quick: beam_size=1 endpoint=0.5", (Program("quick", (("beam_size", 1), ("endpoint", 0.5))),)),
    "diarization": ("diart", "diart"),
    "segmentation_model": ("/srv/s.onnx", Path("/srv/s.onnx")),
    "embedding_model": ("/srv/e.onnx", Path("/srv/e.onnx")),
    "sortformer_model": ("/srv/s.nemo", "/srv/s.nemo"),
    "target_language": ("Portuguese", "Portuguese"),
    "translation": ("nllb", "nllb"),
    "nllb_model": ("1.3B", "1.3B"),
    "nllb_backend": ("transformers", "transformers"),
    "home_assistant": ("https://home.example", "https://home.example"),
    "home_assistant_token": ("sesame", "sesame"),
    "log_level": ("debug", "debug"),
    "log_format": ("json", "json"),
}
"""A text for each option and what it means; numbers that are missing here are taken from the limits of the others."""
for _, _name, _ in OPTIONS:
    TEXTS.setdefault(_name, ("1", 1))

WRONG = {
    "uri": ("http://x", "tcp://0.0.0.0", "tcp://:1", "tcp://x:y", "tcp://x:65536", "tcp://x:-1", "x", "", " , "),
    "allow": ("10.0.0.0/33", "example.com", "10.0.0"),
    "ingress": ("172.30.32.2:8099", "supervisor"),
    "http": ("x", "0.0.0.0", ":1", "x:y", "x:65536", ""),
    "max_upload": ("0", "-1", "much"),
    "resume_seconds": ("-1", "nan"),
    "device": ("tpu", "CPU", ""),
    "compute_type": ("int4", "fp16"),
    "threads": ("-1", "1.5", "many", "", "257"),
    "slots": ("-1", "4097", "inf", "9" * 5000),
    "data_dir": ("~nobody-of-this-name/x",),
    "offline": ("maybe", "yes"),
    "language": ("klingon", "xx-XX"),
    "task": ("sing",),
    "policy": ("greedy",),
    "diarization": ("pyannote", "on", ""),
    "diarization_latency": ("0.2", "32"),
    "max_speakers": ("0", "65"),
    "target_language": ("klingon", "xx", "auto"),
    "translation": ("babelfish",),
    "nllb_backend": ("onnx",),
    "trim": ("words",),
    "frame_threshold": ("0", "501", "2.5"),
    "step": ("0", "nan", "11", "1,5"),
    "beam_size": ("0", "17"),
    "temperatures": ("0,2", "-1", "warm", "", "nan"),
    "vad_threshold": ("0", "1", "50%"),
    "pause": ("0", "6"),
    "pre_roll": ("-0.1", "3"),
    "endpoint": ("0.1", "11", "on"),
    "no_speech": ("0", "601"),
    "unload_after": ("0", "soon"),
    "program": ("fast", ": beam_size=1", "a: beams=1", "a: beam_size=many", "a: beam_size"),
    "home_assistant": ("homeassistant.local", "ftp://x", "auto", "http://", "http://[x", "http://x:port", "http://x:0"),
    "max_clients": ("0",),
    "idle_timeout": ("0", "-inf"),
    "log_level": ("loud",),
    "log_format": ("xml",),
}


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def parse(*arguments: str, **environment: str) -> Config:
    parser = argparse.ArgumentParser()
    add_arguments(parser, SECTIONS)
    return load(parser.parse_args(arguments), environment)


def value(config: Config, name: str) -> Any:
    [section] = [section for section, known, _ in OPTIONS if known == name]
    return getattr(getattr(config, section), name)


def test_defaults() -> None:
    """Without options there is the configuration that the code says, and foreign variables change nothing."""
    assert parse() == Config() == parse(WLK="x", MODEL="x", wlk_model="x", PATH="/bin")


def test_names_are_unique() -> None:
    """No option is declared twice, and none is taken for another one's file."""
    assert len(set(NAMES)) == len(NAMES) > 25
    assert not {f"{name}_file" for name in NAMES} & set(NAMES)


@pytest.mark.parametrize(("section", "name", "declared"), OPTIONS, ids=NAMES)
def test_declaration(section: str, name: str, declared: Option[Any]) -> None:
    """Each option says what it does, and the text of its default parses to its default."""
    default = getattr(SECTIONS[section](), name)
    assert len(declared.help) > 10 and not declared.help.endswith(".")
    assert declared.parse(shown(default)) == default
    for text in (declared.bare, declared.negative):
        assert text is None or declared.parse(text) in (None, True, "on", default)


@pytest.mark.parametrize("name", NAMES)
def test_every_source(name: str, tmp_path: Path) -> None:
    """Each option can be set by flag, by variable and by file; the flag wins over the variable, it over the file."""
    text, meaning = TEXTS[name]
    file, wrong = tmp_path / "secret", tmp_path / "missing"
    file.write_text(text + "\n", "utf-8")
    variable = f"WLK_{name.upper()}"
    for config in (
        parse(f"{flag(name)}={text}"),
        parse(**{variable: text}),
        parse(**{f"{variable}_FILE": str(file)}),
        parse(**{variable: text, f"{variable}_FILE": str(wrong)}),
        parse(f"{flag(name)}={text}", **{variable: "\x00", f"{variable}_FILE": str(wrong)}),
    ):
        assert value(config, name) == meaning
        assert [other for other in NAMES if value(config, other) != value(Config(), other)] == [name]


def test_options_are_independent() -> None:
    """Setting all options at once gives each its own value."""
    wanted = {name: text for name, (text, _) in TEXTS.items()} | {"slots": "48"}
    config = parse(*(f"{flag(name)}={text}" for name, text in wanted.items()))
    assert {name: value(config, name) for name in NAMES} == {name: TEXTS[name][1] for name in NAMES}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in WRONG.items() for text in texts])
def test_wrong_values(name: str, text: str, tmp_path: Path) -> None:
    """A wrong value is refused in one line that names where it came from."""
    file = tmp_path / "secret"
    file.write_text(text, "utf-8")
    variable = f"WLK_{name.upper()}"
    for arguments, environment, source in (
        ([f"{flag(name)}={text}"], {}, flag(name)),
        ([], {variable: text}, variable),
        ([], {f"{variable}_FILE": str(file)}, f"{variable}_FILE"),
    ):
        with pytest.raises(ConfigError) as caught:
            parse(*arguments, **environment)
        assert str(caught.value).startswith(source + ": ")
        assert "\n" not in str(caught.value)


def test_control_characters_stay_in_the_line() -> None:
    """What is quoted in the message cannot begin another line."""
    with pytest.raises(ConfigError) as caught:
        parse(WLK_DEVICE="x\nwyoming-wlk: all is well")
    assert "\n" not in str(caught.value)


def test_unreadable_file(tmp_path: Path) -> None:
    """A file that is missing, a folder or no text is named together with its variable."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for file in (tmp_path / "missing", tmp_path, tmp_path / "binary"):
        with pytest.raises(ConfigError, match=f"WLK_PROMPT_FILE: cannot read {re.escape(str(file))}"):
            parse(WLK_PROMPT_FILE=str(file))


def test_zeroconf() -> None:
    """The announcement has a name of its own, one that is given, or is off."""
    assert parse().server.zeroconf == parse("--zeroconf").server.zeroconf == parse(WLK_ZEROCONF="on").server.zeroconf
    assert parse().server.zeroconf == ""
    assert parse("--zeroconf", "Flat").server.zeroconf == "Flat"
    assert parse("--no-zeroconf").server.zeroconf is parse(WLK_ZEROCONF="off").server.zeroconf is None
    assert parse("--zeroconf", WLK_ZEROCONF="off").server.zeroconf == ""


def test_offline() -> None:
    """The flag alone switches on, and with a value it can overrule the environment."""
    assert parse("--offline").model.offline and not parse("--offline", "off", WLK_OFFLINE="on").model.offline


def test_repeated_flags() -> None:
    """Addresses and networks add up; for other options the last flag wins."""
    config = parse("--uri", "tcp://[::1]:1", "--uri", "unix:///a,stdio://", "--allow", "10.0.0.0/8", "--allow", "::/0")
    assert config.server.uri == ("tcp://[::1]:1", "unix:///a", "stdio://")
    assert [str(network) for network in config.server.allow] == ["10.0.0.0/8", "::/0"]
    assert parse("--slots", "7", "--slots", "9").model.slots == 9


def test_a_program_is_shown_as_it_is_written() -> None:
    """Also where its values are no text."""
    written = "steady: language=de beam_size=1 endpoint=off"
    assert str(parse_option(ProgramsConfig, "program", written)[0]) == written


def test_options_that_do_not_go_together() -> None:
    """More beams than slots, and 8-bit weights on a GPU, are refused when the options are read."""
    assert parse("--slots", "5", "--beam-size", "5").decoding.beam_size == 5
    for wrong in (["--slots", "1"], ["--beam-size", "16", "--slots", "15"]):
        with pytest.raises(ConfigError, match="--beam-size .* --slots"):
            parse(*wrong)
    for twice in (["--program", "a: beam_size=1,a: beam_size=2"], ["--program", "wyoming-wlk: beam_size=1"]):
        with pytest.raises(ConfigError, match="--program: two programs"):
            parse(*twice)
    with pytest.raises(ConfigError, match="--compute-type int8"):
        parse("--compute-type", "int8", "--device", "cuda")
    with pytest.raises(ConfigError, match="--compute-type int8"):
        parse("--compute-type", "int8", "--device", "mps")


def test_help_mentions_each_option() -> None:
    """The help shows each flag with what it does and its default, under the heading of its section."""
    parser = argparse.ArgumentParser(
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=1000, max_help_position=50)
    )
    add_arguments(parser, SECTIONS)
    text = parser.format_help()
    for section, name, declared in OPTIONS:
        [line] = [line for line in text.splitlines() if line.strip().startswith(f"{flag(name)} ")]
        assert declared.help in line
        default = shown(getattr(SECTIONS[section](), name))
        assert f"[{default}]" in line or not default
    assert "--no-zeroconf" in text
    for section in SECTIONS.values():
        assert (section.__doc__ or "").rstrip(".") + ":" in text


def test_configuration_cannot_be_changed() -> None:
    """A configuration that was read stays as it is."""
    for part in (Config(), *(getattr(Config(), section) for section in SECTIONS)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, dataclasses.fields(part)[0].name, None)


@pytest.mark.parametrize("home", ["/", "/srv", "/srv/"])
def test_data_dir_is_shown_relative_to_home(home: str) -> None:
    """The default folder is below the home folder, whatever that is, and its text means the same folder."""
    program = (
        "from wyoming_wlk.config import ModelConfig; from wyoming_wlk.options import folder, shown;"
        "d = ModelConfig().data_dir; print(shown(d)); assert folder(shown(d)) == d"
    )
    environment = {**os.environ, "HOME": home, "XDG_CACHE_HOME": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "~/.cache/wyoming-wlk\n"
