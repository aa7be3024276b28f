"""Copies of the template, services made from them, and the programs that tests run."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cookiecutter.main import cookiecutter

ROOT = Path(__file__).resolve().parent.parent
SERVICE = "<<cookiecutter.project_slug>>"
DEFINITION: dict[str, Any] = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
OPTIONS: dict[str, list[str]] = {name: values for name, values in DEFINITION.items() if isinstance(values, list)}
TIERS = OPTIONS["scale_tier"]

Generate = Callable[..., Path]
"""Takes answers by name, returns the folder of a service generated with them; the same folder for the same answers."""


def run(
    *command: str | Path, cwd: Path, check: bool = True, typed: str = "", seconds: float = 300
) -> subprocess.CompletedProcess[str]:
    """Runs a program and returns what it said.

    A non-zero exit code fails the test unless `check` is false; so does a program that takes longer than `seconds`, and
    then whatever it has started is stopped with it.
    """
    words = [str(word) for word in command]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(words, cwd=cwd, text=True, start_new_session=True, **pipes) as process:
        try:
            said, complained = process.communicate(typed, timeout=seconds)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                pytest.fail(f"{words} in {cwd} took longer than {seconds} s", pytrace=False)
            raise
    if check and process.returncode:
        pytest.fail(f"{words} in {cwd} ended with {process.returncode}:\n{said}\n{complained}", pytrace=False)
    return subprocess.CompletedProcess(words, process.returncode, said, complained)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path, except git's own."""
    files = (path for path in folder.rglob("*") if path.is_file() and ".git" not in path.relative_to(folder).parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def commit(folder: Path, message: str = "A change") -> str:
    """Commits all of a folder, as a git repository of its own, and returns the commit."""
    if not (folder / ".git").exists():
        run("git", "init", "--quiet", "--initial-branch=main", cwd=folder)
    run("git", "add", "--all", cwd=folder)
    run("git", "commit", "--quiet", "--allow-empty", f"--message={message}", cwd=folder)
    return run("git", "rev-parse", "HEAD", cwd=folder).stdout.strip()


def copy_template(target: Path) -> Path:
    """Copies what git would commit of the template, and lends the copy this checkout's installed tools."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT, check=False)
    assert listed.returncode == 0, "the tests run in a git checkout of the template"
    for name in filter(None, listed.stdout.split("\0")):
        source = ROOT / name
        if source.is_file() and name.split("/")[0] not in {"bench", "tests"}:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    (ROOT / ".cache").mkdir(exist_ok=True)
    (target / ".cache").symlink_to(ROOT / ".cache")
    return target


def generate_with_cookiecutter(template: Path, out: Path, **answers: str) -> Path:
    """Generates as `cookiecutter --no-input` does, without the user's configuration."""
    settings = {"replay_dir": str(out.parent / "replay"), "cookiecutters_dir": str(out.parent / "cookiecutters")}
    made = cookiecutter(
        str(template),
        no_input=True,
        extra_context=answers,
        output_dir=str(out),
        default_config=settings,
    )
    return Path(made)


def combinations() -> list[dict[str, str]]:
    """Answers for every tier with every database and cache; the other options take turns."""
    crossed = [
        {"scale_tier": tier, "database": database, "cache": cache}
        for tier in TIERS
        for database in OPTIONS["database"]
        for cache in OPTIONS["cache"]
    ]
    others = [name for name in OPTIONS if name not in crossed[0]]
    return [
        {**answers, **{name: OPTIONS[name][turn % len(OPTIONS[name])] for name in others}}
        for turn, answers in enumerate(crossed)
    ]


def required(program: str, how: str) -> str:
    """The path of a program that a test needs: where it is missing the test is skipped, in CI it fails."""
    if found := shutil.which(program):
        return found
    text = f"{program} is not installed: {how}"
    if os.environ.get("CI") == "true":
        pytest.fail(text, pytrace=False)
    pytest.skip(text)
