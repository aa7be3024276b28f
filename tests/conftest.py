"""What the tests share: a committed copy of the template, and services generated once for each set of answers."""

import fcntl
import functools
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cookiecutter.generate
import pytest
from jinja2 import BytecodeCache
from jinja2.bccache import Bucket
from template_checkout import ROOT, Generate, combinations, commit, copy_template, generate_with_cookiecutter, run


@pytest.fixture(scope="session", autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps the tests and the user's own settings of git, Cookiecutter and make apart."""
    folder = tmp_path_factory.mktemp("settings")
    (folder / "cookiecutter.yaml").write_text(
        f"replay_dir: {folder}/replay\ncookiecutters_dir: {folder}/cookiecutters\n"
    )
    patch = pytest.MonkeyPatch()
    patch.setenv("COOKIECUTTER_CONFIG", str(folder / "cookiecutter.yaml"))
    patch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for role in ("AUTHOR", "COMMITTER"):
        patch.setenv(f"GIT_{role}_NAME", "A. Owner")
        patch.setenv(f"GIT_{role}_EMAIL", "owner@example.com")
    for name in ("no_proxy", "NO_PROXY"):
        patch.setenv(name, "127.0.0.1,localhost", prepend=",")  # what tests start is on this machine
    for name in ("ARGS", "OUT", "MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS", "GIT_DIR", "GIT_WORK_TREE"):
        patch.delenv(name, raising=False)
    yield
    patch.undo()


class Compiled(BytecodeCache):
    """What Jinja has compiled: two thirds of the time that it takes to generate a service."""

    def __init__(self) -> None:
        self._code: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if bucket.key in self._code:
            bucket.bytecode_from_string(self._code[bucket.key])

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._code[bucket.key] = bucket.bytecode_to_string()


@pytest.fixture(scope="session", autouse=True)
def _templates_compiled_once() -> Iterator[None]:
    """Lets generations in this process share what Jinja compiles; a file that has changed is compiled again."""
    compiled, make = Compiled(), cookiecutter.generate.create_env_with_context
    with pytest.MonkeyPatch.context() as patch:

        def environment(*arguments: Any) -> Any:
            made = make(*arguments)
            made.bytecode_cache = compiled
            return made

        patch.setattr(cookiecutter.generate, "create_env_with_context", environment)
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template as a clean git checkout of its own. Tests that change it take `own_template`."""
    copy = copy_template(tmp_path_factory.mktemp("template") / "cookiecutter-flask-observability")
    commit(copy, "The template")
    return copy


@pytest.fixture
def own_template(template: Path, tmp_path: Path) -> Path:
    """A clean checkout of the template for one test to change."""
    copy = tmp_path / "own" / template.name
    shutil.copytree(template, copy, symlinks=True)
    return copy


@pytest.fixture(scope="session")
def service(template: Path, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Generate:
    """Generates a service, once for each set of answers. Tests read it and leave it as it is.

    Tests that run side by side share it.
    """
    shared = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        shared = shared.parent

    @functools.cache
    def generate(**answers: str) -> Path:
        text = json.dumps(answers, sort_keys=True)
        folder = shared / f"services-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        folder.mkdir(exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "made").exists():
                made = generate_with_cookiecutter(template, folder / "out", **answers)
                (folder / "made").symlink_to(made)
        return (folder / "made").resolve()

    return generate


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test that takes `answers` once for each combination of options."""
    if "answers" in metafunc.fixturenames:
        each = combinations()
        names = [f"{one['scale_tier']}-{one['database']}-{one['cache']}" for one in each]
        metafunc.parametrize("answers", each, ids=names)


@pytest.fixture(scope="session")
def new_environment() -> None:
    """What `make new` installs on its first run."""
    run(sys.executable, ROOT / "scripts" / "environment.py", "new", cwd=ROOT)
