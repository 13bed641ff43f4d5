"""The Home Assistant add-on: its files, and its options as the server's. `benchmarks/image.py` builds and runs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path, PurePath
from typing import Any

import pytest
import yaml

from wyoming_wlk import __version__, addon
from wyoming_wlk.catalogue import CATALOGUE
from wyoming_wlk.config import SECTIONS
from wyoming_wlk.errors import ConfigError
from wyoming_wlk.languages import LANGUAGES
from wyoming_wlk.options import options

ROOT = Path(__file__).parent.parent
SERVICES = ROOT / "addon" / "rootfs" / "etc" / "s6-overlay" / "s6-rc.d"
MANIFEST: dict[str, Any] = yaml.safe_load((ROOT / "config.yaml").read_text("utf-8"))
SCHEMA: dict[str, str] = MANIFEST["schema"]
LANGUAGE_FILES = ("en", "de", "fr", "es", "nl")
WORDS = {"target_language": ["pt", "Portuguese"]}
"""What may be written where text is not any text."""
DECLARED = {name: option for section in SECTIONS.values() for name, option in options(section)}
DEFAULTS = {name: getattr(section(), name) for section in SECTIONS.values() for name, _ in options(section)}


def stands_for(name: str) -> str:
    return addon.RENAMED.get(name, name)


def limits(kind: str) -> list[tuple[float, float]]:
    """The ends of a kind of number, each with a number just outside."""
    match = re.fullmatch(r"(int|float)\(([\d.]*),([\d.]*)\)\??", kind)
    if not match:
        return []
    number, step = (int, 1) if match[1] == "int" else (float, 0.001)
    ends = [(match[2], -step), (match[3], step)]
    return [(number(end), number(end) + outwards) for end, outwards in ends if end]


def admitted(name: str) -> list[object]:
    """Values that the Supervisor's schema lets pass: all of a list, the ends of a range, some text."""
    kind = SCHEMA[name]
    if match := re.fullmatch(r"list\((.+)\)", kind):
        return [*match[1].split("|")]
    if found := limits(kind):
        return [end for end, _ in found]
    if kind == "bool":
        return [True, False]
    assert kind in ("str?", "password?"), f"this test does not know {kind}"
    return WORDS.get(name, ["some words, and more", "Küchenlampe"])


def parsed(name: str, value: object) -> object:
    """What the server's option becomes when the add-on's has this value."""
    [(variable, text)] = addon.from_options({name: value}).items()
    option = variable.removeprefix("WLK_").lower()
    assert option == stands_for(name)
    return DECLARED[option].parse(text)


@pytest.mark.parametrize("name", SCHEMA)
def test_option_exists(name: str) -> None:
    """Each option of the add-on stands for one of the server's, and takes every value that its schema lets pass."""
    assert stands_for(name) in DECLARED
    for value in admitted(name):
        parsed(name, value)


@pytest.mark.parametrize("name", [name for name in SCHEMA if limits(SCHEMA[name])])
def test_ranges(name: str) -> None:
    """The form of the add-on offers numbers exactly as far as the server takes them."""
    for _, value in limits(SCHEMA[name]):
        with pytest.raises(ConfigError, match=f"add-on option {name}: '{value}' is wrong"):
            addon.from_options({name: value})


@pytest.mark.parametrize("name", SCHEMA)
def test_defaults(name: str) -> None:
    """An option that nobody touched is as if it were not there; one without a default may be left empty."""
    if name in MANIFEST["options"]:
        assert not SCHEMA[name].endswith("?"), "the Supervisor would make it mandatory"
        assert parsed(name, MANIFEST["options"][name]) == DEFAULTS[stands_for(name)]
    else:
        assert SCHEMA[name].endswith("?")
        assert addon.from_options({name: ""}) == addon.from_options({name: None}) == {}


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("model", ["auto", *CATALOGUE]),
        ("language", ["auto", *sorted(LANGUAGES)]),
        ("policy", None),
        ("log_level", None),
    ],
)
def test_choices(name: str, choices: list[str] | None) -> None:
    """The lists to choose from are complete."""
    offered = admitted(name)
    if choices is None:
        with pytest.raises(ValueError, match="must be one of") as error:
            DECLARED[name].parse("nonsense")
        choices = str(error.value).removeprefix("must be one of ").split(", ")
    assert offered == choices


