"""Metrics: the golden signals of every route, under names and labels that no caller can add to."""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from flask import Flask, Response, abort
from prometheus_client.utils import floatToGoString
from werkzeug.test import create_environ

from <<cookiecutter.__package>>.observability import (
    counter,
    gauge,
    histogram,
    metrics,
    middleware,
)
from <<cookiecutter.__package>>.observability.metrics import LATENCY_BUCKETS
from <<cookiecutter.__package>>.settings import SLOW_REQUEST_SECONDS

from .conftest import MakeService
from .support import Service, samples_of

DURATION = "http_request_duration_seconds"


def count_of(service: Service, method: str, route: str, status: int) -> float:
    return service.metric(f"{DURATION}_count", method=method, route=route, status=str(status))


def requests_counted(service: Service) -> dict[tuple[str, str, str], float]:
    return {
        (labels["method"], labels["route"], labels["status"]): service.metric(
            f"{DURATION}_count", **labels
        )
        for labels in service.series(f"{DURATION}_count")
    }


@pytest.fixture
def shop(service: Service) -> Service:
    """A service with a route of each kind."""
    app = service.app

    @app.route("/parcels/<int:number>", methods=["GET", "PUT"])
    def parcel(number: int) -> dict[str, int]:
        return {"number": number}

    @app.get("/fails")
    def fails() -> str:
        raise RuntimeError("boom")

    @app.get("/refuses")
    def refuses() -> str:
        abort(403)

    @app.get("/streams")
    def streams() -> Response:
        def pieces() -> Iterator[bytes]:
            yield b"a"
            yield b"b"

        return Response(pieces())

    return service


def test_a_request_is_counted_by_method_route_and_status(shop: Service) -> None:
    for number in range(5):
        shop.client.get(f"/parcels/{number}")
    shop.client.put("/parcels/1")
    shop.client.post("/parcels/1")
    shop.client.get("/fails")
    shop.client.get("/refuses")
    shop.client.get("/streams").close()
    shop.client.get("/no/such/page")
    shop.client.head("/parcels/1")
    assert requests_counted(shop) == {
        ("GET", "/parcels/<int:number>", "200"): 5,
        ("PUT", "/parcels/<int:number>", "200"): 1,
        ("POST", "<unmatched>", "405"): 1,
        ("GET", "/fails", "500"): 1,
        ("GET", "/refuses", "403"): 1,
        ("GET", "/streams", "200"): 1,
        ("GET", "<unmatched>", "404"): 1,
        ("HEAD", "/parcels/<int:number>", "200"): 1,
    }


def test_a_request_is_in_progress_until_the_last_piece_of_its_answer(shop: Service) -> None:
    def in_progress() -> float:
        return shop.metric("http_requests_in_progress")

    answer = shop.client.get("/streams", buffered=False)
    next(iter(answer.response))
    assert in_progress() == 1
    for _ in range(2):  # as a middleware may that hands it on
        answer.close()
        assert in_progress() == 0
    for path in ("/parcels/1", "/fails", "/no/such/page", "/health/live"):
        shop.client.get(path)
        assert in_progress() == 0, path


def test_an_answer_whose_header_the_server_refuses_is_a_failure(shop: Service) -> None:
    def server(status: str, headers: list[tuple[str, str]], *_: object) -> Callable[..., None]:
        raise ValueError("invalid header")

    with pytest.raises(ValueError, match="invalid header"):
        shop.app.wsgi_app(create_environ("/parcels/1"), server)
    assert requests_counted(shop) == {("GET", "/parcels/<int:number>", "500"): 1}
    assert shop.line("request failed")["exception"]["message"] == "invalid header"


class Unreadable:
    """A body whose first piece cannot even be asked for."""

    closed = False

    def __iter__(self) -> Iterator[bytes]:
        raise OSError("gone")

    def close(self) -> None:
        self.closed = True


