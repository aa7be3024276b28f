"""gunicorn: workers and ports, metrics served by the master, draining before it stops.

SIGTERM drains, SIGHUP replaces the workers one set by another, SIGUSR2 is refused. What the
master itself holds (settings, this file's imports) changes with a restart only.
"""

import atexit
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from shutil import rmtree
from types import FrameType
from typing import Any

from .settings import load_settings

settings = load_settings()

# prometheus_client chooses how it keeps values when it is imported, by this variable.
_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - only fresh names
if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
    _directory = tempfile.mkdtemp(prefix="metrics-", dir=_memory)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = _directory
    atexit.register(rmtree, _directory, ignore_errors=True)
    # A worker's end is not the service's.
    os.register_at_fork(after_in_child=lambda: atexit.unregister(rmtree))

from gunicorn.arbiter import Arbiter  # noqa: E402
from gunicorn.config import Config  # noqa: E402
from gunicorn.glogging import Logger  # noqa: E402
from gunicorn.http.errors import (  # noqa: E402
    ExpectationFailed,
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.sock import BaseSocket  # noqa: E402
from gunicorn.workers.base import Worker  # noqa: E402
from gunicorn.workers.gthread import TConn, ThreadWorker  # noqa: E402
from prometheus_client import CollectorRegistry  # noqa: E402

from .observability.logging import init_logging  # noqa: E402
from .observability.middleware import QUIET_PATHS, client_ip  # noqa: E402
from .workers import exposition  # noqa: E402
from .workers.listener import (  # noqa: E402
    SETTLE_SECONDS,
    accept_packets,
    addresses,
    refuse_new_connections,
)
from .workers.memory import begin_drain, is_draining  # noqa: E402
from .workers.processes import worker_exits  # noqa: E402

init_logging(settings)


class GunicornLogger(Logger):
    """gunicorn's lines are written as all others are; its access log is the service's own line."""

    def setup(self, cfg: Config) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
        self.error_log.setLevel("NOTSET")


_REFUSED_WITH = {
    ExpectationFailed: 417,
    LimitRequestHeaders: 431,
    LimitRequestLine: 414,
    UnsupportedTransferCoding: 501,
}
"""Where it is not 400 (gunicorn.workers.base.Worker.handle_error)."""


class PatientWorker(ThreadWorker):
    """Answers also the connections that waited to be accepted when it was asked to stop.

    Requests that gunicorn refuses are recorded as security events, and how long a request waited
    for a thread goes into a histogram.
    """

    waited: Callable[[float], None]

    def accept(self, listener: BaseSocket) -> None:
        # One poll can return the signal and a connection: the listener is closed by then.
        if listener.sock is not None:
            super().accept(listener)

    def enqueue_req(self, conn: TConn) -> None:
        if not conn.initialized:
            # A socket that takes IPv6 shows IPv4's addresses as ::ffff:192.0.2.1.
            conn.client = (conn.client[0].removeprefix("::ffff:"), *conn.client[1:])
            if is_draining():
                accept_packets(conn.sock)
        conn.queued = time.perf_counter()
        super().enqueue_req(conn)

    def handle(self, conn: TConn) -> Any:
        conn.queue_seconds = time.perf_counter() - conn.queued
        return super().handle(conn)

    def handle_request(self, req: Any, conn: TConn) -> Any:
        # Not every connection that a thread takes up holds a request.
        if req.path not in QUIET_PATHS:
            self.waited(conn.queue_seconds)
        return super().handle_request(req, conn)

    def handle_error(
        self, req: Any, client: socket.socket, addr: tuple[str, int], exc: BaseException
    ) -> None:
        shown = client_ip(addr[0], settings.log_client_ip)
        super().handle_error(req, client, (shown or "-", *addr[1:]), exc)
        # Those of an answer's headers are failures of the service.
        ours = isinstance(exc, InvalidResponseHeader | InvalidResponseHeaderName)
        if isinstance(exc, ParseException) and not ours:
            status = _REFUSED_WITH.get(type(exc), 400)
            self.wsgi.extensions["security_events"].request_refused(status, shown)

    def handle_quit(self, number: int, frame: FrameType | None) -> None:
        # ThreadWorker's own also shuts its pool down, which can wait for a lock that the code
        # which the signal interrupted holds.
        Worker.handle_quit(self, number, frame)

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled)
        if not self.alive:
            for listener in self.sockets:
                before = -1
                while before != self.nr_conns:
                    before = self.nr_conns
                    self.accept(listener)
                # Left open, it would take connections that nobody answers.
                listener.close()


bind = [f"[{address}]:{settings.port}" for address in addresses(settings.host)]
workers = settings.web_concurrency
threads = settings.web_threads
worker_class = PatientWorker
worker_tmp_dir = _memory
logger_class = GunicornLogger
control_socket_disable = True
# Forwarding headers are believed as far as TRUSTED_PROXIES says, and nowhere else.
forwarded_allow_ips = ""
forwarder_headers = ""
graceful_timeout = 20
timeout = 60
# Longer than the 60 s of most load balancers, which else write to a connection just closed.
keepalive = 75


def on_starting(server: Arbiter) -> None:
    exposition.empty_directory()
    init_logging(settings, CollectorRegistry())


def on_reload(server: Arbiter) -> None:
    init_logging(settings, CollectorRegistry())


def when_ready(server: Arbiter) -> None:
    exposition.serve_metrics(settings)
    _drain_before_stopping(server)
    server.handle_usr2 = lambda: server.log.warning(
        "SIGUSR2 refused: a second master would wipe this one's metrics; send SIGHUP or restart"
    )


def post_worker_init(worker: Worker) -> None:
    worker.wsgi.extensions["health"].watch()
    worker.waited = worker.wsgi.extensions["request_metrics"].waited


def child_exit(server: Arbiter, worker: Worker) -> None:
    exposition.merge_exited_worker(worker.pid)
    # Its caller, Arbiter.reap_workers, does not pass on what waitpid returned. A master without
    # listeners is stopping, and kills who takes too long.
    if server.LISTENERS:
        worker_exits.count(sys._getframe(1).f_locals.get("status", 0), worker.aborted)


def _drain_before_stopping(server: Arbiter) -> None:
    """On SIGTERM fail readiness at once, and stop only when balancers have had time to see it.

    gunicorn by itself closes its sockets at SIGTERM. A second SIGTERM stops without waiting.
    """
    stop = server.handle_term

    def at_signal(number: int, frame: FrameType | None) -> None:
        # A worker has this handler for its first moments: its end is not the service's.
        if os.getpid() == server.pid:
            begin_drain()
        server.signal(number, frame)

    def drain() -> None:
        server.handle_term = stop
        server.log.info("draining for %g s", settings.drain_seconds)
        wait = threading.Timer(settings.drain_seconds, stop_accepting)
        wait.daemon = True
        wait.start()

    def stop_accepting() -> None:
        for listener in server.LISTENERS:
            try:
                refuse_new_connections(listener.sock)
            except OSError as error:
                server.log.warning("%s lets connections in until it closes: %s", listener, error)
        time.sleep(SETTLE_SECONDS)
        server.signal(signal.SIGTERM, None)

    server.handle_term = drain
    signal.signal(signal.SIGTERM, at_signal)
