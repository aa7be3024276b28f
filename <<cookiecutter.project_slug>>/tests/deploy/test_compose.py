<% import "places.j2" as places with context %>
"""The image and Compose agree with the service, with the files they mount and with each other."""

import inspect
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from <<cookiecutter.__package>>.settings import <% if places.shared %>SERVICE, <% endif %>Settings

from ..support import ROOT

PORT = Settings.model_fields["port"].default
METRICS_PORT = Settings.model_fields["metrics_port"].default
<% if places.shared %>
PLATFORM = ROOT / "platform"
of_the_platform = pytest.mark.skipif(
    not PLATFORM.exists(), reason="platform/ is not here: this team has its own"
)
<% endif %>
EXACT = re.compile(r"[\w./-]+:v?\d+\.\d+\.\d+(-[\w.-]+)?(@sha256:[0-9a-f]{64})?")


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


<% if places.shared %>
def compose_files(first: Path = ROOT / "compose.yaml") -> list[Path]:
    """compose.yaml and what it includes, and that in turn."""
    included = [first.parent / name for name in load(first).get("include", [])]
    return [first, *(file for one in included for file in compose_files(one))]
<% else %>
def compose_files() -> list[Path]:
    """compose.yaml and what it includes."""
    main = ROOT / "compose.yaml"
    return [main, *(ROOT / included for included in load(main).get("include", []))]
<% endif %>


def containers() -> dict[str, dict[str, Any]]:
    return {name: c for file in compose_files() for name, c in load(file)["services"].items()}


def mounts() -> Iterator[tuple[str, Path, str]]:
    """The container, the file or folder of this repository, and where the container sees it."""
    for file in compose_files():
        for name, container in load(file)["services"].items():
            for volume in container.get("volumes", []):
                source, target, *_ = volume.split(":")
                if source.startswith("."):
                    yield name, file.parent / source, target


def seen_in(container: str, path: str) -> bool:
    """Whether a container sees a file or folder of this repository at a path of its own."""
    return any(
        path.startswith(target) and Path(f"{source}{path.removeprefix(target)}").exists()
        for name, source, target in mounts()
        if name == container
    )


def listening() -> set[str]:
    """host:port of everything that answers in Compose; a watcher's port is in its health check."""
<% if places.shared %>
    found = {f"{host}:{port}" for host in ("service", SERVICE) for port in (PORT, METRICS_PORT)}
<% else %>
    found = {f"service:{PORT}", f"service:{METRICS_PORT}"}
<% endif %>
    for name, container in containers().items():
        for word in container.get("healthcheck", {}).get("test", []):
            if word.startswith("http"):
                found.add(f"{name}:{urlsplit(word).port}")
<% if "logs" in cookiecutter._tiers[cookiecutter.scale_tier].features %>
    # An image that holds nothing which could ask: the port is in its configuration.
    for file in PLATFORM.glob("fluent-bit/config/lines.yaml"):
        found.add(f"fluent-bit:{load(file)['service']['http_port']}")
<% if cookiecutter.telemetry_backend == "grafana" %>
    for file in PLATFORM.glob("loki/loki.yaml"):
        found.add(f"loki:{load(file)['server']['http_listen_port']}")
<% endif %>
<% endif %>
    return found


def texts(value: Any) -> Iterator[str]:
    """Every text within a document."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from texts(each)
    elif isinstance(value, str):
        yield value


def instructions(*words: str) -> list[str]:
    """What the Dockerfile gives these instructions, in order."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return [line.split(maxsplit=1)[1] for line in text.splitlines() if line.startswith(words)]


def test_every_mounted_file_exists() -> None:
<% if places.shared %>
    for container, source, _ in mounts():
<% else %>
    found = list(mounts())
    assert found
    for container, source, _ in found:
<% endif %>
        assert source.exists(), f"{container} mounts {source}"


def test_every_file_that_a_container_is_told_of_is_mounted_into_it() -> None:
    told = [
        (name, path)
        for name, container in containers().items()
        for text in texts([container.get("command", []), container.get("environment", {})])
        for path in re.findall(r"(?:^|=)(/[\w./-]+\.\w+)$", text)
    ]
<% if not places.shared %>
    assert told
