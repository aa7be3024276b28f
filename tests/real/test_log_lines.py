"""Log lines: one schema, whole, never forged, never in the way."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .load import send, under_load
from .processes import eventually, run
from .service import Gunicorn, Service, request

VALIDATE = """
import json, sys
from jsonschema import Draft202012Validator
schema = json.load(open(sys.argv[1]))
Draft202012Validator.check_schema(schema)
validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
for number, line in enumerate(open(sys.argv[2], newline="\\n"), 1):
    for error in validator.iter_errors(json.loads(line)):
        print(f"line {number}: {error.message}: {line[:300]}")
"""
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3,}Z")


def _schema(service: Service) -> Path:
    found = list((service.folder / "src").rglob("*.schema.json"))
    assert len(found) == 1, found
    return found[0]


def _hold_to_the_schema(service: Service, lines: list[str], folder: Path) -> list[dict[str, Any]]:
    """Parse and validate every line, by the library that the service's own tests use."""
    written = folder / "lines.jsonl"
    written.write_text("".join(f"{line}\n" for line in lines))
    command: list[str | Path] = [service.tool("python"), "-c", VALIDATE, _schema(service)]
    done = run([*command, written])
    assert done.returncode == 0, done.stderr
    assert not done.stdout, done.stdout[:3000]
    assert all(len(line.encode()) < 16 * 1024 for line in lines)
    return [json.loads(line) for line in lines]


def test_every_line_of_a_run_is_one_json_object_of_one_schema(small: Service, tmp_path: Path) -> None:
    """The service's, gunicorn's, a library's and Python's own: from the first to the last."""
    with small.serving(WEB_CONCURRENCY="2", LOG_LEVEL="DEBUG") as service:
        for mark in ("a", "b"):
            assert service.get(f"/stage/chatty/{mark}").status == 200
        assert service.get("/stage/boom").status == 500
        account = send(service, 400)
        service.order()
    service.output.at_end()
    records = _hold_to_the_schema(small, service.output.lines(), tmp_path)
    assert service.output.text().endswith("\n")
    assert not service.errors.text()
    requests = [record for record in records if record["message"] == "request"]
    assert len(requests) == len(account.answered) + 4
    assert {record["logger"].split(".")[0] for record in records} >= {"gunicorn", "some", "stage"}
    assert all(TIMESTAMP.fullmatch(record["timestamp"]) for record in records)
    _one_request(requests[0])
    loud = [r for r in records if r["level"] in ("WARNING", "ERROR", "CRITICAL")]
    assert all({"module", "function", "line"} <= record.keys() for record in loud)
    assert any("a warning about a" in record["message"] for record in records)
    ours = next(record for record in records if record["message"] == "from the service")
    assert ours["level"] == "INFO"
    assert (ours["field_status"], ours["field_level"]) == ("ours?", "loud")
    assert any("badly formatted" in record["message"] for record in records)
    failed = [record for record in records if "exception" in record]
    assert len(failed) == 1
    assert failed[0]["exception"].keys() == {"type", "message", "stacktrace"}


def _one_request(record: dict[str, Any]) -> None:
    wanted = {"method", "route", "path", "status_code", "duration_ms", "bytes", "client_ip"}
    assert wanted <= record.keys()
    assert record["client_ip"] == "127.0.0.1"
    assert record["service"] == "proof-service"
    assert record["environment"] == "staging"
    assert record["request_id"]
    assert record["version"]


def test_tracebacks_of_four_workers_come_out_of_one_pipe_whole(small: Service, tmp_path: Path) -> None:
    """Lines of more than 10 KiB, far more than a pipe keeps whole, from processes and threads."""
    number = 600

    def huge(step: int) -> tuple[str, str, bytes | None]:
        return "GET", f"/stage/huge/mark-{step}-end", None

    with small.serving(WEB_CONCURRENCY="4", WEB_THREADS="4") as service:
        account = send(service, number, step=huge, clients=12)
        assert account.statuses() == {200: number}
    service.output.at_end()
    lines = service.output.lines()
    records = _hold_to_the_schema(small, lines, tmp_path)
    marks = {record["mark"] for record in records if record["message"] == "huge"}
    assert marks == {f"mark-{step}-end" for step in range(number)}
    long = [line for line in lines if '"message":"huge"' in line]
    assert len(long) == number
    assert min(map(len, long)) > 10 * 1024
    assert len({record.get("request_id") for record in records} - {None}) == number


