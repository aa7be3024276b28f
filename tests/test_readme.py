"""The pages: each command is typed as it stands or proven elsewhere, the README's table and tree are what is made."""

import json
import re
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest
from commands import Command, Terminal, commands_of, typed
from formats import read_markdown
from readme import with_table
from template_checkout import DEFINITION, OPTIONS, ROOT, SERVICE, Generate, commit, run

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ["README.md", "CONTRIBUTING.md"]
ENTER = ("]: ", "")


class Proof(NamedTuple):
    """Where commands are proven: a file and what it holds if it does so."""

    pages: str
    commands: str
    file: str
    holds: str
    why_not_typed: str = ""


HERE = "tests/test_readme.py"
FIRST_HOUR = "tests/real/test_commands.py"
ON_CALL = "tests/real/test_on_call.py"

TEMPLATES = [
    Proof("*", r"make new.*", HERE, "def test_every_way_to_make_a_service_works("),
    Proof("*", r"(cookiecutter|cruft create) ADDRESS", HERE, "def test_the_template_works_from_its_address("),
    Proof("*", r"cruft update -y.*", HERE, "def test_a_service_is_updated_as_the_readme_says("),
    Proof("*", r"make (help|readme)", HERE, "def test_what_the_template_makes_at_once_is_made("),
    Proof("*", r"cd \.\./order-service && make install run|curl .*", FIRST_HOUR, "def test_the_first_minutes("),
    Proof("*", r"git (status|diff)", "tests/test_lifecycle.py", "cruft", "git's own, of what cruft left"),
    Proof("*", r"make test", ".ci/run", "make test\n", "it would run itself"),
    Proof("*", r"make test-real", ".ci/run", "make test-real\n", "it takes half an hour; CI runs it"),
    Proof("*", r"make lint", ".ci/run", "make lint\n", "CI runs it beside the tests"),
    Proof("*", r"make bench", "Makefile", "bench/bench.py", "nothing runs it: it needs an idle machine"),
    Proof("*", r"make pins", "Makefile", "scripts/pins.py", "nothing runs it: it asks for versions that change daily"),
]

