"""Health: probes cost nothing, cannot hang, and show nothing that should stay inside."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from <<cookiecutter.__package>>.observability import Health, health, request_id
from <<cookiecutter.__package>>.settings import Dependency
from <<cookiecutter.__package>>.workers import memory

from .conftest import MakeService
from .support import Service, eventually, server


@pytest.fixture
def checks(service: Service) -> Health:
    """The service's health, without the checks that it comes with."""
    found: Health = service.app.extensions["health"]
    found._checks.clear()
    return found


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> float:
    """A shorter limit, so that the tests of what hangs are quick. Too short for what is well."""
    monkeypatch.setattr(health, "LIMIT_SECONDS", 0.1)
    return 0.1


@pytest.fixture
def free() -> Iterator[threading.Event]:
    """Set by a test, or at its end: what hangs until then hangs in no test that follows."""
    event = threading.Event()
    yield event
    event.set()
    eventually(lambda: not looking())


def well() -> None:
    pass


def ill() -> None:
    raise ConnectionError("cannot reach postgresql://app:hunter2@db.internal:5432/parcels")


def until(free: threading.Event) -> Callable[[], None]:
    """A check that hangs until it is set free."""

    def look() -> None:
        free.wait(10)

    return look


def looking(name: str = "") -> int:
    """How many threads look at a dependency, or at any."""
    return sum(thread.name.startswith(f"check-{name}") for thread in threading.enumerate())


def states(service: Service) -> dict[str, int]:
    paths = ("live", "ready", "startup", "")
    return {path: service.client.get(f"/health/{path}".rstrip("/")).status_code for path in paths}


def test_a_service_that_depends_on_nothing_is_well(service: Service, checks: Health) -> None:
    assert states(service) == {"live": 200, "ready": 200, "startup": 200, "": 200}


def test_the_whole_picture(make_service: MakeService) -> None:
    service = make_service(environment="staging", app_version="1.2.3", app_revision="4f1c")
    checks = service.app.extensions["health"]
    checks._checks.clear()
    checks.add_check("database", well, critical=True)
    checks.add_check("mail", ill, critical=False)
    answer = service.client.get("/health")
    assert answer.status_code == 200
    picture: dict[str, Any] = answer.get_json()
    moment = datetime.fromisoformat(picture.pop("timestamp"))
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 10
    for check in picture["checks"].values():
        assert 0 <= check.pop("duration_ms") < 1_000
    assert picture == {
        "status": "degraded",
        "service": service.settings.otel_service_name,
        "version": "1.2.3",
        "revision": "4f1c",
        "environment": "staging",
        "checks": {
            "database": {"status": "healthy", "critical": True},
            "mail": {"status": "unhealthy", "critical": False},
        },
    }


def test_a_critical_dependency_makes_the_service_unready(service: Service, checks: Health) -> None:
    checks.add_check("database", ill, critical=True)
    assert states(service) == {"live": 200, "ready": 503, "startup": 200, "": 503}
    assert service.client.get("/health").get_json()["status"] == "unhealthy"


def test_an_optional_dependency_degrades_it(service: Service, checks: Health) -> None:
    checks.add_check("mail", ill, critical=False)
    assert states(service) == {"live": 200, "ready": 200, "startup": 200, "": 200}
    assert service.client.get("/health").get_json()["status"] == "degraded"


def test_a_dependency_that_comes_back_makes_it_ready_again(
    service: Service, checks: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "KEEP_SECONDS", 0)
    look = [ill]
    checks.add_check("database", lambda: look[0](), critical=True)
    assert service.client.get("/health/ready").status_code == 503
    look[0] = well
    assert service.client.get("/health/ready").status_code == 200
    look[0] = ill
    assert service.client.get("/health/ready").status_code == 503


def test_no_address_and_no_exceptions_text_is_told(service: Service, checks: Health) -> None:
    checks.add_check("database", ill, critical=True)
    for path in ("", "/live", "/ready", "/startup"):
        answer = service.client.get(f"/health{path}").text
        for secret in ("hunter2", "db.internal", "5432", "ConnectionError", "cannot reach"):
            assert secret not in answer