def test_overrides() -> None:
    """A model of one's own goes before the list's, whatever comes first; a variable goes before all options."""
    for chosen in (
        {"custom_model": "/config/mine", "model": "base"},
        {"model": "base", "custom_model": " /config/mine "},
    ):
        assert addon.from_options(chosen) == {"WLK_MODEL": "/config/mine"}
    assert addon.from_options({"model": "base", "custom_model": "  "}) == {"WLK_MODEL": "base"}


def test_environment(tmp_path: Path) -> None:
    """The variable WLK_ADDON_OPTIONS names the file; without it nothing changes."""
    file = tmp_path / "options.json"
    file.write_text(
        json.dumps({"beam_size": 3, "web_page": False, "token": "", "language": "de", "speakers": True}), "utf-8"
    )
    given = {"WLK_ADDON_OPTIONS": str(file), "WLK_LANGUAGE": "en", "PATH": "/bin"}
    stands_for = {"WLK_BEAM_SIZE": "3", "WLK_HTTP": "off", "WLK_DIARIZATION": "online"}
    assert addon.environment(given) == given | stands_for
    assert addon.environment({"PATH": "/bin"}) == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "the add-on's options cannot be read from .*: .*No such file"),
        ("{", "the add-on's options cannot be read from"),
        ("[]", "are no JSON object"),
        ("[" * 100_000, "cannot be read from"),
        ('{"colour": "green"}', "add-on option colour: there is no such option"),
        ('{"language": "klingon"}', "add-on option language: 'klingon' is wrong: "),
        ('{"policy": ["alignatt"]}', "add-on option policy: must be text"),
        ('{"target_language": "klingon"}', "add-on option target_language: 'klingon' is wrong: unknown language"),
    ],
)
def test_wrong_file(tmp_path: Path, content: str | None, complaint: str) -> None:
    """What is wrong with the add-on's options is told under the names that the home owner sees."""
    file = tmp_path / "options.json"
    if content is not None:
        file.write_text(content, "utf-8")
    with pytest.raises(ConfigError, match=complaint):
        addon.environment({"WLK_ADDON_OPTIONS": str(file)})


