"""How long generating a service takes, by Cookiecutter's command and by `make new`."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from services import generate_by_cookiecutter, generate_by_make_new

WAYS: dict[str, Callable[[str, Path], Path]] = {
    "Cookiecutter": generate_by_cookiecutter,
    "make new": generate_by_make_new,
}


def measure_generation(workspace: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds, per way of generating a small service and per round."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):
        print(f"generation: round {number} of {rounds} ...", file=sys.stderr)
        for index, (way, generate) in enumerate(WAYS.items()):
            out = workspace / f"generation-{number}-{index}"
            began = time.monotonic()
            generate("small", out)
            if number:  # the first may install what `make new` needs
                seconds[way].append(time.monotonic() - began)
    return seconds
