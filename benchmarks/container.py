"""Starts a mounted image as container engines do, in its own namespaces, and tries it; `benchmarks.image` calls this.

The container is on Home Assistant's internal network, at addresses as there, and has no way to the internet. This side
is the Supervisor: what it knows comes over the network, and from what an engine sees of a container.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import stat
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wyoming.info import Info

from benchmarks.outside import (
    CONTAINER,
    NEIGHBOUR,
    PREFIX,
    SUPERVISOR,
    WORDS,
    Supervisor,
    browse,
    describe,
    said,
    status,
    transcribe,
)

HOST, TOKEN, USER = "local-wyoming-wlk", "supervisor-secret", 10300
OPTIONS = {
    "model": "tiny.en", "language": "en", "policy": "alignatt", "beam_size": 3, "vad_threshold": 0.5, "web_page": True,
    "token": "sesame", "log_level": "debug",
}  # fmt: skip

SETUP = """
set -e
until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip link set lo up
ip addr add {container}/{prefix} dev eth0
ip link set eth0 up
hostname {host}
cd {root}
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount --bind {data} data
mount --bind {hosts} etc/hosts
exec env -i {environment} chroot {root} {entrypoint}
"""


@dataclass(frozen=True)
class Image:
    root: Path
    environment: dict[str, str]
    entrypoint: list[str]
    health: list[str]
    work: Path
    models: Path


class Checks:
    """What was tried, told as it happens."""

    def __init__(self) -> None:
        self.failed = 0

    def __call__(self, good: bool, what: str) -> None:
        print(f"{'ok  ' if good else 'FAIL'}  {what}", flush=True)
        self.failed += not good


class Container:
    """One container from start to end."""

    def __init__(self, image: Image, data: Path, environment: Mapping[str, str]) -> None:
        self._image, self._data, self._environment = image, data, environment
        self.log = image.work / "container.log"

    async def start(self) -> None:
        hosts = self._image.work / "hosts"
        hosts.write_text(f"127.0.0.1 localhost\n{CONTAINER} {HOST}\n{SUPERVISOR} supervisor\n", "utf-8")
        variables = self._image.environment | self._environment
        script = SETUP.format(
            **{"container": CONTAINER, "prefix": PREFIX, "host": HOST, "root": self._image.root, "data": self._data},
            hosts=hosts,
            environment=" ".join(f"{name}='{value}'" for name, value in variables.items()),
            entrypoint=" ".join(self._image.entrypoint),
        )
        command = ["unshare", "--net", "--pid", "--uts", "--ipc", "--mount", "--fork", "sh", "-c", script]
        self.began = time.monotonic()
        with self.log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        while not (child := children.read_text().strip()):
            await asyncio.sleep(0.01)
        self.init = int(child)
        await shell(f"ip link add wlk0 type veth peer name wlk1 && ip link set wlk1 netns {self.init} name eth0")
        await shell(f"ip addr add {SUPERVISOR}/{PREFIX} dev wlk0 && ip link set wlk0 up")

    async def wait(self, seconds: float) -> int | None:
        """The exit code; None where it does not end by then, and then it is ended."""
        try:
            return await asyncio.wait_for(self._process.wait(), seconds)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.init, signal.SIGKILL)
            await self._process.wait()
            return None

    async def stop(self) -> tuple[int | None, float]:
        """As engines stop a container: exit code, and how long that took."""
        began = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.init, signal.SIGTERM)
        return await self.wait(20), time.monotonic() - began

    async def run(self, *command: str) -> tuple[int, str]:
        """A command inside, as `docker exec` runs it."""
        variables = [f"{name}={value}" for name, value in (self._image.environment | self._environment).items()]
        inside = ["nsenter", "-t", str(self.init), "-n", "-p", "-u", "-m", "-r", "--wd=/"]
        process = await asyncio.create_subprocess_exec(
            *inside, "env", "-i", *variables, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        out, _ = await process.communicate()
        return process.returncode or 0, out.decode().strip()

    def server(self) -> int | None:
        """The server's process, seen from outside."""
        space = os.readlink(f"/proc/{self.init}/ns/pid")
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(process / "ns/pid") == space and b"\0serve\0" in (process / "cmdline").read_bytes():
                    return int(process.name)
        return None

    async def logged(self, words: str, seconds: float = 60) -> bool:
        """Whether the log says something, by then."""
        until = time.monotonic() + seconds
        while words not in self.log.read_text("utf-8", "replace"):
            if time.monotonic() > until or self._process.returncode is not None:
                return words in self.log.read_text("utf-8", "replace")
            await asyncio.sleep(0.1)
        return True


