"""Kubernetes: environments differ in what they should, and what is derived is not stale."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from <<cookiecutter.__package>>.settings import SERVICE

from ..support import ROOT
from .test_kubernetes import DEPLOYMENT, KUBERNETES, LABELS, POD, RELEASE, TEMPLATES, manifest

SCRIPT = runpy.run_path(str(ROOT / "scripts" / "manifests.py"))
DASHBOARDS = ROOT / "monitoring" / "grafana" / "dashboards"
STAGING = manifest("overlays/staging/environment/kustomization.yaml")
OVERLAYS = {
    name: manifest(f"overlays/{name}/kustomization.yaml") for name in ("production", "staging")
}
POLICY = manifest("components/network-policy/networkpolicy.yaml")["spec"]
SELECTOR = DEPLOYMENT["spec"]["selector"]
PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


def patched(component: str) -> Any:
    """The pod's specification in the only patch of a component."""
    (patch,) = manifest(f"components/{component}/kustomization.yaml")["patches"]
    return yaml.safe_load(patch["patch"])["spec"]["template"]["spec"]


# --- environments --------------------------------------------------------------------------------


@each_overlay
def test_an_overlay_is_of_the_environment_that_its_folder_is_called(overlay: str) -> None:
    said = {"production": LABELS, "staging": STAGING["labels"][0]["pairs"]}[overlay]
    assert said["environment"] == overlay


@each_overlay
def test_targetmissing_knows_each_environment_of_the_cluster(overlay: str) -> None:
    (group,) = manifest(f"overlays/{overlay}/expected.yaml")["spec"]["groups"]
    outside = yaml.safe_load((ROOT / "monitoring/prometheus/rules/environments.yml").read_text())
    (rule,), like = group["rules"], outside["groups"][0]["rules"][0]
    assert rule["labels"] == {"service": SERVICE, "environment": overlay}
    assert (rule["record"], rule["expr"]) == (like["record"], like["expr"])


def test_staging_has_a_namespace_of_its_own_and_the_page_creates_both() -> None:
    namespaces = [RELEASE["namespace"], STAGING["namespace"]]
    assert len({*namespaces}) == 2
    for namespace in namespaces:
        assert f"kubectl create namespace {namespace}\n" in PAGE


def test_what_names_the_environment_comes_after_all_that_it_names() -> None:
    """kustomize goes through the components of an overlay in their order."""
    assert OVERLAYS["production"]["components"][-1] == "../../release"
    assert OVERLAYS["staging"]["components"][-2:] == ["../../release", "environment"]


def test_staging_is_smaller() -> None:
    (replicas,) = OVERLAYS["staging"]["replicas"]
    assert replicas["name"] == DEPLOYMENT["metadata"]["name"]
    assert 1 < replicas["count"] <= DEPLOYMENT["spec"]["replicas"]


# --- components ----------------------------------------------------------------------------------


@each_overlay
def test_a_drained_node_takes_one_pod_and_leaves_another(overlay: str) -> None:
    budget = manifest("components/disruption-budget/poddisruptionbudget.yaml")["spec"]
    assert budget["selector"] == SELECTOR
    replicas = OVERLAYS[overlay].get("replicas", [{"count": DEPLOYMENT["spec"]["replicas"]}])
    assert 0 < budget["maxUnavailable"] < replicas[0]["count"]


def test_pods_are_spread_over_zones_and_over_nodes() -> None:
    constraints = patched("spread")["topologySpreadConstraints"]
    keys = [constraint["topologyKey"] for constraint in constraints]
    assert keys == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    for constraint in constraints:
        assert constraint["labelSelector"] == SELECTOR
        assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"


def test_the_page_creates_the_priority_that_production_asks_for() -> None:
    name = patched("priority")["priorityClassName"]
    assert f"kubectl create priorityclass {name} --value=" in PAGE


def test_the_network_policy_is_of_every_pod_of_the_service() -> None:
    for template in TEMPLATES.values():
        labels = LABELS | template["metadata"]["labels"]
        assert POLICY["podSelector"]["matchLabels"].items() <= labels.items()
    assert POLICY["policyTypes"] == ["Ingress", "Egress"]


def test_metrics_are_for_prometheus_and_requests_for_the_ingress() -> None:
    (container,) = POD["spec"]["containers"]
    allowed = {
        port["port"]: str(rule["from"]) for rule in POLICY["ingress"] for port in rule["ports"]
    }
    assert allowed.keys() == {port["name"] for port in container["ports"]}
    assert "prometheus" in allowed["metrics"]
    assert "ingress" in allowed["http"]


