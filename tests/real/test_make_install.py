"""`make install` on machines that are not ours; the service has no packages here, so that each takes a moment."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from .processes import clean_environment, run
from .service import generate

UV_OR_PIP = ("uv", "pip")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a service whose dependencies are taken out."""
    service = generate(tmp_path_factory.mktemp("bare")).folder
    project = service / "pyproject.toml"
    bare = re.sub(r"^(dependencies|dev) = \[.*?^\]", r"\1 = []", project.read_text(), flags=re.MULTILINE | re.DOTALL)
    project.write_text(bare)
    return service


@pytest.fixture
def folder(generated: Path, tmp_path: Path) -> Path:
    """Return a copy of the service, for one test to change."""
    return Path(shutil.copytree(generated, tmp_path / "service"))


@pytest.fixture(params=UV_OR_PIP)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return a PATH with uv, or one where pip is all there is."""
    tools = tmp_path / "tools"
    tools.mkdir()
    if request.param == "uv":
        (tools / "uv").symlink_to(Path(sys.executable).with_name("uv"))
    (tools / "python3").symlink_to(Path(sys.executable).resolve())
    others = [each for each in os.environ["PATH"].split(os.pathsep) if not Path(each, "uv").exists()]
    return os.pathsep.join([str(tools), *others])


def make(folder: Path, *targets: str, **extra: str) -> tuple[int, str]:
    """Run make there; return its exit code and all it printed."""
    done = run(["make", *targets], folder=folder, environment=clean_environment(**extra), seconds=300)
    return done.returncode, done.stdout + done.stderr


def value_of(variable: str, folder: Path, **extra: str) -> str:
    """Return a variable of the Makefile as its recipes see it."""
    code, printed = make(folder, "--eval", f"show: ; @echo '$({variable})'", "show", **extra)
    assert code == 0, printed
    return printed.strip()


def works(folder: Path) -> bool:
    """Whether the installed service can be imported from this folder."""
    code = "import importlib.util; print(importlib.util.find_spec('proof_service').origin)"
    done = run([folder / ".venv" / "bin" / "python", "-c", code], folder=folder.parent)
    return Path(done.stdout.strip() or "/").is_relative_to(folder.resolve())


def test_installing_names_the_tool_and_happens_once(folder: Path, path: str) -> None:
    """A long step announces itself; the second time nothing is done."""
    code, printed = make(folder, "install", PATH=path)
    assert code == 0, printed
    tool = "uv" if Path(path.partition(os.pathsep)[0], "uv").exists() else "pip"
    assert f"Installing the service and its tools into .venv with {tool}" in printed
    assert works(folder)
    assert "Installing" not in make(folder, "install", PATH=path)[1]


def test_a_folder_that_was_moved_is_installed_again(folder: Path, path: str) -> None:
    """The scripts of an environment name the folder in which it was made."""
    assert make(folder, "install", PATH=path)[0] == 0
    moved = folder.rename(folder.with_name("elsewhere"))
    code, printed = make(moved, "install", PATH=path)
    assert code == 0, printed
    assert "making it again" in printed
    assert works(moved)


def test_a_python_that_was_removed_is_replaced(folder: Path, path: str) -> None:
    """An upgrade of the system removes the interpreter that an environment points to."""
    assert make(folder, "install", PATH=path)[0] == 0
    python = folder / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python3")
    code, printed = make(folder, "install", PATH=path)
    assert code == 0, printed
    assert "making it again" in printed
    assert works(folder)


@pytest.mark.parametrize("path", ["uv"], indirect=True)
def test_an_environment_elsewhere_is_left_as_it_is(folder: Path, path: str, tmp_path: Path) -> None:
    """VENV may name one that several checkouts share, or `.venv` be a link to it."""
    assert make(folder, "install", PATH=path)[0] == 0
    copy = shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns(".venv"))
    (copy / ".venv").symlink_to(folder / ".venv")
    for arguments in ([], [f"VENV={folder}/.venv"]):
        code, printed = make(copy, "install", *arguments, PATH=path)
        assert code == 0, printed
        assert "making it again" not in printed
    assert works(folder)


@pytest.mark.parametrize("path", ["pip"], indirect=True)
def test_pip_settings_of_the_user_do_not_stop_it(folder: Path, path: str, tmp_path: Path) -> None:
    """`user` and `require-virtualenv` are common in pip.conf."""
    settings = tmp_path / "pip.conf"
    settings.write_text("[global]\nrequire-virtualenv = true\n[install]\nuser = true\n")
    code, printed = make(folder, "install", PATH=path, PIP_CONFIG_FILE=str(settings))
    assert code == 0, printed
    assert works(folder)


@pytest.mark.parametrize("path", ["pip"], indirect=True)
def test_where_python3_is_too_old_another_can_be_named(folder: Path, path: str) -> None:
    """A stand-in for an old python3 is refused in one line, which says how to name another; that one is taken."""
    old = Path(path.partition(os.pathsep)[0], "python3")
    old.unlink()
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    code, printed = make(folder, "run", PATH=path)
    assert code != 0
    refusal, make_says = printed.strip().splitlines()
    assert refusal.startswith("Python 3.11 or newer is needed")
    assert "make run PYTHON=python3.13" in refusal
    assert make_says.startswith("make: ***")
    code, printed = make(folder, "install", f"PYTHON={Path(sys.executable).resolve()}", PATH=path)
    assert code == 0, printed
    assert works(folder)


@pytest.mark.parametrize("before", [True, False])
def test_the_version_is_the_projects_own(folder: Path, *, before: bool) -> None:
    """Another tool's table may have a version too."""
    project = folder / "pyproject.toml"
    table = '[tool.other]\nversion = "9.9.9"\n'
    project.write_text(table + project.read_text() if before else project.read_text() + table)
    assert value_of("VERSION", folder) == "0.1.0"


def test_a_git_worktree_has_its_revision(folder: Path, tmp_path: Path) -> None:
    """In a worktree `.git` is a file."""
    git: list[str | Path] = ["git", "-C", folder, "-c", "user.name=A. Owner", "-c", "user.email=owner@example.com"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "The service"]):
        assert run([*git, *command]).returncode == 0
    assert run([*git, "worktree", "add", "--quiet", tmp_path / "tree"]).returncode == 0
    head = run([*git, "rev-parse", "HEAD"]).stdout.strip()
    assert value_of("REVISION", tmp_path / "tree") == head
    assert make(tmp_path / "tree", "revision") == (0, "")


def test_a_checkout_of_another_owner_says_what_to_do(folder: Path) -> None:
    """Git refuses to read it, and the image would lack its revision; git's own variable for tests makes it refuse."""
    assert run(["git", "init", "--quiet", folder]).returncode == 0
    code, printed = make(folder, "revision", GIT_TEST_ASSUME_DIFFERENT_OWNER="1", HOME=str(folder))
    assert code == 0
    (line,) = printed.splitlines()
    assert line.startswith("The image names no revision: fatal: detected dubious ownership")
    assert "git config --global --add safe.directory" in line
