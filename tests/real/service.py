"""A generated service: made and installed as its owner would, run as production would."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from .processes import Output, Program, clean_environment, eventually, free_port, run

TEMPLATE = Path(__file__).parents[2]
STAGE = Path(__file__).parent / "stage"
"""Holds the module whose routes misbehave on purpose; see stage/stage.py."""

Labels = frozenset[tuple[str, str]]
ORDER = {"customer": "c-1", "amount": "12.50", "currency": "EUR", "source": "web"}


@dataclass(frozen=True)
class Answer:
    """What a request got back, and how long that took."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


def request(  # noqa: PLR0913 - a request has this many parts
    port: int,
    path: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    seconds: float = 30.0,
) -> Answer:
    """Make one request on a connection of its own."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        received = response.read()
    finally:
        connection.close()
    named = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, named, received, time.monotonic() - began)


class Scrape:
    """One answer of /metrics, read by the rules of Prometheus' text format."""

    _LINE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
    _LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

    def __init__(self, text: str) -> None:
        """Parse the whole text: a line that cannot be read is an error."""
        self.series: dict[str, dict[Labels, float]] = defaultdict(dict)
        for line in text.splitlines():
            if line and not line.startswith("#"):
                found = self._LINE.fullmatch(line)
                assert found, f"not a sample: {line!r}"
                labels = frozenset(self._LABEL.findall(found[2] or ""))
                assert labels not in self.series[found[1]], f"a series comes twice: {line}"
                self.series[found[1]][labels] = float(found[3])

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's series that carry these labels."""
        wanted = frozenset(labels.items())
        return sum(value for key, value in self.series[name].items() if wanted <= key)

    def count(self) -> int:
        """Return how many series there are."""
        return sum(map(len, self.series.values()))

    def totals(self) -> dict[tuple[str, Labels], float]:
        """Return every series whose value may never fall."""
        suffixes = ("_total", "_count", "_sum", "_bucket")
        return {
            (name, labels): value
            for name, series in self.series.items()
            if name.endswith(suffixes)
            for labels, value in series.items()
        }


@dataclass
class Gunicorn:
    """A running service, seen from outside."""

    service: Service
    program: Program
    output: Output
    errors: Output
    port: int
    metrics_port: int
    metrics_folder: Path

    def get(self, path: str, **headers: str) -> Answer:
        """GET a path; underscores in the headers' names stand for hyphens."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return request(self.port, path, headers=sent)

    def post(self, path: str, body: object, **headers: str) -> Answer:
        """POST a value as JSON."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {"Content-Type": "application/json"} | sent
        return request(self.port, path, method="POST", headers=sent, body=json.dumps(body).encode())

    def order(self, **changes: object) -> Answer:
        """Create an order."""
        return self.post("/api/v1/orders", ORDER | changes)

    def scrape(self, seconds: float = 30.0) -> Scrape:
        """Return the metrics as Prometheus would get them."""
        answer = request(self.metrics_port, "/metrics", seconds=seconds)
        assert answer.status == 200, answer.text[:300]
        return Scrape(answer.text)

    def workers(self) -> list[int]:
        """Return the workers' pids, oldest first."""
        return self.program.children()

    def records(self) -> list[dict[str, Any]]:
        """Return the log lines so far; one that is not a JSON object is an error."""
        found = []
        for line in self.output.lines():
            record = json.loads(line)
            assert isinstance(record, dict), line
            found.append(record)
        return found

    def lines(self, **wanted: object) -> list[dict[str, Any]]:
        """Return the log lines with these fields."""
        return [record for record in self.records() if all(record.get(name) == value for name, value in wanted.items())]

    def ready(self) -> bool:
        """Ask the readiness probe."""
        return request(self.port, "/health/ready", seconds=5).status == 200

    def logged(self, **wanted: object) -> dict[str, Any]:
        """Wait for the log line with these fields."""
        return eventually(lambda: self.lines(**wanted), f"a log line with {wanted}")[0]