def test_server_complains(tmp_path: Path) -> None:
    """The server ends with one line that names the add-on's option."""
    (tmp_path / "options.json").write_text('{"beam_size": 99}', "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "wyoming_wlk", "serve"],
        env=os.environ | {"WLK_ADDON_OPTIONS": str(tmp_path / "options.json")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    complaint = "wyoming-wlk: add-on option beam_size: '99' is wrong: must be from 1 to 16\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", complaint)


@pytest.mark.parametrize("language", LANGUAGE_FILES)
def test_translations(language: str) -> None:
    """Every option and port is named and explained in every language."""
    texts = yaml.safe_load((ROOT / "translations" / f"{language}.yaml").read_text("utf-8"))
    assert list(texts["configuration"]) == list(SCHEMA)
    for name, text in texts["configuration"].items():
        assert set(text) == {"name", "description"} and all(text.values()), name
    assert list(texts["network"]) == list(MANIFEST["ports"]) and all(texts["network"].values())


def test_translations_differ() -> None:
    """No language repeats another's texts."""
    assert {path.stem for path in (ROOT / "translations").iterdir()} == set(LANGUAGE_FILES)
    texts = [
        (ROOT / "translations" / f"{language}.yaml").read_text("utf-8").splitlines() for language in LANGUAGE_FILES
    ]
    described = [{line for line in lines if line.startswith("      ") and len(line) > 40} for lines in texts]
    assert all(described) and len(set.union(*described)) == sum(map(len, described))


def test_documented() -> None:
    """DOCS.md explains every option, under the name that the form shows."""
    documentation = (ROOT / "DOCS.md").read_text("utf-8")
    english = yaml.safe_load((ROOT / "translations" / "en.yaml").read_text("utf-8"))["configuration"]
    for name, text in english.items():
        assert f"| **{text['name']}** `{name}` |" in documentation, name


def test_manifest() -> None:
    """The ports, the discovery and the folders are the server's; the version is the package's."""
    assert MANIFEST["version"] == __version__
    assert MANIFEST["arch"] == ["amd64", "aarch64"] and MANIFEST["init"] is False
    assert MANIFEST["discovery"] == ["wyoming"] and MANIFEST["homeassistant_api"] is True
    ports = {DEFAULTS["uri"][0].rpartition(":")[2], str(DEFAULTS["http"].port)}
    assert {port.removesuffix("/tcp") for port in MANIFEST["ports"]} == ports
    assert MANIFEST["ingress"] is True and MANIFEST["ingress_port"] == DEFAULTS["http"].port
    assert any(PurePath("data/models/tiny.en").match(pattern) for pattern in MANIFEST["backup_exclude"])
    assert not any(PurePath("data/options.json").match(pattern) for pattern in MANIFEST["backup_exclude"])
    assert yaml.safe_load((ROOT / "repository.yaml").read_text("utf-8"))["url"] == MANIFEST["url"]


def tracked() -> list[Path]:
    """What git has of the repository, or would take."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return [Path(name) for name in names if name and (ROOT / name).exists()]


def test_one_manifest() -> None:
    """The Supervisor takes every config.yaml and config.json in a repository for an add-on: there is one."""
    found = [str(path) for path in tracked() if path.stem == "config" and path.suffix in (".yaml", ".yml", ".json")]
    assert found == ["config.yaml"]


def test_yaml() -> None:
    """Every YAML file can be read."""
    files = [path for path in tracked() if path.suffix in (".yaml", ".yml")]
    assert len(files) >= 9
    for path in files:
        assert yaml.safe_load((ROOT / path).read_text("utf-8")), path


def test_pictures() -> None:
    """Icon and logo are PNGs of the recommended sizes."""
    for name, size in (("icon.png", (128, 128)), ("logo.png", (250, 100))):
        data = (ROOT / name).read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")) == size


def test_services() -> None:
    """Services are whole: types, programs that can be run, dependencies that exist, all of them in the bundle."""
    services = {path.name for path in SERVICES.iterdir()} - {"user"}
    assert {path.name for path in (SERVICES / "user" / "contents.d").iterdir()} == services
    for name in services:
        kind = (SERVICES / name / "type").read_text("utf-8").strip()
        assert kind in ("oneshot", "longrun")
        for needed in (SERVICES / name / "dependencies.d").iterdir():
            assert needed.name in services | {"base"}
        assert os.access(SERVICES / name / "run", os.X_OK), "s6 runs what is executable"
        if kind == "oneshot":
            assert (SERVICES / name / "up").read_text("utf-8").strip() == f"/etc/s6-overlay/s6-rc.d/{name}/run"
        else:
            assert os.access(SERVICES / name / "finish", os.X_OK), "or s6 starts it for ever"


@pytest.mark.parametrize(
    "script", sorted(path for path in SERVICES.rglob("*") if path.name in ("run", "finish")), ids=str
)
def test_scripts(script: Path) -> None:
    """The services' scripts get the container's environment, and bash can read them."""
    assert script.read_text("utf-8").startswith("#!/command/with-contenv bash\n# shellcheck shell=bash\n")
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_image() -> None:
    """The image says the same version, and copies only what .dockerignore lets through."""
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    assert f"ARG BUILD_VERSION={__version__}\n" in dockerfile
    for label in ('io.hass.version="$BUILD_VERSION"', 'io.hass.type="app"', 'io.hass.arch="$BUILD_ARCH"'):
        assert label in dockerfile
    passing = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE):
        for source in sources.split():
            assert source.partition("/")[0] in passing and (ROOT / source).exists(), source
