"""Fixtures of every test. A developer's own environment reaches none of them."""

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# prometheus_client chooses by this variable, when it is imported, where values are kept.
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

from <<cookiecutter.__package>>.app import create_app
<% if cookiecutter.database == 'postgresql' %>
from <<cookiecutter.__package>>.database import db
<% endif %>
from <<cookiecutter.__package>>.observability import loggers
from <<cookiecutter.__package>>.observability.logging import Lines
from <<cookiecutter.__package>>.settings import Settings
from <<cookiecutter.__package>>.workers import memory

from .support import Service, a_process, is_ours

MakeService = Callable[..., Service]


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of the shell, no .env file, no proxy; files go where pytest removes them."""
    for name in filter(is_ours, list(os.environ)):
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
<% if cookiecutter.database == 'postgresql' %>
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/test.db")
<% endif %>


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    """Take back what a service changes in its process: loggers, hooks, shared memory."""
    hooks = sys.excepthook, threading.excepthook
    last_resort = logging.lastResort
    before = {log: (log.level, log.handlers[:], log.propagate) for log in _all_loggers()}
    yield
    logging.captureWarnings(False)
    logging.disable(logging.NOTSET)
    logging.lastResort = last_resort
    for handler in loggers.root.handlers:
        if isinstance(handler, Lines):
            handler.end()
    for log in _all_loggers():
        level, log.handlers[:], log.propagate = before.get(log, (logging.NOTSET, [], True))
        log.disabled = False
        if log.level != level:
            log.setLevel(level)
    sys.excepthook, threading.excepthook = hooks
    memory._memory[:] = bytes(len(memory._memory))


def _all_loggers() -> list[logging.Logger]:
    known = [*loggers.manager.loggerDict.values(), *logging.root.manager.loggerDict.values()]
    named = [log for log in known if isinstance(log, logging.Logger)]
    return [loggers.root, logging.root, *named]


@pytest.fixture
def make_service(tmp_path: Path) -> Iterator[MakeService]:
    """Makes a service with the settings given, whose log is a file of the test's own."""
    made: list[Service] = []

    def make(**settings: Any) -> Service:
        log = tmp_path / f"service-{len(made)}.log"
        chosen = Settings(
            **{"_env_file": None, "log_file": log, "log_format": "json", "log_sample_ratio": 1.0}
            | settings
        )
        made.append(Service(create_app(chosen), chosen, log))
        return made[-1]

    yield make
<% if cookiecutter.database == 'postgresql' %>
    for service in made:
        with service.app.app_context():
            db.session.remove()
            for engine in db.engines.values():
                engine.dispose()
<% endif %>
    if sentry := sys.modules.get("sentry_sdk"):
        sentry.get_client().close(timeout=0)
        sentry.get_global_scope().set_client(None)


_A_LIFE = """
import logging, os, sys, warnings
from gunicorn.config import Config
from <<cookiecutter.__package>>.app import create_app
from <<cookiecutter.__package>>.settings import Settings

app = create_app(Settings(_env_file=None))
app.get("/fails")(lambda: 1 // 0)
app.test_client().get("/fails")
logging.warning("x" * 10_000, extra={"sentry": "sentry_sdk" in sys.modules})
warnings.warn("the old way")

os.environ["PROMETHEUS_MULTIPROC_DIR"] = os.getcwd()
from <<cookiecutter.__package>>.gunicorn_conf import GunicornLogger

gunicorn = GunicornLogger(Config())
gunicorn.info("Listening at: %s (%s)", "http://0.0.0.0:8000", 7)
gunicorn.warning("Worker with pid %s was terminated", 8)
try:
    raise OSError("address in use")
except OSError:
    gunicorn.exception("cannot bind")
raise RuntimeError("at the end")
"""


@pytest.fixture(scope="session")
def process_output(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What a process of the service's own wrote to standard output, from its start to its end."""
    done = a_process(_A_LIFE, tmp_path_factory.mktemp("process"))
    assert (done.returncode, done.stderr) == (1, b"")
    return done.stdout


@pytest.fixture
def service(make_service: MakeService) -> Service:
    """The service with its defaults."""
    return make_service()
