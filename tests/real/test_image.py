"""The image: built by a program that builds images, run by one that runs containers, as Compose says."""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from .containers import Container, Images, Plan, compose, container, images, memory_of, mounts_of
from .load import one_path, under_load
from .processes import Output, eventually, free_port, run
from .programs import program, unavailable
from .service import Gunicorn, Service, generate

COMMIT = ["git", "-c", "user.name=A. Owner", "-c", "user.email=owner@example.com", "commit", "--quiet"]


@dataclass(frozen=True)
class Built:
    """An image and the service it was made of."""

    service: Service
    root: Path
    configuration: dict[str, Any]
    model: dict[str, Any]
    revision: str
    size: str

    def plan(self, name: str, volumes: Path, **environment: str) -> Plan:
        """How Compose runs the image as one of its services."""
        wanted = self.model["services"][name]
        assert wanted["cap_drop"] == ["ALL"]
        mounts = mounts_of(wanted, volumes)
        for mount in mounts:
            # As an engine does to a new volume: it begins as what the image has there.
            here = self.root / mount.target.removeprefix("/")
            shutil.copystat(here, mount.source)
            shutil.chown(mount.source, here.stat().st_uid, here.stat().st_gid)
        variables = dict(pair.split("=", 1) for pair in self.configuration["Env"])
        return Plan(
            root=self.root,
            command=wanted.get("command") or self.configuration["Cmd"],
            environment=variables | wanted["environment"] | environment,
            user=self.configuration["User"],
            folder=self.configuration["WorkingDir"],
            mounts=mounts,
            memory=memory_of(wanted),
            read_only=wanted["read_only"],
        )

    @contextmanager
    def running(self, volumes: Path, **environment: str) -> Iterator[tuple[Container, Gunicorn]]:
        """The service in its container, once it is ready."""
        ports = free_port(), free_port()
        plan = self.plan("service", volumes, PORT=str(ports[0]), METRICS_PORT=str(ports[1]), **environment)
        output, errors = Output(), Output()
        with container(plan, output, errors) as started:
            seen = Gunicorn(self.service, started.program, output, errors, *ports, volumes)
            eventually(lambda: seen.ready() or not started.program.alive(), "the container is ready", 60)
            assert started.program.alive(), output.text() + errors.text()
            yield started, seen

    def once(self, plan: Plan) -> tuple[int, str]:
        """Run a container to its end; return its exit code and what it said."""
        output, errors = Output(), Output()
        with container(plan, output, errors) as started:
            code = started.program.wait(60)
            output.at_end()
        return code, output.text() + errors.text()


@pytest.fixture(scope="module")
def store() -> Iterator[Images]:
    """Where the images of these tests are."""
    with images() as made:
        yield made


def made(store: Images, service: Service) -> str:
    """Run `make image`; return what the build said."""
    code, said = service.make("image", f"ENGINE={store.engine}", f"BUILD_OPTIONS={store.build_options}")
    assert code == 0, said
    return said