def test_a_body_that_cannot_be_read_is_closed_and_ends_its_request(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = Unreadable()
    monkeypatch.setattr(service.app.wsgi_app, "_wsgi_app", lambda *_: body)
    answer = service.app.wsgi_app(create_environ("/"), lambda *_: lambda _: None)
    with pytest.raises(OSError, match="gone"):
        iter(answer)
    answer.close()  # type: ignore[attr-defined]
    assert body.closed
    assert service.metric("http_requests_in_progress") == 0


def test_an_invented_method_is_other(shop: Service) -> None:
    for method in ("HACK", "get", "GETT", "PROPFIND", "A" * 200):
        shop.client.open("/parcels/1", method="GET", environ_overrides={"REQUEST_METHOD": method})
    assert {method for method, _, _ in requests_counted(shop)} == {"_OTHER"}
    assert sum(requests_counted(shop).values()) == 5


def test_a_hook_that_answers_early_is_counted(service: Service) -> None:
    @service.app.before_request
    def closed() -> Response:
        return Response(status=503)

    service.client.get("/")
    assert count_of(service, "GET", "/", 503) == 1
    assert service.line("request")["status_code"] == 503


def test_a_hook_that_fails_before_is_counted(service: Service) -> None:
    @service.app.before_request
    def fails() -> None:
        raise RuntimeError("boom")

    service.client.get("/")
    assert requests_counted(service) == {("GET", "/", "500"): 1}


def test_a_hook_that_fails_afterwards_is_counted_as_what_was_sent(service: Service) -> None:
    @service.app.after_request
    def fails(_: Response) -> Response:
        raise RuntimeError("boom")

    assert service.client.get("/").status_code == 500
    assert requests_counted(service) == {("GET", "/", "500"): 1}
    assert service.line("request")["status_code"] == 500


def test_an_exception_that_nobody_answers_is_counted(shop: Service) -> None:
    shop.app.config["PROPAGATE_EXCEPTIONS"] = True
    with pytest.raises(RuntimeError):
        shop.client.get("/fails")
    assert count_of(shop, "GET", "/fails", 500) == 1
    assert shop.metric("http_requests_in_progress") == 0


def test_a_failure_that_a_handler_answers_is_counted(shop: Service) -> None:
    shop.app.errorhandler(Exception)(lambda error: ("sorry", 500))
    shop.client.get("/fails")
    assert count_of(shop, "GET", "/fails", 500) == 1


def test_requests_in_progress_are_counted_while_they_are(service: Service) -> None:
    meet = Barrier(4, timeout=10)

    @service.app.get("/wait")
    def wait() -> str:
        meet.wait()
        meet.wait()
        return ""

    with ThreadPoolExecutor(3) as executor:
        calls = [executor.submit(service.app.test_client().get, "/wait") for _ in range(3)]
        meet.wait()
        during = service.metric("http_requests_in_progress")
        meet.wait()
        assert [call.result().status_code for call in calls] == [200] * 3
    assert during == 3
    assert service.metric("http_requests_in_progress") == 0


def test_requests_in_progress_go_back_to_zero_whatever_happens(shop: Service) -> None:
    for path in ("/", "/fails", "/refuses", "/no/such/page", "/health", "/metrics"):
        shop.client.get(path)
    shop.client.get("/streams", buffered=False).close()
    assert shop.metric("http_requests_in_progress") == 0


def test_capacity_is_the_number_of_threads(make_service: MakeService) -> None:
    assert make_service(web_threads=12).metric("http_request_capacity") == 12


def test_the_threshold_of_slow_requests_is_an_edge_of_the_histogram(shop: Service) -> None:
    shop.client.get("/parcels/1")
    edges = {labels["le"] for labels in shop.series(f"{DURATION}_bucket")}
    assert floatToGoString(SLOW_REQUEST_SECONDS) in edges
    advised = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
    assert {floatToGoString(edge) for edge in advised} <= edges
    assert list(LATENCY_BUCKETS) == sorted(set(LATENCY_BUCKETS))


def test_a_requests_time_is_measured(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(middleware, "perf_counter", lambda: now[0])

    @service.app.get("/slow")
    def slow() -> str:
        now[0] += 0.3
        return ""

    service.client.get("/slow")
    labels = {"method": "GET", "route": "/slow", "status": "200"}
    assert service.metric(f"{DURATION}_sum", **labels) == pytest.approx(0.3)
    assert service.metric(f"{DURATION}_bucket", le="0.25", **labels) == 0
    assert service.metric(f"{DURATION}_bucket", le="0.5", **labels) == 1
    assert service.line("request")["duration_ms"] == 300


def test_a_scanner_cannot_create_series(shop: Service) -> None:
    chance = random.Random(7)  # noqa: S311 - the same at every run

    def hostile(number: int) -> None:
        text = "".join(chance.choices("abc/.%<>{}\"'\\\n\x00\x7fé日", k=chance.randrange(1, 40)))
        path = chance.choice(["/", f"/{text}", f"/parcels/{number}", f"/parcels/{text}", "/fails"])
        method = chance.choice(["GET", "POST", "PUT", "HEAD", "OPTIONS", f"X{number}", text, "get"])
        environ = {
            "PATH_INFO": path.encode().decode("latin-1"),
            "REQUEST_METHOD": method,
            "QUERY_STRING": f"a={number}&name[]={number}",
            "HTTP_HOST": chance.choice(["example.org", f"h{number}.example", text]),
            "HTTP_X_REQUEST_ID": f"{number}",
            "HTTP_USER_AGENT": text,
            "HTTP_TRACEPARENT": text,
            "HTTP_X_FORWARDED_FOR": f"10.0.0.{number}",
            "REMOTE_ADDR": f"10.{number % 256}.{number // 256}.1",
        }
        answer = shop.client.get("/", environ_overrides=environ, buffered=False)
        assert answer.status_code in (200, 400, 404, 405, 308, 500)
        answer.close()

    def series() -> int:
        return len(
            samples_of(shop.client.get("/metrics").text)["http_request_duration_seconds_count"]
        )

    for number in range(800):
        hostile(number)
    many = series()
    for number in range(800, 1_000):
        hostile(number)
    assert many <= 40
    assert series() <= many + 4
    labels = shop.series(f"{DURATION}_count")
    assert {label["method"] for label in labels} <= {
        "GET",
        "POST",
        "PUT",
        "HEAD",
        "OPTIONS",
        "_OTHER",
    }
    assert {label["route"] for label in labels} <= {
        "/",
        "/parcels/<int:number>",
        "/fails",
        "<unmatched>",
    }


def test_probes_and_scrapes_are_not_counted(service: Service) -> None:
    for path in ("/health", "/health/live", "/health/ready", "/health/startup", "/metrics"):
        service.client.get(path)
    assert requests_counted(service) == {}


@pytest.mark.parametrize("environment", ["production-eu", "staging", "test"])
def test_metrics_are_on_the_service_port_in_development_only(
    make_service: MakeService, environment: str
) -> None:
    assert make_service().client.get("/metrics").status_code == 200
    assert make_service(environment=environment).client.get("/metrics").status_code == 404


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("name[]=x", set()),
        ("name[]=app_info", {"app_info"}),
        ("name[]=app_info&name[]=x&name[]=", {"app_info"}),
    ],
)
def test_a_scrape_can_be_narrowed_by_name(service: Service, query: str, names: set[str]) -> None:
    answer = service.client.get(f"/metrics?{query}")
    assert answer.status_code == 200
    assert set(samples_of(answer.text)) == names


