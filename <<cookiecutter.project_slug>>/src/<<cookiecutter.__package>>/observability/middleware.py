"""The one pair of hooks around a request: every signal is recorded here, once, at its end.

It wraps the WSGI call rather than Flask's before_request and after_request, so that a request
counts also where a hook answers early or raises, and with the status that was really sent.
"""

from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_network
from time import perf_counter
from typing import TYPE_CHECKING, Any

from flask import Request

from ..settings import Settings
from .identity import Identity, identity_of, mark_failure, set_identity
from .losses import Losses

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

Observer = Callable[[Identity], None]

QUIET_PATHS = frozenset(("/health", "/health/live", "/health/ready", "/health/startup", "/metrics"))
"""Probes and scrapes: no log line, no metric."""

METHODS = frozenset("CONNECT DELETE GET HEAD OPTIONS PATCH POST PUT QUERY TRACE".split())
"""The methods that are told apart; any other is `_OTHER` (OpenTelemetry, http.request.method)."""


class Middleware:
    """Gives each request its identity and tells the observers when it begins and ends."""

    def __init__(
        self,
        wsgi_app: "WSGIApplication",
        settings: Settings,
        began: Callable[[], None],
        ended: Iterable[Observer],
        done: Callable[[], None],
        losses: Losses,
    ) -> None:
        self._wsgi_app = wsgi_app
        self._began = began
        self._observers = tuple(ended)
        self._done = done
        self._losses = losses
        self._client_ip = _CLIENT_IP[settings.log_client_ip]

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterable[bytes]:
        identity = identity_of(environ)
        set_identity(identity)
        quiet = environ["PATH_INFO"] in QUIET_PATHS
        if not quiet:
            self._began()
        identity.started = perf_counter()

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            headers.append(("X-Request-ID", identity.request_id))
            if not quiet and not identity.status:
                self._ended(identity, environ, status, headers)
            return start_response(status, headers, exc_info)

        try:
            body = self._wsgi_app(environ, start)
        except BaseException as error:
            mark_failure(error, identity)
            if not quiet:
                if not identity.status:
                    identity.failure = error
                    self._ended(identity, environ, "500", [])
                self._done()
            set_identity(None)
            raise
        set_identity(None)
        if quiet:
            return body
        if identity.size is None:
            # What has no length is made while the server sends it.
            return _Streamed(body, identity, self._done)
        self._done()
        return body

    def _ended(
        self,
        identity: Identity,
        environ: "WSGIEnvironment",
        status: str,
        headers: list[tuple[str, str]],
    ) -> None:
        identity.seconds = perf_counter() - identity.started
        identity.status = int(status[:3])
        for name, value in headers:
            if name == "Content-Length":
                identity.size = int(value) if value.isdigit() else None
                break
        method = environ["REQUEST_METHOD"]
        if method in METHODS:
            identity.method = method
        request: Request | None = environ.get("werkzeug.request")
        if request is not None:
            identity.take_route(request)
        identity.remote_address = environ.get("REMOTE_ADDR")
        identity.client_ip = self._client_ip(identity.remote_address)
        for observer in self._observers:
            try:
                observer(identity)
            except Exception as error:
                self._losses.count("requests", type(error).__name__)


class _Streamed:
    """A body whose pieces are made while it is sent, with the request's ids at hand."""

    def __init__(self, body: Iterable[bytes], identity: Identity, done: Callable[[], None]) -> None:
        self._body = body
        self._pieces: Iterator[bytes] | None = None
        self._identity = identity
        self._done = done

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        set_identity(self._identity)
        try:
            if self._pieces is None:
                self._pieces = iter(self._body)
            return next(self._pieces)
        except Exception as error:
            mark_failure(error, self._identity)
            raise
        finally:
            set_identity(None)

    def close(self) -> None:
        set_identity(self._identity)
        try:
            if close := getattr(self._body, "close", None):
                close()
        finally:
            self._done()
            set_identity(None)


def _truncated(address: str | None) -> str | None:
    """The /24 of an IPv4 address, the /48 of an IPv6 one."""
    bits = 48 if address and ":" in address else 24
    try:
        return str(ip_network(f"{address}/{bits}", strict=False).network_address)
    except ValueError:
        return None


_CLIENT_IP: dict[str, Callable[[str | None], str | None]] = {
    "full": lambda address: address[:64] if address else None,
    "truncated": _truncated,
    "off": lambda _: None,
}
