"""The README: its commands run, its table is what cookiecutter.json says, its tree is what is generated."""

import json
import re
import shlex
from pathlib import Path

import pytest
from formats import read_markdown
from readme import with_table
from template_checkout import DEFINITION, ROOT, Generate, run

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ (.+)$", README, re.MULTILINE)

# Commands that something else runs: the file that does, and what it holds if it does.
ELSEWHERE = {
    "make test": (".ci/run", "make test\n"),
    "make test-real": (".ci/run", "make test-real\n"),
    "make lint": (".ci/run", "make lint\n"),
    "make bench": ("Makefile", "bench/bench.py"),
    "cd ../order-service && make install run": ("tests/real/service.py", '"make"'),
    """curl -d '{"customer": "c-1", "amount": "12.50", "currency": "EUR"}' localhost:8000/api/v1/orders""": (
        "tests/real/test_smoke.py",
        "/api/v1/orders",
    ),
    "cruft update": ("tests/test_lifecycle.py", "    update(made)\n"),
    """cruft update --variables-to-update '{"scale_tier": "large"}'""": (
        "tests/test_lifecycle.py",
        "update(made, scale_tier=new)",
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_run_by_a_test(command: str) -> None:
    if not command.startswith("make new"):
        file, line = ELSEWHERE[command]
        assert line in (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make new")])
def test_every_way_to_make_a_service_works(new_environment: None, own_template: Path, command: str) -> None:
    del new_environment
    run(*shlex.split(command), cwd=own_template, typed="\n" * 10)
    if "--help" not in command:
        assert len(list(own_template.parent.parent.rglob("order-service/pyproject.toml"))) == 1


def test_the_table_of_the_tiers_is_theirs() -> None:
    assert with_table(README, DEFINITION) == README, "run `make readme`"


def test_the_tree_is_what_is_generated(service: Generate) -> None:
    made = service()
    (block,) = re.findall(r"```text\n(order-service\n.+?)```", README, re.DOTALL)
    folders: list[str] = []
    for line in block.splitlines()[1:]:
        depth = len(re.match(r"[│├└─\s]*", line)[0]) // 4  # type: ignore[index]
        name = re.sub(r"^[│├└─\s]*", "", line).split()[0]
        folders = [*folders[: depth - 1], name]
        assert made.joinpath(*folders).exists(), "/".join(folders)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page: str) -> None:
    read_markdown(ROOT / page)


def test_every_target_that_is_named_exists(service: Generate) -> None:
    for folder in (ROOT, service()):
        said = run("make", "--question", "--print-data-base", cwd=folder, check=False).stdout
        targets = set(re.findall(r"^([a-z-]+):", said, re.MULTILINE))
        for page in (folder / "README.md", folder / "CONTRIBUTING.md"):
            if page.is_file():
                own = set(re.findall(r"`(?:\$ )?make ([a-z-]+)", page.read_text(encoding="utf-8")))
                assert own <= targets, own - targets


def test_the_json_that_it_shows_is_valid() -> None:
    for block in re.findall(r"```json\n(.+?)```", README, re.DOTALL):
        for line in block.splitlines():
            json.loads(line)