@pytest.fixture(scope="module")
def built(store: Images, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The image of a service, made by `make image` in a checkout under umask 077 that also holds a secret."""
    service = generate(tmp_path_factory.mktemp("image"))
    for path in (service.folder, *service.folder.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o077)
    for command in (["git", "init", "--quiet"], ["git", "add", "--all"], [*COMMIT, "--message=Begin"]):
        done = run(command, folder=service.folder)
        assert done.returncode == 0, done.stderr
    (service.folder / ".env").write_text("SENTRY_DSN=https://key@errors.example.com/1")
    revision = run(["git", "rev-parse", "HEAD"], folder=service.folder).stdout.strip()
    base = re.findall(r"(?m)^FROM (python:\S+)", (service.folder / "Dockerfile").read_text())
    assert len(base) == 1, "one line says which Python"
    store.add_base(base[0])
    made(store, service)
    name = f"localhost/{service.slug}:0.1.0"
    size = store.sizes()[name]
    print(f"the image: {size}, on a base of {store.sizes()[f'docker.io/library/{base[0]}']}")
    return Built(service, store.root_of(name), store.inspect(name), compose(service.folder), revision, size)


@pytest.fixture(scope="module")
def migrated(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Volumes whose database is up to date, by the one-off container that Compose starts first."""
    volumes = tmp_path_factory.mktemp("volumes")
    waits_for = built.model["services"]["service"]["depends_on"]["migration"]
    assert waits_for["condition"] == "service_completed_successfully"
    code, said = built.once(built.plan("migration", volumes))
    assert code == 0, said
    return volumes


def test_the_image_says_what_it_is(built: Built) -> None:
    labels = built.configuration["Labels"]
    assert labels["org.opencontainers.image.revision"] == built.revision
    assert labels["org.opencontainers.image.version"] == "0.1.0"
    assert labels["org.opencontainers.image.title"] == "proof-service"


def test_the_service_can_read_its_files_whatever_the_umask_of_the_checkout(built: Built) -> None:
    """Its user is neither their owner nor of their group."""
    for folder in (built.root / "app", built.root / "opt"):
        for path in (folder, *folder.rglob("*")):
            needed = 0o005 if path.is_dir() else 0o004
            served = path.lstat().st_uid == 10001
            assert path.is_symlink() or served or path.stat().st_mode & needed == needed, path


def test_the_image_holds_the_service_and_neither_tools_nor_secrets(built: Built) -> None:
    names = {path.name for folder in ("app", "opt", "usr/local") for path in (built.root / folder).rglob("*")}
    assert {"gunicorn", "proof_service", "0001_orders.py"} <= names
    assert not {"pip", "hatchling", "pytest", "mypy", "constraints.txt", ".env", ".git"} & names
    for folder in ("build", "root/.cache"):
        assert not (built.root / folder).exists()
    assert not [path for path in (built.root / "usr/bin").iterdir() if path.name in {"gcc", "make", "git", "curl"}]


def test_nothing_in_the_image_is_the_services_but_its_database(built: Built) -> None:
    uid = int(built.configuration["User"].partition(":")[0])
    assert uid >= 10_000
    owned = [path for path in built.root.rglob("*") if path.lstat().st_uid == uid]
    assert owned == [built.root / "app/instance"]


def test_a_container_answers_as_the_contract_says(built: Built, migrated: Path) -> None:
    """Not as root, on a root that cannot be written, without a capability, gunicorn its first process."""
    with built.running(migrated) as (started, service):
        for probe in ("live", "ready", "startup"):
            assert service.get(f"/health/{probe}").status == 200
        assert service.order().status == 201
        whole = service.get("/health").json()
        assert whole["checks"]["database"]["status"] == "healthy"
        assert whole["environment"] == "local"
        assert service.get("/metrics").status == 404
        scrape = service.scrape()
        assert scrape.total("app_info", revision=built.revision, version="0.1.0") == 1
        assert scrape.total("orders_created_total") == 1
        look = "import os; print(os.getuid(), open('/proc/1/cmdline').read().split(chr(0))[1])"
        assert started.within(["python", "-c", look]).stdout.split() == ["10001", "/opt/venv/bin/gunicorn"]
        for place in ("/app/x", "/opt/service/x", "/etc/x", "/x"):
            refused = started.within(["touch", place])
            assert "Read-only file system" in refused.stderr, place
        assert not [line for line in service.records() if line["level"] not in {"INFO"}]


def test_the_health_check_tells_well_from_ill_and_costs_little(built: Built, migrated: Path) -> None:
    kind, *check = built.configuration["Healthcheck"]["Test"]
    assert kind == "CMD"
    with built.running(migrated) as (started, _):
        began = time.monotonic()
        assert started.within(check).returncode == 0
        seconds = time.monotonic() - began
        print(f"one health check: {seconds:.3f} s")
        assert seconds < 1
        nobody = ["env", f"PORT={free_port()}", *check]
        assert started.within(nobody).returncode == 1


def test_a_start_in_production_compiles_next_to_nothing(built: Built, migrated: Path) -> None:
    look = """
import http.client, os, sys, gunicorn.app.wsgiapp, proof_service.wsgi, proof_service.gunicorn_conf
files = {name: getattr(module, "__cached__", None) for name, module in sys.modules.items()}
print(*sorted(name for name, file in files.items() if file and not os.path.exists(file)))
"""
    nobody = "127.0.0.1:1"
    production = {
        "ENVIRONMENT": "production",
        "DATABASE_URL": f"postgresql://{nobody}/orders",
        "REDIS_URL": f"redis://{nobody}/0",
        "SENTRY_DSN": f"http://key@{nobody}/1",
    }
    plan = replace(built.plan("service", migrated, **production), command=["python", "-c", look])
    code, said = built.once(plan)
    assert code == 0, said
    assert len(said.split()) <= 5, said


def test_a_container_stops_within_its_grace_and_loses_no_request(built: Built, migrated: Path) -> None:
    grace = float(built.model["services"]["service"]["stop_grace_period"].removesuffix("s"))
    number = signal.Signals[built.configuration["StopSignal"]]
    with (
        built.running(migrated, DRAIN_SECONDS="2") as (started, service),
        under_load(service, step=one_path("/api/v1/orders"), clients=2, pause=0.01) as account,
    ):
        eventually(lambda: service.scrape().total("http_request_duration_seconds_count") > 20, "a load")
        signalled = time.monotonic()
        started.send(number)
        eventually(lambda: service.get("/health/ready").status == 503, "readiness is 503", 5)
        assert service.get("/health/live").status == 200
        assert started.program.wait(grace) == 0
        ended = time.monotonic()
    assert 2 <= ended - signalled < grace
    assert {one.status for one in account.answered} == {200}
    during = [one for one in account.answered if one.at > signalled]
    assert during, "it went on answering"
    first_refused = min(account.refused)
    assert not [one for one in account.lost if one.at < first_refused - 0.1]


@pytest.mark.parametrize(("variable", "value"), [("PORT", "80000"), ("WEB_CONCURRENCY", "many")])
def test_a_setting_that_cannot_be_used_stops_a_container_with_one_line(
    built: Built, migrated: Path, variable: str, value: str
) -> None:
    code, said = built.once(built.plan("service", migrated, **{variable: value}))
    assert code != 0
    assert said.startswith(f"{variable}: ")
    assert len(said.splitlines()) == 1


def test_production_does_not_start_on_sqlite(built: Built, migrated: Path) -> None:
    code, said = built.once(built.plan("service", migrated, ENVIRONMENT="production"))
    assert code != 0
    assert "DATABASE_URL: production needs a server; allowed: postgresql://" in said


def test_a_change_of_the_code_installs_no_package_again(store: Images, built: Built) -> None:
    if not store.keeps_layers:
        unavailable("overlayfs", "a kernel that has it keeps the layers that builds share")
    module = built.service.folder / "src/proof_service/home.py"
    module.write_text(module.read_text() + "# changed\n")
    said = made(store, built.service)
    assert "Installing build dependencies" in said
    assert "Collecting flask" not in said


@pytest.mark.parametrize("database", ["postgresql", "none"])
def test_the_dockerfile_is_linted(tmp_path: Path, database: str) -> None:
    service = generate(tmp_path, database=database)
    done = run([program("hadolint"), service.folder / "Dockerfile"])
    assert done.returncode == 0, done.stdout
