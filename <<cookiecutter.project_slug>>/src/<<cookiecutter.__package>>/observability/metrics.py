"""Metrics: the golden signals of every route, and whatever the features count.

Features use `metrics` (prometheus-flask-exporter's decorators) and `counter`, `gauge` and
`histogram`. Request metrics are recorded by a hook of our own under the exporter's road: its
default hooks cost several times as much and make a series of every path.
"""

from collections.abc import Callable
from functools import partial

from flask import Flask, Response, request
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_flask_exporter import PrometheusMetrics

from ..settings import SLOW_REQUEST_SECONDS, Settings
from ..workers.exposition import Info, serves_metrics_from_master
from ..workers.values import adder, observer
from .identity import Identity

# Several workers cannot have the _created series; one alone would differ from them.
disable_created_metrics()
metrics = PrometheusMetrics.for_app_factory(
    registry=CollectorRegistry(), path=None, export_defaults=False
)
counter = partial(Counter, registry=metrics.registry)
gauge = partial(Gauge, registry=metrics.registry, multiprocess_mode="livesum")
histogram = partial(Histogram, registry=metrics.registry)

LATENCY_BUCKETS = tuple(
    sorted(
        # OpenTelemetry's advice for http.server.request.duration, and the service's threshold.
        {0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0}
        | {SLOW_REQUEST_SECONDS}
    )
)


def new_registry() -> CollectorRegistry:
    """An app's registry: its own metrics and those of the features."""
    registry = CollectorRegistry()
    registry.register(metrics.registry)
    return registry


class RequestMetrics:
    """Latency, traffic, errors and saturation, by method, route and status."""

    def __init__(self, settings: Settings, registry: CollectorRegistry) -> None:
        self._duration = Histogram(
            "http_request_duration_seconds",
            "Time from the first byte of a request's headers to the first of its answer's.",
            ["method", "route", "status"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        in_progress = Gauge(
            "http_requests_in_progress",
            "Requests that are being answered.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        capacity = Gauge(
            "http_request_capacity",
            "Requests that can be answered at once.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        capacity.set(settings.web_threads)
        self._in_progress = adder(in_progress)
        # Series are looked up once: labels() costs more than what it leads to.
        self._observe: dict[tuple[str, str, int], Callable[[float], None]] = {}

    def began(self) -> None:
        self._in_progress(1)

    def ended(self, identity: Identity) -> None:
        key = (identity.method, identity.route, identity.status)
        observe = self._observe.get(key)
        if observe is None:
            # Of two threads that meet here, one's observer is kept: a series has one writer.
            observe = self._observe.setdefault(key, observer(self._duration.labels(*key)))
        observe(identity.seconds)

    def done(self) -> None:
        """A request's answer is made, the body's last piece too."""
        self._in_progress(-1)


def init_metrics(app: Flask, settings: Settings, registry: CollectorRegistry) -> RequestMetrics:
    """Request metrics and, where no gunicorn master does it, the process's own and /metrics."""
    if not serves_metrics_from_master():
        registry.register(Info(settings))
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        if settings.environment == "development":
            app.add_url_rule("/metrics", view_func=_exposition(registry))
    return RequestMetrics(settings, registry)


def _exposition(registry: CollectorRegistry) -> Callable[[], Response]:
    exporter = PrometheusMetrics.for_app_factory(
        registry=registry, path=None, export_defaults=False
    )

    def exposition() -> Response:
        text, content_type = exporter.generate_metrics(
            request.headers.get("Accept"), request.args.getlist("name[]")
        )
        return Response(text, content_type=content_type)

    return exposition
