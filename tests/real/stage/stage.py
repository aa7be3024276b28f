"""Routes that misbehave on purpose, added to the service as its owner would add a feature.

Run inside the generated service, by its own Python, with only what the service's public face
(`observability`, `wsgi`) offers.
"""

import importlib
import logging
import logging.config
import os
import re
import sys
import threading
import time
import warnings
from typing import Any

import click
from flask import Response, request

_PACKAGE = os.environ["STAGE_PACKAGE"]
app = importlib.import_module(f"{_PACKAGE}.wsgi").app
_observability = importlib.import_module(f"{_PACKAGE}.observability")
_log = _observability.get_logger("stage")
_library = logging.getLogger("some.library")


@app.get("/stage/ok")
def ok() -> str:
    """Answer, and do nothing else."""
    return "ok"


@app.get("/stage/pid")
def pid() -> str:
    """Tell which worker answers."""
    return str(os.getpid())


@app.get("/stage/slow/<float:seconds>")
def slow(seconds: float) -> str:
    """Take a while."""
    time.sleep(seconds)
    return "slow"


@app.get("/stage/exit/<int:code>")
def exit_at_once(code: int) -> str:
    """End the worker, as a C extension might."""
    os._exit(code)


@app.get("/stage/hang")
def hang() -> str:
    """Match for longer than anybody waits, which lets no other thread run."""
    return str(re.match("(a+)+b", "a" * 60))


@app.get("/stage/status/<int:code>")
def status(code: int) -> Response:
    """Answer with a status."""
    return Response("as asked", code)


@app.get("/stage/login/<name>")
def login(name: str) -> Response:
    """Refuse whoever it is."""
    return Response(f"{name} is unknown", 401)


@app.get("/stage/bad-header")
def bad_header() -> Response:
    """Answer with a header that no server sends."""
    return Response("ok", headers={"X-Bad": "a\0b"})


@app.get("/stage/boom")
def boom() -> str:
    """Fail, for somebody, with a message of the caller's."""
    if user := request.args.get("user"):
        _observability.identify_user(user)
    raise RuntimeError(request.args.get("message", "boom"))


def _deep(levels: int, message: str) -> None:
    if levels == 0:
        raise RuntimeError(message)
    _deep(levels - 1, message)


@app.get("/stage/huge/<mark>")
def huge(mark: str) -> str:
    """Fail far down, with more to say than a pipe keeps whole."""
    try:
        _deep(40, f"{mark} " + "a long explanation; " * 300)
    except RuntimeError:
        _log.exception("huge", mark=mark, note="x" * 1000)
    return "huge"


@app.get("/stage/chatty/<mark>")
def chatty(mark: str) -> str:
    """Log as the service, as a library and as Python's warnings do."""
    _log.info("from the service", mark=mark, status="ours?", level="loud", event="e", message="m")
    _library.warning("from a library: %s", mark, extra={"mark": mark, "deep": {"a": [1, None]}})
    _library.error("badly formatted: %d", mark)
    warnings.warn(f"a warning about {mark}", stacklevel=1)
    return "said"


@app.get("/stage/levels/<mark>")
def levels(mark: str) -> str:
    """Say one line at each level, on two loggers."""
    for name in ("stage.one", "stage.two"):
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            logging.getLogger(name).log(level, "at a level", extra={"mark": mark})
    return "said"


def _silence(how: str) -> None:
    """Configure logging as libraries have been seen to, for the whole process."""
    if how == "dictConfig":
        logging.config.dictConfig({"version": 1})
    elif how == "basicConfig":
        logging.basicConfig(force=True, level=logging.CRITICAL, stream=sys.stdout)
    elif how == "handlers":
        logging.getLogger().handlers.clear()
    elif how == "shutdown":
        logging.shutdown()
    elif how == "disable":
        logging.disable(logging.CRITICAL)


@app.get("/stage/silences/<how>")
def silences(how: str) -> str:
    """Be the library that silences everybody else."""
    _silence(how)
    _log.info("from the service", mark=how)
    logging.getLogger(f"{_PACKAGE}.billing").info("from a module of the service", extra={"mark": how})
    return "silent"


_silence(os.environ.get("STAGE_SILENCES", ""))


@app.get("/stage/threads/<mark>")
def threads(mark: str) -> str:
    """Start two threads the documented way; one logs through a library."""

    def log_line() -> None:
        _log.info("from a thread", mark=mark)
        _library.info("from a library in a thread", extra={"mark": mark})

    _observability.identify_user(f"user-{mark}")
    started = [threading.Thread(target=_observability.in_request_context(log_line)) for _ in range(2)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return "said"


@app.get("/stage/thread-boom/<mark>")
def thread_boom(mark: str) -> str:
    """Fail in a thread that the request starts."""

    def fail() -> None:
        raise RuntimeError(f"in a thread {mark}")

    _observability.identify_user(f"user-{mark}")
    thread = threading.Thread(target=_observability.in_request_context(fail))
    thread.start()
    thread.join()
    return "started"


@app.route("/stage/secrets", methods=["POST"])
def secrets() -> str:
    """Be as careless with secrets as code can be, in all the ways the caller names."""
    body: dict[str, Any] = request.get_json()
    fields, text = body["fields"], body["text"]
    _log.warning("fields", **fields)
    _log.warning("nested", outer={"list": [{"inner": fields}], "tuple": (fields,)})
    _library.warning("extra", extra={"payload": fields})
    _library.warning("headers %s", dict(request.headers))
    _library.warning("a body %s", fields)
    _log.warning("url", target=request.url)
    _log.warning(text, sentence=text)
    try:
        raise ValueError(text)
    except ValueError as error:
        raise RuntimeError(f"while handling {request.url}: {text}") from error


@app.post("/stage/reads/<way>")
def reads(way: str) -> str:
    """Read the body, and say how long it is."""
    if way == "lines":
        return str(sum(map(len, request.stream)))
    if way == "form":
        return str(len(request.form["a"]))
    return str(len(request.get_data()))


@app.post("/stage/echo")
def echo() -> Response:
    """Send the body back while it arrives."""
    return Response(iter(request.stream), content_type="text/plain")


@app.post("/stage/sql")
def sql() -> str:
    """Run the statement that is the body, as a feature would."""
    from sqlalchemy import text  # noqa: PLC0415 - not every service has it

    database = importlib.import_module(f"{_PACKAGE}.database").db
    return str(database.session.execute(text(request.get_data(as_text=True))).all())


@app.get("/stage/holds/<float:seconds>")
def holds(seconds: float) -> str:
    """Ask the database, and do something else before giving its connection back."""
    from sqlalchemy import text  # noqa: PLC0415 - not every service has it

    importlib.import_module(f"{_PACKAGE}.database").db.session.execute(text("SELECT 1"))
    time.sleep(seconds)
    return "held"


@app.get("/stage/event/<name>")
def event(name: str) -> str:
    """Record a security event, whatever its name."""
    _observability.record_security_event(name, account="a-1")
    return "recorded"


@app.cli.command("stage-boom")
@click.argument("message")
def stage_boom(message: str) -> None:
    """Fail in a command."""
    raise RuntimeError(message)


if os.environ.get("STAGE_HANDLES_EVERYTHING"):

    @app.errorhandler(Exception)
    def handled(_: Exception) -> tuple[str, int]:
        """Answer for every failure, which hides them all from Flask's own signals."""
        return "handled", 500
