"""Kubernetes manifests: built by kustomize, held to the schemas of several versions and to two scanners' policies."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from template_checkout import DEFINITION, Generate, combinations
from test_names import LONGEST_SLUG

from . import servers
from .processes import clean_environment, run
from .programs import program
from .service import Service

OLDEST = "1.30"
"""The first Kubernetes whose preStop sleeps by itself, unless an administrator switches that off."""

VERSIONS = (OLDEST, "1.35", "1.36", "1.37")


# What kube-score would have otherwise, and why it is not so. What checkov finds, the service itself explains.
KUBE_SCORE_EXCEPTIONS = {
    "container-ephemeral-storage-request-and-limit": "counts the logs too, and how much of those is kept is the node's",
    "container-image-pull-policy": "a version's tag stays put, and a restart needs no registry",
    "deployment-has-host-podantiaffinity": "the base knows of no nodes: what concerns several is an overlay's",
    "deployment-has-poddisruptionbudget": "as above",
    "deployment-replicas": "a small service is one pod",
    "pod-networkpolicy": "who may call depends on the cluster's ingress and Prometheus",
}

Manifests = list[dict[str, Any]]


class Built:
    """What kustomize makes of one service's folders."""

    def __init__(self, service: Path, answers: dict[str, str]) -> None:
        self.answers = answers
        self.tier: dict[str, Any] = DEFINITION["_tiers"][answers["scale_tier"]]
        folder = service / "deploy" / "kubernetes"
        self.page = (service / "docs/kubernetes.md").read_text()
        self.settings_of_checkov = folder / ".checkov.yaml"
        self.text = "---\n".join(kustomize(folder / name) for name in ("base", "migration") if (folder / name).is_dir())
        self.manifests: Manifests = list(yaml.safe_load_all(self.text))

    @property
    def name(self) -> str:
        """The answers in short."""
        chosen = (self.answers[option] for option in ("scale_tier", "database", "cache"))
        return "-".join((*chosen, *(self.answers.keys() & {"project_slug", "ingress"})))

    def one(self, kind: str) -> dict[str, Any]:
        """The only manifest of its kind."""
        (found,) = (each for each in self.manifests if each["kind"] == kind)
        return found


def kustomize(folder: Path) -> str:
    """Build with kubectl's kustomize, or with kustomize itself."""
    kubectl = shutil.which("kubectl")
    command: list[str | Path] = [kubectl, "kustomize"] if kubectl else [program("kustomize"), "build"]
    done = run([*command, folder])
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def let_requests_in(service: Path) -> None:
    """Add the line that docs/kubernetes.md gives, where it says."""
    (line,) = re.findall(r"(?m)^components: .*$", (service / "docs/kubernetes.md").read_text())
    release = service / "deploy/kubernetes/release/kustomization.yaml"
    release.write_text(f"{release.read_text()}\n{line}\n")


@pytest.fixture(scope="module")
def builds(service: Generate, tmp_path_factory: pytest.TempPathFactory) -> list[Built]:
    """The manifests of every tier with every database and cache, the longest name's, one with an Ingress."""
    each = combinations()
    each.append({**each[0], "project_slug": LONGEST_SLUG})
    open_to_all = tmp_path_factory.mktemp("open") / "service"
    shutil.copytree(service(**each[0]), open_to_all)
    let_requests_in(open_to_all)
    return [
        *(Built(service(**answers), answers) for answers in each),
        Built(open_to_all, {**each[0], "ingress": "yes"}),
    ]