def test_an_empty_name_narrows_nothing(service: Service) -> None:
    answer = service.client.get("/metrics?name[]=")
    assert answer.status_code == 200
    assert {"app_info", "http_request_capacity"} <= samples_of(answer.text).keys()


@pytest.mark.parametrize(
    "accept", [None, "text/plain", "application/openmetrics-text; version=1.0.0", "*/*", "x", ";;"]
)
def test_a_scrape_is_prometheus_text(service: Service, accept: str | None) -> None:
    service.client.get("/")
    answer = service.client.get("/metrics", headers={"Accept": accept} if accept else {})
    assert answer.status_code == 200
    assert f"{DURATION}_count" in samples_of(answer.text.removesuffix("# EOF\n"))
    assert answer.content_type.startswith(("text/plain", "application/openmetrics-text"))


def test_a_scrape_says_what_runs_and_what_it_uses(make_service: MakeService) -> None:
    service = make_service(app_version="1.2.3", app_revision="4f1c")
    service.client.get("/")
    scraped = samples_of(service.client.get("/metrics").text)
    assert scraped["app_info"] == [({"version": "1.2.3", "revision": "4f1c"}, 1.0)]
    for name in (
        "http_requests_in_progress",
        "http_request_capacity",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_start_time_seconds",
    ):
        ((labels, value),) = scraped[name]
        assert labels == {}
        assert value >= 0
    assert {labels["level"] for labels, _ in scraped["log_messages_total"]} == {
        "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"
    }  # fmt: skip
    assert "security_events_total" in scraped


