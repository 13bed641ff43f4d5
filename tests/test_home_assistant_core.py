"""All of Home Assistant (2024.3.3) with the server: it is added, hears a command and does what was said."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import home_assistant
import pytest
from conftest import Clip
from home_assistant import Core
from serving import serving
from test_discovery import namespace

from wyoming_wlk.engine.engine import Engine
from wyoming_wlk.home_assistant import follow_names, websocket_address
from wyoming_wlk.models import InstalledModel
from wyoming_wlk.vad import SileroVad

pytestmark = pytest.mark.skipif(bool(home_assistant.missing()), reason=home_assistant.missing() or "it is there")

HOUSE = """
assist_pipeline:
input_boolean:
  switch: {name: Switch behind the lamp}
light:
  - platform: template
    lights:
      lamp:
        unique_id: lamp
        friendly_name: Lamp
        value_template: "{{ is_state('input_boolean.switch', 'on') }}"
        turn_on: {service: input_boolean.turn_on, target: {entity_id: input_boolean.switch}}
        turn_off: {service: input_boolean.turn_off, target: {entity_id: input_boolean.switch}}
scene:
  - name: Mood Lighting
    entities: {input_boolean.switch: "on"}
"""
CHUNK = 2560  # 0.08 s
SECOND_OF_SILENCE = bytes(2 * 16000)


async def add_server(home: Core, port: int) -> dict[str, Any]:
    """What somebody does on the page "Add integration: Wyoming Protocol"."""
    flow = await home.post("/api/config/config_entries/flow", {"handler": "wyoming"})
    steps = f"/api/config/config_entries/flow/{flow['flow_id']}"
    return dict(await home.post(steps, {"host": "127.0.0.1", "port": port}))


async def add_assistant(home: Core, engine: str) -> str:
    """A voice assistant with this speech-to-text; returns its id."""
    listed = await home.call("assist_pipeline/pipeline/list")
    assistant = {name: value for name, value in listed["pipelines"][0].items() if name != "id"}
    wanted = {"name": "Wyoming", "stt_engine": engine, "stt_language": "en"}
    return str((await home.call("assist_pipeline/pipeline/create", **assistant | wanted))["id"])


@asynccontextmanager
async def satellite(home: Core, handler: int, pcm: bytes) -> AsyncIterator[None]:
    """Speaks in real time, and then nothing, until it is closed."""

    async def speak() -> None:
        for start in range(0, len(pcm), CHUNK):
            await asyncio.sleep(CHUNK / 32000)
            await home.websocket.send_bytes(bytes([handler]) + pcm[start : start + CHUNK])

    speaking = asyncio.create_task(speak())
    try:
        yield
    finally:
        speaking.cancel()


async def command(home: Core, assistant: str, pcm: bytes) -> dict[str, Any]:
    """Speaks to an assistant; returns what it tells, by the type of event, in the order of their coming."""
    events = await home.subscribe(
        "assist_pipeline/run", start_stage="stt", end_stage="intent", input={"sample_rate": 16000}, pipeline=assistant
    )
    seen: dict[str, Any] = {}
    async with asyncio.timeout(30):
        started = await events.get()
        handler = started["data"]["runner_data"]["stt_binary_handler_id"]
        async with satellite(home, handler, pcm + 10 * SECOND_OF_SILENCE):
            while "run-end" not in seen:
                event = await events.get()
                seen[event["type"]] = event["data"]
    return seen


async def test_a_spoken_command(tmp_path: Path, engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """The server is added by its address, the end of speech is Home Assistant's, and the lamp goes on."""
    async with serving(engine, vad) as server, home_assistant.core(tmp_path, HOUSE) as home:
        assert (await add_server(home, server.port))["title"] == "wyoming-wlk"
        assistant = await add_assistant(home, "stt.wyoming_wlk")
        assert await home.state("light.lamp") == "off"
        seen = await command(home, assistant, clips["turn_on_the_lamp"].pcm)
        assert [*seen] == [
            "stt-start",
            "stt-vad-start",
            "stt-vad-end",
            "stt-end",
            "intent-start",
            "intent-end",
            "run-end",
        ]
        assert "lamp" in seen["stt-end"]["stt_output"]["text"].lower()
        assert seen["intent-end"]["intent_output"]["response"]["response_type"] == "action_done"
        assert await home.state("light.lamp") == "on"


async def test_a_name_of_the_home(tmp_path: Path, engine: Engine, vad: SileroVad, clips: dict[str, Clip]) -> None:
    """A scene whose name the model does not know is switched once the server knows what the home is called."""
    clip = clips["activate_Mood_Lighting"].pcm
    async with serving(engine, vad) as server, home_assistant.core(tmp_path, HOUSE) as home:
        await add_server(home, server.port)
        assistant = await add_assistant(home, "stt.wyoming_wlk")
        seen = await command(home, assistant, clip)
        assert seen["intent-end"]["intent_output"]["response"]["response_type"] == "error"
        learning = asyncio.create_task(
            follow_names(websocket_address(home.url), home.token, server.services.home.learn)
        )
        async with asyncio.timeout(30):
            while "Mood Lighting" not in server.services.home.expected("en"):
                await asyncio.sleep(0.05)
        seen = await command(home, assistant, clip)
        learning.cancel()
        assert seen["intent-end"]["intent_output"]["response"]["response_type"] == "action_done", seen
        assert await home.state("light.lamp") == "on"


def test_found_on_the_network(tiny_en: InstalledModel) -> None:
    """Home Assistant on another machine offers the server without having been told of it, and can set it up."""
    program = Path(__file__).with_name("finding.py")
    command = [*namespace(), sys.executable, str(program), str(tiny_en.folder.parent.parent)]
    environment = os.environ | {"PYTHONPATH": str(program.parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout, done.stderr
    assert json.loads(done.stdout) == {"offered": 1, "type": "create_entry", "title": "wyoming-wlk", "state": "loaded"}