HOSTILE = (
    'a"}\n{"level":"INFO","message":"forged',
    'a\\n{\\"message\\":\\"forged\\"}',
    "\r\nforged",
    "\x00\x01\x1b[31mforged",
    "\u2028\u2029\x85forged",
    "\ud800forged",
    "forged" * 5000,
)


def _send_raw(port: int, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(data)
        connection.settimeout(10)
        try:
            while connection.recv(65536):
                pass
        except OSError:
            pass


def test_no_caller_can_forge_a_line(small: Service, tmp_path: Path) -> None:
    """Hostile text in paths, queries, methods, header values and fields stays inside its line."""
    with small.serving(LOG_LEVEL="DEBUG") as service:
        for text in HOSTILE:
            raw = text.encode("utf-8", "surrogatepass")
            quoted = "".join(f"%{byte:02X}" for byte in raw[:1500]).encode()
            as_header = raw.replace(b"\n", b" ").replace(b"\r", b" ").replace(b"\0", b"")[:4000]
            tail = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            hidden = b"X-Request-ID: " + as_header + b"\r\nUser-Agent: " + as_header + b"\r\n"
            forwarded = b"X-Forwarded-For: " + as_header + b"\r\nReferer: " + as_header + b"\r\n"
            for path in (b"/stage/chatty/" + quoted, b"/" + quoted + b"?q=" + quoted):
                _send_raw(service.port, b"GET " + path + tail + hidden + forwarded + b"\r\n")
            _send_raw(service.port, b"GET /" + raw[:3000] + tail + b"\r\n")
            _send_raw(service.port, raw[:100] + b" /" + tail + b"\r\n")
        assert service.get("/stage/ok").status == 200
    service.output.at_end()
    records = _hold_to_the_schema(small, service.output.lines(), tmp_path)
    assert not [r for r in records if r["message"] == "forged" or r["message"].startswith("forged")]
    ids = {record["request_id"] for record in records if "request_id" in record}
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,64}", one) for one in ids)


def test_a_ratio_of_zero_keeps_failures_and_slow_requests(small: Service) -> None:
    """LOG_SAMPLE_RATIO thins out the lines of requests that went well and fast, no others."""
    with small.serving(LOG_SAMPLE_RATIO="0") as service:
        for _ in range(20):
            service.get("/stage/ok")
        service.get("/nowhere")
        service.get("/stage/boom")
        service.get("/stage/status/503")
        service.get("/stage/slow/1.1")
        service.logged(message="request", path="/stage/slow/1.1")
    service.output.at_end()
    # Each worker has a thread that writes, and a failure is written sooner than another line.
    told = sorted(record["path"] for record in service.lines(message="request"))
    assert told == ["/nowhere", "/stage/boom", "/stage/slow/1.1", "/stage/status/503"]


def test_a_ratio_between_thins_out_and_no_more(small: Service) -> None:
    """Of 1,000 good requests about a fifth have a line; the metrics know all of them."""
    with small.serving(LOG_SAMPLE_RATIO="0.2") as service:
        send(service, 1000, step=lambda _: ("GET", "/stage/ok", None))
    service.output.at_end()
    assert 130 < len(service.lines(message="request")) < 280


def test_levels_are_set_for_all_and_for_one_logger(small: Service) -> None:
    """LOG_LEVEL for all, LOG_LEVELS for some."""
    with small.serving(LOG_LEVEL="WARNING", LOG_LEVELS="stage.two=DEBUG,stage.one=ERROR") as one:
        one.get("/stage/levels/m")
        one.get("/stage/status/500")
    one.output.at_end()
    heard = {(record["logger"], record["level"]) for record in one.lines(mark="m")}
    every = {"DEBUG", "INFO", "WARNING", "ERROR"}
    assert heard == {("stage.one", "ERROR")} | {("stage.two", level) for level in every}
    assert {r["logger"] for r in one.lines(level="INFO")} == {"stage.two"}
    assert len(one.lines(message="request", status_code=500)) == 1


