"""A program for test_discovery.py: announces a server in a network namespace of its own and prints who sees what.

Writes one JSON object: what a zeroconf browser on the same network saw after each change of the machine's addresses.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from zeroconf import IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from wyoming_wlk import discovery

TYPE = "_wyoming._tcp.local."
FIRST, SECOND, SIXTH = "192.0.2.10", "198.51.100.7", "2001:db8::10"
NAME = "wyoming-wlk-test"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


class Neighbour:
    """Another program on the network that looks for Wyoming servers."""

    def __init__(self, interface: str) -> None:
        self._zeroconf = AsyncZeroconf(interfaces=[interface])
        self._present: set[str] = set()
        self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, TYPE, handlers=[self._changed])

    def _changed(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Removed:
            self._present.discard(name)
        else:
            self._present.add(name)

    async def sees(self, wanted: Callable[[dict[str, list[str]]], bool]) -> dict[str, list[str]]:
        """Each service's addresses and port, once they are as `wanted`, or after ten seconds as they are."""
        found: dict[str, list[str]] = {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10):
                while True:
                    found = {}
                    for name in list(self._present):
                        info = AsyncServiceInfo(TYPE, name)
                        if await info.async_request(self._zeroconf.zeroconf, 500):
                            found[name] = [*sorted(info.parsed_addresses(IPVersion.All)), str(info.port)]
                    if wanted(found):
                        break
                    await asyncio.sleep(0.05)
        return found

    async def close(self) -> None:
        await self._browser.async_cancel()
        await self._zeroconf.async_close()


async def main() -> dict[str, Any]:
    discovery._LOOK_SECONDS = 0.2
    name = f"{NAME}.{TYPE}"
    seen: dict[str, Any] = {}
    announcing = asyncio.create_task(discovery.Announcer(NAME, "0.0.0.0", 10300).run())
    await asyncio.sleep(0.5)  # nothing to announce yet
    ip("address", "add", f"{FIRST}/24", "dev", "wlk0")
    neighbour = Neighbour(FIRST)
    seen["first"] = await neighbour.sees(lambda found: name in found)
    ip("address", "add", f"{SECOND}/24", "dev", "wlk0")
    seen["second"] = await neighbour.sees(lambda found: len(found.get(name, [])) > 2)
    ip("address", "delete", f"{SECOND}/24", "dev", "wlk0")
    seen["one less"] = await neighbour.sees(lambda found: found == seen["first"])
    sixth = asyncio.create_task(discovery.Announcer(NAME + "-6", "::", 10306).run())
    neighbour_6 = Neighbour(SIXTH)
    seen["ipv6"] = await neighbour_6.sees(lambda found: bool(found))
    for task in (announcing, sixth):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    seen["stopped"] = await neighbour.sees(lambda found: not found)
    await neighbour.close()
    await neighbour_6.close()
    return seen


if __name__ == "__main__":
    ip("link", "set", "lo", "up")
    ip("link", "add", "wlk0", "type", "veth", "peer", "name", "wlk1")
    for link in ("wlk0", "wlk1"):
        ip("link", "set", link, "up")
    ip("address", "add", f"{SIXTH}/64", "dev", "wlk0", "nodad")
    json.dump(asyncio.run(main()), sys.stdout)
