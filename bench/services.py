"""The generated services that are measured: made and installed as an owner would, then started in several ways."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from servers import Server, running

ROOT = Path(__file__).resolve().parent.parent
SUBJECT = ROOT / "bench" / "subject"
THREADS = 4
EVERY_SIGNAL = "every"


class BenchError(Exception):
    """Something that should be measured does not work; the message says what."""


@dataclass(frozen=True)
class Service:
    """A generated service with an environment of its own, and a copy of its source without observability."""

    folder: Path
    package: str
    unobserved: Path

    @property
    def gunicorn(self) -> str:
        """Gunicorn of the service's environment."""
        return str(self.folder / ".venv" / "bin" / "gunicorn")


class Services:
    """One service per tier, made when it is first asked for, and the ways of starting it."""

    def __init__(self, workspace: Path, sink_port: int) -> None:
        """Takes a folder that nobody else uses and the port that takes telemetry."""
        self.workspace = workspace
        self._sink_port = sink_port
        self._made: dict[str, Service] = {}
        # Copies, so that no bytecode is left in the template.
        self._subject = Path(shutil.copytree(SUBJECT, workspace / "subject"))

    def of(self, tier: str) -> Service:
        """The service of a tier."""
        if tier not in self._made:
            self._made[tier] = self._make(tier)
        return self._made[tier]

    def hello(self, tier: str, signals: str, **variables: str) -> AbstractContextManager[Server]:
        """The hello-world app with these signals; none at all is bare Flask."""
        service = self.of(tier)
        configuration = f"{service.package}.gunicorn_conf" if signals else "plain_gunicorn"
        environment = self._environment(service, BENCH_SIGNALS=signals, **variables)
        command = [service.gunicorn, "--config", f"python:{configuration}", "hello:app"]
        return running(command, environment, self.workspace, "/hello")

    def whole(self, tier: str, *, observed: bool) -> AbstractContextManager[Server]:
        """The service itself, or the same without its `observability`."""
        service = self.of(tier)
        configuration = f"{service.package}.gunicorn_conf" if observed else "plain_gunicorn"
        environment = self._environment(service)
        if not observed:
            environment["PYTHONPATH"] = os.pathsep.join((str(service.unobserved), str(self._subject)))
        command = [service.gunicorn, "--config", f"python:{configuration}", f"{service.package}.wsgi:app"]
        return running(command, environment, self.workspace, "/")

    def script(self, tier: str, name: str) -> str:
        """What a script of the subject's prints, run in the service's environment.

        Raises:
            BenchError: it failed
        """
        service = self.of(tier)
        command = [str(Path(service.gunicorn).with_name("python")), str(self._subject / name)]
        log = self.workspace / f"{name}.log"
        return run(command, self.workspace, self._environment(service, LOG_FILE=str(log)))

    def _make(self, tier: str) -> Service:
        print(f"generating and installing {tier} ...", file=sys.stderr)
        folder = generate_by_cookiecutter(tier, self.workspace / tier)
        # uv is among the template's own tools, and installs in a second.
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        run(["make", "install"], folder, {"PATH": path})
        (package,) = (path.parent.name for path in folder.glob("src/*/wsgi.py"))
        unobserved = Path(shutil.copytree(folder / "src", self.workspace / f"{tier}-unobserved"))
        shutil.rmtree(unobserved / package / "observability")
        shutil.copytree(SUBJECT / "unobserved", unobserved / package / "observability")
        return Service(folder, package, unobserved)

    def _environment(self, service: Service, **more: str) -> dict[str, str]:
        """One worker, and every signal that a variable switches on; nothing of what surrounds the benchmark."""
        sink = f"127.0.0.1:{self._sink_port}"
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return {
            **kept,
            "BENCH_PACKAGE": service.package,
            "DATABASE_URL": f"sqlite:///{self.workspace / 'bench.db'}",
            "DRAIN_SECONDS": "0",
            "ENVIRONMENT": "bench",
            "LOG_FORMAT": "json",
            "LOG_SAMPLE_RATIO": "1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{sink}",
            "PYTHONPATH": str(self._subject),
            "SENTRY_DSN": f"http://key@{sink}/1",
            "WEB_CONCURRENCY": "1",
            "WEB_THREADS": str(THREADS),
            **more,
        }


def generate_by_cookiecutter(tier: str, out: Path) -> Path:
    """Cookiecutter's own command, under a configuration of our own so that the user's plays no part."""
    out.mkdir(parents=True)
    configuration = out / "cookiecutter.yaml"
    configuration.write_text(f"replay_dir: {out / 'replay'}\ncookiecutters_dir: {out / 'cookiecutters'}\n")
    command = [sys.executable, "-m", "cookiecutter", str(ROOT), "--no-input", "--config-file", str(configuration)]
    run([*command, "--output-dir", str(out), f"scale_tier={tier}"], ROOT)
    return made_in(out)


def generate_by_make_new(tier: str, out: Path) -> Path:
    """The template's command."""
    run(["make", "new"], ROOT, {"OUT": str(out), "ARGS": f"--no-input scale_tier={tier}"})
    return made_in(out)


def made_in(out: Path) -> Path:
    """The one service in a folder."""
    (made,) = (path.parent for path in out.glob("*/pyproject.toml"))
    return made


def run(command: list[str], folder: Path, variables: dict[str, str] | None = None) -> str:
    """Runs a command to its end, silently; returns what it printed.

    Raises:
        BenchError: it failed; the message holds what it said
    """
    # The flags of the make that runs this are not for another.
    surroundings = {
        name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}
    }
    done = subprocess.run(
        command,
        cwd=folder,
        env={**surroundings, **(variables or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


class Sink(BaseHTTPRequestHandler):
    """Takes whatever telemetry is sent over HTTP, and keeps nothing."""

    def do_POST(self) -> None:
        """Answers 200 after reading the body."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def sink() -> Iterator[int]:
    """The port of a Sink, until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
