"""What the metrics of the database and the cache add to an endpoint that asks both once."""

import json
import sys

from services import Services


def measure_dependencies(services: Services) -> dict[str, float]:
    """Microseconds of CPU time a request, counted and uncounted: of each the turn that was disturbed least.

    Raises:
        BenchError: the endpoint cannot be asked
    """
    print("dependencies ...", file=sys.stderr)
    turns: dict[str, list[float]] = json.loads(services.script("medium", "dependencies.py").splitlines()[-1])
    return {name: min(took) for name, took in turns.items()}