def test_the_service_never_says_what_the_scrape_adds(service: Service) -> None:
    service.client.get("/")
    for samples in samples_of(service.client.get("/metrics").text).values():
        for labels, _ in samples:
            assert not {"job", "service", "environment", "instance"} & labels.keys()


def test_two_apps_in_one_process_count_apart(make_service: MakeService) -> None:
    one, other = make_service(), make_service()
    one.client.get("/")
    one.client.get("/")
    other.client.get("/")
    assert count_of(one, "GET", "/", 200) == 2
    assert count_of(other, "GET", "/", 200) == 1


def test_one_line_makes_a_metric(make_service: MakeService) -> None:
    shipped = counter("parcels_shipped_total", "Parcels shipped.", ["carrier"])
    waiting = gauge("parcels_waiting", "Parcels that wait.")
    weight = histogram("parcel_weight_kilograms", "Weight of parcels.", buckets=(1, 10))
    try:
        service = make_service()
        shipped.labels("dhl").inc(2)
        waiting.set(3)
        weight.observe(5)
        scraped = samples_of(service.client.get("/metrics").text)
        assert scraped["parcels_shipped_total"] == [({"carrier": "dhl"}, 2.0)]
        assert scraped["parcels_waiting"] == [({}, 3.0)]
        assert scraped["parcel_weight_kilograms_bucket"][1] == ({"le": "10.0"}, 1.0)
    finally:
        for metric in (shipped, waiting, weight):
            metrics.registry.unregister(metric)


def test_the_exporters_decorators_count_in_the_same_scrape(make_service: MakeService) -> None:
    service = make_service()

    @service.app.get("/decorated")
    @metrics.counter(  # type: ignore[untyped-decorator]
        "decorated_total", "Calls.", labels={"status": lambda answer: answer.status_code}
    )
    def decorated() -> Response:
        return Response("")

    service.client.get("/decorated")
    scraped = samples_of(service.client.get("/metrics").text)
    assert scraped["decorated_total"] == [({"status": "200"}, 1.0)]
    registered = metrics.registry._names_to_collectors["decorated_total"]
    metrics.registry.unregister(registered)


def test_an_observer_that_fails_fails_no_request(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    app: Flask = service.app
    events = app.extensions["security_events"]
    monkeypatch.setattr(events, "record", lambda *_: (_ for _ in ()).throw(OSError("disk full")))

    @app.get("/refuses")
    def refuses() -> str:
        abort(403)

    assert service.client.get("/refuses").status_code == 403
    assert count_of(service, "GET", "/refuses", 403) == 1
    assert len(service.lines("request")) == 1
    assert service.metric("telemetry_dropped_total", signal="requests", reason="OSError") == 1


def test_a_loss_is_counted_always_and_said_once(service: Service) -> None:
    losses = service.app.extensions["losses"]
    for _ in range(5):
        losses.count("errors", "network_error")
    losses.count("errors", "queue_overflow", 3)
    assert service.metric("telemetry_dropped_total", signal="errors", reason="network_error") == 5
    assert service.metric("telemetry_dropped_total", signal="errors", reason="queue_overflow") == 3
    assert [line["reason"] for line in service.lines("telemetry lost")] == [
        "network_error",
        "queue_overflow",
    ]
