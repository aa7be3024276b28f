"""Who and what the current request is: the ids that every signal shares."""

import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from contextvars import ContextVar
from random import getrandbits
from typing import Any, ParamSpec, TypeVar

from flask import Request, current_app

P = ParamSpec("P")
T = TypeVar("T")

_IDENTITY = "_identity_of_request"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}").fullmatch
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}"
).fullmatch


class Identity:
    """One request: its ids, known from its first line of code, and its outcome, known at its end.

    `failure` is the exception that Flask saw, `logged_failure` the last one that reached the
    log: together they keep a failure from being logged twice. `client_ip` is the remote address as
    far as LOG_CLIENT_IP lets it be shown. Times are in seconds, the size in bytes.
    """

    trace_id: str | None = None
    traceparent: str | None = None
    user_id: str | None = None
    failure: BaseException | None = None
    logged_failure: BaseException | None = None
    security_event_recorded = False
    started = 0.0
    seconds = 0.0
    status = 0
    method = "_OTHER"
    route = "<unmatched>"
    endpoint: str | None = None
    path = ""
    size: int | None = None
    remote_address: str | None = None
    client_ip: str | None = None

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id

    def take_route(self, request: Request) -> None:
        """Path, route and endpoint of a request that Flask has matched."""
        self.path = request.path
        if (rule := request.url_rule) is not None:
            self.route = rule.rule
            self.endpoint = rule.endpoint


_current: ContextVar[Identity | None] = ContextVar("identity", default=None)
current_identity = _current.get


def identity_of(environ: Mapping[str, Any]) -> Identity:
    """The ids of a WSGI request: the caller's where they are well formed, else new ones.

    `X-Request-ID` is free text by custom, so it is held to 64 harmless characters;
    `traceparent` is W3C Trace Context, section 3.2.
    """
    request_id = environ.get("HTTP_X_REQUEST_ID")
    if not request_id or not _REQUEST_ID(request_id):
        request_id = f"{getrandbits(128):032x}"
    identity = Identity(request_id)
    traceparent = environ.get("HTTP_TRACEPARENT")
    if traceparent and (parent := _TRACEPARENT(traceparent)):
        identity.traceparent, identity.trace_id = traceparent, parent[1]
    return identity


def request_id() -> str | None:
    """The current request's id, for answers and for people to quote."""
    identity = _current.get()
    return identity.request_id if identity else None


def identify_user(user_id: str) -> None:
    """Put the user on every later line and event of this request. Call it once they are known."""
    if identity := _current.get():
        identity.user_id = str(user_id)[:128]


def not_a_failure() -> None:
    """For an error handler: what it answers is neither logged nor reported as an error."""
    if identity := current_identity():
        identity.failure = None


def outgoing_headers() -> dict[str, str]:
    """The headers that tie a call this service makes to the request that made it."""
    identity = _current.get()
    if identity is None:
        return {}
    headers = {"X-Request-ID": identity.request_id}
    if identity.traceparent:
        headers["traceparent"] = identity.traceparent
    return headers


class OnBehalfOf:
    """Put a request's ids on every line and event. What fails meanwhile is its failure."""

    def __init__(self, identity: Identity | None) -> None:
        self._identity = identity

    def __enter__(self) -> None:
        self._token = _current.set(self._identity)

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        _current.reset(self._token)
        if error is not None:
            # For what logs it outside of the request.
            vars(error)[_IDENTITY] = self._identity


def identity_of_failure(error: BaseException | None) -> Identity | None:
    """The request of a failed thread, or of a body that broke off."""
    # Not by getattr: an exception may have a __getattr__ of its own.
    return vars(error).get(_IDENTITY) if error is not None else None


def in_request_context(function: Callable[P, T]) -> Callable[P, T]:
    """Put the ids of the request that starts a thread on that thread's lines and events.

    Python's threads begin without their parent's context variables, so wrap what they run:
    `Thread(target=in_request_context(work))`, `executor.submit(in_request_context(work), 1)`.
    The work has an application context of its own: it shares no database session with the request.
    """
    identity = _current.get()
    app_context = current_app.app_context if current_app else nullcontext

    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with OnBehalfOf(identity), app_context():
            return function(*args, **kwargs)

    return run