@pytest.fixture(scope="module")
def files(builds: list[Built], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The built manifests, a file for each service."""
    folder = tmp_path_factory.mktemp("manifests")
    for build in builds:
        (folder / f"{build.name}.yaml").write_text(build.text)
    return sorted(folder.iterdir())


def test_the_tier_decides_replicas_and_threads(builds: list[Built]) -> None:
    for build in builds:
        assert build.one("Deployment")["spec"]["replicas"] == build.tier["replicas"], build.name
        config = {each["data"]["WEB_THREADS"] for each in build.manifests if each["kind"] == "ConfigMap"}
        assert config == {str(build.tier["threads"])}, build.name


def test_a_migration_is_there_where_there_is_a_database(builds: list[Built]) -> None:
    for build in builds:
        jobs = [each for each in build.manifests if each["kind"] == "Job"]
        assert len(jobs) == (build.answers["database"] == "postgresql"), build.name


def test_every_workload_runs_one_image_with_one_configuration(builds: list[Built]) -> None:
    for build in builds:
        slug = build.answers.get("project_slug", "order-service")
        containers = [
            each["spec"]["template"]["spec"]["containers"][0]
            for each in build.manifests
            if each["kind"] in ("Deployment", "Job")
        ]
        assert {each["image"] for each in containers} == {f"{slug}:0.1.0"}
        configs = {each["metadata"]["name"] for each in build.manifests if each["kind"] == "ConfigMap"}
        assert len(configs) == 1
        assert {each["envFrom"][0]["configMapRef"]["name"] for each in containers} == configs


def test_a_new_setting_reaches_every_pod_by_one_line(service: Generate, tmp_path: Path) -> None:
    """And replaces the pods: their ConfigMap has another name then."""
    shutil.copytree(service(), tmp_path / "service")
    before = Built(tmp_path / "service", {"scale_tier": "small"})
    with (tmp_path / "service/deploy/kubernetes/release/settings.env").open("a") as settings:
        settings.write("PARCELS_PER_PAGE=50\n")
    after = Built(tmp_path / "service", {"scale_tier": "small"})
    configs = {each["metadata"]["name"]: each["data"] for each in after.manifests if each["kind"] == "ConfigMap"}
    for kind in ("Deployment", "Job"):
        (old,), (new,) = (build.one(kind)["spec"]["template"]["spec"]["containers"] for build in (before, after))
        name = new["envFrom"][0]["configMapRef"]["name"]
        assert configs[name]["PARCELS_PER_PAGE"] == "50"
        assert name != old["envFrom"][0]["configMapRef"]["name"]


def test_a_new_secret_reaches_every_pod_by_one_line(builds: list[Built]) -> None:
    """No pod names a key of the Secret: each has them all, under the name that the page creates it by."""
    for build in builds:
        slug = build.answers.get("project_slug", "order-service")
        assert f"create secret generic {slug} --from-env-file=secrets.env\n" in build.page
        for each in build.manifests:
            if each["kind"] in ("Deployment", "Job"):
                (container,) = each["spec"]["template"]["spec"]["containers"]
                assert container["envFrom"][1]["secretRef"]["name"] == slug
                assert "secretKeyRef" not in str(container)


def test_an_ingress_is_one_line_away(builds: list[Built]) -> None:
    """With TLS for its host; the service then believes one proxy, the migration lets nobody in."""
    for build in builds:
        ingresses = [each for each in build.manifests if each["kind"] == "Ingress"]
        config = {each["data"].get("TRUSTED_PROXIES") for each in build.manifests if each["kind"] == "ConfigMap"}
        assert (len(ingresses), config) == ((1, {"1"}) if "ingress" in build.answers else (0, {None}))
        for ingress in ingresses:
            (tls,), (rule,) = ingress["spec"]["tls"], ingress["spec"]["rules"]
            assert tls == {"hosts": [rule["host"]], "secretName": "order-service-tls"}
            assert ingress["metadata"]["namespace"] == "order-service"


def test_no_name_is_longer_than_kubernetes_takes(builds: list[Built]) -> None:
    label = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
    host = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
    for build in builds:
        for each in build.manifests:
            # A Job's name is a label's value on its pods, a Service's and a namespace's are parts of a host's name.
            if each["kind"] != "ConfigMap":
                assert host.fullmatch(each["metadata"]["name"]), each["metadata"]["name"]
            assert host.fullmatch(each["metadata"]["namespace"])
            template = each.get("spec", {}).get("template", {"metadata": {"labels": {}}})
            for value in (*each["metadata"]["labels"].values(), *template["metadata"]["labels"].values()):
                assert label.fullmatch(value), value


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_the_manifests(files: list[Path], version: str) -> None:
    done = run([program("kubernetes-validate"), "--strict", "--kubernetes-version", version, *files])
    said = (done.stdout + done.stderr).splitlines()
    assert [line for line in said if not line.startswith("INFO")] == []
    assert done.returncode == 0
    assert sum("passed for resource deployment/" in line for line in said) == len(files)


def test_a_kubernetes_without_the_wait_is_told_apart(files: list[Path]) -> None:
    done = run([program("kubernetes-validate"), "--strict", "--kubernetes-version", "1.28", files[0]])
    assert done.returncode == 1
    assert "('sleep' was unexpected)" in done.stdout + done.stderr


def checkov(*arguments: str | Path) -> set[str]:
    """The policies that built manifests break."""
    command = [program("checkov"), "--skip-download", "--quiet", "--compact", "--output=json", *arguments]
    done = run(command, folder=Path(__file__).parent)
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 0, done.stderr
    return {check["check_id"] for check in report["results"]["failed_checks"]}


def test_checkov_finds_what_the_service_explains_and_nothing_else(builds: list[Built], files: list[Path]) -> None:
    explained = builds[0].settings_of_checkov
    assert {build.settings_of_checkov.read_text() for build in builds} == {explained.read_text()}
    lines = explained.read_text().splitlines()
    exceptions = {
        line.removeprefix("  - "): lines[number - 1] for number, line in enumerate(lines) if line.startswith("  - ")
    }
    for exception, reason in exceptions.items():
        assert reason.startswith("  # "), f"{exception} lacks a reason"
    folder = files[0].parent
    assert checkov("--directory", folder, "--config-file", explained) == set()
    assert checkov("--directory", folder, "--framework=kubernetes") == exceptions.keys()


def test_kube_score_finds_what_is_explained_and_nothing_else(files: list[Path]) -> None:
    command: list[str | Path] = [program("kube-score"), "score", "--ignore-container-cpu-limit", "--output-format=json"]
    found = {
        check["check"]["id"]
        for file in files
        for scored in json.loads(run([*command, file]).stdout)
        for check in scored["checks"]
        if not check["skipped"] and check["grade"] < 10
    }
    assert found == KUBE_SCORE_EXCEPTIONS.keys()


def test_the_migration_needs_no_more_than_its_job_gives(small: Service) -> None:
    job = yaml.safe_load((small.folder / "deploy/kubernetes/migration/job.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    flask, *arguments = container["command"]
    with servers.postgres() as postgres:
        given = {
            "ENVIRONMENT": "production",
            "DATABASE_URL": postgres.database("migration"),
            "REDIS_URL": "redis://127.0.0.1:1/0",
        }
        environment = clean_environment(FLASK_APP=f"{small.package}.wsgi", **given)
        done = run([small.tool(flask), *arguments], folder=small.folder, environment=environment)
        assert done.returncode == 0, done.stdout + done.stderr
