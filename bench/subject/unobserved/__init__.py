"""Takes the place of the service's `observability` package, to tell what that costs in start-up time and memory.

The benchmark copies the service's `src/`, puts this folder where `observability/` was, and names the copy first in
PYTHONPATH. Everything that the rest of the service imports is here, does nothing, and imports nothing that the service
would not import without it. A name that is missing here stops the benchmark: add it.
"""

import logging as standard_logging
from collections.abc import Callable
from typing import Any

from flask import Flask  # type: ignore[import-not-found]


class Inert:
    """A metric that counts nothing."""

    def labels(self, *_: object, **__: object) -> "Inert":
        """Itself, for any labels."""
        return self

    def inc(self, amount: float = 1) -> None:
        """Nothing."""

    dec = set = observe = inc


class Metrics:
    """prometheus-flask-exporter's decorators, which here return the function as it is."""

    def counter(self, *_: object, **__: object) -> Callable[[Any], Any]:
        """A decorator without effect."""
        return lambda function: function

    gauge = histogram = summary = counter


class Health:
    """A service whose dependencies nobody watches."""

    def add_check(self, *_: object, **__: object) -> None:
        """Nothing."""

    startup_done = watch = add_check


class Logger:
    """Fields as keywords, as structlog takes them, over the standard library's logger."""

    def __init__(self, name: str) -> None:
        """Takes the logger's name."""
        self._logger = standard_logging.getLogger(name)

    def info(self, message: str, **fields: object) -> None:
        """One line."""
        self._logger.info("%s %s", message, fields)

    debug = warning = error = exception = info


metrics = Metrics()
get_logger = Logger


def counter(*_: object, **__: object) -> Inert:
    """A metric without effect."""
    return Inert()


gauge = histogram = counter


def identify_user(user_id: str) -> None:
    """Nothing."""


def in_request_context(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as it is."""
    return function


def outgoing_headers() -> dict[str, str]:
    """None."""
    return {}


def request_id() -> None:
    """None."""


def record_security_event(event: str, **_: object) -> None:
    """Nothing."""


def register_security_event(event: str) -> str:
    """The name as it is."""
    return event


def init_observability(app: Flask, _: object) -> None:
    """Gives the app the one extension that `create_app` asks for."""
    app.extensions["health"] = Health()
