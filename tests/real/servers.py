"""The servers around a service: Prometheus, PostgreSQL, Redis and Bugsink, each on loopback."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import sqlite3
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .processes import Program, clean_environment, eventually, free_port, run
from .programs import program

S = TypeVar("S", bound="Server")

INITDB = ("--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")


@contextmanager
def _scratch(name: str) -> Iterator[Path]:
    """Make a folder that another user can reach, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix=f"proof-{name}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def answers(port: int, path: str) -> bool:
    """Ask whether a server of this machine says 200."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return bool(answer.status == 200)


class Server:
    """A server that can be stopped, frozen and started again where it was."""

    def __init__(self, command: list[str | Path], folder: Path, port: int) -> None:
        self._command, self.folder, self.port = command, folder, port
        self.program = self._run()

    def _run(self) -> Program:
        log = self.folder / "server.log"
        environment = clean_environment(PYTHONUNBUFFERED="1")
        return Program(self._command, environment=environment, folder=self.folder, stdout=log, stderr=log)

    def ready(self) -> bool:
        raise NotImplementedError

    def await_ready(self) -> None:
        def condition() -> bool:
            return self.ready() or not self.program.alive()

        eventually(condition, f"{self._command[0]} is ready", 60)
        assert self.program.alive(), (self.folder / "server.log").read_text()[-2000:]

    def stop(self) -> None:
        # To PostgreSQL SIGTERM means "when all clients have gone", SIGINT means now.
        self.program.stop(signal.SIGINT)

    def restart(self) -> None:
        self.program = self._run()
        self.await_ready()

    def end(self) -> None:
        if self.program.alive():
            self.program.thaw()
        self.stop()


@contextmanager
def running(server: S) -> Iterator[S]:
    """Wait until a server is ready; stop it at the end of the block."""
    try:
        server.await_ready()
        yield server
    finally:
        server.end()


class Postgres(Server):
    """A cluster in a folder of its own, run as somebody whom PostgreSQL accepts."""

    def __init__(self, folder: Path) -> None:
        owner = _unprivileged()
        lower: list[str | Path] = []
        if owner:
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            lower = ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}"]
            lower.append("--clear-groups")
        port = free_port()
        data = folder / "data"
        made = run([*lower, *self._makes(data)], folder=folder)
        assert made.returncode == 0, made.stderr
        options = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"]
        options += ["max_connections=200", "log_min_messages=fatal"]
        settings = [part for option in options for part in ("-c", option)]
        command = [*lower, program("postgres"), "-D", data, "-p", str(port), *settings]
        super().__init__(command, folder, port)

    def _makes(self, data: Path) -> list[str | Path]:
        """Return the command that makes the cluster."""
        return [program("initdb"), "-D", data, "-U", "postgres", *INITDB]

    def query(self, statement: str, database: str = "postgres") -> str:
        address = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-Atqc", statement, database]
        done = run([program("psql"), *address], seconds=20)
        if done.returncode:
            raise ValueError(done.stderr)
        return done.stdout.strip()

    def ready(self) -> bool:
        return self.query("SELECT 1") == "1"

    def database(self, name: str) -> str:
        """Make an empty database and return its URL."""
        self.query(f"CREATE DATABASE {name}")
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"


class Standby(Postgres):
    """A replica of another cluster, which it follows."""

    def __init__(self, folder: Path, primary: Postgres) -> None:
        self._primary = primary
        super().__init__(folder)

    def _makes(self, data: Path) -> list[str | Path]:
        of_primary = ["-h", "127.0.0.1", "-p", str(self._primary.port), "-U", "postgres"]
        return [program("pg_basebackup"), "-D", data, *of_primary, "--write-recovery-conf", "--checkpoint=fast"]


def _unprivileged() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to run as root."""
    if os.geteuid():
        return None
    with suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")


class Redis(Server):
    def __init__(self, folder: Path) -> None:
        port = free_port()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
        super().__init__([program("redis-server"), *options], folder, port)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def ready(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), 2) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")


