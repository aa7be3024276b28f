"""What the tests hold the service by: an app, the lines it wrote, and stand-ins for servers."""

import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from <<cookiecutter.__package>>.settings import Settings

Line = dict[str, Any]

ROOT = Path(__file__).parents[1]

PRODUCTION: dict[str, Any] = {
    "environment": "production",
<% if cookiecutter.database == 'postgresql' %>
    "database_url": "postgresql://app:hunter2@127.0.0.1:1/parcels?sslmode=disable",
<% endif %>
<% if cookiecutter.cache == 'redis' %>
    "redis_url": "redis://:hunter2@127.0.0.1:1/0",
<% endif %>
}
"""What production must be told; nothing answers there."""

_OBSERVABILITY = resources.files("<<cookiecutter.__package>>.observability")
SCHEMA = json.loads(_OBSERVABILITY.joinpath("log_line.schema.json").read_text())
validate_line = Draft202012Validator(SCHEMA).validate


def parsed(raw: bytes) -> list[Line]:
    """The lines of a log, each held to the schema and to its greatest length."""
    assert raw == b"" or raw.endswith(b"\n")
    lines = []
    for text in raw.split(b"\n")[:-1]:
        assert len(text) < 16_384
        line = json.loads(text)
        validate_line(line)
        lines.append(line)
    return lines


class Service:
    """An app and what it wrote to its log."""

    def __init__(self, app: Flask, settings: Settings, log: Path) -> None:
        self.app = app
        self.settings = settings
        self.log = log
        self.client: FlaskClient = app.test_client()
        routes_of_tests_come_first(app)

    def written(self) -> str:
        """The log as it stands when every line that was logged is in it."""
        self.app.extensions["log_lines"].flush()
        with self.log.open(newline="") as file:
            return file.read()

    def lines(self, message: str | None = None) -> list[Line]:
        """All lines so far, or those of a message; every one is valid."""
        lines = parsed(self.written().encode())
        return [line for line in lines if message is None or line["message"] == message]

    def line(self, message: str) -> Line:
        """The only line of a message."""
        (line,) = self.lines(message)
        return line

    def metric(self, name: str, **labels: str) -> float:
        """A sample's value; 0 where there is no such series."""
        registry: CollectorRegistry = self.app.extensions["metric_registry"]
        return registry.get_sample_value(name, labels) or 0.0

    def series(self, name: str) -> list[dict[str, str]]:
        """The label sets of a metric's samples."""
        registry: CollectorRegistry = self.app.extensions["metric_registry"]
        return [
            sample.labels
            for family in registry.collect()
            for sample in family.samples
            if sample.name == name
        ]


def routes_of_tests_come_first(app: Flask) -> None:
    """Let a test's own `/login` answer, also where a feature has a route of that path."""
    add = app.add_url_rule

    def add_first(*arguments: Any, **options: Any) -> None:
        earlier = list(app.url_map.iter_rules())
        app.url_map = app.url_map_class()
        add(*arguments, **options)
        for rule in earlier:
            copy = rule.empty()
            copy.provide_automatic_options = rule.provide_automatic_options  # type: ignore[attr-defined]
            app.url_map.add(copy)

    app.add_url_rule = add_first  # type: ignore[method-assign]


def samples_of(exposition: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """What a scrape says, by the samples' names."""
    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    return samples


def eventually(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until something is so; fail if it does not come about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.002)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def is_ours(variable: str) -> bool:
    """Whether a variable of the environment changes what the service does."""
    name = variable.upper()
    known = {field.upper() for field in Settings.model_fields} | {"PROMETHEUS_MULTIPROC_DIR"}
    return name in known or name.startswith(("OTEL_", "SENTRY_", "FLASK_")) or "_PROXY" in name


def a_process(code: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program in a process and a folder of its own, with these variables of ours alone."""
    others = {name: value for name, value in os.environ.items() if not is_ours(name)}
    return subprocess.run(  # noqa: S603 - the tests' own programs
        [sys.executable, "-c", code],
        cwd=folder,
        env=others | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])} | variables,
        capture_output=True,
        timeout=60,
        check=False,
    )


Answer = tuple[int, bytes]


class Server:
    """A server of this machine that keeps the requests it was sent."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.host = f"127.0.0.1:{port}"
        self.requests: list[tuple[str, dict[str, str], bytes]] = []


@contextmanager
def server(answer: Callable[[bytes], Answer]) -> Iterator[Server]:
    """Serve every request by `answer`, which is given its body, on a port that was free."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            told.requests.append((self.path, dict(self.headers), body))
            status, content = answer(body)
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                pass  # the caller did not wait for the answer

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    told = Server(httpd.server_address[1])
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield told
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()
