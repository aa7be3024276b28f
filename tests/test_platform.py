"""Service and platform: two folders of two owners, of which a team deletes the second where it has its own."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from formats import parse_all
from template_checkout import DEFINITION, TIERS, Generate, run, tree
from test_answers import HOOK
from two_services import joined, seen_by_prometheus, without_platform

SHARING = [tier for tier in TIERS if "platform" in DEFINITION["_tiers"][tier]["features"]]
ONE, OTHER = "payments-of-our-customers-in-the-east", "payments-of-our-customers-in-the-north"
"""They begin with the same 33 letters."""


def load(file: Path) -> Any:
    """A YAML file."""
    return yaml.safe_load(file.read_text(encoding="utf-8"))


# --- one service -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", SHARING)
def test_a_platform_names_its_service_only_in_the_lists_of_services(service: Generate, tier: str) -> None:
    """Every such line is one of those that another service adds to, but for where people look first."""
    made = service(scale_tier=tier, project_slug="ledger", team="books")
    named = re.compile("ledger")
    lines = {
        (str(file.relative_to(made / "platform")), line.strip())
        for file in (made / "platform").rglob("*")
        if file.is_file()
        for line in file.read_text(encoding="utf-8").splitlines()
        if named.search(line)
    }
    compose, prometheus = "compose.yaml", "prometheus/prometheus.yml"
    lists = {
        (compose, "- ../monitoring/prometheus:/etc/prometheus/services/ledger:ro"),
        (compose, "- ../monitoring/grafana/dashboards:/var/lib/grafana/dashboards/ledger:ro"),
        (prometheus, "- ../services/ledger/rules/*.yml"),
        (prometheus, "- ../services/ledger/targets/service.yml"),
        (prometheus, "- ../services/ledger/targets/uptime.yml"),
        (prometheus, "- ../services/ledger/targets/postgres.yml"),
        (prometheus, "- ../services/ledger/targets/redis.yml"),
        ("exporters/postgres/compose.yaml", "ledger-postgres-exporter:"),
        ("exporters/redis/compose.yaml", "ledger-redis-exporter:"),
    }
    assert lists <= lines
    others = {(file, line) for file, line in lines - lists if "dashboard" not in line.lower()}
    assert others == {("README.md", "name: ledger_default")}


@pytest.mark.parametrize("tier", SHARING)
def test_nothing_of_a_service_is_in_the_platform_and_nothing_of_the_platform_in_it(
    service: Generate, tier: str
) -> None:
    made = service(scale_tier=tier)
    assert not (made / "monitoring/alertmanager").exists()
    assert not (made / "monitoring/blackbox").exists()
    assert {path.name for path in (made / "monitoring/grafana").iterdir()} == {"dashboards"}
    small = tree(service() / "monitoring")
    for name, content in tree(made / "platform").items():
        if name == "grafana/provisioning/datasources/loki.yml":
            continue  # small keeps no lines
        if name.startswith(("alertmanager/templates/", "blackbox/blackbox", "grafana/provisioning/datasources/")):
            assert content == small[name], f"{name} is another one in small"


@pytest.mark.parametrize("choices", [{}, {"uptime_monitor": "pingdom", "database": "none", "paging": "slack"}])
@pytest.mark.parametrize("tier", SHARING)
def test_a_team_with_a_platform_of_its_own_deletes_the_folder_and_what_the_readme_names(
    service: Generate, tmp_path: Path, tier: str, choices: dict[str, str]
) -> None:
    made = without_platform(Path(shutil.copytree(service(scale_tier=tier, **choices), tmp_path / "order-service")))
    compose = load(made / "compose.yaml")
    assert "include" not in compose
    assert "service" in compose["services"]
    checker = Path(sys.executable).with_name("check-jsonschema")
    run(checker, "--builtin-schema", "vendor.compose-spec", made / "compose.yaml", cwd=made)
    nothing_installed = f"PATH={tmp_path}"
    checked = run("env", "-u", "CI", nothing_installed, sys.executable, "scripts/check_config.py", cwd=made).stdout
    assert "FAILED" not in checked
    assert "platform" not in checked
    assert "checked: . " not in checked, "a program is named that has nothing to read"
    # Pages alone lead to what is gone; no file that a program reads does.
    for page in made.rglob("*.md"):
        page.unlink()
    parse_all(made)


def test_make_up_starts_the_service_alone_where_there_is_no_platform(service: Generate, tmp_path: Path) -> None:
    made = without_platform(Path(shutil.copytree(service(scale_tier="medium"), tmp_path / "order-service")))
    compose = tmp_path / "compose"
    compose.write_text('#!/bin/sh\n[ "$1" != port ] || echo 127.0.0.1:1$3\n')
    compose.chmod(0o755)
    said = run("make", "up", f"COMPOSE={compose}", cwd=made).stdout
    assert re.findall(r"http://\S+", said) == ["http://localhost:18000"]


def test_an_include_of_a_folder_that_is_gone_is_what_the_readme_says_to_delete(service: Generate) -> None:
    page = (service(scale_tier="medium") / "platform/README.md").read_text(encoding="utf-8")
    assert "Who has all of it deletes this folder, and in `compose.yaml` of the service the lines with `include`." in (
        page.replace("\n", " ")
    )


@pytest.mark.parametrize("tier", SHARING)
def test_no_service_is_called_like_a_container_or_a_job_of_the_platform(service: Generate, tier: str) -> None:
    made = service(scale_tier=tier)
    jobs = load(made / "platform/prometheus/prometheus.yml")["scrape_configs"]
    names = {job["job_name"] for job in jobs}
    for file in made.rglob("compose.yaml"):
        names |= {name for name in load(file)["services"] if not name.startswith(f"{made.name}-")}
    accepted = sorted(
        name for name in names if not HOOK.taken_by(name) and not HOOK.shared_refusal(name, tier, DEFINITION["_tiers"])
    )
    assert not accepted, f"add these to SHARED in hooks/pre_gen_project.py: {' '.join(accepted)}"


# --- two services ----------------------------------------------------------------------------------------------------


@pytest.fixture
def both(service: Generate, tmp_path: Path) -> tuple[Path, Path]:
    """A medium and a large service of other teams on the platform of the first."""
    one = service(project_slug=ONE, scale_tier="medium", team="east", project_name="Payments")
    other = service(project_slug=OTHER, scale_tier="large", team="north", project_name="Payments")
    return joined(tmp_path / "side by side", one, other)


def test_the_platform_loads_the_rules_and_targets_of_both(both: tuple[Path, Path], tmp_path: Path) -> None:
    configuration = seen_by_prometheus(tmp_path / "seen", both[0] / "platform")
    loaded = [file.resolve() for each in load(configuration)["rule_files"] for file in configuration.parent.glob(each)]
    for job in load(configuration)["scrape_configs"]:
        loaded += [
            (configuration.parent / name).resolve() for each in job.get("file_sd_configs", ()) for name in each["files"]
        ]
    seen = tmp_path / "seen"
    expected = [*seen.glob("platform/watchers/*.yml")]
    for folder in (seen / "platform", *(seen / "services" / made.name for made in both)):
        expected += [*folder.glob("rules/*.yml"), *folder.glob("targets/*.yml")]
    assert sorted(loaded) == sorted(expected)
    assert all(file.is_file() for file in loaded)


def targets(made: Path) -> Iterator[dict[str, Any]]:
    """What a service gives to be scraped and asked."""
    for file in (made / "monitoring/prometheus/targets").glob("*.yml"):
        yield from load(file)


def test_no_two_targets_are_one(both: tuple[Path, Path]) -> None:
    hosts = []
    for made in both:
        groups = list(targets(made))
        assert {group["labels"]["service"] for group in groups} == {made.name}
        hosts.append({re.sub(r"^http://|:\d+.*$", "", address) for group in groups for address in group["targets"]})
        aliases = load(made / "compose.yaml")["services"]["service"]["networks"]["default"]["aliases"]
        assert aliases == [made.name]
        assert {host for host in hosts[-1] if not host.startswith(f"{made.name}-")} == {made.name}
    assert not hosts[0] & hosts[1]


def test_jobs_of_the_platform_are_those_of_no_service(both: tuple[Path, Path]) -> None:
    """The job of a service's series is its label `service`: rules and dashboards select by both."""
    jobs = load(both[0] / "platform/prometheus/prometheus.yml")["scrape_configs"]
    names = [job["job_name"] for job in jobs]
    assert len(set(names)) == len(names)
    (relabelled,) = next(job["relabel_configs"] for job in jobs if job["job_name"] == "services")
    assert (relabelled["source_labels"], relabelled["target_label"]) == (["service"], "job")
    for made in both:
        (job,) = load(made / "monitoring/prometheus/kubernetes.yml")["scrape_configs"]
        assert job["job_name"] == made.name not in names


