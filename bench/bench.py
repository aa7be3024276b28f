"""What observability costs in a generated service: `make bench` generates one per tier, installs, and measures.

    bench.py [--rounds N] [--seconds S] [--only cost|dependencies|start|memory|scrape|generation ...]

Ratios come first, because they carry over to other machines; absolute figures, which do not, stand behind them. Goals
stand beside what was measured, and nothing fails for missing one: the exit code tells whether everything worked.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from cost import BARE, SUBJECTS, measure_cost
from dependencies import measure_dependencies
from generation import measure_generation
from load import CONNECTIONS, LoadError
from scrape import WORKERS, measure_scrapes
from servers import ServerError
from services import THREADS, BenchError, Services, sink
from whole import Pair, measure_memory, measure_start

ROUNDS = 4
SECONDS = 2.0

FLOOR = 0.80
GOAL = 0.88
"""Of bare Flask's throughput: what a small service keeps at least with every signal on, and what it should reach."""

MOST_OF_DEPENDENCIES = 0.05
"""What the metrics of the database and the cache add at most to an endpoint that asks each once."""

MOST_START_SECONDS = 0.5
MOST_MEMORY_MIB = 15
MOST_GENERATION_SECONDS = 1.0


def print_cost(services: Services, options: argparse.Namespace) -> None:
    """Throughput of a hello-world as far as CPU time decides it."""
    measure_cost(services, options.rounds, options.seconds)
    print(
        f"\nCPU time of a request: JSON hello-world, one gunicorn worker, {THREADS} threads, {CONNECTIONS} connections"
    )
    print(f"{'':36}{'throughput against bare Flask':^30}  {'µs a request':^15}")
    print(f"{'':36}{'median':>10}{'lowest':>10}{'highest':>10}  {'added':>7}{'all':>8}")
    bare = statistics.median(BARE.micros)
    for subject in (BARE, *SUBJECTS):
        ratio, micros = statistics.median(subject.ratios), statistics.median(subject.micros)
        added = "" if subject is BARE else f"{bare / ratio - bare:+.0f}"
        aim = f"   floor {FLOOR:.2f}, goal {GOAL:.2f}: {verdict(ratio)}" if subject is SUBJECTS[0] else ""
        print(
            f"{subject.name:36}{ratio:10.2f}{min(subject.ratios):10.2f}{max(subject.ratios):10.2f}"
            f"  {added:>7}{micros:8.0f}{aim}"
        )


def verdict(ratio: float) -> str:
    """Where a throughput stands, as it is printed."""
    if ratio < FLOOR:
        return "below the floor"
    return "reached" if ratio >= GOAL else "above the floor, below the goal"


def print_dependencies(services: Services, _: argparse.Namespace) -> None:
    """What the metrics of the database and the cache add."""
    micros = measure_dependencies(services)
    counted, uncounted = micros["counted"], micros["uncounted"]
    print("\nCPU time of a medium service's request with one query and one read of the cache, the least disturbed turn")
    print(
        f"{'with their metrics':36}{counted / uncounted:10.2f} x   {counted - uncounted:+.1f} µs"
        f" ({counted:.0f} against {uncounted:.0f} without them)   at most +{MOST_OF_DEPENDENCIES:.0%}"
    )


def print_start(services: Services, options: argparse.Namespace) -> None:
    """Time to the first answered request."""
    seconds = measure_start(services, options.rounds + 2)
    print("\nStart-up of a small service: s to the first answered request")
    # The clock counts here, and other programs can only add to it: the fastest was disturbed least.
    fastest = Pair([min(seconds.observed)], [min(seconds.unobserved)])
    print_pair("fastest", fastest, f"at most +{MOST_START_SECONDS} s", decimals=2)


def print_memory(services: Services, _: argparse.Namespace) -> None:
    """Memory of a worker."""
    mib = measure_memory(services, rounds=2)
    print("\nMemory of a small service's worker, MiB")
    print_pair("resident", mib["Rss"], f"at most +{MOST_MEMORY_MIB} MiB", decimals=1)
    print_pair("resident, its part of shared pages", mib["Pss"], "", decimals=1)


def print_pair(name: str, pair: Pair, aim: str, decimals: int) -> None:
    """The service beside the same without `observability`."""
    observed, unobserved = statistics.median(pair.observed), statistics.median(pair.unobserved)
    print(
        f"{name:36}{observed / unobserved:10.2f} x   {observed - unobserved:+.{decimals}f}"
        f" ({observed:.{decimals}f} against {unobserved:.{decimals}f} without observability)   {aim}"
    )


def print_scrapes(services: Services, _: argparse.Namespace) -> None:
    """Cost of a scrape before and after deaths."""
    scrapes = measure_scrapes(services)
    print(f"\nA scrape, with {WORKERS} workers alive")
    first = next(iter(scrapes.values()))
    for deaths, scrape in scrapes.items():
        ratio = scrape.milliseconds / first.milliseconds
        print(
            f"{f'after {deaths} deaths':36}{ratio:10.2f} x   {scrape.files} files opened, {scrape.milliseconds:.1f} ms"
        )


def print_generation(services: Services, options: argparse.Namespace) -> None:
    """Time to generate a service."""
    ways = {way: min(seconds) for way, seconds in measure_generation(services.workspace, options.rounds).items()}
    print("\nGenerating a small service, fastest")
    first = next(iter(ways.values()))
    for way, seconds in ways.items():
        print(f"{way:36}{seconds / first:10.2f} x   {seconds:.2f} s   at most {MOST_GENERATION_SECONDS} s")


MEASURES: dict[str, Callable[[Services, argparse.Namespace], None]] = {
    "cost": print_cost,
    "dependencies": print_dependencies,
    "start": print_start,
    "memory": print_memory,
    "scrape": print_scrapes,
    "generation": print_generation,
}


def main() -> int:
    """Returns 1, after saying what, if something that should be measured does not work."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often all is measured anew (%(default)s)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="load on each subject in a round (%(default)s)")
    parser.add_argument("--only", choices=MEASURES, action="append", help="this alone; can be given several times")
    options = parser.parse_args()
    chosen = [name for name in MEASURES if not options.only or name in options.only]
    print(f"Python {platform.python_version()}, {os.cpu_count()} processors, {options.rounds} rounds")
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as workspace, sink() as sink_port:
            services = Services(Path(workspace), sink_port)
            for name in chosen:
                MEASURES[name](services, options)
                sys.stdout.flush()
    except (BenchError, LoadError, ServerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
