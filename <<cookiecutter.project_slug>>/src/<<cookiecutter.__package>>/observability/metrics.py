"""Metrics: the golden signals of every route, and whatever the features count.

Features use `metrics` (prometheus-flask-exporter's decorators) and `counter`, `gauge` and
`histogram`. Request metrics are recorded by a hook of our own, as the exporter's default hooks
cost several times as much and make a series of every path.
"""

from functools import cache, partial

from flask import Flask, Response, request
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    make_wsgi_app,
)
from prometheus_flask_exporter import PrometheusMetrics

from ..settings import SLOW_REQUEST_SECONDS, Settings
from ..workers.exposition import Info, Registry, serves_metrics_from_master
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

# OpenTelemetry's advice for http.server.request.duration, and the service's threshold.
_ADVISED = {0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0}
LATENCY_BUCKETS = tuple(sorted(_ADVISED | {SLOW_REQUEST_SECONDS}))
QUEUE_BUCKETS = (*LATENCY_BUCKETS, 30.0, 60.0)


def new_registry() -> CollectorRegistry:
    """An app's registry: its own metrics and those of the features."""
    registry = Registry()
    registry.register(metrics.registry)
    return registry


class RequestMetrics:
    """Latency, traffic, errors and saturation, by method, route and status.

    `began` is called as a request begins, `done` when the last piece of its answer is made, and
    `waited` with the seconds from when gunicorn could read its connection to when a thread did.
    """

    def __init__(self, settings: Settings, registry: CollectorRegistry) -> None:
        duration = histogram(
            "http_request_duration_seconds",
            "Time from when a request's headers are read to the first byte of its answer.",
            ["method", "route", "status"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        queue = histogram(
            "http_request_queue_seconds",
            "Time that a request waits for a thread, before its duration begins.",
            buckets=QUEUE_BUCKETS,
            registry=registry,
        )
        self.waited = observer(queue)
        in_progress = gauge(
            "http_requests_in_progress", "Requests that are being answered.", registry=registry
        )
        self.began = partial(adder(in_progress), 1)
        self.done = partial(adder(in_progress), -1)
        capacity = gauge(
            "http_request_capacity", "Requests that can be answered at once.", registry=registry
        )
        capacity.set(settings.web_threads)
        # Series are looked up once: labels() costs more than what it leads to.
        self._observer = cache(lambda *labels: observer(duration.labels(*labels)))

    def ended(self, identity: Identity) -> None:
        self._observer(identity.method, identity.route, identity.status)(identity.seconds)


def init_metrics(app: Flask, settings: Settings, registry: CollectorRegistry) -> RequestMetrics:
    """Request metrics and, where no gunicorn master does it, the process's own and /metrics."""
    if not serves_metrics_from_master():
        registry.register(Info(settings))
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        if settings.environment == "development":
            exposition = make_wsgi_app(registry)
            app.add_url_rule(
                "/metrics", "metrics", lambda: Response.from_app(exposition, request.environ)
            )
    return RequestMetrics(settings, registry)