def test_ids_are_on_every_line_of_a_request_threads_and_libraries_too(small: Service) -> None:
    """The caller's request id, the trace's and the user's, on what the request's threads say."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    with small.serving() as service:
        answer = request(
            service.port,
            "/stage/threads/t-1",
            headers={
                "X-Request-ID": "from-the-caller.1",
                "traceparent": f"00-{trace}-b7ad6b7169203331-01",
            },
        )
        assert answer.headers["x-request-id"] == "from-the-caller.1"
        service.get("/stage/ok")
    service.output.at_end()
    said = service.lines(mark="t-1")
    assert len(said) == 4
    for record in said:
        assert record["request_id"] == "from-the-caller.1", record
        assert record["user_id"] == "user-t-1", record
        assert record["trace_id"] == trace, record
    other = service.lines(message="request", path="/stage/ok")[0]
    assert other["request_id"] != "from-the-caller.1"
    assert "user_id" not in other


def test_the_client_is_named_as_much_as_is_wanted(small: Service) -> None:
    """LOG_CLIENT_IP, and no proxy believed that is not trusted."""
    for wanted, shown in (("truncated", "203.0.113.0"), ("full", "203.0.113.77"), ("off", None)):
        with small.serving(LOG_CLIENT_IP=wanted, TRUSTED_PROXIES="1") as service:
            service.get("/stage/ok", X_Forwarded_For="198.51.100.9, 203.0.113.77")
        service.output.at_end()
        assert service.lines(message="request")[0].get("client_ip") == shown
        assert "198.51.100.9" not in service.output.text()
    with small.serving() as service:
        service.get("/stage/ok", X_Forwarded_For="203.0.113.77")
    service.output.at_end()
    assert service.lines(message="request")[0]["client_ip"] == "127.0.0.1"


@contextmanager
def _stalled(small: Service) -> Iterator[Gunicorn]:
    """Run with a pipe that nobody reads."""
    with small.serving(reading=False, WEB_CONCURRENCY="2") as service:
        yield service


def test_a_log_reader_that_stalls_slows_nobody_down(small: Service, tmp_path: Path) -> None:
    """Requests are answered, the loss is counted, and what is read in the end is whole."""

    def long_lines(step: int) -> tuple[str, str, bytes | None]:
        return "GET", (f"/stage/huge/{step}" if step % 3 else f"/nowhere/{step}"), None

    with _stalled(small) as service:

        def dropped() -> float:
            return service.scrape().total("telemetry_dropped_total", signal="logs")

        with under_load(service, step=long_lines, clients=4) as filling:
            eventually(dropped, "lines are dropped", 90)
        assert not filling.lost
        stalled = send(service, 300, step=long_lines)
        assert not stalled.lost
        assert all(one.status in (200, 404) for one in filling.answered + stalled.answered)
        times = sorted(one.seconds for one in stalled.answered)
        assert times[len(times) // 2] < 0.5
        assert times[-1] < 3
        assert service.ready()
        lost = dropped()
        service.output.resume()
        service.get("/stage/ok")
        eventually(lambda: service.lines(path="/stage/ok") or not service.get("/stage/ok"), "lines")
        for _ in range(40):
            service.get("/stage/ok")
        final = dropped()
        assert final >= lost > 50
    service.output.at_end()
    records = _hold_to_the_schema(small, service.output.lines(), tmp_path)
    said = [r for r in records if "lost" in r and r["level"] == "WARNING"]
    # Each worker says it when lines flow again, and once more if the reader falls behind anew.
    assert 1 <= len(said) <= 4, said
    assert 0 < sum(record["lost"] for record in said) <= final


def test_a_log_reader_that_goes_away_fails_no_request(small: Service) -> None:
    """A broken pipe costs lines, not answers."""
    with small.serving(reading=False) as service:
        service.output.break_off()
        account = send(service, 200)
        assert not account.lost
        assert set(account.statuses()) == {200, 404, 500}
        eventually(lambda: service.scrape().total("telemetry_dropped_total", signal="logs"), "a count")
        assert service.ready()
        assert service.program.alive()
