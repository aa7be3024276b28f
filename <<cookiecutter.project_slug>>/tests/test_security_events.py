"""Security events: told once each, under names that no caller can add to."""

from types import SimpleNamespace

import pytest
from flask import Response

from <<cookiecutter.__package>>.observability import (
    identify_user,
    record_security_event,
    register_security_event,
    security,
)

from .conftest import MakeService
from .support import Service

OWASP = {
    "authn_login_fail",
    "authn_login_lock",
    "authz_fail",
    "excess_rate_limit_exceeded",
    "input_validation_fail",
    "malicious_excess_404",
}


def counted(service: Service) -> dict[str, float]:
    names = [labels["event"] for labels in service.series("security_events_total")]
    counts = {name: service.metric("security_events_total", event=name) for name in names}
    return {name: count for name, count in counts.items() if count}


@pytest.fixture
def door(service: Service) -> Service:
    """A service that answers with whatever status it is asked for."""
    service.app.get("/answer/<int:status>")(lambda status: Response(status=status))
    return service


@pytest.mark.parametrize(
    ("status", "event"),
    [
        (400, "input_validation_fail"),
        (401, "authn_login_fail"),
        (403, "authz_fail"),
        (429, "excess_rate_limit_exceeded"),
    ],
)
def test_an_answer_tells_an_event(door: Service, status: int, event: str) -> None:
    door.client.get(f"/answer/{status}", headers={"X-Request-ID": "r-1"})
    assert counted(door) == {event: 1}
    line = door.line("security event")
    assert line["level"] == "WARNING"
    assert line["event_name"] == event
    assert line["request_id"] == "r-1"
    assert line["method"] == "GET"
    assert line["route"] == "/answer/<int:status>"
    assert line["path"] == f"/answer/{status}"
    assert line["status_code"] == status
    assert line["client_ip"] == "127.0.0.1"


@pytest.mark.parametrize("status", [200, 204, 302, 404, 405, 409, 422, 500, 503])
def test_other_answers_tell_none(door: Service, status: int) -> None:
    door.client.get(f"/answer/{status}")
    assert counted(door) == {}
    assert door.lines("security event") == []


def test_every_name_has_its_series_from_the_start(service: Service) -> None:
    assert {labels["event"] for labels in service.series("security_events_total")} >= OWASP


def test_an_event_that_the_view_tells_is_not_told_again(service: Service) -> None:
    @service.app.post("/login")
    def login() -> tuple[str, int]:
        record_security_event("authn_login_lock", user="u-1", attempts=5)
        return "", 401

    service.client.post("/login")
    service.client.post("/login")
    assert counted(service) == {"authn_login_lock": 2}
    line = service.lines("security event")[0]
    assert (line["user"], line["attempts"]) == ("u-1", 5)


def test_an_owners_event_is_counted_by_its_name(
    make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(security, "_known", set(security._known))
    coupon = register_security_event("coupon_abuse")
    service = make_service()

    @service.app.get("/coupon")
    def view() -> str:
        record_security_event(coupon, status="theirs", password="hunter2")
        return ""

    service.client.get("/coupon")
    assert counted(service) == {"coupon_abuse": 1}
    line = service.line("security event")
    assert line["event_name"] == "coupon_abuse"
    assert line["field_status"] == "theirs"
    assert line["password"] == "REDACTED"


def test_an_unknown_event_makes_no_series(service: Service) -> None:
    @service.app.get("/<name>")
    def view(name: str) -> str:
        record_security_event(name)
        return ""

    for number in range(50):
        service.client.get(f"/invented-{number}")
    assert counted(service) == {"_OTHER": 50}
    assert service.lines("security event")[7]["event_name"] == "invented-7"


def test_a_field_named_event_or_event_name_does_not_raise(service: Service) -> None:
    @service.app.get("/odd")
    def view() -> str:
        record_security_event(
            "authz_fail", message="theirs", event_name="forged", fields="x", self=1
        )
        return ""

    assert service.client.get("/odd").status_code == 200
    assert service.line("security event")["event_name"] == "authz_fail"


def test_many_unknown_paths_of_one_client_are_a_scan(service: Service) -> None:
    for number in range(security.SCAN_THRESHOLD - 1):
        service.client.get(f"/wp-admin/{number}")
    assert counted(service) == {}
    for number in range(200):
        service.client.get(f"/wp-login/{number}")
    assert counted(service) == {"malicious_excess_404": 1}
    assert service.line("security event")["client_ip"] == "127.0.0.1"


def test_unknown_paths_of_many_clients_are_none(service: Service) -> None:
    for number in range(100):
        service.client.get("/old", environ_overrides={"REMOTE_ADDR": f"10.0.0.{number}"})
    assert counted(service) == {}


def test_unknown_paths_over_a_long_time_are_none(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(security, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for _ in range(100):
        service.client.get("/old")
        now[0] += security.SCAN_SECONDS / (security.SCAN_THRESHOLD - 2)
    assert counted(service) == {}


def test_a_scan_that_goes_on_is_told_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(security, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for _ in range(3):
        for _ in range(security.SCAN_THRESHOLD):
            service.client.get("/old")
        now[0] += security.SCAN_SECONDS + 1
    assert counted(service) == {"malicious_excess_404": 3}


def test_the_memory_of_clients_is_bounded(service: Service) -> None:
    events = service.app.extensions["security_events"]
    for number in range(10_000):
        events._is_scan(f"10.0.{number // 256}.{number % 256}")
    assert len(events._missed) <= 4_096


@pytest.mark.parametrize(("mode", "told"), [("truncated", "203.0.113.0"), ("off", None)])
def test_clients_are_told_apart_where_their_address_is_not_told(
    make_service: MakeService, mode: str, told: str | None
) -> None:
    service = make_service(log_client_ip=mode)
    for number in range(security.SCAN_THRESHOLD):
        for last in (7, 8):
            address = {"REMOTE_ADDR": f"203.0.113.{last}"}
            service.client.get(f"/{number}", environ_overrides=address)
    assert counted(service) == {"malicious_excess_404": 2}
    assert [line.get("client_ip") for line in service.lines("security event")] == [told] * 2
    assert "203.0.113.7" not in service.written()


def test_an_event_names_the_user(service: Service) -> None:
    @service.app.get("/admin")
    def admin() -> Response:
        identify_user("u-1")
        return Response(status=403)

    service.client.get("/admin")
    assert service.line("security event")["user_id"] == "u-1"


def test_a_request_that_the_server_refuses_is_an_event(service: Service) -> None:
    service.app.extensions["security_events"].request_refused(431, "192.0.2.1")
    assert counted(service) == {"input_validation_fail": 1}
    line = service.line("security event")
    assert (line["event_name"], line["route"]) == ("input_validation_fail", "<refused>")
    assert (line["status_code"], line["client_ip"]) == (431, "192.0.2.1")
    assert not service.series("http_request_duration_seconds_count")