@contextlib.asynccontextmanager
async def running(image: Image, data: Path, **environment: str) -> AsyncIterator[Container]:
    container = Container(image, data, environment)
    await container.start()
    try:
        yield container
    finally:
        await container.wait(0)
        await shell("ip link delete wlk0 2>/dev/null || true")


async def shell(command: str) -> None:
    process = await asyncio.create_subprocess_shell(command)
    if await process.wait():
        raise RuntimeError(f"failed: {command}")


async def described(container: Container, seconds: float = 60) -> tuple[Info | None, float]:
    """The first answer to describe, and when after the start it came."""
    while (info := await describe(1)) is None and time.monotonic() - container.began < seconds:
        await asyncio.sleep(0.1)
    return info, time.monotonic() - container.began


def new_data(image: Image, name: str, options: Mapping[str, object] | None) -> Path:
    """A data folder as the Supervisor hands it over: all root's, the options readable by root only."""
    data = image.work / name
    shutil.rmtree(data, ignore_errors=True)
    (data / "models").mkdir(parents=True)
    for model in ("tiny.en", "silero-vad"):
        shutil.copytree(image.models / "models" / model, data / "models" / model)
    if options is not None:
        (data / "options.json").write_text(json.dumps(options), "utf-8")
        (data / "options.json").chmod(0o600)
    return data


async def try_addon(image: Image, checks: Checks) -> None:
    """From the first start under a Supervisor to the stop, and again with what the first start left."""
    data = new_data(image, "data", OPTIONS)
    async with Supervisor() as supervisor, running(image, data, SUPERVISOR_TOKEN=TOKEN) as container:
        info, seconds = await described(container)
        checks(info is not None, f"describe answered {seconds:.1f} s after the start")
        models = [model.name for model in info.asr[0].models] if info else []
        checks(models == ["tiny.en"], f"the model is the options': {models}")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(supervisor.told.wait(), 30)
        message = {"service": "wyoming", "config": {"uri": f"tcp://{HOST}:10300"}}
        expected = [(f"Bearer {TOKEN}", message, True)]
        checks(supervisor.messages == expected, f"discovery, once, when describe is answered: {supervisor.messages}")
        code, line = await container.run(*image.health)
        checks(code == 0, f"health check: {line}")
        checks(await container.logged("Ready: model tiny.en"), "the model is loaded")
        text = await transcribe()
        checks(said(text) == WORDS, f"a clip from outside: {text!r}")
        checks_of_user(container, data, checks)
        without, right = await status("/v1/models"), await status("/v1/models", str(OPTIONS["token"]))
        checks((without, right) == (401, 200), f"the options' token: {without} without, {right} with it")
        through = await status("/v1/models", source=SUPERVISOR)
        checks(through == 200, f"the page through Home Assistant, without a token: {through}")
        _, routes = await container.run("cat", "/proc/net/route")
        destinations = [line.split("\t")[1] for line in routes.splitlines()[1:]]
        checks("00000000" not in destinations, f"there is no way to the internet: routes to {destinations}")
        code, took = await container.stop()
        checks(code == 0 and took < 10, f"SIGTERM: exit code {code} after {took:.1f} s")
    async with Supervisor() as supervisor, running(image, data, SUPERVISOR_TOKEN=TOKEN) as container:
        _, seconds = await described(container)
        checks(await container.logged("Ready: model tiny.en"), f"restarted offline, describe after {seconds:.1f} s")
        speaking = asyncio.create_task(transcribe(pause=0.1))
        await asyncio.sleep(1)
        code, took = await container.stop()
        text = await asyncio.gather(speaking, return_exceptions=True)
        checks(code == 0 and took < 10, f"SIGTERM amid speech: exit code {code} after {took:.1f} s; client got {text}")


