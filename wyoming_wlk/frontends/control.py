"""For those who run the server: `/config`, `/metrics` for Prometheus, `/health` and `/ready`."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from wyoming_wlk import __version__
from wyoming_wlk.catalogue import CATALOGUE
from wyoming_wlk.engine.statistics import EngineStatistics, Recent
from wyoming_wlk.errors import AccessError, RequestError
from wyoming_wlk.frontends.door import Door
from wyoming_wlk.frontends.security import shows_token
from wyoming_wlk.languages import normalize_language
from wyoming_wlk.services import Services

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_QUANTILES = (0.5, 0.95)


def control_routes(door: Door) -> list[web.RouteDef]:
    services = door.services
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Figures(services))

    async def health(request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "version": __version__, "ready": services.host.ready})

    async def ready(request: web.Request) -> web.Response:
        """200 once clients are served, for what starts traffic only then. The fields are whisper-flow's."""
        body = {
            "status": "ok" if services.host.ready else "loading",
            "version": __version__,
            "protocol_version": 1,
            "models": [services.model.name],
            "model_loaded": services.host.ready,
            "active_sessions": services.clients,
        }
        return web.json_response(body, status=200 if services.host.ready else 503)

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": _METRICS_TYPE})

    async def get_config(request: web.Request) -> web.Response:
        return web.json_response(_shown(services))

    async def post_config(request: web.Request) -> web.Response:
        if not services.config.http.token:
            raise AccessError("changes need a server with --token")
        if not shows_token(request, services.config.http):  # the ingress's users may come in without
            raise AccessError("changes need the server's token")
        wanted = dict(request.query) | await _body(request)
        language = wanted.get("language") or wanted.get("lan")
        model = wanted.get("model")
        if model and model not in CATALOGUE:
            # folders are for those who start the server: a client must not make it read any file it likes
            raise RequestError(f"unknown model {model[:40]!r}")
        await services.change(normalize_language(language) if language else None, model or None)
        return web.json_response(_shown(services))

    return [
        web.get("/health", health),
        web.get("/ready", ready),
        web.get("/metrics", metrics),
        web.get("/config", get_config),
        web.post("/config", post_config),
    ]


def _shown(services: Services) -> dict[str, object]:
    return {
        "model": services.model.name,
        "language": services.config.decoding.language,
        "languages": list(services.model.languages),
        "version": __version__,
    }


async def _body(request: web.Request) -> dict[str, str]:
    """A JSON object or a form. Raises `RequestError` for anything else."""
    if not request.can_read_body:
        return {}
    if request.content_type != "application/json":
        form = await request.post()
        return {name: value for name, value in form.items() if isinstance(value, str)}
    try:
        body = await request.json()
    except ValueError as err:
        raise RequestError("the body is not valid JSON") from err
    if not isinstance(body, dict) or not all(isinstance(value, str) for value in body.values()):
        raise RequestError("the body is not a JSON object of strings")
    return body


class Figures(Collector):
    """Reads what the parts of the server count, whenever somebody asks."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        services, speech = self._services, self._services.host.speech
        engine = speech.engine.statistics if speech is not None else EngineStatistics()
        sessions = services.statistics
        yield _gauge("wlk_clients", "Utterances and streams under way", services.clients)
        yield _gauge("wlk_contexts", "Contexts kept for clients that are away", services.contexts)
        yield _gauge("wlk_parked_rows", "Decodings taken off the device", speech.engine.parked if speech else 0)
        yield _gauge("wlk_model_loaded", "1 while the model is in memory", float(speech is not None))
        yield _gauge("wlk_resident_memory_bytes", "Resident memory of the process", _resident_bytes())
        yield _quantiles("wlk_queue_seconds", "Wait of a step for its first pass", engine.queue)
        yield _quantiles("wlk_step_seconds", "Time from a step's request to its result", engine.step)
        yield _quantiles("wlk_step_interval_seconds", "Time between partials of a client", sessions.step_interval)
        yield _quantiles("wlk_batch_size", "Rows in a pass of the model", engine.batch)
        yield _quantiles("wlk_word_delay_seconds", "Time from a word's end to its commitment", sessions.word_delay)
        heard = sum(sessions.audio.values())
        busy = sum(engine.encoder.values()) + sum(engine.decoder.values())
        yield _gauge(
            "wlk_real_time_factor", "Model time per second of audio, last minute", busy / heard if heard else 0.0
        )
        yield _counter("wlk_audio_seconds", "Audio that came in", sessions.audio.total)
        yield _counter("wlk_busy_seconds", "Time the model worked", engine.encoder.total + engine.decoder.total)
        yield _counter("wlk_encoder_seconds", "Time the encoder worked", engine.encoder.total)
        yield _counter("wlk_decoder_seconds", "Time the decoder worked", engine.decoder.total)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, text, value=value)


def _quantiles(name: str, text: str, recent: Recent) -> GaugeMetricFamily:
    """Median and 95th percentile of the last minute; no values where there was nothing."""
    family = GaugeMetricFamily(name, f"{text}, last minute", labels=["quantile"])
    values = recent.values()
    for quantile in _QUANTILES if values else ():
        family.add_metric([str(quantile)], _at(values, quantile))
    return family


def _at(values: Sequence[float], quantile: float) -> float:
    return values[min(len(values) - 1, int(quantile * len(values)))]


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):  # no Linux: the peak is all there is
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * resource.getpagesize()
