"""A program for test_home_assistant_core.py: the server and Home Assistant as two machines on one cable.

Each runs in a network namespace of its own, the server as its users start it. Writes one JSON object: what Home
Assistant offered by itself, and what came of accepting it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import home_assistant
from announcing import ip, moved
from test_app import COMMAND

SERVER, HOME = "192.0.2.10", "192.0.2.20"


async def accept() -> dict[str, Any]:
    """Starts Home Assistant, waits for a discovered service, and says yes."""
    with tempfile.TemporaryDirectory() as folder:
        async with home_assistant.core(Path(folder), "zeroconf:\n") as home, asyncio.timeout(30):
            while True:
                offered = [
                    flow
                    for flow in await home.call("config_entries/flow/progress")
                    if (flow["handler"], flow["context"]["source"]) == ("wyoming", "zeroconf")
                ]
                if offered:
                    break
                await asyncio.sleep(0.2)
            flow = offered[0]
            done = await home.post(f"/api/config/config_entries/flow/{flow['flow_id']}", {})
            entry = done["result"]
            return {"offered": len(offered), "type": done["type"], "title": entry["title"], "state": entry["state"]}


def at_home() -> None:
    """Waits for this end of the cable."""
    sys.stdin.readline()
    up("wlk1", HOME)
    json.dump(asyncio.run(accept()), sys.stdout)


def up(link: str, address: str) -> None:
    ip("link", "set", "lo", "up")
    ip("link", "set", link, "up")
    ip("address", "add", f"{address}/24", "dev", link)
    ip("route", "add", "default", "dev", link)


async def main(data_dir: str) -> None:
    ip("link", "add", "wlk0", "type", "veth", "peer", "name", "wlk1")
    pipe = asyncio.subprocess.PIPE
    home = await asyncio.create_subprocess_exec("unshare", "--net", sys.executable, __file__, stdin=pipe)
    server = None
    try:
        await moved(home.pid)
        up("wlk0", SERVER)
        options = [option for option in COMMAND if option != "--no-zeroconf"]
        options += ["--zeroconf", "finding", "--data-dir", data_dir]
        server = await asyncio.create_subprocess_exec(*options)
        await home.communicate(b"\n")
    finally:
        for process in (home, server):
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(main(sys.argv[1]))
    else:
        at_home()