<% endif %>
    for container, path in told:
        assert seen_in(container, path), f"{container} is told of {path} and has none"


def test_the_watchers_call_each_other_by_names_and_ports_that_exist() -> None:
<% if places.shared %>
    folders = (ROOT / "monitoring", PLATFORM)
    documents = [load(file) for folder in folders for file in sorted(folder.rglob("*.yml"))]
<% else %>
    documents = [load(file) for file in sorted((ROOT / "monitoring").rglob("*.yml"))]
<% endif %>
    words = " ".join(text for document in documents for text in texts(document))
<% if places.shared %>
    called = set(re.findall(rf"\b(?:{'|'.join([SERVICE, *containers()])}):\d+", words))
    assert f"{SERVICE}:{METRICS_PORT}" in called
    if PLATFORM.exists():
        assert {"alertmanager:9093", "prometheus:9090"} <= called
    assert called <= listening()
    assert containers()["service"]["networks"]["default"]["aliases"] == [SERVICE]
<% else %>
    called = set(re.findall(rf"\b(?:{'|'.join(containers())}):\d+", words))
    assert f"service:{METRICS_PORT}" in called
    assert {"alertmanager:9093", "prometheus:9090"} <= called
    assert called <= listening()
<% endif %>


def published() -> dict[str, tuple[str, str, str]]:
    """Of each container that this machine reaches: the variable of its port, the port, its own."""
    found = {}
    for name, container in containers().items():
        for port in container.get("ports", []):
            match = re.fullmatch(r"127\.0\.0\.1:\$\{(\w+):-(\d+)\}:(\d+)", port)
            assert match, f"{name} publishes {port}: only on 127.0.0.1, on a port that .env can set"
            found[name] = (match[1], match[2], match[3])
    return found


def test_only_this_machine_can_reach_the_containers() -> None:
<% if places.shared %>
    of_platform = {"prometheus", "alertmanager", "grafana"} if PLATFORM.exists() else set()
    assert published().keys() == {"service"} | of_platform
<% else %>
    assert published().keys() == {"service", "prometheus", "alertmanager", "grafana"}
<% endif %>
    for name, (_, outside, inside) in published().items():
        assert outside == inside
        assert f"{name}:{inside}" in listening()


def test_links_follow_the_ports_of_env() -> None:
    example = (ROOT / ".env.example").read_text()
    links = [
        link
        for container in containers().values()
        for text in texts([container.get("command", []), container.get("environment", {})])
        for link in re.findall(r"http://localhost:(\S+)", text)
    ]
    for name, (variable, port, _) in published().items():
        assert f"\n#{variable}={port}\n" in example
        assert name == "service" or f"${{{variable}:-{port}}}" in links
    assert all(link.startswith("${") for link in links), links


