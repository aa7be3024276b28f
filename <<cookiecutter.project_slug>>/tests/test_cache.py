"""The cache: an answer that is quicker, and never one that fails."""

import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
from cachelib import BaseCache, SimpleCache
from redis import RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from <<cookiecutter.__package>> import cache as cache_module
from <<cookiecutter.__package>>.cache import Cache, cache

from .conftest import MakeService
from .support import Service, free_port


class Breakable(SimpleCache):
    """A cache that can be switched off."""

    broken = False
    calls = 0

    def get(self, key: str) -> object:
        self._look()
        return super().get(key)

    def set(self, key: str, value: object, timeout: int | timedelta | None = None) -> bool | None:
        self._look()
        return super().set(key, value, timeout)

    def _look(self) -> None:
        self.calls += 1
        if self.broken:
            raise RedisConnectionError("no route to redis://:hunter2@cache:6379")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the cache goes by."""
    moment = [1_000.0]
    monkeypatch.setattr(cache_module, "time", SimpleNamespace(monotonic=lambda: moment[0]))
    return moment


def test_a_value_is_kept_and_can_be_removed(service: Service) -> None:
    with service.app.app_context():
        assert cache().get("a") is None
        cache().set("a", {"b": [1]}, 60)
        assert cache().get("a") == {"b": [1]}
        cache().delete("a")
        assert cache().get("a") is None


def test_each_app_has_its_own_in_development(make_service: MakeService) -> None:
    one, other = make_service(), make_service()
    with one.app.app_context():
        cache().set("a", 1, 60)
    with other.app.app_context():
        assert cache().get("a") is None


def test_a_cache_that_fails_is_a_miss_and_said_once(service: Service, now: list[float]) -> None:
    backend = Breakable()
    found = Cache(backend)
    found.set("a", 1, 60)
    backend.broken = True
    for _ in range(5):
        assert found.get("a") is None
        found.set("a", 2, 60)
        found.delete("a")
        now[0] += cache_module.PAUSE_SECONDS + 1
    assert len(service.lines("cache does not answer")) == 1
    backend.broken = False
    assert found.get("b") is None
    assert len(service.lines("cache answers again")) == 1
    assert "hunter2" not in service.written()


def test_a_cache_that_failed_is_left_alone_for_a_moment(now: list[float]) -> None:
    backend = Breakable()
    backend.broken = True
    found = Cache(backend)
    for _ in range(100):
        found.get("a")
    assert backend.calls == 1
    now[0] += cache_module.PAUSE_SECONDS
    found.get("a")
    assert backend.calls == 2


def test_other_failures_are_not_hidden() -> None:
    class Wrong(BaseCache):
        def get(self, key: str) -> object:
            raise TypeError("a mistake of ours")

    assert not issubclass(TypeError, RedisError)
    with pytest.raises(TypeError):
        Cache(Wrong()).get("a")


def test_a_redis_that_is_away_degrades_the_service_and_no_more(make_service: MakeService) -> None:
    service = make_service(redis_url=f"redis://:hunter2@127.0.0.1:{free_port()}/0")
    picture = service.client.get("/health")
    assert picture.status_code == 200
    assert picture.get_json()["checks"]["cache"] == {
        "status": "unhealthy",
        "critical": False,
        "duration_ms": picture.get_json()["checks"]["cache"]["duration_ms"],
    }
    assert service.client.get("/health/ready").status_code == 200
    assert "hunter2" not in picture.text
    assert "127.0.0.1" not in picture.text
    began = time.monotonic()
    with service.app.app_context():
        for _ in range(20):
            assert cache().get("a") is None
    assert time.monotonic() - began < 1
    assert "hunter2" not in service.written()


def test_without_a_redis_there_is_nothing_to_watch(service: Service) -> None:
    assert "cache" not in service.client.get("/health").get_json()["checks"]