class Prometheus(Server):
    def __init__(self, folder: Path, configuration: Path, port: int, *options: str) -> None:
        command: list[str | Path] = [
            program("prometheus"),
            *options,
            f"--config.file={configuration}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        super().__init__(command, folder, port)

    def ready(self) -> bool:
        return answers(self.port, "/-/ready")

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data that the HTTP API answers with; what it refuses is an error that says why."""
        address = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as refused:
            raise AssertionError(f"{refused.read().decode()} {parameters}") from None

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return an instant query's series, each with its labels and its value."""
        result = self.ask("query", query=expression)["result"]
        return [(one["metric"], float(one["value"][1])) for one in result]

    def value(self, expression: str) -> float:
        result = self.query(expression)
        assert len(result) == 1, f"{expression}: {result}"
        return result[0][1]

    def states(self, alert: str) -> dict[str, str]:
        """Return whether an alert is pending or firing, by its severity."""
        result = self.query(f'ALERTS{{alertname="{alert}"}}')
        return {labels["severity"]: labels["alertstate"] for labels, _ in result}

    def scrapes(self) -> list[tuple[float, float]]:
        """Return (time, up) of every scrape so far."""
        result = self.ask("query", query="up[1h]")["result"]
        return [(float(t), float(v)) for series in result for t, v in series["values"]]


@dataclass(frozen=True)
class Project:
    """One inbox of Bugsink; every service that is watched has its own."""

    number: int
    dsn: str
    database: Path

    def events(self) -> list[dict[str, Any]]:
        """Return what arrived, oldest first, as it was sent."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            rows = connection.execute(
                "SELECT data FROM events_event WHERE project_id = ? ORDER BY digested_at",
                (self.number,),
            ).fetchall()
        return [json.loads(row[0]) for row in rows]

    def groups(self) -> int:
        """Return how many issues the events were put into."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            (number,) = connection.execute(
                "SELECT count(*) FROM issues_issue WHERE project_id = ?", (self.number,)
            ).fetchone()
        return int(number)

    def raw(self) -> str:
        """Return every byte that Bugsink keeps of this project's events."""
        return json.dumps(self.events(), ensure_ascii=False)


class Bugsink(Server):
    """A server of Sentry's protocol. Its projects are made beforehand, all at once."""

    INBOXES = 24

    def __init__(self, folder: Path) -> None:
        port = free_port()
        manage = program("bugsink-manage")
        conf: list[str | Path] = [program("bugsink-create-conf"), "--template=local", f"--port={port}"]
        self._step([*conf, "--host=127.0.0.1"], folder)
        with (folder / "bugsink_conf.py").open("a") as settings:
            settings.write('\nBUGSINK["PHONEHOME"] = False\nALLOWED_HOSTS = ["*"]\n')
        self._step([manage, "migrate"], folder)
        self._step([manage, "migrate", "--database=snappea"], folder)
        script = (
            "from projects.models import Project\n"
            f"for n in range({self.INBOXES}):\n"
            "    p = Project.objects.create(name=f'inbox-{n}')\n"
            "    print('dsn', p.id, p.dsn)\n"
        )
        said = self._step([manage, "shell", "-c", script], folder)
        database = folder / "db.sqlite3"
        self._inboxes = [
            Project(int(line.split()[1]), line.split()[2], database)
            for line in said.splitlines()
            if line.startswith("dsn ")
        ]
        serve: list[str | Path] = [manage, "runserver", "--noreload", f"127.0.0.1:{port}"]
        super().__init__(serve, folder, port)

    @staticmethod
    def _step(command: list[str | Path], folder: Path) -> str:
        done = run(command, folder=folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ready(self) -> bool:
        return answers(self.port, "/health/ready")

    def inbox(self) -> Project:
        """Return an inbox that nothing has been sent to."""
        return self._inboxes.pop()


@contextmanager
def postgres() -> Iterator[Postgres]:
    with _scratch("postgres") as folder, running(Postgres(folder)) as server:
        yield server


@contextmanager
def standby(primary: Postgres) -> Iterator[Standby]:
    with _scratch("standby") as folder, running(Standby(folder, primary)) as server:
        yield server


@contextmanager
def redis() -> Iterator[Redis]:
    with _scratch("redis") as folder, running(Redis(folder)) as server:
        yield server


@contextmanager
def prometheus(job: str, target: str, **settings: Any) -> Iterator[Prometheus]:
    """Run one that scrapes one target, labelled as CONTRACT says a scrape labels it.

    `settings` are top-level ones of its configuration, in place of these.
    """
    scrape = {
        "job_name": job,
        "static_configs": [{"targets": [target], "labels": {"service": job, "environment": "staging"}}],
    }
    configuration = {
        "global": {"scrape_interval": "2s", "scrape_timeout": "2s"},
        "scrape_configs": [scrape],
    } | settings
    with _scratch("prometheus") as folder:
        file = folder / "prometheus.yml"
        file.write_text(json.dumps(configuration))  # JSON is YAML
        with running(Prometheus(folder, file, free_port())) as server:
            yield server


@contextmanager
def evaluating(rules: Path, job: str, target: str) -> Iterator[Prometheus]:
    """Run one that scrapes, and evaluates a file of rules, every second."""
    every = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    with prometheus(job, target, **{"global": every, "rule_files": [str(rules)]}) as server:
        eventually(lambda: server.value("up") == 1, "the first scrape")
        yield server


@contextmanager
def bugsink() -> Iterator[Bugsink]:
    with _scratch("bugsink") as folder, running(Bugsink(folder)) as server:
        yield server
