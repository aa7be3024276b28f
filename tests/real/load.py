"""Load on a running service, and an exact account of what became of every request."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from .service import ORDER, Gunicorn, Labels, Scrape, request

Step = Callable[[int], tuple[str, str, bytes | None]]
"""From a request's number to its method, path and body."""


@dataclass(frozen=True)
class Sent:
    """One request: when it was sent, what came back (0: nothing), and how long that took."""

    at: float
    path: str
    status: int
    seconds: float
    problem: str = ""


@dataclass
class Account:
    """What became of the requests, as the clients saw it."""

    sent: list[Sent] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    @property
    def answered(self) -> list[Sent]:
        """The requests that got an answer."""
        return [one for one in self.sent if one.status]

    @property
    def lost(self) -> list[Sent]:
        """The requests that were sent and got none."""
        return [one for one in self.sent if not one.status]

    def statuses(self) -> Counter[int]:
        """How many answers there were of each status."""
        return Counter(one.status for one in self.answered)


def mixed(number: int) -> tuple[str, str, bytes | None]:
    """Good requests and bad ones, each on a route of its own."""
    return (
        ("GET", "/stage/ok", None),
        ("GET", f"/api/v1/orders/{900_000 + number % 7}", None),
        ("GET", f"/nowhere/{number}", None),
        ("GET", "/stage/status/500", None),
    )[number % 4]


def one_path(path: str) -> Step:
    """The same GET again and again."""
    return lambda _: ("GET", path, None)


def order_body(**changes: object) -> bytes:
    """An order as JSON."""
    return json.dumps(ORDER | changes).encode()


class Client(threading.Thread):
    """Sends one request after the other, each on a connection of its own."""

    def __init__(  # noqa: PLR0913 - what a client does has this many parts
        self,
        port: int,
        steps: Iterator[int],
        step: Step,
        pause: float,
        enough: threading.Event,
        *,
        host: str = "127.0.0.1",
    ) -> None:
        """Numbers come from `steps`, which clients share."""
        super().__init__(daemon=True)
        self._host = host
        self.account = Account()
        self._port, self._steps, self._step = port, steps, step
        self._pause, self._enough = pause, enough

    def run(self) -> None:
        """Go on until the steps end or somebody says that it is enough."""
        for number in self._steps:
            self._send(*self._step(number))
            if self._enough.wait(self._pause) if self._pause else self._enough.is_set():
                return

    def _send(self, method: str, path: str, body: bytes | None) -> None:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=60)
        try:
            connection.connect()
        except OSError:
            self.account.refused.append(time.monotonic())
            self._enough.wait(0.02)
            return
        began = time.monotonic()
        status, problem = 0, ""
        try:
            headers = {"Connection": "close"}
            if body:
                headers["Content-Type"] = "application/json"
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            response.read()
            status = response.status
        except (TimeoutError, OSError, http.client.HTTPException) as exception:
            problem = repr(exception)
        finally:
            connection.close()
        self.account.sent.append(Sent(began, path, status, time.monotonic() - began, problem))


@contextmanager
def under_load(
    service: Gunicorn, *, step: Step = mixed, clients: int = 4, pause: float = 0.0, host: str = "127.0.0.1"
) -> Iterator[Account]:
    """Keep up a load while the block runs; the account is complete once it is left."""
    enough, account = threading.Event(), Account()
    numbers = itertools.count()
    lock = threading.Lock()

    def counted() -> Iterator[int]:
        while True:
            with lock:
                number = next(numbers)
            yield number

    started = [Client(service.port, counted(), step, pause, enough, host=host) for _ in range(clients)]
    for client in started:
        client.start()
    try:
        yield account
    finally:
        enough.set()
        _collect(started, account)


def send(service: Gunicorn, number: int, *, step: Step = mixed, clients: int = 4) -> Account:
    """Send so many requests and wait for all of them."""
    shares: list[Sequence[int]] = [range(first, number, clients) for first in range(clients)]
    started = [Client(service.port, iter(share), step, 0.0, threading.Event()) for share in shares]
    for client in started:
        client.start()
    account = Account()
    _collect(started, account)
    return account


def _collect(started: Sequence[Client], account: Account) -> None:
    for client in started:
        client.join(120)
        assert not client.is_alive(), "a request was never answered"
        account.sent += client.account.sent
        account.refused += client.account.refused


class Scraper(threading.Thread):
    """Scrapes all the while, and writes down each total that fell and each scrape that failed."""

    def __init__(self, service: Gunicorn) -> None:
        """Begin at the first scrape, which the caller may read as `first`."""
        super().__init__(daemon=True)
        self._service = service
        self._enough = threading.Event()
        self.first = self.last = service.scrape()
        self._highest: dict[tuple[str, Labels], float] = dict(self.first.totals())
        self.scrapes = 0
        self.fell: list[str] = []
        self.failed: list[str] = []
        self.most_files = 0

    def run(self) -> None:
        """Scrape, again and again."""
        while not self._enough.wait(0.02):
            self._look()

    def _look(self) -> None:
        files = len(list(self._service.metrics_folder.glob("*.db")))
        self.most_files = max(self.most_files, files)
        try:
            answer = request(self._service.metrics_port, "/metrics", seconds=20)
            assert answer.status == 200, answer.text[-200:]
            self.last = Scrape(answer.text)
        except (OSError, http.client.HTTPException, AssertionError, ValueError) as problem:
            self.failed.append(repr(problem))
            return
        self.scrapes += 1
        now = self.last.totals()
        for key, value in now.items():
            before = self._highest.get(key, 0.0)
            if value < before:
                self.fell.append(f"{key}: {before} -> {value}")
            self._highest[key] = max(before, value)
        self.fell += [f"{key} is gone" for key in self._highest.keys() - now.keys()]

    def stop(self) -> None:
        """Look one last time."""
        self._enough.set()
        self.join(60)
        self._look()


@contextmanager
def watched(service: Gunicorn) -> Iterator[Scraper]:
    """Scrape all the while the block runs."""
    scraper = Scraper(service)
    scraper.start()
    try:
        yield scraper
    finally:
        scraper.stop()


def counted(scrape: Scrape, **labels: str) -> float:
    """How many requests the metrics know of."""
    return scrape.total("http_request_duration_seconds_count", **labels)
