"""CPU time of one request: a JSON hello-world under gunicorn, bare and with the service's signals.

The worker's CPU time is what counts, not the time on the clock: how busy the machine is then matters less. It still
matters, through caches and clock rates. So bare Flask and the subjects take short turns, many in a round; what counts
of a round is the quarter of each one's turns that was disturbed least; each round is told by its ratio, in processes
that are started anew; and the median of the rounds is the result. Workers are held to one processor each:
servers.py says why.
"""

import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from load import Load, LoadError
from servers import Server, cpu_seconds
from services import EVERY_SIGNAL, BenchError, Services

TURN_SECONDS = 0.1
WARM_UP_SECONDS = 0.5


@dataclass
class Subject:
    """One row: what is measured, and of each round the microseconds a request and the throughput against bare Flask."""

    name: str
    tier: str
    signals: str
    micros: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)


BARE = Subject("bare Flask", "small", "")
SUBJECTS = (
    Subject("small, every signal", "small", EVERY_SIGNAL),
    Subject("medium, every signal", "medium", EVERY_SIGNAL),
    Subject("large, every signal", "large", EVERY_SIGNAL),
    Subject("small, identity alone", "small", "identity"),
    Subject("small, identity + metrics", "small", "metrics"),
    Subject("small, identity + log line", "small", "log"),
    Subject("small, identity + errors (Sentry)", "small", "errors"),
    Subject("small, identity + security events", "small", "security"),
)


class Worker:
    """A started subject, with connections to it, and the microseconds a request of each of its turns."""

    def __init__(self, server: Server, load: Load) -> None:
        """Takes a gunicorn with one worker."""
        self.server = server
        self.requests = 0
        self.turns: list[float] = []
        self._pid = server.worker()
        self._load = load

    def take_turn(self, seconds: float) -> None:
        """Answers requests for so long.

        Raises:
            BenchError: one is not answered
        """
        before = cpu_seconds(self._pid)
        try:
            requests = self._load.send(seconds)
        except (LoadError, OSError) as error:
            raise BenchError(f"{error}; the server said: {self.server.said()}") from error
        self.turns.append((cpu_seconds(self._pid) - before) / requests * 1e6)
        self.requests += requests

    def micros(self) -> float:
        """The first quartile of the turns after the first, which warmed up."""
        return statistics.quantiles(self.turns[1:], n=4)[0]


def measure_cost(services: Services, rounds: int, seconds: float, subjects: Sequence[Subject] = SUBJECTS) -> None:
    """Fills BARE and the subjects with rounds in which each is under load for so many seconds.

    Raises:
        BenchError: a signal that should be on is off
    """
    for tier in dict.fromkeys(subject.tier for subject in subjects):
        services.of(tier)
    for number in range(1, rounds + 1):
        print(f"cost: round {number} of {rounds} ...", file=sys.stderr)
        with ExitStack() as stack:
            bare, *workers = [start(services, subject, stack) for subject in (BARE, *subjects)]
            for _ in range(max(2, round(seconds / TURN_SECONDS))):
                for index, worker in enumerate(workers):
                    if index % 2 == 0:
                        bare.take_turn(TURN_SECONDS)
                    worker.take_turn(TURN_SECONDS)
            for subject, worker in zip((BARE, *subjects), (bare, *workers), strict=True):
                check(subject, worker)
                subject.micros.append(worker.micros())
                subject.ratios.append(bare.micros() / worker.micros())


def start(services: Services, subject: Subject, stack: ExitStack) -> Worker:
    """A subject that has answered some requests."""
    server = stack.enter_context(services.hello(subject.tier, subject.signals))
    server.keep_worker_on_one_processor()
    worker = Worker(server, stack.enter_context(Load(server.port, "/hello")))
    worker.take_turn(WARM_UP_SECONDS)
    return worker


def check(subject: Subject, worker: Worker) -> None:
    """Compares what the signals told with what was sent: a signal that is off by mistake would be cheap.

    Raises:
        BenchError: they differ
    """
    on = subject.signals
    if on in (EVERY_SIGNAL, "log") and worker.server.output.lines < worker.requests:
        raise BenchError(f"{subject.name}: {worker.server.output.lines} log lines of {worker.requests} requests")
    if on in (EVERY_SIGNAL, "metrics"):
        scraped = worker.server.get("/metrics", worker.server.metrics_port).decode()
        series = 'http_request_duration_seconds_count{method="GET",route="/hello",status="200"} '
        counted = next(
            (float(line.removeprefix(series)) for line in scraped.splitlines() if line.startswith(series)), 0
        )
        if counted < worker.requests:
            raise BenchError(f"{subject.name}: {counted} counted of {worker.requests} requests")
