<% import "places.j2" as places with context %>
"""The rules are accepted by promtool, and each alert fires when it should and only then."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from <<cookiecutter.__package>>.observability.metrics import (
    LATENCY_BUCKETS,
    QUEUE_BUCKETS,
)
from <<cookiecutter.__package>>.settings import SLOW_REQUEST_SECONDS

<% if places.shared %>
from .rules import (
    PLATFORM,
    PROMETHEUS,
    ROOT,
    RULES,
    UNIT_TESTS,
    alerts,
    expected,
    read,
    unit_tests_of,
)
<% else %>
from .rules import PROMETHEUS, ROOT, RULES, UNIT_TESTS, alerts, expected, read, unit_tests_of
<% endif %>


@pytest.fixture(scope="session")
def promtool() -> str:
    if found := shutil.which("promtool"):
        return found
    text = "promtool is not installed: apt-get install prometheus, or prometheus.io/download"
    if os.environ.get("CI") == "true":
        pytest.fail(text)
    pytest.skip(text)


def run(*command: str | Path) -> tuple[int, str]:
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    return done.returncode, done.stdout + done.stderr


<% if places.shared %>
@pytest.mark.skipif(not PLATFORM.exists(), reason="platform/ is not here: this team has its own")
def test_prometheus_accepts_the_configuration(promtool: str) -> None:
    code, said = run(promtool, "check", "config", PLATFORM / "prometheus" / "prometheus.yml")
<% else %>
def test_prometheus_accepts_the_configuration(promtool: str) -> None:
    code, said = run(promtool, "check", "config", PROMETHEUS / "prometheus.yml")
<% endif %>
    assert code == 0, said


def test_prometheus_accepts_the_job_for_kubernetes(promtool: str) -> None:
    code, said = run(promtool, "check", "config", PROMETHEUS / "kubernetes.yml")
    if "field kubernetes_sd_configs not found" in said:
        pytest.skip("this promtool, as Debian's, knows no Kubernetes: prometheus.io/download")
    assert code == 0, said


def test_pods_have_what_the_job_for_kubernetes_looks_for() -> None:
    pod = read(ROOT / "deploy/kubernetes/base/deployment.yaml")["spec"]["template"]
    annotations = pod["metadata"]["annotations"]
    ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
    assert annotations["prometheus.io/port"] == str(ports["metrics"])

    (job,) = read(PROMETHEUS / "kubernetes.yml")["scrape_configs"]
    text = str(job["relabel_configs"])
    looked_for = set(re.findall(r"__meta_kubernetes_pod_annotation_(\w+)", text))
    assert looked_for <= {re.sub(r"\W", "_", name) for name in annotations}
    release = read(ROOT / "deploy/kubernetes/release/kustomization.yaml")["labels"][0]["pairs"]
    looked_for = set(re.findall(r"__meta_kubernetes_pod_label_(\w+)", text))
    assert looked_for <= {re.sub(r"\W", "_", name) for name in release}


@pytest.mark.parametrize("file", RULES, ids=lambda file: file.stem)
def test_prometheus_accepts_the_rules(promtool: str, file: Path) -> None:
    code, said = run(promtool, "check", "rules", "--lint-fatal", file)
    assert code == 0, said


@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda file: file.stem)
def test_alerts_fire_when_they_should_and_only_then(promtool: str, file: Path) -> None:
    code, said = run(promtool, "test", "rules", file)
    assert code == 0, said


def test_each_file_of_rules_has_unit_tests() -> None:
    for file in RULES:
        tests = unit_tests_of(file)
        assert tests in UNIT_TESTS, (
            f"{file.relative_to(ROOT)} needs unit tests in {tests.relative_to(ROOT)}"
        )


def test_each_alert_is_seen_to_fire_and_to_be_silent() -> None:
    seen = {(name, bool(firing)) for name, firing in expected()}
    for alert in alerts():
        for fires in (True,) if alert.always_fires else (True, False):
            assert (alert.name, fires) in seen, (
                f"{alert.where}: {alert.name} needs a unit test in monitoring/prometheus/tests/ in"
                f" which it {'fires' if fires else 'does not fire (exp_alerts: [])'}"
            )
    unknown = {name for name, _ in seen} - {alert.name for alert in alerts()}
    assert not unknown, f"monitoring/prometheus/tests/ tests alerts that do not exist: {unknown}"


def test_the_threshold_of_latency_is_an_edge_of_the_histogram() -> None:
    thresholds = {alert.threshold for alert in alerts() if alert.name == "HighLatency"}
    assert f"> {SLOW_REQUEST_SECONDS}" in thresholds
    assert {float(threshold.removeprefix("> ")) for threshold in thresholds} <= {*LATENCY_BUCKETS}


def test_the_thresholds_of_waiting_are_edges_of_the_histogram() -> None:
    thresholds = {alert.threshold for alert in alerts() if alert.name == "RequestsWaiting"}
    assert thresholds == {f"> {SLOW_REQUEST_SECONDS}", "> 0.1"}
    assert {SLOW_REQUEST_SECONDS, 0.1} <= set(QUEUE_BUCKETS)