CLUSTER = "this needs a cluster; what is applied is built, and read by Kubernetes' own schemas, there"
MANIFESTS = "the script that it runs is run there, in a copy"
DOCKER = "this needs Docker's daemon; the programs of the containers are run there as Compose says"
SERVICES = [
    Proof("README.md", r"make (install|run|help|doctor)|curl .*", FIRST_HOUR, "def test_the_first_minutes("),
    Proof("README.md", r"make (migrate|migration .*)", FIRST_HOUR, "def test_the_first_migration("),
    Proof("*", r"make remove-example", "tests/real/test_remove_example.py", 'service.make("remove-example"'),
    Proof("*", r"make test", "tests/real/test_smoke.py", '["test", "lint"]', "it takes a minute in each tier"),
    Proof("*", r"make serve", "tests/real/test_smoke.py", '"serve"', "it takes a port of its own as well"),
    Proof("*", r"make (up|down)", "tests/real/test_compose.py", "def test_", DOCKER),
    Proof("*", r"make image", "tests/real/test_image.py", 'service.make("image"', "this needs an engine for images"),
    Proof("*", r"make publish", "tests/real/test_service_ci.py", '"make publish"', "this needs a registry"),
    Proof("*", r"make check-config", "tests/real/test_service_ci.py", "def check_config(", "it names what is missing"),
    Proof("README.md", r"flask db upgrade", "tests/real/test_database.py", '"upgrade"', "the command of a container"),
    Proof("docs/monitoring.md", r"curl .*Watchdog.*", "tests/real/test_watchers.py", '"docs/monitoring.md"'),
    Proof("platform/README.md", r"curl .*Watchdog.*", "tests/real/test_watchers.py", '"docs/monitoring.md"'),
    Proof("platform/runbooks/*", r".*", "tests/real/test_runbooks.py", "def test_every_command_of_any_service_is_"),
    Proof("docs/runbooks/*", r".*", "tests/real/test_runbooks.py", "def test_each_command_of_a_runbook_shows_"),
    Proof("platform/README.md", r"psql .*", "tests/real/test_infrastructure.py", "def make_role("),
    Proof("docs/monitoring.md", r"logs\(\) \{.*", "tests/real/test_runbooks.py", "def test_logs_prints_the_same("),
    Proof("docs/*", r"docker compose .*", "tests/real/test_compose.py", "def test_", DOCKER),
    Proof("docs/*", r"make manifests", f"{SERVICE}/tests/deploy/test_overlays.py", '"scripts/manifests.py"', MANIFESTS),
    Proof(
        "docs/scaling.md",
        r"\.venv/bin/python scripts/load\.py .*",
        "tests/real/test_smoke.py",
        '"scripts/load.py"',
        CLUSTER,
    ),
    Proof("docs/*", r"kubectl .*", "tests/real/manifests.py", "kubectl", CLUSTER),
    Proof(
        "docs/log-queries.md",
        r"make log-store|(read|export) .*",
        "tests/test_log_store.py",
        "def test_elasticsearch_is_given_all_files_and_again_the_same(",
        "this installs the service; what it runs is run there",
    ),
    Proof("platform/*", r"helm .*|kubectl .*", "tests/real/test_logs.py", "def test_", CLUSTER),
    Proof("platform/*", r"docker compose .*", "tests/real/test_logs.py", "def test_", DOCKER),
    Proof("platform/*", r"[A-Z_]+=.*", "tests/test_logs.py", "def variables_of("),
    Proof("docs/kubernetes.md", r"[A-Z_]+=.*", f"{SERVICE}/tests/deploy/test_kubernetes.py", "docs/kubernetes.md"),
    Proof("docs/kubernetes.md", r"git rev-parse HEAD", "tests/real/test_service_ci.py", "make publish", "git's own"),
    Proof("docs/box.md", r".*", "tests/real/test_box.py", '"docs/box.md"'),
    Proof("platform/alertmanager/*", r".*", HERE, "def test_secrets_are_written_as_their_page_says("),
    Proof("monitoring/*", r".*", HERE, "def test_secrets_are_written_as_their_page_says("),
    Proof(
        "deploy/terraform/uptime/*",
        r".*",
        "tests/real/test_terraform.py",
        "terraform(",
        "this needs the monitor's account",
    ),
    Proof("deploy/terraform/logs/*", r".*", "tests/real/test_log_store.py", "terraform(", "this needs an account"),
    Proof("deploy/terraform/[os]*", r".*", ON_CALL, "terraform(", "this needs an account; what needs none is typed"),
    Proof("docs/on-call.md", r"(amtool|mkdir|logs) .*", ON_CALL, '"docs/on-call.md"'),
]


def unproven(commands: list[Command], proofs: list[Proof]) -> list[str]:
    """The commands that no proof takes, as `page:line: command`."""
    return [
        str(command)
        for command in commands
        if not any(fnmatch(command.page, each.pages) and re.fullmatch(each.commands, command.text) for each in proofs)
    ]


def test_every_command_of_the_template_is_run_by_a_test() -> None:
    commands = [command for page in PAGES for command in commands_of(ROOT, page)]
    assert unproven(commands, TEMPLATES) == [], "type it in a test, or say here where it is proven and why not typed"


def test_every_command_of_a_service_is_run_by_a_test(service: Generate) -> None:
    for turn in range(
        max(len(values) for option, values in OPTIONS.items() if option not in DEFINITION["_asked_from"])
    ):
        made = service(**{option: values[turn % len(values)] for option, values in OPTIONS.items()})
        pages = [str(page.relative_to(made)) for page in sorted(made.rglob("*.md"))]
        commands = [command for page in pages for command in commands_of(made, page)]
        assert unproven(commands, SERVICES) == [], "type it in a test, or say here where it is proven and why not typed"


@pytest.mark.parametrize("proof", [*TEMPLATES, *SERVICES], ids=lambda proof: f"{proof.pages} {proof.commands}")
def test_what_is_proven_elsewhere_is(proof: Proof) -> None:
    assert proof.holds in (ROOT / proof.file).read_text(encoding="utf-8")


