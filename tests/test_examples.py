"""What lies under examples/ for others to copy: the systemd unit (and those in the documentation) and programs."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import pytest
from conftest import Clip
from scripted import ScriptedDiarizer, ScriptedStages
from serving import serving

from wyoming_wlk import app
from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.vad import SileroVad

ROOT = Path(__file__).parent.parent
UNIT = ROOT / "examples" / "wyoming-wlk.service"

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze checks units, and is not installed"
)


def documented_units() -> dict[str, str]:
    """The units in the documentation, by file name; drop-ins completed by what they change."""
    found = {"wyoming-wlk.service": UNIT.read_text("utf-8")}
    pi = (ROOT / "docs" / "raspberry-pi.md").read_text("utf-8")
    for name, unit in re.findall(r"`/etc/systemd/system/([\w-]+\.service)`:\n\n```ini\n(.*?)```", pi, re.DOTALL):
        found[name] = unit
    install = (ROOT / "docs" / "install.md").read_text("utf-8")
    for number, drop_in in enumerate(re.findall(r"```ini\n(.*?)```", install, re.DOTALL)):
        found[f"changed-{number}.service"] = f"{found['wyoming-wlk.service']}\n{drop_in}"
    return found


@needs_systemd
def test_units_are_right(tmp_path: Path) -> None:
    """systemd knows every setting and finds nothing to complain of, but that the programs are not installed here."""
    units = documented_units()
    assert len(units) == 5
    for name, unit in units.items():
        (tmp_path / name).write_text(re.sub(r"^ExecStart=/opt/\S+", "ExecStart=/bin/true", unit, flags=re.MULTILINE))
    for name in units:
        command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:"})
        complaints = [line for line in done.stderr.splitlines() if name in line]
        assert (complaints, done.returncode) == ([], 0), done.stderr


@needs_systemd
def test_the_service_can_do_little() -> None:
    """systemd rates what the service could do to the machine: 10 is everything, 2 and less is OK."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd is too old to rate a unit that is not installed")
    assert done.returncode == 0, done.stdout


def test_the_service_may_end_in_peace() -> None:
    """systemd waits longer for the server to stop than the server takes, and leaves it down after a wrong option."""
    unit = UNIT.read_text("utf-8")
    [seconds] = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert int(seconds) > app._GRACE_SECONDS + 4
    assert "\nRestartPreventExitStatus=2\n" in unit


async def test_microphone(engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """The example prints each of several commands that come one after the other, without ever being told their ends."""
    said = [bytes(16000) + clips[name].pcm + bytes(64000) for name in ("turn_on_the_lamp", "whats-the-date")]
    async with serving(engine, vad, endpoint=0.7, language="en") as server:
        pipe = asyncio.subprocess.PIPE
        path = ROOT / "examples" / "stream_microphone.py"
        program = await asyncio.create_subprocess_exec(
            sys.executable, path, server.uri, stdin=pipe, stdout=pipe, stderr=pipe
        )
        assert program.stdin is not None and program.stdout is not None and program.stderr is not None
        lines = []
        for audio in said:
            program.stdin.write(audio)
            lines.append(await asyncio.wait_for(program.stdout.readline(), 60))
        program.stdin.close()
        rest, errors = await asyncio.wait_for(program.communicate(), 60)
    assert [re.sub(r"\W+", " ", line.decode().lower()).strip() for line in lines] == [
        "turn on the lamp",
        "what s the date",
    ]
    assert (rest, errors, program.returncode) == (b"", b"", 0)


async def test_speakers(engine: Engine, vad: SileroVad, clips: dict[str, Clip], tmp_path: Path) -> None:
    """The example prints a line for each of two speakers, and each line's translation below it."""
    once = clips["turn_on_the_lamp"].pcm + bytes(48000)
    path = tmp_path / "two.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(once * 2)
    async with serving(engine, vad, language="en") as server:
        diarizer = ScriptedDiarizer(turn=len(once) / 32000)
        server.services.stages = ScriptedStages(server.services.config, diarizer)
        pipe = asyncio.subprocess.PIPE
        command = [ROOT / "examples" / "live_speakers.py", path, server.url.replace("http", "ws"), "pt"]
        program = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=pipe, stderr=pipe)
        out, errors = await asyncio.wait_for(program.communicate(), 60)
    assert (errors, program.returncode) == (b"", 0)
    lines = out.decode().splitlines()
    said = [line for line in lines if not line.startswith("  = ")]
    assert [re.sub(r"\W+", " ", line).strip() for line in said] == [
        "Speaker 1 Turn on the lamp",
        "Speaker 2 Turn on the lamp",
    ]
    assert sorted(lines) == sorted([*(f"  = {line[11:].upper()}" for line in said), *said])
