"""Overlays: what each environment has of its own, what can be left out, and what prometheus-operator reads."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from template_checkout import Generate

from .manifests import Built, kustomize
from .processes import run
from .programs import program

FIELDS: dict[str, dict[str, str]] = yaml.safe_load((Path(__file__).parent / "operator_fields.yaml").read_text())
OPERATOR = "monitoring.coreos.com/"
OPTIONS: list[dict[str, str]] = [
    {"scale_tier": "medium", "paging": "pagerduty", "uptime_monitor": "blackbox"},
    {"scale_tier": "large", "paging": "slack", "uptime_monitor": "pingdom", "database": "none", "cache": "none"},
]


@pytest.fixture(params=OPTIONS, ids=lambda answers: answers["scale_tier"])
def made(request: pytest.FixtureRequest, service: Generate, tmp_path: Path) -> Path:
    """A service that a test may change."""
    return Path(shutil.copytree(service(**request.param), tmp_path / "service"))


def built(folder: Path, environment: str) -> Built:
    """All that is applied to an environment of a service with the default name."""
    return Built(folder, {"scale_tier": "medium"}, environment)


def overlay(folder: Path, environment: str) -> Path:
    """The file that says what an environment consists of."""
    return folder / "deploy/kubernetes/overlays" / environment / "kustomization.yaml"


def test_each_environment_is_named_by_all_that_it_consists_of(made: Path) -> None:
    for environment in ("production", "staging"):
        build = built(made, environment)
        for each in build.manifests:
            assert each["metadata"]["namespace"] == build.namespace, each
            assert each["metadata"]["labels"]["environment"] == environment, each
            if template := each.get("spec", {}).get("template"):
                # The variable ENVIRONMENT is this label.
                assert template["metadata"]["labels"]["environment"] == environment


def test_two_environments_of_one_cluster_share_no_object(made: Path) -> None:
    objects = [
        {
            (each["kind"], each["metadata"]["namespace"], each["metadata"]["name"])
            for each in built(made, name).manifests
        }
        for name in ("production", "staging")
    ]
    assert objects[0].isdisjoint(objects[1])


def test_a_setting_of_staging_alone_is_the_lines_that_the_page_gives(made: Path) -> None:
    (lines,) = re.findall(
        r"```yaml\n(configMapGenerator:\n.+?)```", (made / "docs/kubernetes.md").read_text(), re.DOTALL
    )
    environment = made / "deploy/kubernetes/overlays/staging/environment/kustomization.yaml"
    environment.write_text(f"{environment.read_text()}\n{lines}")
    levels = {
        name: {each["data"].get("LOG_LEVEL") for each in built(made, name).configuration}
        for name in ("production", "staging")
    }
    assert levels == {"production": {None}, "staging": {"DEBUG"}}


def test_each_component_can_be_left_out(service: Generate, tmp_path: Path) -> None:
    made = Path(shutil.copytree(service(scale_tier="medium"), tmp_path / "service"))
    file = overlay(made, "production")
    text = file.read_text()
    components = re.findall(r"  - ../../components/.+\n", text)
    assert len(components) == 6
    for component in components:
        file.write_text(text.replace(component, ""))
        assert "kind: Deployment" in kustomize(file.parent)


def test_nothing_of_the_operators_is_left_without_the_lines_that_are_marked(made: Path) -> None:
    for environment in ("production", "staging"):
        file = overlay(made, environment)
        assert OPERATOR in kustomize(file.parent)
        kept = re.sub(
            r"  - ../../components/(scrape|monitoring)\n|.*# without prometheus-operator.*\n", "", file.read_text()
        )
        file.write_text(kept)
        assert OPERATOR not in kustomize(file.parent)


# --- what prometheus-operator reads ----------------------------------------------------------------------------------


def with_notifications(folder: Path) -> Built:
    """Production with every component that there is."""
    file = overlay(folder, "production")
    file.write_text(file.read_text().replace("  # Last,", "  - ../../components/notifications\n  # Last,"))
    return built(folder, "production")


def paths(part: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Each field below a part of a manifest, with the type of its value."""
    if isinstance(part, dict):
        any_name = path.endswith(("matchLabels", ".labels", ".annotations"))
        for name, value in part.items():
            yield from paths(value, ".".join(filter(None, (path, "*" if any_name else name))))
    elif isinstance(part, list):
        for value in part:
            yield from paths(value, f"{path}[]")
    else:
        yield path, type(part).__name__