def test_the_service_reaches_what_it_needs_and_no_other_port() -> None:
    ports = {port["port"] for rule in POLICY["egress"] for port in rule["ports"]}
    needed = {53, 443<% if cookiecutter.database == 'postgresql' %>, 5432<% endif %><% if cookiecutter.cache == 'redis' %>, 6379<% endif %><% if cookiecutter.scale_tier == 'large' %>, 4318<% endif %>}
    assert ports == needed


# --- what is watched -----------------------------------------------------------------------------


def test_the_operator_makes_the_labels_that_rules_and_dashboards_select_by() -> None:
    monitor = manifest("components/scrape/servicemonitor.yaml")["spec"]
    assert monitor["selector"] == SELECTOR
    (endpoint,) = monitor["endpoints"]
    made = {step["targetLabel"]: step for step in endpoint["relabelings"] if "targetLabel" in step}
    assert made.keys() == {"job", "service", "environment", "instance"}
    assert made["job"]["replacement"] == made["service"]["replacement"] == SERVICE
    (dropped,) = (step["regex"] for step in endpoint["relabelings"] if "action" in step)
    assert set(dropped.split("|")) == {"namespace", "pod", "container", "endpoint"}


@pytest.mark.parametrize("name", SCRIPT["derived"]())
def test_what_is_derived_is_not_stale(name: str) -> None:
    derived = SCRIPT["derived"]()[name]
    assert yaml.safe_load((ROOT / name).read_text()) == derived, (
        f"{name} is stale: `make manifests` renews it"
    )


def test_the_operator_gets_every_rule_of_this_cluster() -> None:
    files = sorted((ROOT / "monitoring/prometheus/rules").glob("*.yml"))
    groups = [
        group
        for file in files
        if file.name != "environments.yml"  # each overlay says where it expects the service
        for group in yaml.safe_load(file.read_text())["groups"]
    ]
    assert manifest("components/monitoring/prometheusrule.yaml")["spec"]["groups"] == groups


def test_grafana_gets_every_dashboard_under_a_name_of_the_services_own() -> None:
    kustomization = yaml.safe_load((DASHBOARDS / "kustomization.yaml").read_text())
    files = {
        file.stem: (f"{SERVICE}-dashboard-{file.stem}", [f"{SERVICE}-{file.name}={file.name}"])
        for file in DASHBOARDS.glob("*.json")
    }
    listed = [(each["name"], each["files"]) for each in kustomization["configMapGenerator"]]
    assert sorted(listed) == sorted(files.values()), "monitoring/grafana/dashboards/: list each"


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """A copy of what is derived from, to be changed."""
    for folder in ("monitoring", "deploy", "scripts"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


def derive(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/manifests.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_new_rule_is_derived_by_the_command(changed: Path) -> None:
    rule = {"record": "service:parcels:count", "expr": "count(parcels)"}
    rules = yaml.safe_dump({"groups": [{"name": "parcels", "rules": [rule]}]})
    (changed / "monitoring/prometheus/rules/parcels.yml").write_text(rules)
    done = derive(changed)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    derived = changed / "deploy/kubernetes/components/monitoring/prometheusrule.yaml"
    assert {"name": "parcels", "rules": [rule]} in yaml.safe_load(derived.read_text())["spec"][
        "groups"
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("groups:\n  - name: errors\n    rules: []\n", "the group 'errors' is in "),
        ("rules: []\n", "is no file of rules: it needs `groups`"),
        ("groups: [{name: \n", "is no YAML: "),
    ],
)
def test_a_file_that_is_none_of_rules_is_refused_by_its_name(
    changed: Path, text: str, said: str
) -> None:
    (changed / "monitoring/prometheus/rules/parcels.yml").write_text(text)
    before = (KUBERNETES / "components/monitoring/prometheusrule.yaml").read_text()
    done = derive(changed)
    assert done.returncode == 1
    assert done.stderr.startswith("error: monitoring/prometheus/rules/parcels.yml")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    derived = changed / "deploy/kubernetes/components/monitoring/prometheusrule.yaml"
    assert derived.read_text() == before


def test_the_same_environments_page_where_each_service_says_whom_to_notify() -> None:
    here = manifest("components/notifications/alertmanagerconfig.yaml")["spec"]["route"]
    named = [
        matcher["value"]
        for route in here["routes"]
        for matcher in route["matchers"]
        if matcher["name"] == "environment"
    ]
    assert named
    # There is none where the platform is another's.
    for routes in ROOT.glob("*/alertmanager/alertmanager.yml"):
        for value in named:
            assert f'environment=~"{value}"' in routes.read_text()


def test_the_page_creates_the_secret_that_notifications_read() -> None:
    text = (KUBERNETES / "components/notifications/alertmanagerconfig.yaml").read_text()
    references = set(re.findall(r"name: (\S+)\n +key: (\w+)", text))
    assert references
    for name, key in references:
        assert f"create secret generic {name} --from-env-file=notifications.env\n" in PAGE
        assert f"`{key}=`" in PAGE
