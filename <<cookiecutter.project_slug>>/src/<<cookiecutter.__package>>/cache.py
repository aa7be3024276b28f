"""The cache: Redis in production, this process's memory in development.

A cache that cannot be reached is a miss, never an error; it costs LIMIT_SECONDS once in
PAUSE_SECONDS.
"""

import time
from typing import Any

from cachelib import BaseCache, RedisCache, SimpleCache
from flask import Flask, current_app
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from .observability import Health, get_logger
from .settings import SERVICE, Settings

LIMIT_SECONDS = 0.25
PAUSE_SECONDS = 5.0
"""How long a cache that failed is left alone."""

log = get_logger(__name__)


class Cache:
    """get and set, which do without the cache while it fails."""

    def __init__(self, backend: BaseCache) -> None:
        self._backend = backend
        self._paused_until = 0.0
        self._failing = False

    def get(self, key: str) -> Any:
        """The value, or None where there is none or the cache is away."""
        return self._try(lambda: self._backend.get(key))

    def set(self, key: str, value: object, seconds: int) -> None:
        self._try(lambda: self._backend.set(key, value, timeout=seconds))

    def delete(self, key: str) -> None:
        self._try(lambda: self._backend.delete(key))

    def _try(self, call: Any) -> Any:
        if time.monotonic() < self._paused_until:
            return None
        try:
            answer = call()
        except RedisError as error:
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            if not self._failing:
                log.warning("cache does not answer", reason=type(error).__name__)
            self._failing = True
            return None
        if self._failing:
            self._failing = False
            log.info("cache answers again")
        return answer


def init_cache(app: Flask, settings: Settings) -> None:
    """Make `cache()` available; its failure degrades the service and no more."""
    if settings.redis_url is None:
        app.extensions["cache"] = Cache(SimpleCache())
        return
    redis = Redis.from_url(
        settings.redis_url.get_secret_value(),
        socket_timeout=LIMIT_SECONDS,
        socket_connect_timeout=LIMIT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    app.extensions["cache"] = Cache(RedisCache(host=redis, key_prefix=f"{SERVICE}:"))
    health: Health = app.extensions["health"]
    health.add_check("cache", lambda: _ping(redis), critical=False)


def cache() -> Cache:
    """The current app's cache."""
    found: Cache = current_app.extensions["cache"]
    return found


def _ping(redis: Redis) -> None:
    redis.ping()
