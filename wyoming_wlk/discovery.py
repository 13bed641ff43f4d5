"""Announces the server on the local network by zeroconf, as `_wyoming._tcp.local.`.

The host's real addresses are announced, because Home Assistant throws 0.0.0.0 and link-local ones away; they are looked
at again now and then, and announced anew when they changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import uuid
from pathlib import Path

import ifaddr
from zeroconf import Error as ZeroconfError
from zeroconf import IPVersion
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

_LOG = logging.getLogger(__name__)
_TYPE = "_wyoming._tcp.local."
_LOOK_SECONDS = 10.0
_MAX_LABEL = 63


def service_name(wanted: str, data_dir: Path) -> str:
    """`wanted`, or a name that stays the same on this machine and that no other machine has.

    Home Assistant tells services apart by it. The part that makes it unique is drawn once and kept in `data_dir`.
    """
    if wanted:
        return wanted[:_MAX_LABEL].replace(".", "-")
    file = data_dir / "instance-id"
    try:
        unique = file.read_text("utf-8").strip()
    except OSError:
        unique = uuid.uuid4().hex[:8]
        with contextlib.suppress(OSError):
            data_dir.mkdir(parents=True, exist_ok=True)
            file.write_text(unique, "utf-8")
    host = socket.gethostname().split(".")[0]
    return f"wyoming-wlk-{host[:40]}-{unique}"


def usable_addresses(bound_to: str) -> list[str]:
    """IPv4 and global IPv6 addresses under which others reach a server bound to `bound_to`."""
    bound = ipaddress.ip_address(bound_to)
    if not bound.is_unspecified:
        return [] if bound.is_loopback else [bound_to]
    found = set()
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            address = ipaddress.ip_address(ip.ip if isinstance(ip.ip, str) else ip.ip[0])
            if address.version == 6 and bound.version == 4:
                continue
            if not (address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast):
                found.add(str(address))
    return sorted(found)


class Announcer:
    """Keeps the announcement true until it is stopped."""

    def __init__(self, name: str, host: str, port: int) -> None:
        self._name, self._host, self._port = name, host, port
        self._zeroconf: AsyncZeroconf | None = None
        self._addresses: list[str] = []

    async def run(self) -> None:
        """Announces, looks for changes, and says goodbye when cancelled. Never raises for the network's sake."""
        try:
            while True:
                addresses = usable_addresses(self._host)
                if addresses != self._addresses:
                    await self._announce(addresses)
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            await self._goodbye()

    async def _announce(self, addresses: list[str]) -> None:
        # Sockets are bound per interface, so new addresses need new ones.
        await self._goodbye()
        if not addresses:
            _LOG.warning("no address to announce: clients must be told where the server is")
            self._addresses = addresses
            return
        info = AsyncServiceInfo(
            _TYPE,
            f"{self._name}.{_TYPE}",
            port=self._port,
            parsed_addresses=addresses,
            server=f"{self._name}.local.",
        )
        try:
            self._zeroconf = AsyncZeroconf(interfaces=addresses, ip_version=IPVersion.All)
            await (await self._zeroconf.async_register_service(info, allow_name_change=False))
        except (OSError, ZeroconfError) as err:
            _LOG.warning("cannot announce the server on the network: %s: %s", type(err).__name__, err)
            await self._goodbye()
            return
        self._addresses = addresses
        _LOG.info("announced as %s at %s", self._name, ", ".join(addresses))

    async def _goodbye(self) -> None:
        if self._zeroconf is not None:
            zeroconf, self._zeroconf = self._zeroconf, None
            with contextlib.suppress(OSError, ZeroconfError):
                await zeroconf.async_unregister_all_services()
            await zeroconf.async_close()
