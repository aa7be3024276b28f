"""Start-up and memory of the whole service, against the same service without its `observability` package."""

import sys
import time
from dataclasses import dataclass, field

from load import Load
from servers import memory_mib
from services import BenchError, Services

LOAD_SECONDS = 1.0
"""How long a worker is busy before its memory is read, so that what is made at the first requests is there."""


@dataclass
class Pair:
    """Readings of the service, and of the same without observability, one of each per round."""

    observed: list[float] = field(default_factory=list)
    unobserved: list[float] = field(default_factory=list)

    def of(self, *, observed: bool) -> list[float]:
        """One side's readings."""
        return self.observed if observed else self.unobserved


def measure_start(services: Services, rounds: int) -> Pair:
    """Seconds from starting gunicorn to its first answered request."""
    seconds = Pair()
    services.of("small")
    for number in range(rounds + 1):
        print(f"start-up: round {number} of {rounds} ...", file=sys.stderr)
        for observed in (True, False):
            began = time.monotonic()
            with services.whole("small", observed=observed):
                taken = time.monotonic() - began
            if number:  # the first writes bytecode
                seconds.of(observed=observed).append(taken)
    return seconds


def measure_memory(services: Services, rounds: int) -> dict[str, Pair]:
    """MiB of one worker under load, as `Rss` and as `Pss`.

    Raises:
        BenchError: what should be without observability is not, or the other way round
    """
    mib = {"Rss": Pair(), "Pss": Pair()}
    services.of("small")
    for number in range(1, rounds + 1):
        print(f"memory: round {number} of {rounds} ...", file=sys.stderr)
        for observed in (True, False):
            with services.whole("small", observed=observed) as server, Load(server.port, "/") as load:
                if (server.ask("/health/live")[0] == 200) != observed:  # observability brings the probes
                    raise BenchError(f"the service {'with' if observed else 'without'} observability is not that")
                load.send(LOAD_SECONDS)
                for name, value in memory_mib(server.worker()).items():
                    mib[name].of(observed=observed).append(value)
    return mib
