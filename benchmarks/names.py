"""What the names of a home do for commands that contain them, and for other speech: `--hotwords` against none.

python -m benchmarks.names [--audio FOLDER] [-- OPTIONS OF wyoming-wlk serve]

Commands with rare names are synthesised by flite (`apt-get install flite`), in three voices with a little noise. The
bonuses of engine/biasing.py were found on the first half of the names; the second half was not looked at.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import soxr

from benchmarks.clips import DEFAULT_AUDIO, SAMPLE_RATE, Clip, load_clips, normalize, word_error_rate
from benchmarks.report import percentage, print_machine, print_table, progress
from benchmarks.servers import our_config
from wyoming_wlk.config import Config
from wyoming_wlk.engine.context import ClientOptions
from wyoming_wlk.hosting import ModelInfo
from wyoming_wlk.loading import expected_model, load_speech
from wyoming_wlk.services import Services
from wyoming_wlk.session import Speech
from wyoming_wlk.transcription import transcribe

_TUNED = (
    "EcoBee", "Mood Lighting", "Party Time", "Basement Light", "Roborock", "Lutron Caseta", "Nanoleaf", "Aqara Hub",
    "Jellyfin", "Mudroom", "Kallax Shelf", "Freya's Room", "Gazebo Fan", "Zigbee Plug", "Sonos Arc", "Tado Valve",
)  # fmt: skip
_HELD_OUT = (
    "Wemo Switch", "Shelly Dimmer", "Lanai Lights", "Govee Strip", "Hue Iris", "Foyer Sconce", "Niko's Desk",
    "Sauna Heater", "Pergola", "Loft Blinds", "Vindriktning", "Ikea Symfonisk", "Meross Outlet", "Velux Window",
    "Bjorn's Lamp", "Daikin",
)  # fmt: skip
_ROOMS = (
    "Living Room",
    "Kitchen",
    "Bedroom",
    "Hallway",
    "Bathroom",
    "Guest Room",
    "Nursery",
    "Attic",
    "Garage",
    "Office",
)
_THINGS = ("Lamp", "Lights", "Blinds", "Thermostat", "Camera", "Motion", "Window", "Speaker", "Fan", "Humidity")
_COMMANDS = (
    "turn on the {}", "turn off the {}", "is the {} on", "set the {} to fifty percent",
    "what is the state of the {}", "please activate {}",
)  # fmt: skip
_VOICES = ("awb", "rms", "slt")
_NOISE = 0.002


@dataclass(frozen=True)
class Command:
    """A clip, and the name that is said in it."""

    clip: Clip
    name: str


def synthesise(names: Sequence[str]) -> list[Command]:
    """Three commands for each name."""
    made = []
    for number, name in enumerate(names):
        for turn, voice in enumerate(_VOICES):
            text = _COMMANDS[(2 * number + 4 * turn) % len(_COMMANDS)].format(name)
            made.append(Command(Clip(Path(f"{voice} {text}"), _speak(voice, text), text), name))
    return made


def _speak(voice: str, text: str) -> np.ndarray:
    done = subprocess.run(["flite", "-voice", voice, "-t", text, "-o", "/dev/stdout"], capture_output=True, check=True)
    samples, rate = soundfile.read(io.BytesIO(done.stdout), dtype="float32")
    speech = np.pad(0.7 * soxr.resample(samples, rate, SAMPLE_RATE), (SAMPLE_RATE // 3, SAMPLE_RATE // 5))
    noise = np.random.default_rng(len(text)).normal(0, _NOISE, len(speech))
    return np.asarray(speech + noise, np.float32)


async def hear(services: Services, clips: Sequence[Clip], options: ClientOptions) -> list[str]:
    async def pieces(samples: np.ndarray) -> AsyncIterator[np.ndarray]:
        yield samples

    return [(await transcribe(services, "benchmark", options, pieces(clip.samples))).text for clip in clips]


async def measure(config: Config, audio: Path) -> None:
    sets = {
        "names that the bonuses were found on": synthesise(_TUNED),
        "names held out": synthesise(_HELD_OUT),
    }
    other = {"commands": load_clips(audio, "command", "en"), "LibriSpeech": load_clips(audio, "short", "en")}
    home = tuple(f"{room} {thing}" for room in _ROOMS for thing in _THINGS)
    with ThreadPoolExecutor(1, "vad") as executor:

        async def load(config: Config) -> tuple[Speech, ModelInfo]:
            return await asyncio.to_thread(load_speech, config, executor)

        services = Services(config, expected_model(config), load)
        await services.host.borrow()
        rows = []
        for how in ("nothing", "prompt", "hotwords"):
            progress(how)
            for title, commands in sets.items():
                names = tuple(dict.fromkeys(command.name for command in commands))
                heard = await hear(
                    services, [command.clip for command in commands], _options(services, how, names + home)
                )
                missed = [normalize(c.name) not in normalize(text) for c, text in zip(commands, heard, strict=True)]
                wer = word_error_rate([command.clip.text for command in commands], heard)
                rows.append([f"{title}, {how}", percentage(float(np.mean(missed))), percentage(wer)])
            for title, clips in other.items():
                options = _options(services, how, _TUNED + _HELD_OUT + home)
                wer = word_error_rate([clip.text for clip in clips], await hear(services, clips, options))
                rows.append([f"{title}, {how}", "–", percentage(wer)])
        await services.host.close()
    print_table(
        f"{config.model.model}: names of the home", ["clips, given", "names missed", "word error rate"], sorted(rows)
    )


def _options(services: Services, how: str, names: tuple[str, ...]) -> ClientOptions:
    if how == "prompt":
        return replace(services.defaults, prompt=", ".join(names) + ".")
    return replace(services.defaults, hotwords=names if how == "hotwords" else ())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO)
    parser.add_argument("options", nargs="*", help="of wyoming-wlk serve, behind --")
    arguments = parser.parse_args()
    if shutil.which("flite") is None:
        print("benchmarks.names: flite is needed: apt-get install flite", file=sys.stderr)
        return 1
    print_machine()
    asyncio.run(measure(our_config(["--model", "base", *arguments.options]), arguments.audio))
    return 0


if __name__ == "__main__":
    sys.exit(main())
