"""The whole server as a process: its doors, its log, its way down."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from conftest import Clip
from serving import answer, frame, say, transcript
from wyoming.client import AsyncClient
from wyoming.event import Event, async_read_event
from wyoming.info import Describe

from wyoming_wlk.clients.health import health
from wyoming_wlk.models import InstalledModel

COMMAND = [
    sys.executable,
    "-m",
    "wyoming_wlk",
    "serve",
    "--no-zeroconf",
    "--no-http",
    "--offline",
    "--model",
    "tiny.en",
]


@asynccontextmanager
async def process(model: InstalledModel, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`wyoming-wlk serve` on the models the tests fetched."""
    data_dir = model.folder.parent.parent
    started = await asyncio.create_subprocess_exec(
        *COMMAND,
        "--data-dir",
        str(data_dir),
        *options,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def ready(server: asyncio.subprocess.Process) -> str:
    """The log up to and with the line that says Ready."""
    assert server.stderr is not None
    lines = ""
    async with asyncio.timeout(60):
        while line := (await server.stderr.readline()).decode():
            lines += line
            if "Ready" in line:
                return lines
    raise AssertionError(lines)


async def test_tcp_and_unix_sockets_and_sigterm(
    tiny_en: InstalledModel, clips: dict[str, Clip], tmp_path: Path
) -> None:
    """Both doors serve; SIGTERM in mid-utterance still brings a transcript, and the process ends with 0."""
    path = tmp_path / "wlk.sock"
    options = ["--uri", "tcp://127.0.0.1:0", "--uri", f"unix://{path}", "--vad-threshold", "0.4"]
    async with process(tiny_en, *options) as server:
        log = await ready(server)
        port = log.split("tcp://127.0.0.1:")[1].split(",")[0].split()[0]
        assert f"unix://{path}" in log
        async with AsyncClient.from_uri(f"unix://{path}") as client:
            await say(client, clips["turn_on_the_lamp"].pcm)
            assert "lamp" in transcript(await answer(client))
        async with AsyncClient.from_uri(f"tcp://127.0.0.1:{port}") as client:
            await say(client, clips["turn_on_the_lamp"].pcm, stop=False)
            await asyncio.sleep(0.3)
            server.send_signal(signal.SIGTERM)
            assert "lamp" in transcript(await answer(client))
        assert await asyncio.wait_for(server.wait(), 10) == 0
        assert server.stderr is not None
        rest = (await server.stderr.read()).decode()
        assert "goodbye" in rest
        assert "Traceback" not in log + rest and "Warning" not in log + rest


async def test_sigterm_while_loading(tiny_en: InstalledModel) -> None:
    """A server that is stopped while its model is being loaded ends with 0, whatever the load was at."""
    for moment in (0.0, 0.2, 0.4):
        with socket.create_server(("127.0.0.1", 0)) as free:
            uri = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        async with process(tiny_en, "--uri", uri) as server:
            async with asyncio.timeout(60):
                while not (await health(uri))[0]:
                    await asyncio.sleep(0.02)
            await asyncio.sleep(moment)
            server.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(server.wait(), 10) == 0
            assert server.stderr is not None
            assert (await server.stderr.read()).decode().endswith("goodbye\n")


async def test_stdio(tiny_en: InstalledModel, clips: dict[str, Clip]) -> None:
    """On stdio one client is served, and the server ends with it; the log stays off stdout and is JSON if wanted."""
    async with process(tiny_en, "--uri", "stdio://", "--log-format", "json") as server:
        assert server.stdin is not None and server.stdout is not None and server.stderr is not None
        server.stdin.write(frame("describe"))
        pcm = clips["turn_on_the_lamp"].pcm
        form = {"rate": 16000, "width": 2, "channels": 1}
        server.stdin.write(frame("audio-start", form) + frame("audio-chunk", form, pcm) + frame("audio-stop"))
        server.stdin.close()
        events: list[Event] = []
        while (event := await asyncio.wait_for(async_read_event(server.stdout), 60)) is not None:
            events.append(event)
        assert events[0].type == "info"
        assert "lamp" in transcript(events)
        assert await asyncio.wait_for(server.wait(), 10) == 0
        lines = (await server.stderr.read()).decode().splitlines()
        assert {json.loads(line)["level"] for line in lines} <= {"info", "warning"}, lines


async def test_describe_is_answered_before_the_model_is_there(tiny_en: InstalledModel) -> None:
    """The port opens at once; what the client asks is answered while the model loads."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        uri = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    async with process(tiny_en, "--uri", uri) as server:
        for _ in range(200):
            try:
                client = AsyncClient.from_uri(uri)
                await client.connect()
                break
            except OSError:
                await asyncio.sleep(0.05)
        await client.write_event(Describe().event())
        event = await client.read_event()
        assert event is not None and event.data["asr"][0]["models"][0]["name"] == "tiny.en"
        await client.disconnect()
        assert "Ready" in await ready(server)


async def test_stdio_wants_pipes(tiny_en: InstalledModel, tmp_path: Path) -> None:
    """A file as stdin is a wrong option, told in one line."""
    (tmp_path / "input").write_bytes(frame("describe"))
    command = [*COMMAND, "--uri", "stdio://", "--data-dir", str(tmp_path)]
    with (tmp_path / "input").open("rb") as stdin:
        done = await asyncio.create_subprocess_exec(*command, stdin=stdin, stderr=subprocess.PIPE)
        _, errors = await done.communicate()
    assert done.returncode == 2
    assert b"stdio://" in errors and b"Traceback" not in errors


async def test_a_file_in_the_way_of_a_unix_socket_is_not_deleted(tmp_path: Path) -> None:
    """A path that is taken by something else is an error, and stays what it was."""
    path = tmp_path / "precious"
    path.write_text("text")
    command = [*COMMAND, "--uri", f"unix://{path}", "--data-dir", str(tmp_path)]
    done = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
    _, errors = await done.communicate()
    assert done.returncode == 2, errors
    assert path.read_text() == "text"
