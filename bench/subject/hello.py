"""The smallest JSON service, bare or with the generated service's signals: what gunicorn loads to be measured.

Runs in the generated service's environment. Two variables say what is wanted: BENCH_PACKAGE, the service's package, and
BENCH_SIGNALS, a list of names out of SIGNALS, `every` for all there are, or nothing for Flask alone.
"""

import os
from importlib import import_module
from typing import Any

from flask import Flask  # type: ignore[import-not-found]

SIGNALS = {
    "log": ("init_logging", "RequestLines"),
    "metrics": ("init_metrics",),
    "errors": ("init_errors",),
    "security": ("init_security",),
}
"""A signal, and the steps of `init_observability` that switch it on."""


class Off:
    """Stands for a signal that is left out: whatever is asked of it, it does nothing."""

    def __getattr__(self, name: str) -> Any:
        """Any method at all, without effect."""
        return nothing


def nothing(*_: object, **__: object) -> Off:
    """Takes a step's place in `init_observability`, or an observer's."""
    return Off()


def leave_out(observability: Any, signals: set[str]) -> None:
    """Makes `init_observability` skip the steps of these signals; the rest stays the service's own, in its order."""
    for signal in signals:
        for step in SIGNALS[signal]:
            setattr(observability, step, nothing)
    if "errors" in signals:
        observability.errors = Off()


def hello(wanted: set[str]) -> Flask:
    """One route that answers a little JSON."""
    app = Flask(__name__)
    if wanted:
        package = os.environ["BENCH_PACKAGE"]
        observability = import_module(f"{package}.observability")
        if "every" not in wanted:
            leave_out(observability, SIGNALS.keys() - wanted)
        observability.init_observability(app, import_module(f"{package}.settings").load_settings())

    app.add_url_rule("/hello", view_func=view)
    return app


def view() -> dict[str, str]:
    """The answer."""
    return {"hello": "world"}


app = hello(set(filter(None, os.environ.get("BENCH_SIGNALS", "").split(","))))