@dataclass(frozen=True)
class Service:
    """A generated service in its folder."""

    folder: Path
    slug: str
    tier: str
    answers: Mapping[str, str] = field(default_factory=dict)
    borrowed: Service | None = None

    @property
    def package(self) -> str:
        """The name that Python knows it by."""
        return self.slug.replace("-", "_")

    def tool(self, name: str) -> Path:
        """Return where a program of the service's own environment is."""
        owner = self.borrowed or self
        return owner.folder / ".venv/bin" / name

    def make(self, *targets: str, seconds: float = 600, **extra: str) -> tuple[int, str]:
        """Run make as the owner would; return its exit code and all it said."""
        done = run(
            ["make", *targets],
            folder=self.folder,
            environment=clean_environment(**extra),
            seconds=seconds,
        )
        return done.returncode, done.stdout + done.stderr

    def environment(self, **extra: str) -> dict[str, str]:
        """Return what the service is started with; the stage's module can be imported."""
        folders = [str(STAGE)]
        if self.borrowed:
            folders.insert(0, str(self.folder / "src"))
        return clean_environment(PYTHONPATH=os.pathsep.join(folders), STAGE_PACKAGE=self.package, **extra)

    def flask(
        self, *arguments: str, app: str | None = None, seconds: float = 120, **extra: str
    ) -> tuple[int, str, str]:
        """Run a command of the service; return its exit code, stdout and stderr."""
        done = run(
            [self.tool("flask"), "--app", app or f"{self.package}.wsgi", *arguments],
            folder=self.folder,
            environment=self.environment(**extra),
            seconds=seconds,
        )
        return done.returncode, done.stdout, done.stderr

    def gunicorn_command(self, app: str | None = None) -> list[str | Path]:
        """Return the command that `make serve` ends in."""
        configuration = f"python:{self.package}.gunicorn_conf"
        return [
            self.tool("gunicorn"),
            "--config",
            configuration,
            app or f"{self.package}.wsgi:app",
        ]

    @cached_property
    def database(self) -> Path:
        """A migrated SQLite database, for runs that want no server of any kind."""
        path = self.folder.parent / "proof.db"
        code, out, err = self.flask("db", "upgrade", DATABASE_URL=f"sqlite:///{path}")
        assert code == 0, out + err
        return path

    @contextmanager
    def migrated(self, url: str) -> Iterator[str]:
        """Bring an empty database up to date, as `make serve` does; yields its URL."""
        code, out, err = self.flask("db", "upgrade", DATABASE_URL=url)
        assert code == 0, out + err
        yield url

    @contextmanager
    def serving(  # noqa: PLR0913 - a service is run in this many ways
        self,
        *,
        app: str | None = None,
        staged: bool = True,
        reading: bool = True,
        wait: bool = True,
        metrics_folder: Path | None = None,
        under: Sequence[str | Path] = (),
        **extra: str | None,
    ) -> Iterator[Gunicorn]:
        """Run the service under gunicorn, with the stage's routes by default.

        The settings are staging's: those of production with the embedded stores allowed. A
        variable that is None is not set at all. `under` is a command that runs its arguments.
        """
        with tempfile.TemporaryDirectory(prefix="proof-service-") as scratch:
            metrics = metrics_folder or Path(scratch) / "metrics"
            metrics.mkdir(exist_ok=True)
            ports = free_port(), free_port()
            settings: dict[str, str | None] = {
                "ENVIRONMENT": "staging",
                "PORT": str(ports[0]),
                "METRICS_PORT": str(ports[1]),
                "PROMETHEUS_MULTIPROC_DIR": str(metrics),
                "DRAIN_SECONDS": "0",
                "LOG_SAMPLE_RATIO": "1",
            }
            if "DATABASE_URL" not in extra:
                settings["DATABASE_URL"] = f"sqlite:///{self.database}"
            output, errors = Output(reading=reading), Output()
            program = Program(
                [*under, *self.gunicorn_command(app or ("stage:app" if staged else None))],
                environment=self.environment(
                    **{name: value for name, value in (settings | extra).items() if value is not None}
                ),
                folder=self.folder,
                stdout=output,
                stderr=errors,
            )
            running = Gunicorn(self, program, output, errors, *ports, metrics)
            try:
                if wait:
                    self._await(running)
                yield running
            finally:
                program.stop(signal.SIGTERM, 30)

    @staticmethod
    def _await(running: Gunicorn) -> None:
        def condition() -> bool:
            return not running.program.alive() or running.ready()

        try:
            eventually(condition, "the service is ready", 60)
            assert running.program.alive(), "it ended"
        except AssertionError as problem:
            said = running.output.text()[-1500:] + running.errors.text()[-1500:]
            raise AssertionError(f"{problem}\n{said}") from None


def generate(folder: Path, **answers: str) -> Service:
    """Generate a service from this template, away from the files of whoever runs the tests."""
    configuration = folder / "cookiecutter.yaml"
    configuration.write_text(
        f"replay_dir: {json.dumps(str(folder / 'replay'))}\n"
        f"cookiecutters_dir: {json.dumps(str(folder / 'cookiecutters'))}\n"
    )
    chosen = {"project_name": "Proof Service"} | answers
    command = [sys.executable, "-m", "cookiecutter", str(TEMPLATE), "--no-input"]
    command += ["--config-file", str(configuration), "--output-dir", str(folder)]
    done = run([*command, *(f"{name}={value}" for name, value in chosen.items())])
    assert done.returncode == 0, done.stdout + done.stderr
    return Service(folder / "proof-service", "proof-service", chosen.get("scale_tier", "small"))
