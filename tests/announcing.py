"""A program for test_discovery.py: a server and a neighbour, each in a network namespace of its own, joined by a cable.

Announces two ports while the machine's addresses change. Writes one JSON object: what a zeroconf browser on the other
end of the cable saw each time, as name: addresses and port.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys

from zeroconf import IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from wyoming_wlk.discovery import Announcer, Service

TYPE = "_wyoming._tcp.local."
FIRST, SECOND, SIXTH = "192.0.2.10", "198.51.100.7", "2001:db8::10"
OTHERS = ["192.0.2.20/24", "2001:db8::20/64"]
SERVICES = [Service("usual", 10300, ("0.0.0.0", "::")), Service("other", 10301, ("0.0.0.0",))]
PATIENCE = 15.0

Seen = dict[str, list[str]]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


# --- the neighbour ----------------------------------------------------------------------------------------------------


async def browse() -> None:
    """Prints what is announced, whenever that has changed."""
    addresses = [address.partition("/")[0] for address in OTHERS]
    zeroconf = AsyncZeroconf(interfaces=addresses)
    present: set[str] = set()

    def changed(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Removed:
            present.discard(name)
        else:
            present.add(name)

    AsyncServiceBrowser(zeroconf.zeroconf, TYPE, handlers=[changed])
    last: Seen | None = None
    while True:
        found: Seen = {}
        for name in sorted(present):
            info = AsyncServiceInfo(TYPE, name)
            if await info.async_request(zeroconf.zeroconf, 500):
                label = name.removesuffix("." + TYPE)
                found[label] = [*sorted(info.parsed_addresses(IPVersion.All)), str(info.port)]
        if found != last:
            print(json.dumps(found), flush=True)
            last = found
        await asyncio.sleep(0.05)


def neighbour() -> None:
    """Waits for its end of the cable, then looks until it is killed."""
    sys.stdin.readline()
    ip("link", "set", "lo", "up")
    ip("link", "set", "wlk1", "up")
    for address in OTHERS:
        ip("address", "add", address, "dev", "wlk1", *(["nodad"] if ":" in address else []))
    asyncio.run(browse())


class Neighbour:
    """The other end of the cable, as seen from here."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._last: Seen = {}

    async def sees(self, wanted: Seen) -> Seen:
        """What it sees, once that is what is `wanted`, or after some seconds whatever it is."""
        assert self._process.stdout is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while self._last != wanted and (line := await self._process.stdout.readline()):
                    self._last = json.loads(line)
        return self._last


# --- the server -------------------------------------------------------------------------------------------------------


async def announce(neighbour: Neighbour) -> dict[str, Seen]:
    announcing = asyncio.create_task(Announcer(SERVICES, look_seconds=0.2).run())
    await asyncio.sleep(0.5)  # nothing to announce yet
    ip("address", "add", f"{SIXTH}/64", "dev", "wlk0", "nodad")
    ip("address", "add", f"{FIRST}/24", "dev", "wlk0")
    before = {"usual": [FIRST, SIXTH, "10300"], "other": [FIRST, "10301"]}
    seen = {"first": await neighbour.sees(before)}
    ip("address", "add", f"{SECOND}/24", "dev", "wlk0")
    more = {"usual": [FIRST, SECOND, SIXTH, "10300"], "other": [FIRST, SECOND, "10301"]}
    seen["one more"] = await neighbour.sees(more)
    ip("address", "delete", f"{SECOND}/24", "dev", "wlk0")
    seen["one less"] = await neighbour.sees(before)
    announcing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await announcing
    seen["stopped"] = await neighbour.sees({})
    return seen


async def main() -> None:
    ip("link", "set", "lo", "up")
    ip("link", "add", "wlk0", "type", "veth", "peer", "name", "wlk1")
    ip("link", "set", "wlk0", "up")
    pipe = asyncio.subprocess.PIPE
    command = ["unshare", "--net", sys.executable, __file__, "neighbour"]
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    try:
        await moved(process.pid)
        process.stdin.write(b"\n")
        json.dump(await announce(Neighbour(process)), sys.stdout)
    finally:
        process.kill()
        await process.wait()


async def moved(pid: int) -> None:
    """Puts the cable's other end into the network of a process, once it has one of its own."""
    here = await asyncio.to_thread(subprocess.check_output, ["readlink", "/proc/self/ns/net"])
    while await asyncio.to_thread(subprocess.check_output, ["readlink", f"/proc/{pid}/ns/net"]) == here:
        await asyncio.sleep(0.02)
    ip("link", "set", "wlk1", "netns", str(pid))


if __name__ == "__main__":
    if sys.argv[1:] == ["neighbour"]:
        neighbour()
    else:
        asyncio.run(main())