<% if places.shared %>
@of_the_platform
<% endif %>
def test_whoever_is_at_this_machine_can_try_a_panel_and_save_it() -> None:
    grafana = containers()["grafana"]["environment"]
    assert grafana["GF_AUTH_ANONYMOUS_ENABLED"] == "true"
    assert grafana["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Editor"
    for file in (ROOT / "<< places.platform >>/grafana/provisioning/dashboards").glob("*.yml"):
        assert all(provider["allowUiUpdates"] for provider in load(file)["providers"])


<% if places.shared %>
@of_the_platform
<% endif %>
def test_the_pages_ask_this_machine_for_published_ports_alone() -> None:
    outside = {port for _, port, _ in published().values()}
<% if places.shared %>
    pages = {ROOT / "README.md", *_docs()} - {ROOT / "docs/box.md"}
<% else %>
    pages = {ROOT / "README.md", *(ROOT / "docs").rglob("*.md")} - {ROOT / "docs/box.md"}
<% endif %>
    asked = {
        (page.name, port)
        for page in pages
        for port in re.findall(r"(?:localhost|127\.0\.0\.1):(\d+)", _on_this_machine(page))
    }
    assert {port for _, port in asked} == outside, asked


def _on_this_machine(page: Path) -> str:
    """A page without what is run in a container, where localhost is another."""
    lines = page.read_text().splitlines()
    return "\n".join(line for line in lines if "docker compose exec" not in line)


<% if places.shared %>
def _docs() -> Iterator[Path]:
    for folder in (ROOT / "docs", PLATFORM):
        yield from folder.rglob("*.md")


@of_the_platform
<% endif %>
def test_what_the_pages_run_in_a_container_is_one_of_compose() -> None:
    pages = "\n".join(page.read_text() for page in <% if places.shared %>_docs()<% else %>(ROOT / "docs").rglob("*.md")<% endif %>)
    asked = re.findall(r"docker compose (?:exec|run --rm --no-deps) (\S+)", pages)
    assert asked
    assert set(asked) <= containers().keys()


def test_the_image_shows_the_ports_that_the_service_listens_on() -> None:
    assert instructions("EXPOSE") == [f"{PORT} {METRICS_PORT}"]
    (health_check,) = instructions("HEALTHCHECK")
    assert f"os.environ.get('PORT') or {PORT}" in health_check
    assert "os.environ.get('HOST') or '127.0.0.1'" in health_check


def test_the_image_runs_a_python_that_the_project_allows() -> None:
    bases = [base for base in instructions("FROM") if ":" in base]
    versions = {re.fullmatch(r"python:(\d+)\.(\d+)\.\d+-slim\S*( AS \w+)?", base) for base in bases}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = re.fullmatch(r">=(\d+)\.(\d+)", project["requires-python"])
    assert oldest
    for version in versions:
        assert version, bases
        assert tuple(map(int, version.groups()[:2])) >= tuple(map(int, oldest.groups()))


def test_ci_tests_with_the_python_of_the_image() -> None:
    (base,) = (base for base in instructions("FROM") if ":" in base)
    steps = load(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["check"]["steps"]
    (tested,) = (
        step["with"]["python-version"] for step in steps if "python-version" in step.get("with", {})
    )
    assert base.startswith(f"python:{tested}.")


def test_every_image_is_of_an_exact_version() -> None:
    images = {name: c["image"] for name, c in containers().items() if ":local" not in c["image"]}
<% if not places.shared %>
    assert images
<% endif %>
    for name, image in images.items():
        assert EXACT.fullmatch(image), f"{name}: {image}"
    for base in instructions("FROM"):
        assert ":" not in base or EXACT.fullmatch(base.split()[0]), base


def test_the_packages_are_installed_before_the_code_is_copied() -> None:
    steps = instructions("COPY", "RUN")
    packages = next(n for n, step in enumerate(steps) if "requirements.txt" in step)
    assert packages < steps.index("src src")
    later = [step for step in steps if step.startswith("--from=")]
    assert later == [
        "--from=packages /opt/venv /opt/venv",
        "--from=code /opt/service /opt/service",
    ]


def test_the_image_is_given_what_it_copies_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    given = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = [step.split()[:-1] for step in instructions("COPY") if "--from" not in step]
    assert given == {source for sources in copied for source in sources}


def test_a_container_may_take_as_long_to_stop_as_the_service_does() -> None:
    drain = Settings(_env_file=None, environment="local").drain_seconds
    gunicorn = Path(inspect.getfile(Settings)).with_name("gunicorn_conf.py").read_text()
    finish = re.search(r"^graceful_timeout = (\d+)$", gunicorn, re.MULTILINE)
    assert finish
    grace = int(containers()["service"]["stop_grace_period"].removesuffix("s"))
    assert grace >= drain + int(finish[1]) + 5


def test_every_container_is_confined() -> None:
    for name, container in containers().items():
        assert container["read_only"] is True, name
        assert container["cap_drop"] == ["ALL"], name
        assert container["security_opt"] == ["no-new-privileges:true"], name
        assert {"mem_limit", "cpus", "restart"} <= container.keys(), name
        assert container["logging"]["options"]["max-size"], name


def test_compose_accepts_its_files() -> None:
    docker = shutil.which("docker")
    version = [docker or "docker", "compose", "version"]
    if not docker or subprocess.run(version, capture_output=True, check=False).returncode:  # noqa: S603
        pytest.skip("docker compose is not here: docs.docker.com/compose/install")
    command = [docker, "compose", "--file", str(ROOT / "compose.yaml"), "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