def test_until_start_up_is_done_the_service_is_not_ready(service: Service, checks: Health) -> None:
    checks.started = False
    assert states(service) == {"live": 200, "ready": 503, "startup": 503, "": 503}
    checks.startup_done()
    assert states(service) == {"live": 200, "ready": 200, "startup": 200, "": 200}


def test_a_service_that_drains_is_not_ready_but_answers(service: Service, checks: Health) -> None:
    memory.begin_drain()
    assert states(service) == {"live": 200, "ready": 503, "startup": 200, "": 503}
    assert service.client.get("/").status_code == 200


def test_liveness_looks_at_nothing(service: Service, checks: Health) -> None:
    looked = []
    checks.add_check("database", lambda: looked.append(1), critical=True)
    service.client.get("/health/live")
    service.client.get("/health/startup")
    assert looked == []


def test_a_dependency_that_hangs_does_not_hang_the_probe(
    service: Service, checks: Health, free: threading.Event
) -> None:
    limit = health.LIMIT_SECONDS
    checks.add_check("database", until(free), critical=True)
    checks.add_check("mail", well, critical=False)
    began = time.monotonic()
    picture = service.client.get("/health").get_json()
    assert limit <= time.monotonic() - began < limit + 2
    assert picture["checks"]["database"]["status"] == "unhealthy"
    assert picture["checks"]["database"]["duration_ms"] >= limit * 1_000 * 0.9
    assert picture["checks"]["mail"]["status"] == "healthy"


def test_a_dependency_that_hangs_holds_one_thread(
    service: Service,
    checks: Health,
    limit: float,
    free: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "KEEP_SECONDS", 0)
    looks = []

    def hang() -> None:
        looks.append(1)
        free.wait(10)

    checks.add_check("database", hang, critical=True)
    for _ in range(3):
        assert service.client.get("/health/ready").status_code == 503
    assert len(looks) == 1
    assert looking("database") == 1
    free.set()
    eventually(lambda: looking("database") == 0)
    monkeypatch.setattr(health, "LIMIT_SECONDS", 10)
    assert service.client.get("/health/ready").status_code == 200


def test_an_answer_that_came_too_late_does_not_count(
    service: Service,
    checks: Health,
    limit: float,
    free: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "KEEP_SECONDS", 60)
    checks.add_check("database", until(free), critical=True)
    assert service.client.get("/health/ready").status_code == 503
    time.sleep(2 * limit)
    assert looking("database") == 1
    free.set()
    eventually(lambda: looking("database") == 0)
    assert service.client.get("/health/ready").status_code == 503


def test_checks_run_side_by_side(service: Service, checks: Health) -> None:
    meet = threading.Barrier(5, timeout=5)

    def look() -> None:
        meet.wait()

    for number in range(5):
        checks.add_check(f"dependency-{number}", look, critical=True)
    assert service.client.get("/health/ready").status_code == 200


