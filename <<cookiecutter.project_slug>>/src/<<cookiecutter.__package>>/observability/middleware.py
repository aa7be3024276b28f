"""The one pair of hooks around a request: every signal is recorded here, once, at its end.

It wraps the WSGI call rather than Flask's before_request and after_request, so that a request
counts also where a hook answers early or raises, and with the status that was really sent.
"""

from collections.abc import Callable, Iterable, Iterator
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from time import perf_counter
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from flask import Request

from ..settings import Settings
from .identity import Identity, OnBehalfOf, identity_of
from .losses import Losses

Headers = list[tuple[str, str]]
Hooks = tuple[Callable[[], None], Callable[..., None], Callable[[], None]]
"""Called when a request begins, when its answer does, and when all of that is made."""

QUIET_PATHS = frozenset(("/health", "/health/live", "/health/ready", "/health/startup", "/metrics"))
"""Probes and scrapes: no log line, no metric."""

METHODS = frozenset("CONNECT DELETE GET HEAD OPTIONS PATCH POST PUT QUERY TRACE".split())
"""The methods that are labels; any other is `_OTHER` (OpenTelemetry, http.request.method)."""


class Middleware:
    """Gives each request its identity and calls the observers when it begins and ends."""

    def __init__(
        self,
        wsgi_app: WSGIApplication,
        settings: Settings,
        losses: Losses,
        began: Callable[[], None],
        observers: Iterable[Callable[[Identity], None]],
        done: Callable[[], None],
    ) -> None:
        self._wsgi_app = wsgi_app
        self._losses = losses
        self._observers = tuple(observers)
        self._hooks: Hooks = (began, self._ended, done)
        self._log_client_ip = settings.log_client_ip

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        identity = identity_of(environ)
        began, ended, done = _QUIET if environ["PATH_INFO"] in QUIET_PATHS else self._hooks

        def start(status: str, headers: Headers, exc_info: Any = None) -> Any:
            headers.append(("X-Request-ID", identity.request_id))
            try:
                write = start_response(status, headers, exc_info)
            except Exception:
                # The server refuses a header. Flask drops the request before this is recorded.
                if request := environ.get("werkzeug.request"):
                    identity.take_route(request)
                raise
            if not identity.status:
                ended(identity, environ, status, headers)
            return write

        with OnBehalfOf(identity):
            began()
            identity.started = perf_counter()
            try:
                body = self._wsgi_app(environ, start)
                if identity.size is None:
                    # What has no length is made while the server sends it.
                    return _Streamed(body, identity, done)
            except BaseException as error:
                if not identity.status:
                    identity.failure = error
                    ended(identity, environ, "500", [])
                done()
                raise
        done()
        return body

    def _ended(
        self, identity: Identity, environ: WSGIEnvironment, status: str, headers: Headers
    ) -> None:
        identity.seconds = perf_counter() - identity.started
        identity.status = int(status[:3])
        for name, value in headers:
            if name == "Content-Length" and value.isdigit():
                identity.size = int(value)
        method = environ["REQUEST_METHOD"]
        if method in METHODS:
            identity.method = method
        request: Request | None = environ.get("werkzeug.request")
        if request is not None:
            identity.take_route(request)
        identity.remote_address = environ.get("REMOTE_ADDR")
        identity.client_ip = client_ip(identity.remote_address, self._log_client_ip)
        for observer in self._observers:
            try:
                observer(identity)
            except Exception as error:
                self._losses.count("requests", type(error).__name__)


def client_ip(address: str | None, shown: str) -> str | None:
    """A client's address as LOG_CLIENT_IP, `full`, `truncated` or `off`, lets it be shown."""
    if not address or shown == "off":
        return None
    address = address.removeprefix("::ffff:")  # a proxy's socket, too, shows IPv4 so
    if shown == "full":
        return address[:64]
    family, kept, dropped = (AF_INET6, 6, 10) if ":" in address else (AF_INET, 3, 1)
    try:
        return inet_ntop(family, inet_pton(family, address)[:kept] + bytes(dropped))
    except (OSError, ValueError):
        return None


def _nothing(*_: object) -> None:
    pass


_QUIET: Hooks = (_nothing, _nothing, _nothing)


class _Streamed:
    """A body whose pieces are made while it is sent, under the request's ids."""

    def __init__(self, body: Iterable[bytes], identity: Identity, done: Callable[[], None]) -> None:
        self._body = body
        self._identity = identity
        self._done = done

    def __iter__(self) -> Iterator[bytes]:
        with OnBehalfOf(self._identity):
            self._pieces = iter(self._body)
        return self

    def __next__(self) -> bytes:
        with OnBehalfOf(self._identity):
            return next(self._pieces)

    def close(self) -> None:
        try:
            with OnBehalfOf(self._identity):
                getattr(self._body, "close", lambda: None)()
        finally:
            self._done()
            self._done = _nothing
