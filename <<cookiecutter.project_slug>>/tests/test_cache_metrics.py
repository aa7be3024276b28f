"""Metrics of the cache: every read is a hit, a miss or an error, and nothing else is counted."""

from collections.abc import Iterator

import pytest
from cachelib import BaseCache, SimpleCache
from redis.exceptions import ConnectionError as RedisConnectionError

from <<cookiecutter.__package>> import cache as cache_module
from <<cookiecutter.__package>>.cache import cache

from .conftest import MakeService
from .support import Service, free_port, samples_of


class Breakable(SimpleCache):
    """A cache that can be switched off."""

    broken = False

    def get(self, key: str) -> object:
        if self.broken:
            raise RedisConnectionError
        return super().get(key)


@pytest.fixture
def in_app(service: Service) -> Iterator[Service]:
    with service.app.app_context():
        yield service


def reads(service: Service) -> dict[str, float]:
    return {
        result: service.metric("cache_requests_total", result=result)
        for result in ("hit", "miss", "error")
    }


def break_off(service: Service) -> Breakable:
    backend = Breakable()
    backend.broken = True
    service.app.extensions["cache"]._backend = backend
    return backend


def test_a_read_is_a_hit_or_a_miss(in_app: Service) -> None:
    cache().get("a")
    cache().set("a", 0, 60)
    cache().get("a")
    cache().get("a")
    cache().delete("a")
    cache().get("a")
    assert reads(in_app) == {"hit": 2, "miss": 2, "error": 0}


def test_a_read_that_the_cache_does_not_answer_is_an_error_and_so_are_those_of_its_pause(
    in_app: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "PAUSE_SECONDS", 60.0)
    break_off(in_app)
    for _ in range(3):
        cache().get("a")
    assert reads(in_app) == {"hit": 0, "miss": 0, "error": 3}


def test_a_cache_that_answers_again_misses(
    in_app: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "PAUSE_SECONDS", 0.0)
    backend = break_off(in_app)
    cache().get("a")
    backend.broken = False
    cache().get("a")
    assert reads(in_app) == {"hit": 0, "miss": 1, "error": 1}


def test_a_redis_that_is_away_is_counted(make_service: MakeService) -> None:
    service = make_service(redis_url=f"redis://127.0.0.1:{free_port()}/0")
    with service.app.app_context():
        for _ in range(5):
            cache().get("a")
    assert reads(service) == {"hit": 0, "miss": 0, "error": 5}


def test_a_mistake_of_ours_is_raised_and_is_no_read(in_app: Service) -> None:
    class Wrong(BaseCache):
        def get(self, key: str) -> object:
            raise TypeError

    in_app.app.extensions["cache"]._backend = Wrong()
    with pytest.raises(TypeError):
        cache().get("a")
    assert sum(reads(in_app).values()) == 0


def test_the_series_are_there_from_the_start_and_no_key_makes_one(in_app: Service) -> None:
    for number in range(100):
        cache().get(f"order:{number}")
    scraped = samples_of(in_app.client.get("/metrics").text)["cache_requests_total"]
    assert [labels for labels, _ in scraped] == [
        {"result": "hit"},
        {"result": "miss"},
        {"result": "error"},
    ]


def test_two_apps_in_one_process_count_apart(make_service: MakeService) -> None:
    one, other = make_service(), make_service()
    with one.app.app_context():
        cache().get("a")
    assert (reads(one)["miss"], reads(other)["miss"]) == (1, 0)