def series_of(made: Path) -> set[tuple[str, str]]:
    """Each recorded series and each alert, with the service that it is of."""
    found = set()
    for file in (made / "monitoring/prometheus/rules").glob("*.yml"):
        for group in load(file)["groups"]:
            for rule in group["rules"]:
                selected = re.findall(r'(?:service|label_app_kubernetes_io_name)="([^"]+)"', str(rule["expr"]))
                labels = set(selected) or {rule["labels"]["service"]}
                (service,) = labels
                found.add((rule.get("record") or rule["alert"], service))
    return found


def test_no_two_rules_make_one_series(both: tuple[Path, Path]) -> None:
    one, other = (series_of(made) for made in both)
    assert {service for _, service in one} == {ONE}
    assert {service for _, service in other} == {OTHER}


def test_a_notification_of_each_service_leads_to_its_own_runbooks(both: tuple[Path, Path]) -> None:
    """They share the external label that says where runbooks are."""
    for made in both:
        rules = "".join(file.read_text() for file in (made / "monitoring/prometheus/rules").glob("*.yml"))
        begins = set(re.findall(r"runbook_url: '(.+)/\w+\.md'", rules))
        shared = '(or $externalLabels.runbooks_url "docs/runbooks")'
        assert begins == {f'{{{{ reReplaceAll "SERVICE" "{made.name}" {shared} }}}}'}


