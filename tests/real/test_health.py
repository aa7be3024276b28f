"""Dependencies stop, hang and come back under a running service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import cast

import pytest

from . import servers
from .processes import eventually
from .service import Answer, Gunicorn, Service
from .stand_ins import Quiet, listening

PROBES = ("/health/live", "/health/ready", "/health/startup", "/health")
LIMIT_SECONDS = 3.0


@pytest.fixture(scope="module")
def postgres() -> Iterator[servers.Postgres]:
    """A PostgreSQL that these tests may stop and freeze."""
    with servers.postgres() as server:
        yield server


@pytest.fixture(scope="module")
def redis() -> Iterator[servers.Redis]:
    """A Redis that these tests may stop and freeze."""
    with servers.redis() as server:
        yield server


@pytest.fixture(scope="module")
def service(small: Service, postgres: servers.Postgres, redis: servers.Redis) -> Iterator[Gunicorn]:
    """One service on both, in production's settings, through all that happens to them."""
    with (
        small.migrated(postgres.database("health")) as url,
        small.serving(ENVIRONMENT="production", DATABASE_URL=url, REDIS_URL=redis.url, WEB_CONCURRENCY="2") as running,
    ):
        yield running


def _probe(service: Gunicorn) -> dict[str, Answer]:
    """Ask every probe; each must answer within the limit, whatever else is broken."""
    answers = {path: service.get(path) for path in PROBES}
    for path, answer in answers.items():
        assert answer.seconds < LIMIT_SECONDS, f"{path} took {answer.seconds:.1f} s"
    assert answers["/health/live"].status == 200
    assert answers["/health/startup"].status == 200
    return answers


def _becomes(service: Gunicorn, status: str, ready: int) -> dict[str, str]:
    """Wait for a whole picture; return the checks' states."""

    def condition() -> dict[str, str]:
        # Each worker looks for itself: it has become so when several answers agree.
        seen = [_probe(service) for _ in range(4)]
        pictures = [answers["/health"] for answers in seen]
        assert {picture.json()["status"] for picture in pictures} == {status}
        assert {answers["/health/ready"].status for answers in seen} == {ready}
        assert {picture.status for picture in pictures} == {503 if status == "unhealthy" else 200}
        return {name: check["status"] for name, check in pictures[0].json()["checks"].items()}

    return eventually(condition, f"{status}, /health/ready {ready}", 60)


def _up(service: Gunicorn, dependency: str, value: int) -> None:
    eventually(
        lambda: service.scrape().total("dependency_up", dependency=dependency) == value,
        f"dependency_up of {dependency} is {value}",
        40,
    )


def _well(service: Gunicorn) -> None:
    assert _becomes(service, "healthy", 200) == {"database": "healthy", "cache": "healthy"}
    _up(service, "database", 1)
    _up(service, "cache", 1)
    created = eventually(lambda: _created(service), "orders are taken again", 30)
    assert service.get(created).status == 200


def _created(service: Gunicorn) -> str:
    answer = service.order()
    assert answer.status == 201
    return answer.headers["location"]


@contextmanager
def _broken(server: servers.Server, how: str) -> Iterator[None]:
    if how == "stopped":
        server.stop()
    else:
        server.program.freeze()
    try:
        yield
    finally:
        if how == "stopped":
            server.restart()
        else:
            server.program.thaw()
            server.await_ready()


@pytest.mark.parametrize("how", ["stopped", "hung"])
def test_a_database_that_is_away_makes_it_unready_until_it_is_back(
    service: Gunicorn, postgres: servers.Postgres, how: str
) -> None:
    """Liveness never fails: a restart would mend nothing. Cached reads go on."""
    _well(service)
    cached = _created(service)
    assert service.get(cached).status == 200
    with _broken(postgres, how):
        checks = _becomes(service, "unhealthy", 503)
        assert checks == {"database": "unhealthy", "cache": "healthy"}
        _up(service, "database", 0)
        refused = service.order()
        assert refused.status == 503
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["request_id"] == refused.headers["x-request-id"]
        assert refused.seconds < 12
        assert service.get(cached).status == 200
    _well(service)


