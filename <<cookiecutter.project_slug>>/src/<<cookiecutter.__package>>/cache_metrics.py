"""Metrics of the cache: how many reads found something."""

from typing import Any

from flask import Flask

from .cache import Cache, cache
from .observability import counter
from .workers.values import adder

RESULTS = ("hit", "miss", "error")


def init_cache_metrics(app: Flask) -> None:
    """Count the reads of the app's cache, by result."""
    reads = counter(
        "cache_requests_total",
        "Reads of the cache, by result. It is left alone for a moment after an error.",
        ["result"],
        registry=app.extensions["metric_registry"],
    )
    with app.app_context():
        app.extensions["cache"] = CountedCache(cache(), *(reads.labels(each) for each in RESULTS))


class CountedCache(Cache):
    """The cache, whose reads are counted."""

    def __init__(self, counted: Cache, hits: Any, misses: Any, errors: Any) -> None:
        super().__init__(counted._backend)
        self._hit, self._miss, self._error = adder(hits), adder(misses), adder(errors)

    def get(self, key: str) -> Any:
        value = super().get(key)
        if value is not None:
            self._hit(1)
        elif self._failing:
            self._error(1)
        else:
            self._miss(1)
        return value