def test_an_answer_is_kept_for_a_moment(
    service: Service, checks: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, looked = [100.0], []
    monkeypatch.setattr(health, "time", SimpleNamespace(monotonic=lambda: now[0]))
    checks.add_check("database", lambda: looked.append(1), critical=True)
    for path in ("", "/ready", "/ready", ""):
        service.client.get(f"/health{path}")
    assert len(looked) == 1
    now[0] += health.KEEP_SECONDS
    service.client.get("/health/ready")
    assert len(looked) == 2


def test_many_probes_at_once_look_once(service: Service, checks: Health) -> None:
    looked = []

    def look() -> None:
        looked.append(1)

    checks.add_check("database", look, critical=True)
    probes = [
        threading.Thread(target=lambda: service.app.test_client().get("/health/ready"))
        for _ in range(10)
    ]
    for probe in probes:
        probe.start()
    for probe in probes:
        probe.join()
    assert len(looked) == 1


def test_a_dependencys_state_is_a_metric(service: Service, checks: Health) -> None:
    checks.add_check("database", well, critical=True)
    checks.add_check("mail", ill, critical=False)
    service.client.get("/health/ready")
    assert service.metric("dependency_up", dependency="database", critical="true") == 1
    assert service.metric("dependency_up", dependency="mail", critical="false") == 0
    assert len(service.series("dependency_up")) == 2


def test_the_log_says_once_why_a_dependency_fails_and_when_it_is_back(
    service: Service, checks: Health, free: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "KEEP_SECONDS", 0)
    looks: list[Callable[[], None]] = [well]
    checks.add_check("pay", lambda: looks[0](), critical=True)
    for looks[0] in (well, ill, ill, well):
        service.client.get("/health/ready")
    monkeypatch.setattr(health, "LIMIT_SECONDS", 0.1)
    looks[0] = until(free)
    service.client.get("/health/ready")
    logged = [
        (line["message"], line["level"], line["dependency"], line["critical"], line.get("reason"))
        for line in service.lines()
        if "dependency" in line
    ]
    assert logged == [
        ("dependency fails", "WARNING", "pay", True, "ConnectionError"),
        ("dependency answers again", "INFO", "pay", True, None),
        ("dependency fails", "WARNING", "pay", True, "no answer in time"),
    ]
    assert "hunter2" not in service.written()


def test_a_worker_looks_by_itself(service: Service, checks: Health) -> None:
    looked = threading.Event()
    checks.add_check("database", looked.set, critical=True)
    checks.watch()
    assert looked.wait(5)


@pytest.mark.parametrize("path", ["", "/live", "/ready", "/startup"])
def test_probes_are_answers_for_machines(service: Service, path: str) -> None:
    answer = service.client.get(f"/health{path}")
    assert answer.content_type == "application/json"
    assert json.loads(answer.data)["status"] in ("healthy", "degraded")
    assert service.client.post(f"/health{path}").status_code == 405
    assert service.client.head(f"/health{path}").status_code == 200


# HEALTH_DEPENDENCIES


def test_external_dependencies_are_asked(make_service: MakeService) -> None:
    with server(lambda _: (200, b"{}")) as well, server(lambda _: (503, b"")) as ill:
        dependencies = f"!stock={well.url}/health, prices={ill.url}/health/live"
        service = make_service(health_dependencies=dependencies)
        picture = service.client.get("/health", headers={"X-Request-ID": "r-1"})
        assert picture.status_code == 200
        found = picture.get_json()["checks"]
    assert (found["stock"]["status"], found["stock"]["critical"]) == ("healthy", True)
    assert (found["prices"]["status"], found["prices"]["critical"]) == ("unhealthy", False)
    assert [path for path, _, _ in well.requests] == ["/health"]
    assert well.host not in picture.text


@pytest.mark.parametrize("answer", [(500, b""), (404, b""), (401, b"")])
def test_an_external_dependency_that_answers_badly_is_unhealthy(
    make_service: MakeService, answer: tuple[int, bytes]
) -> None:
    with server(lambda _: answer) as stand_in:
        service = make_service(health_dependencies=f"!stock={stand_in.url}/")
        assert service.client.get("/health/ready").status_code == 503


def test_an_external_dependency_that_is_away_is_unhealthy(make_service: MakeService) -> None:
    with server(lambda _: (200, b"")) as stand_in:
        pass
    service = make_service(health_dependencies=(Dependency("stock", stand_in.url, True),))
    answer = service.client.get("/health")
    assert answer.status_code == 503
    assert stand_in.host not in answer.text


def test_an_external_dependency_that_hangs_is_unhealthy(
    make_service: MakeService, limit: float, free: threading.Event
) -> None:
    with server(lambda _: (200 if free.wait(5) else 500, b"")) as stand_in:
        service = make_service(health_dependencies=f"!stock={stand_in.url}/")
        began = time.monotonic()
        assert service.client.get("/health/ready").status_code == 503
        assert time.monotonic() - began < limit + 2
        free.set()


def test_a_probe_has_an_id_and_leaves_none(service: Service) -> None:
    answer = service.client.get("/health/live", headers={"X-Request-ID": "r-1"})
    assert answer.headers["X-Request-ID"] == "r-1"
    assert request_id() is None