def test_no_two_dashboards_and_no_two_folders_are_one(both: tuple[Path, Path]) -> None:
    text = (both[0] / "platform/compose.yaml").read_text(encoding="utf-8")
    mounted = dict(re.findall(r"- (\S+/grafana/dashboards):/var/lib/grafana/dashboards/(\S+):ro", text))
    assert {(both[0] / "platform" / source).resolve(): folder for source, folder in mounted.items()} == {
        both[0] / "platform/grafana/dashboards": "Platform"
    } | {made / "monitoring/grafana/dashboards": made.name for made in both}
    uids = [
        json.loads(file.read_text(encoding="utf-8"))["uid"]
        for made in both
        for file in (made / "monitoring/grafana/dashboards").glob("*.json")
    ]
    assert len(set(uids)) == len(uids)


def test_the_second_ones_containers_are_beside_those_of_the_first(both: tuple[Path, Path]) -> None:
    """Under names of their own, in the network that the first one's project makes."""
    one, other = (load(made / "compose.yaml") for made in both)
    platform = load(both[0] / "platform/compose.yaml")["services"]
    assert other["networks"] == {"default": {"name": f"{ONE}_default", "external": True}}
    assert "include" not in other
    assert one["name"] != other["name"]
    assert one["services"]["service"]["image"] != other["services"]["service"]["image"]
    assert not {ONE, OTHER} & platform.keys()