def checks_of_user(container: Container, data: Path, checks: Checks) -> None:
    """The server is not root, can do nothing that root can, and is given a copy of the options."""
    process = container.server()
    facts = dict(re.findall(r"^(\w+):\s+(.+)$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE))
    checks(facts["Uid"].split() == [str(USER)] * 4, f"the server's user: {facts['Uid'].split()}")
    checks(int(facts["CapEff"], 16) == 0, f"its capabilities: {facts['CapEff']}")
    variables = Path(f"/proc/{process}/environ").read_text().split("\0")
    expected = {"WLK_ZEROCONF=off", "WLK_INGRESS=172.30.32.2/32", "ORT_DISABLE_TELEMETRY=1", "HOME=/data/home"}
    checks(expected <= set(variables), f"its variables have {', '.join(sorted(expected & set(variables)))}")
    own = (data / "options.json").stat()
    copy = Path(f"/proc/{container.init}/root/run/wyoming-wlk/options.json").stat()
    owners = f"{own.st_uid} {stat.S_IMODE(own.st_mode):o}, {copy.st_uid} {stat.S_IMODE(copy.st_mode):o}"
    checks(owners == f"0 600, {USER} 400", f"owner and mode of options.json and of the server's copy: {owners}")


async def try_failures(image: Image, checks: Checks) -> None:
    """A crash, a wrong option, a stop while everything is still starting."""
    async with Supervisor(), running(image, new_data(image, "data", OPTIONS), SUPERVISOR_TOKEN=TOKEN) as container:
        await described(container)
        await container.logged("Home Assistant has been told")
        began = time.monotonic()
        os.kill(container.server() or 0, signal.SIGKILL)
        code = await container.wait(20)
        checks(
            code == 137, f"the server is killed: the container ends with {code} after {time.monotonic() - began:.1f} s"
        )
    wrong = new_data(image, "data", OPTIONS | {"language": "klingon"})
    async with Supervisor() as supervisor, running(image, wrong, SUPERVISOR_TOKEN=TOKEN) as container:
        code, seconds = await container.wait(30), time.monotonic() - container.began
        complaint = [line for line in container.log.read_text().splitlines() if "add-on option" in line]
        checks(
            code == 2 and not supervisor.messages,
            f"a wrong option: exit code {code} after {seconds:.1f} s, {complaint}",
        )
    async with Supervisor(), running(image, new_data(image, "data", OPTIONS), SUPERVISOR_TOKEN=TOKEN) as container:
        await asyncio.sleep(0.7)
        code, took = await container.stop()
        checks(code == 0 and took < 10, f"SIGTERM in the first second: exit code {code} after {took:.1f} s")
    async with running(image, new_data(image, "data", OPTIONS), SUPERVISOR_TOKEN=TOKEN) as container:
        checks(
            await container.logged("Ready: model tiny.en") and said(await transcribe()) == WORDS, "a dead Supervisor"
        )
        code, took = await container.stop()
        checks(code == 0 and took < 10, f"SIGTERM while trying to reach it: exit code {code} after {took:.1f} s")


async def try_page_off(image: Image, checks: Checks) -> None:
    """Without the web page nobody listens there."""
    data = new_data(image, "data", OPTIONS | {"web_page": False})
    async with Supervisor(), running(image, data, SUPERVISOR_TOKEN=TOKEN) as container:
        await described(container)
        checks(await container.logged("Ready") and await status("/") is None, "the web page's port is closed when off")


async def try_plain(image: Image, checks: Checks) -> None:
    """Without a Supervisor: variables configure the server, zeroconf announces it."""
    data = new_data(image, "data", None)
    async with Supervisor() as supervisor, running(image, data, WLK_MODEL="tiny.en", WLK_LANGUAGE="en") as container:
        _, seconds = await described(container)
        checks(await container.logged("Ready: model tiny.en"), f"plain docker: describe after {seconds:.1f} s")
        found = await browse()
        checks(found == [f"{CONTAINER}:10300"], f"found by zeroconf: {found}")
        code, line = await container.run(*image.health)
        checks(code == 0 and said(await transcribe()) == WORDS, f"health check and a clip: {line}")
        checks(not supervisor.messages, "nothing is told to a Supervisor")
        code, took = await container.stop()
        checks(code == 0 and took < 10, f"SIGTERM: exit code {code} after {took:.1f} s")


async def main(given: dict[str, Any]) -> int:
    image = Image(
        *(Path(given["root"]), given["environment"], given["entrypoint"], given["health"]),
        *(Path(given["work"]), Path(given["data"])),
    )
    checks = Checks()
    await shell(f"ip link set lo up && ip addr add {SUPERVISOR}/32 dev lo && ip addr add {NEIGHBOUR}/32 dev lo")
    for attempt in (try_addon, try_failures, try_page_off, try_plain):
        print(f"-- {(attempt.__doc__ or '').splitlines()[0]}")
        failed = checks.failed
        await attempt(image, checks)
        if checks.failed > failed:
            print((image.work / "container.log").read_text("utf-8", "replace"))
    print(f"\n{checks.failed} failed" if checks.failed else "\nall is well")
    return min(checks.failed, 1)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(json.loads(sys.argv[1]))))