def test_its_schemas_have_each_field_that_is_used(made: Path) -> None:
    used: dict[str, dict[str, str]] = {}
    for each in [*with_notifications(made).manifests, *built(made, "staging").manifests]:
        if each["apiVersion"].startswith(OPERATOR):
            used.setdefault(each["kind"], {}).update(paths(each["spec"]))
    assert used.keys() == FIELDS.keys()
    for kind, fields in used.items():
        assert fields.items() <= FIELDS[kind].items(), kind


def test_each_field_of_the_list_is_used_by_some_service(service: Generate, tmp_path: Path) -> None:
    used = {
        (each["kind"], field)
        for number, answers in enumerate(OPTIONS)
        for each in with_notifications(Path(shutil.copytree(service(**answers), tmp_path / str(number)))).manifests
        if each["apiVersion"].startswith(OPERATOR)
        for field, _ in paths(each["spec"])
    }
    assert used == {(kind, field) for kind, fields in FIELDS.items() for field in fields}


def test_prometheus_takes_the_rules_that_are_derived(made: Path, tmp_path: Path) -> None:
    rules = [each["spec"] for each in built(made, "production").manifests if each["kind"] == "PrometheusRule"]
    assert len(rules) == 2
    names = [group["name"] for spec in rules for group in spec["groups"]]
    assert len(names) == len({*names})
    for number, spec in enumerate(rules):
        (tmp_path / f"{number}.yml").write_text(yaml.safe_dump(spec))
    done = run([program("promtool"), "check", "rules", "--lint-fatal", *sorted(tmp_path.glob("?.yml"))])
    assert done.returncode == 0, done.stdout + done.stderr


# What a Prometheus in the cluster finds of a pod behind the Service's port `metrics`.
FOUND = {
    "__meta_kubernetes_namespace": "order-service",
    "__meta_kubernetes_endpoint_port_name": "metrics",
    "__meta_kubernetes_endpoint_address_target_kind": "Pod",
    "__meta_kubernetes_endpoint_address_target_name": "order-service-7d9f-x2x4z",
    "__meta_kubernetes_service_name": "order-service",
    "__meta_kubernetes_pod_name": "order-service-7d9f-x2x4z",
    "__meta_kubernetes_pod_container_name": "service",
    "__meta_kubernetes_pod_phase": "Running",
    "__meta_kubernetes_pod_label_environment": "staging",
}
# What prometheus-operator relabels by itself, before the steps of a ServiceMonitor.
OF_THE_OPERATOR = [
    {"source_labels": ["job"], "target_label": "__tmp_prometheus_job_name"},
    {"source_labels": ["__meta_kubernetes_endpoint_port_name"], "action": "keep", "regex": "metrics"},
    {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
    {"source_labels": ["__meta_kubernetes_service_name"], "target_label": "service"},
    {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
    {"source_labels": ["__meta_kubernetes_pod_container_name"], "target_label": "container"},
    {"source_labels": ["__meta_kubernetes_pod_phase"], "action": "drop", "regex": "(Failed|Succeeded)"},
    {"source_labels": ["__meta_kubernetes_service_name"], "target_label": "job"},
    {"target_label": "endpoint", "replacement": "metrics"},
]


def test_a_series_has_the_labels_that_rules_select_by_and_no_others(made: Path, tmp_path: Path) -> None:
    (endpoint,) = built(made, "staging").one("ServiceMonitor")["spec"]["endpoints"]
    steps = [
        {re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", name): value for name, value in step.items()}
        for step in endpoint["relabelings"]
    ]
    name = "serviceMonitor/order-service/order-service/0"
    job = {
        "job_name": name,
        "static_configs": [{"targets": ["10.0.0.7:9464"], "labels": FOUND}],
        "relabel_configs": OF_THE_OPERATOR + steps,
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": [job]}))
    # It waits for as long as it is told, whatever it has found.
    done = run(
        [program("promtool"), "check", "service-discovery", "--timeout=2s", tmp_path / "prometheus.yml", name],
    )
    (target,) = json.loads(done.stdout)
    assert {name: value for name, value in target["labels"].items() if not name.startswith("__")} == {
        "job": "order-service",
        "service": "order-service",
        "environment": "staging",
        "instance": "order-service-7d9f-x2x4z",
    }
