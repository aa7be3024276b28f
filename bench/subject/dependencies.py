"""An endpoint with one query and one read of the cache, with their metrics and without, in one process.

Runs in a medium service's environment; BENCH_PACKAGE names its package. SQLite and a cache in memory answer sooner than
servers do, so what is added weighs most here. Prints microseconds of CPU time a request, by turns, as JSON.
"""

import json
import os
import tempfile
import time
from importlib import import_module
from typing import Any

from flask import Flask  # type: ignore[import-not-found]

TURNS, REQUESTS = 24, 100

# As under gunicorn, before prometheus_client is imported.
os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp()


def nothing(*_: object) -> None:
    """Takes the place of a step of `create_app`."""


def service(*, counted: bool) -> Flask:
    """The service with an endpoint of that kind."""
    package = os.environ["BENCH_PACKAGE"]
    module = import_module(f"{package}.app")
    steps = {name: getattr(module, name) for name in ("init_database_metrics", "init_cache_metrics")}
    for name, step in steps.items():
        setattr(module, name, step if counted else nothing)
    app = module.create_app()
    for name, step in steps.items():
        setattr(module, name, step)
    db, cache = import_module(f"{package}.database").db, import_module(f"{package}.cache").cache
    query = import_module("sqlalchemy").text("SELECT 1")
    with app.app_context():
        cache().set("key", 1, 3600)

    def view() -> dict[str, Any]:
        return {"cached": cache().get("key"), "queried": db.session.scalar(query)}

    app.add_url_rule("/asks", view_func=view)
    return app


def micros(app: Flask, environ: dict[str, Any]) -> float:
    """CPU time of a request, the mean of a turn."""
    began = time.process_time()
    for _ in range(REQUESTS):
        for _piece in app.wsgi_app({**environ}, lambda *_: nothing):
            pass
    return (time.process_time() - began) / REQUESTS * 1e6


def main() -> None:
    """Turns of both, one after the other, which one first changing; the first two warm up."""
    apps = {"counted": service(counted=True), "uncounted": service(counted=False)}
    environ = import_module("werkzeug.test").create_environ("/asks")
    took: dict[str, list[float]] = {name: [] for name in apps}
    for turn in range(TURNS):
        for name in sorted(apps, reverse=bool(turn % 2)):
            took[name].append(micros(apps[name], environ))
    print(json.dumps({name: each[2:] for name, each in took.items()}))


if __name__ == "__main__":
    main()
