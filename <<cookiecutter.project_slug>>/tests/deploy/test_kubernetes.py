"""Kubernetes: what the manifests say of the service is so."""

import json
import os
import re
import tomllib
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
import yaml

from <<cookiecutter.__package>>.observability import (
    errors,
    health,
)
from <<cookiecutter.__package>>.settings import (
    SERVICE,
    Settings,
    load_settings,
)

from ..support import PRODUCTION, ROOT, Service, a_process, is_ours

KUBERNETES = ROOT / "deploy" / "kubernetes"


def manifest(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((KUBERNETES / name).read_text())
    return found


RELEASE = manifest("release/kustomization.yaml")
DEPLOYMENT = manifest("base/deployment.yaml")
SERVICE_MANIFEST = manifest("base/service.yaml")
POD = DEPLOYMENT["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]
FIELDS = Settings.model_fields
SECRETS = {name for name, field in FIELDS.items() if "SecretStr" in str(field.annotation)}
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
LABELS = RELEASE["labels"][0]["pairs"]
CONFIG = dict(
    line.split("=", 1)
    for line in (KUBERNETES / "release/settings.env").read_text().splitlines()
    if line and not line.startswith("#")
)
DOCUMENTED_SECRETS = dict(
    re.findall(r"(?m)^([A-Z_]+)=(.+)$", (ROOT / "docs/kubernetes.md").read_text())
)
TEMPLATES = {
    str(path.relative_to(KUBERNETES)): found["spec"]["template"]
    for path in sorted(KUBERNETES.glob("*/*.yaml"))
    if "template" in (found := yaml.safe_load(path.read_text())).get("spec", {})
}
each_pod = pytest.mark.parametrize(
    "pod", [template["spec"] for template in TEMPLATES.values()], ids=TEMPLATES
)


def variables_of(pod: dict[str, Any]) -> dict[str, str]:
    """What a pod's process finds in its environment; SENTRY_DSN is left out of its Secret."""
    (container,) = pod["containers"]
    config, secret = container["envFrom"]
    assert config == {"configMapRef": {"name": SERVICE}}
    assert secret["secretRef"]["name"] == SERVICE
    (environment,) = container["env"]
    assert environment["name"] == "ENVIRONMENT"
    path = environment["valueFrom"]["fieldRef"]["fieldPath"]
    label = re.fullmatch(r"metadata\.labels\['(.+)'\]", path)
    assert label
    needed = DOCUMENTED_SECRETS.keys() - {"SENTRY_DSN"}
    secrets = {name: PRODUCTION[name.lower()] for name in needed}
    return CONFIG | secrets | {"ENVIRONMENT": LABELS[label[1]]}


@each_pod
def test_production_starts_with_what_the_manifests_give(
    pod: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in filter(is_ours, list(os.environ)):
        monkeypatch.delenv(name)
    for name, value in variables_of(pod).items():
        monkeypatch.setenv(name, value)
    assert load_settings().in_production


def test_every_variable_is_a_setting() -> None:
    assert CONFIG.keys() | DOCUMENTED_SECRETS.keys() <= {name.upper() for name in FIELDS}


def test_what_is_secret_is_named_as_a_secret_and_nowhere_else() -> None:
    assert {name.lower() for name in DOCUMENTED_SECRETS} == SECRETS
    assert not DOCUMENTED_SECRETS.keys() & CONFIG.keys()


def test_requests_from_outside_reach_the_service_and_not_its_metrics() -> None:
    ingress = manifest("components/ingress/ingress.yaml")
    ((path,),) = [rule["http"]["paths"] for rule in ingress["spec"]["rules"]]
    backend = path["backend"]["service"]
    assert backend == {"name": SERVICE_MANIFEST["metadata"]["name"], "port": {"name": "http"}}


def test_each_probe_asks_an_endpoint_of_its_own(service: Service) -> None:
    paths = [CONTAINER[probe]["httpGet"]["path"] for probe in PROBES]
    assert paths == ["/health/startup", "/health/live", "/health/ready"]
    for path in paths:
        assert service.client.get(path).status_code in (200, 503)


def test_a_probe_waits_longer_than_the_checks_of_dependencies_take() -> None:
    for probe in PROBES:
        assert CONTAINER[probe]["timeoutSeconds"] >= health.LIMIT_SECONDS + 1
        assert CONTAINER[probe]["httpGet"]["port"] == "http"


def test_the_ports_are_those_of_the_settings() -> None:
    settings = Settings.model_fields
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert ports == {"http": settings["port"].default, "metrics": settings["metrics_port"].default}
    targets = {port["name"]: port["targetPort"] for port in SERVICE_MANIFEST["spec"]["ports"]}
    assert targets == {name: name for name in ports}
    assert POD["metadata"]["annotations"]["prometheus.io/port"] == str(ports["metrics"])


def test_a_pod_has_the_time_to_drain_to_finish_and_to_tell_its_errors(tmp_path: Path) -> None:
    package = Settings.__module__.partition(".")[0]
    told = a_process(
        f"import json; from {package} import gunicorn_conf as gunicorn;"
        "print(json.dumps([gunicorn.settings.drain_seconds, gunicorn.graceful_timeout]))",
        tmp_path,
        PROMETHEUS_MULTIPROC_DIR=str(tmp_path),
        **variables_of(POD["spec"]),
    )
    drain, finish = json.loads(told.stdout)
    wait = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert drain > 0
    assert wait > 0
    needed = wait + drain + finish + errors.FLUSH_SECONDS
    assert needed < POD["spec"]["terminationGracePeriodSeconds"] <= needed + 15


def test_a_release_takes_no_pod_away_before_another_is_ready() -> None:
    assert DEPLOYMENT["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


@each_pod
def test_a_pod_can_do_no_more_than_the_restricted_profile_allows(pod: dict[str, Any]) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@each_pod
def test_no_other_service_of_the_namespace_sets_a_variable(pod: dict[str, Any]) -> None:
    assert pod["enableServiceLinks"] is False


@each_pod
def test_memory_is_reserved_and_the_processor_is_not_limited(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    resources = container["resources"]
    assert resources["limits"] == {"memory": resources["requests"]["memory"]}
    assert resources["requests"]["cpu"]


@each_pod
def test_the_user_is_the_images_own(pod: dict[str, Any]) -> None:
    users = re.findall(r"(?m)^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text())
    context = pod["securityContext"]
    assert (str(context["runAsUser"]), str(context["runAsGroup"])) == users[-1]


def test_requests_go_to_the_service_and_to_nothing_else() -> None:
    selector = SERVICE_MANIFEST["spec"]["selector"]
    assert selector == DEPLOYMENT["spec"]["selector"]["matchLabels"]
    selected = [
        name
        for name, template in TEMPLATES.items()
        if selector.items() <= (LABELS | template["metadata"]["labels"]).items()
    ]
    assert selected == ["base/deployment.yaml"]


def test_a_release_changes_every_image_and_says_so_in_its_labels() -> None:
    (image,) = RELEASE["images"]
    images = {pod["containers"][0]["image"] for pod in map(itemgetter("spec"), TEMPLATES.values())}
    assert images == {image["name"]}
    assert image["newTag"] == LABELS["app.kubernetes.io/version"]


def test_a_release_is_of_an_image_that_make_has_tagged() -> None:
    """With the version of the project, or, as CI does, with the hash of a commit."""
    (image,) = RELEASE["images"]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert image["newTag"] == version or re.fullmatch("[0-9a-f]{40}", image["newTag"])