@pytest.mark.parametrize("how", ["stopped", "hung"])
def test_a_cache_that_is_away_degrades_it_and_no_more(service: Gunicorn, redis: servers.Redis, how: str) -> None:
    """The service stays ready, and reads take no longer than a moment."""
    _well(service)
    kept = _created(service)
    assert service.get(kept).status == 200
    with _broken(redis, how):
        checks = _becomes(service, "degraded", 200)
        assert checks == {"database": "healthy", "cache": "unhealthy"}
        _up(service, "cache", 0)
        answers = [service.get(kept) for _ in range(20)]
        assert {answer.status for answer in answers} == {200}
        times = sorted(answer.seconds for answer in answers)
        assert times[10] < 0.5, "most reads do not wait for the cache at all"
        assert times[-1] < 3
        assert _created(service)
    _well(service)


def test_both_hung_at_once_hang_no_probe(service: Gunicorn, postgres: servers.Postgres, redis: servers.Redis) -> None:
    """The checks run side by side, and requests that wait for the database leave threads free."""
    _well(service)
    waiting = [Thread(target=service.order, daemon=True) for _ in range(4)]
    with _broken(postgres, "hung"), _broken(redis, "hung"):
        for thread in waiting:
            thread.start()
        checks = _becomes(service, "unhealthy", 503)
        assert set(checks.values()) == {"unhealthy"}
    for thread in waiting:
        thread.join(60)
        assert not thread.is_alive()
    _well(service)


def test_the_picture_names_states_and_nothing_else(service: Gunicorn, postgres: servers.Postgres) -> None:
    """No address and no exception's text for whoever asks."""
    _well(service)
    well = service.get("/health").json()
    assert {"status", "service", "version", "environment", "timestamp", "checks"} <= well.keys()
    assert well["environment"] == "production"
    assert all(check.keys() == {"status", "critical", "duration_ms"} for check in well["checks"].values())
    assert well["checks"]["database"]["critical"] is True
    assert well["checks"]["cache"]["critical"] is False
    with _broken(postgres, "stopped"):
        _becomes(service, "unhealthy", 503)
        said = service.get("/health").text.lower() + service.get("/health/ready").text.lower()
        for secret in ("127.0.0.1", str(postgres.port), "refused", "error", "psycopg", "postgres"):
            assert secret not in said
    _well(service)


def test_probes_make_no_line_and_no_metric(service: Gunicorn) -> None:
    """Health requests are not traffic."""
    before = service.scrape()
    for _ in range(5):
        _probe(service)
    service.get("/")
    service.logged(message="request", path="/")
    routes = {
        dict(labels).get("route", "") for labels in service.scrape().series["http_request_duration_seconds_count"]
    }
    assert not [route for route in routes if "health" in route]
    assert not [r for r in service.lines(message="request") if "health" in str(r["path"])]
    assert before.count() > 0


class _Neighbour(ThreadingHTTPServer):
    """Another service, as well as its `status` says."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.status = 200
        self.url = f"http://127.0.0.1:{self.server_port}/ok"


class _Answering(Quiet, BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(cast(_Neighbour, self.server).status)
        self.end_headers()


def test_external_dependencies_degrade_or_stop_as_their_owner_says(small: Service) -> None:
    """HEALTH_DEPENDENCIES: `name=url` degrades, `!name=url` makes unready."""
    partner, bank = _Neighbour(), _Neighbour()
    with (
        listening(partner),
        listening(bank),
        small.serving(HEALTH_DEPENDENCIES=f"partner={partner.url},!bank={bank.url}") as running,
    ):
        _becomes(running, "healthy", 200)
        checks = running.get("/health").json()["checks"]
        assert (checks["partner"]["critical"], checks["bank"]["critical"]) == (False, True)
        partner.status = 500
        assert _becomes(running, "degraded", 200)["partner"] == "unhealthy"
        _up(running, "partner", 0)
        bank.status = 503
        assert _becomes(running, "unhealthy", 503)["bank"] == "unhealthy"
        partner.status = 200
        bank.status = 200
        _becomes(running, "healthy", 200)
