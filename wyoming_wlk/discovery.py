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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ifaddr
from zeroconf import Error as ZeroconfError
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

_LOG = logging.getLogger(__name__)
_TYPE = "_wyoming._tcp.local."
_LOOK_SECONDS = 10.0
_MAX_LABEL = 63  # bytes
_PORT_BYTES = len("-65535")
DEFAULT_PORT = 10300


@dataclass(frozen=True)
class Service:
    """One port that is announced: its name, and the addresses of this machine that it is bound to."""

    name: str
    port: int
    hosts: tuple[str, ...]

    def addresses(self) -> list[str]:
        """Where others reach it now."""
        return sorted({address for host in self.hosts for address in usable_addresses(host)})


def services_at(listening: Sequence[str], wanted: str, data_dir: Path) -> list[Service]:
    """A service for each TCP port of the URIs that the server listens on; `wanted` and `data_dir` make the name.

    A port that is not the usual one is part of the name: another server on this machine may share `data_dir`. A name
    that was asked for stays as it is for the first port.
    """
    hosts: dict[int, list[str]] = {}
    for uri in listening:
        scheme, _, rest = uri.partition("://")
        if scheme == "tcp":
            host, _, port = rest.rpartition(":")
            hosts.setdefault(int(port), []).append(host.strip("[]"))
    if not hosts:
        return []
    name = service_name(wanted, data_dir)
    usual = next(iter(hosts)) if wanted else DEFAULT_PORT
    numbered = {port: f"{_label(name, _MAX_LABEL - _PORT_BYTES)}-{port}" for port in hosts if port != usual}
    return [Service(numbered.get(port, name), port, tuple(found)) for port, found in hosts.items()]


def service_name(wanted: str, data_dir: Path) -> str:
    """`wanted`, or a name that stays the same on this machine and that no other machine has.

    Home Assistant tells services apart by it. The part that makes it unique is drawn once and kept in `data_dir`.
    """
    if wanted:
        return _label(wanted, _MAX_LABEL)
    file = data_dir / "instance-id"
    try:
        unique = file.read_text("utf-8").strip()
    except (OSError, ValueError):
        unique = ""
    if not unique:
        unique = uuid.uuid4().hex[:8]
        with contextlib.suppress(OSError):
            data_dir.mkdir(parents=True, exist_ok=True)
            file.write_text(unique, "utf-8")
    host = _label(socket.gethostname().split(".")[0], _MAX_LABEL - _PORT_BYTES - len("wyoming-wlk--") - 8)
    return f"wyoming-wlk-{host}-{unique}"


def _label(text: str, limit: int) -> str:
    """`text` as one label of a DNS name: no dots, no control characters, and not over `limit` bytes."""
    clean = "".join(c if c.isprintable() and c != "." else "-" for c in text)
    return clean.encode()[:limit].decode(errors="ignore")


def usable_addresses(bound_to: str) -> list[str]:
    """The addresses under which others reach a server bound to `bound_to`; asyncio binds `::` to IPv6 alone."""
    bound = ipaddress.ip_address(bound_to)
    if not bound.is_unspecified:
        return [] if bound.is_loopback else [bound_to]
    found = set()
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            address = ipaddress.ip_address(ip.ip if isinstance(ip.ip, str) else ip.ip[0])
            if address.version != bound.version:
                continue
            if not (address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast):
                found.add(str(address))
    return sorted(found)


class Announcer:
    """Keeps the announcement of some services true until it is stopped."""

    def __init__(self, services: Sequence[Service], look_seconds: float = _LOOK_SECONDS) -> None:
        """`look_seconds`: how often this machine's addresses are looked at."""
        self._services, self._look_seconds = services, look_seconds
        self._zeroconf: AsyncZeroconf | None = None
        self._addresses: dict[Service, list[str]] | None = None
        """What is announced now; None where nothing was tried, or it failed."""

    async def run(self) -> None:
        """Announces, looks for changes, and says goodbye when cancelled. Never raises for the network's sake."""
        try:
            while True:
                try:
                    addresses = {service: service.addresses() for service in self._services}
                except OSError as err:
                    _LOG.warning("cannot look up this machine's addresses: %s", err)
                else:
                    if addresses != self._addresses:
                        await self._announce(addresses)
                await asyncio.sleep(self._look_seconds)
        finally:
            await self._goodbye()

    async def _announce(self, addresses: dict[Service, list[str]]) -> None:
        # Sockets are bound per interface, so new addresses need new ones.
        await self._goodbye()
        self._addresses = None
        reachable = {service: found for service, found in addresses.items() if found}
        if not reachable:
            _LOG.warning("no address to announce: clients must be told where the server is")
            self._addresses = addresses
            return
        try:
            infos = [_info(service, found) for service, found in reachable.items()]
            interfaces = {address for found in reachable.values() for address in found}
            self._zeroconf = AsyncZeroconf(interfaces=sorted(interfaces))
            for info in infos:
                await (await self._zeroconf.async_register_service(info, allow_name_change=False))
        except (OSError, RuntimeError, ZeroconfError) as err:  # RuntimeError: an IPv6 address has gone meanwhile
            _LOG.warning("cannot announce the server on the network: %s: %s", type(err).__name__, err)
            await self._goodbye()
            return
        self._addresses = addresses
        for service, found in reachable.items():
            _LOG.info("announced as %s at %s, port %d", service.name, ", ".join(found), service.port)

    async def _goodbye(self) -> None:
        if self._zeroconf is not None:
            zeroconf, self._zeroconf = self._zeroconf, None
            with contextlib.suppress(OSError, ZeroconfError):
                await zeroconf.async_unregister_all_services()
            await zeroconf.async_close()


def _info(service: Service, addresses: list[str]) -> AsyncServiceInfo:
    return AsyncServiceInfo(
        _TYPE,
        f"{service.name}.{_TYPE}",
        port=service.port,
        parsed_addresses=addresses,
        server=f"{service.name}.local.",
    )