def test_a_new_command_is_named_by_its_page_and_line(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "# A page\n\n```sh\nmake install\nmake coffee \\\n  --hot\n```\n\nOr `make tea`.\n"
    )
    commands = list(commands_of(tmp_path, "README.md"))
    assert unproven(commands, SERVICES) == ["README.md:5: make coffee --hot", "README.md:9: make tea"]


@pytest.mark.parametrize(
    "command", [each.text for each in commands_of(ROOT, "README.md") if each.text.startswith("make new")]
)
def test_every_way_to_make_a_service_works(new_environment: None, own_template: Path, command: str) -> None:
    del new_environment
    typed(command, own_template, [] if "ARGS" in command else [ENTER] * 9)
    if "--help" not in command:
        assert len(list(own_template.parent.parent.rglob("order-service/pyproject.toml"))) == 1


@pytest.mark.parametrize("command", ["cookiecutter ADDRESS", "cruft create ADDRESS"])
def test_the_template_works_from_its_address(template: Path, tmp_path: Path, command: str) -> None:
    asked = [(f"[{number}/10] ", "") for number in range(1, 11)]
    typed(command.replace("ADDRESS", str(template)), tmp_path, asked, PATH=with_tools())
    assert (tmp_path / "order-service" / "pyproject.toml").is_file()


def test_a_service_is_updated_as_the_readme_says(own_template: Path, service: Generate, tmp_path: Path) -> None:
    another_tier, newer = [each.text for each in commands_of(ROOT, "README.md") if each.text.startswith("cruft update")]
    typed(f"cruft create --no-input {own_template}", tmp_path, PATH=with_tools())
    made = tmp_path / "order-service"
    commit(made)
    typed(another_tier, made, PATH=with_tools())
    assert (made / "README.md").read_text() == (service(scale_tier="large") / "README.md").read_text()
    commit(made)
    (own_template / SERVICE / "NEWS.md").write_text("News.\n")
    commit(own_template)
    typed(newer, made, PATH=with_tools())
    assert (made / "NEWS.md").read_text() == "News.\n"


def test_cruft_cannot_ask_yet_so_the_readme_tells_it_not_to(template: Path, tmp_path: Path) -> None:
    typed(f"cruft create --no-input {template}", tmp_path, PATH=with_tools())
    commit(tmp_path / "order-service")
    command = """cruft update --variables-to-update '{"scale_tier": "large"}'"""
    terminal = Terminal(command, tmp_path / "order-service", PATH=with_tools())
    terminal.answer([("Apply diff and update? [y]: ", "y")])
    assert terminal.end() != 0, "cruft can ask again: the README need not say -y"
    assert "AssertionError" in terminal.said


def with_tools() -> str:
    """PATH of somebody who has installed Cookiecutter and cruft."""
    return f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"


def test_what_the_template_makes_at_once_is_made(own_template: Path) -> None:
    assert "A new service beside this folder" in typed("make help", own_template)
    before = (own_template / "README.md").read_text(encoding="utf-8")
    typed("make readme", own_template)
    assert (own_template / "README.md").read_text(encoding="utf-8") == before


@pytest.mark.parametrize("tier", ["small", "medium"])
@pytest.mark.parametrize("paging", OPTIONS["paging"])
def test_secrets_are_written_as_their_page_says(service: Generate, tmp_path: Path, paging: str, tier: str) -> None:
    made = Path(shutil.copytree(service(paging=paging, scale_tier=tier), tmp_path / "made"))
    folder = "monitoring/alertmanager/secrets" if tier == "small" else "platform/alertmanager/secrets"
    commands = list(commands_of(made, f"{folder}/README.md"))
    prompts = [(each, "s3cret") for each in re.findall(r"read -rsp '(.+?)'", "\n".join(each.text for each in commands))]
    assert prompts
    said = typed("\n".join(each.text for each in commands), made, prompts)
    assert "s3cret" not in said, "a secret is not shown as it is typed"
    written = re.findall(r"> (\w+)", "\n".join(each.text for each in commands))
    assert {(made / folder / name).read_text() for name in written} == {"s3cret"}


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
