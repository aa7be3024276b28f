"""A variable that cannot be used stops every way of starting, with one line that says it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from .processes import free_port, run
from .service import Service


class Bad(NamedTuple):
    """A variable, a value that cannot be used, and what the line says is allowed."""

    name: str
    value: str
    allowed: str


BAD = (
    Bad("PORT", "eighty", "1 to 65535"),
    Bad("PORT", "70000", "1 to 65535"),
    Bad("METRICS_PORT", "0", "1 to 65535"),
    Bad("WEB_CONCURRENCY", "-1", "processes"),
    Bad("WEB_THREADS", "many", "threads"),
    Bad("LOG_LEVEL", "LOUD", "WARNING"),
    Bad("LOG_FORMAT", "xml", "console"),
    Bad("LOG_LEVELS", "sqlalchemy", "="),
    Bad("LOG_LEVELS", "sqlalchemy=LOUD", "="),
    Bad("LOG_FILE", "/no/such/folder/x.log", "written"),
    Bad("LOG_CLIENT_IP", "some", "truncated"),
    Bad("LOG_SAMPLE_RATIO", "1.5", "0 to 1"),
    Bad("LOG_SAMPLE_RATIO", "nan", "0 to 1"),
    Bad("SENTRY_SAMPLE_RATE", "all", "0 to 1"),
    Bad("SENTRY_DSN", "hiddenkey-no-url", "https://"),
    Bad("SENTRY_DSN", "https://hiddenkey.example/", "https://"),
    Bad("DATABASE_URL", "mysql://u:hiddenpw@db/x", "postgresql://"),
    Bad("DATABASE_URL", "hiddenpw", "postgresql://"),
    Bad("REDIS_URL", "http://:hiddenpw@cache", "redis://"),
    Bad("DRAIN_SECONDS", "soon", "0 to 3600"),
    Bad("DRAIN_SECONDS", "inf", "0 to 3600"),
    Bad("HEALTH_DEPENDENCIES", "partner", "="),
    Bad("HEALTH_DEPENDENCIES", "partner=ftp://u:hiddenpw@x", "="),
    Bad("TRUSTED_PROXIES", "-2", "proxies"),
    Bad("ENVIRONMENT", "Production!", "lower case"),
    Bad("APP_VERSION", "1.0 beta\nforged", "letters"),
)
STARTS = ("gunicorn", "flask run", "flask doctor")


def _start(service: Service, how: str, **environment: str) -> tuple[int, str]:
    """Start in one of the ways; return the exit code and all that was said."""
    fixed = {"PORT": str(free_port()), "METRICS_PORT": str(free_port())} | environment
    app = f"{service.package}.wsgi"
    commands: dict[str, list[str | Path]] = {
        "gunicorn": service.gunicorn_command(),
        "flask run": [service.tool("flask"), "--app", app, "run", "--port", str(free_port())],
        "flask doctor": [service.tool("flask"), "--app", app, "doctor"],
    }
    done = run(commands[how], folder=service.folder, environment=service.environment(**fixed), seconds=60)
    return done.returncode, done.stdout + done.stderr


def _one_line(said: str, bad: Bad) -> None:
    lines = said.strip().splitlines()
    assert len(lines) == 1, said
    assert lines[0].startswith(f"{bad.name}:"), said
    assert bad.allowed in lines[0], said
    assert "hidden" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{bad.name}={bad.value[:20]!r}")
def test_a_bad_variable_is_one_line(small: Service, bad: Bad) -> None:
    """Variable, problem, what is allowed; never a secret, never a traceback."""
    # gunicorn reads this one by itself, before any configuration, and stops with words of its own.
    how = "flask doctor" if bad.name == "WEB_CONCURRENCY" else "gunicorn"
    code, said = _start(small, how, **{bad.name: bad.value})
    assert code not in (0, None), said
    _one_line(said, bad)


def test_make_serve_checks_before_gunicorn_does(small: Service) -> None:
    """Also the variable that gunicorn reads by itself."""
    code, said = small.make("serve", WEB_CONCURRENCY="many")
    assert code != 0
    assert said.startswith("WEB_CONCURRENCY:")
    assert "Traceback" not in said


@pytest.mark.parametrize("how", STARTS[1:])
@pytest.mark.parametrize("bad", [BAD[5], BAD[16]], ids=lambda bad: bad.name)
def test_every_way_of_starting_says_the_same_line(small: Service, how: str, bad: Bad) -> None:
    """The development server and commands check like gunicorn."""
    code, said = _start(small, how, **{bad.name: bad.value})
    assert code not in (0, None), said
    _one_line(said, bad)


POSTGRESQL = {"DATABASE_URL": "postgresql://u:hiddenpw@127.0.0.1:1/x"}
UNSAFE: tuple[tuple[dict[str, str], list[str]], ...] = (
    ({}, ["DATABASE_URL", "REDIS_URL"]),
    ({"FLASK_DEBUG": "1", "PORT": "x"}, ["FLASK_DEBUG", "PORT", "DATABASE_URL", "REDIS_URL"]),
    (POSTGRESQL, ["REDIS_URL"]),
    (POSTGRESQL | {"REDIS_URL": "redis://127.0.0.1:1/0", "FLASK_DEBUG": "1"}, ["FLASK_DEBUG"]),
)


@pytest.mark.parametrize(("environment", "named"), UNSAFE, ids=lambda one: str(one)[:20])
def test_production_names_all_that_is_unsafe_there_at_once(
    small: Service, environment: dict[str, str], named: list[str]
) -> None:
    """The embedded stores and the debugger are for development."""
    code, said = _start(small, "gunicorn", ENVIRONMENT="production", **environment)
    assert code not in (0, None)
    assert [line.partition(":")[0] for line in said.splitlines()] == named, said
    assert "hiddenpw" not in said
    assert "Traceback" not in said


def test_a_metrics_port_that_is_taken_is_one_line_too(small: Service) -> None:
    """Two services on one machine: the second says which variable to change."""
    with small.serving() as first:
        taken = str(first.metrics_port)
        code, said = _start(small, "gunicorn", METRICS_PORT=taken, ENVIRONMENT="staging")
        assert code not in (0, None)
        plain = [line for line in said.splitlines() if not line.startswith("{")]
        assert len(plain) == 1, said
        assert plain[0].startswith("METRICS_PORT:")
