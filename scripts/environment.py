"""Makes the environments that this template's tools run in: `.cache/new` for `make new`, `.cache/dev` for the rest.

Nothing but the standard library, because it runs before anything is installed; nothing newer than Python 3.6 before the
version is checked, because an old Python should read one line and not a traceback.
"""

import sys

if sys.version_info < (3, 11):
    sys.exit(
        "error: this needs Python 3.11 or newer and %s is %d.%d; "
        "name another with PYTHON=, for example PYTHON=python3.13"
        % (sys.executable, sys.version_info[0], sys.version_info[1])
    )

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"


class InstallError(Exception):
    """An environment could not be made; the message is one line."""


def folder_of(group: str) -> Path:
    """Where a dependency group of pyproject.toml is installed."""
    return CACHE / group


def ensure(group: str) -> Path:
    """Installs a dependency group of pyproject.toml unless it is there already, and returns its Python.

    Two processes may ask at once: one installs, the other waits.
    """
    folder = folder_of(group)
    python = folder / "bin" / "python"
    recipe = recipe_of(group)
    if is_complete(folder, recipe):
        return python
    try:
        CACHE.mkdir(exist_ok=True)
        with (CACHE / f"{group}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_complete(folder, recipe):
                print(f"Installing what `make` needs here into {folder.relative_to(ROOT)}, once ...", file=sys.stderr)
                shutil.rmtree(folder, ignore_errors=True)
                install(group, folder)
                (folder / "recipe").write_text(recipe)
    except OSError as error:
        raise InstallError(
            f"{folder} cannot be made: {error.strerror}: copy or clone the template into a folder of yours"
        ) from error
    return python


def recipe_of(group: str) -> str:
    """All that decides what an environment holds: another recipe means that it is made again."""
    constraints = hashlib.sha256((ROOT / "constraints.txt").read_bytes()).hexdigest()
    return "\n".join([sys.version, sys.base_prefix, str(folder_of(group).resolve()), *requirements(group), constraints])


def requirements(group: str) -> list[str]:
    """A dependency group as pyproject.toml lists it."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        listed: list[str] = tomllib.load(file)["dependency-groups"][group]
    return listed


def is_complete(folder: Path, recipe: str) -> bool:
    """Whether the last installation ended, followed this recipe, and its Python has not been removed since."""
    marker = folder / "recipe"
    return marker.is_file() and marker.read_text() == recipe and (folder / "bin" / "python").exists()


def install(group: str, folder: Path) -> None:
    """Makes the environment, with uv where there is one, else with venv and pip."""
    pinned = ["--quiet", "--constraint", str(ROOT / "constraints.txt"), *requirements(group)]
    uv = shutil.which("uv")
    if uv:
        run(group, [uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
        run(group, [uv, "pip", "install", "--python", str(folder / "bin" / "python"), *pinned])
        return
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        raise InstallError(
            f"{sys.executable} cannot make virtual environments: install the package python3-venv (Debian, Ubuntu: "
            "apt install python3-venv) or uv"
        )
    run(group, [sys.executable, "-m", "venv", str(folder)])
    run(group, [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", *pinned])


def run(group: str, command: list[str]) -> None:
    """Runs an installer; what it says goes into a log, which is named if it fails."""
    log = CACHE / f"{group}.log"
    surroundings = {**os.environ, "PIP_USER": "0"}  # a pip that its owner set to install for the user refuses a venv
    with log.open("wb") as output:
        code = subprocess.run(
            command, env=surroundings, stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode
    if code:
        said = log.read_text(errors="replace").strip().splitlines() or ["nothing was said"]
        last = next((line for line in reversed(said) if "error" in line.lower()), said[-1])
        raise InstallError(
            f"installing into {folder_of(group).relative_to(ROOT)} failed: {last.strip()} (all of it: {log})"
        )


def main() -> int:
    """Ensures the groups that the command line names."""
    try:
        for group in sys.argv[1:]:
            ensure(group)
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
