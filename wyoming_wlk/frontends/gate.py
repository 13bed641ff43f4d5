"""Who may come in: allowed networks, connections in total and per address. Shared by all doors of the server."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from wyoming_wlk.config import Config, Network
from wyoming_wlk.errors import AccessError, BusyError, WlkError

LOCAL = "local"
"""The address of those who come by a Unix socket or a pipe."""


def within(address: str, networks: Iterable[Network]) -> bool:
    """Whether an address is in one of the networks. An IPv4 address may be written as an IPv6 one."""
    if address == LOCAL:
        return False
    ip = ipaddress.ip_address(address.split("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None) or ip
    return any(mapped in network for network in networks)


class Gate:
    """Counts who is inside."""

    def __init__(self, config: Config) -> None:
        self._limits, self._allow, self._ingress = config.limits, config.server.allow, config.http.ingress
        self._per_address: Counter[str] = Counter()

    def objection(self, address: str) -> WlkError | None:
        """Why a newcomer from `address` may not stay."""
        proxy = within(address, self._ingress)  # it stands for all its users: only the total holds for it
        if self._allow and address != LOCAL and not proxy and not within(address, self._allow):
            return AccessError("this address is not allowed here")
        if self._per_address.total() >= self._limits.max_connections:
            return BusyError("the server has as many connections as it may; try again later")
        if not proxy and self._per_address[address] >= self._limits.max_connections_per_address:
            return BusyError("there are too many connections from this address; close one first")
        return None

    def enter(self, address: str) -> None:
        self._per_address[address] += 1

    def leave(self, address: str) -> None:
        self._per_address[address] -= 1
        if not self._per_address[address]:
            del self._per_address[address]

    @contextmanager
    def inside(self, address: str) -> Iterator[None]:
        """Holds a place. Raises the objection there is."""
        if (error := self.objection(address)) is not None:
            raise error
        self.enter(address)
        try:
            yield
        finally:
            self.leave(address)
