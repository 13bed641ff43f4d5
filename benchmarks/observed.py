"""What a server under load needs and says of itself, at one moment: /proc, and the figures of its `/metrics`."""

from __future__ import annotations

import asyncio
import resource
import time
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.servers import Server
from wyoming_wlk.frontends.control import Figures
from wyoming_wlk.services import Services

_FETCH_SECONDS = 10


@dataclass(frozen=True)
class Snapshot:
    """Processor times in seconds since the start. `metrics` has quantiles of the last minute as `name:quantile` and
    totals since the start; it is empty for a server that has none."""

    time: float
    """On the program's clock."""
    cpu: float
    own_cpu: float
    """Of the benchmark: the clients."""
    foreign: float
    """Of all other programs."""
    peak_memory: float
    """Megabytes: of a server since the last look, of this process since its start."""
    metrics: Mapping[str, float]


Observe = Callable[[], Awaitable[Snapshot]]


def of_server(server: Server) -> Observe:
    """Raises RuntimeError, with the end of its log, where the server has ended."""

    async def observe() -> Snapshot:
        server.check()
        url = f"http://{server.launch.http}/metrics"
        metrics = parse(await asyncio.to_thread(_fetch, url)) if server.launch.http else {}
        own, now = time.process_time(), time.perf_counter()
        seen = Snapshot(now, server.cpu_seconds, own, server.foreign_seconds, server.peak_memory_mb, metrics)
        server.reset_peak()
        return seen

    return observe


def of_services(services: Services) -> Observe:
    """Of a server without sockets in this process, whose processor time cannot be told from its clients'."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Figures(services))

    async def observe() -> Snapshot:
        metrics = parse(generate_latest(registry).decode())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return Snapshot(time.perf_counter(), time.process_time(), 0.0, 0.0, peak, metrics)

    return observe


def parse(text: str) -> dict[str, float]:
    """Prometheus' text format."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            quantile = sample.labels.get("quantile")
            found[f"{sample.name}:{quantile}" if quantile else sample.name] = sample.value
    return found


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=_FETCH_SECONDS) as answer:
        return str(answer.read().decode())
