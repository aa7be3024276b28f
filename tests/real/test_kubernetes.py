"""Kubernetes manifests: built by kustomize, held to the schemas of several versions and to two scanners' policies."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from template_checkout import Generate, combinations
from test_names import LONGEST_SLUG

from . import servers
from .manifests import Built, environments_of
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
}
OF_SMALL = {
    "deployment-replicas": "a small service is one pod",
    "pod-networkpolicy": "who may call depends on the cluster's ingress and Prometheus",
}
OF_OVERLAYS = {"deployment-has-host-podantiaffinity": "topologySpreadConstraints, which it does not know, spread pods"}


def let_requests_in(service: Path) -> None:
    """Add the line that docs/kubernetes.md gives, where it says."""
    (line,) = re.findall(r"(?m)^components: .*$", (service / "docs/kubernetes.md").read_text())
    release = service / "deploy/kubernetes/release/kustomization.yaml"
    release.write_text(f"{release.read_text()}\n{line}\n")


@pytest.fixture(scope="module")
def builds(service: Generate, tmp_path_factory: pytest.TempPathFactory) -> list[Built]:
    """The manifests of every tier with every database and cache, the longest names', one with an Ingress."""
    each = combinations()
    named = [answers for answers in each if answers["database"] == "postgresql" and answers["cache"] == "redis"]
    each += [{**answers, "project_slug": LONGEST_SLUG} for answers in named]
    made = [(service(**answers), answers) for answers in each]
    for answers in named:
        open_to_all = tmp_path_factory.mktemp("open") / "service"
        shutil.copytree(service(**answers), open_to_all)
        let_requests_in(open_to_all)
        made.append((open_to_all, {**answers, "ingress": "yes"}))
    return [Built(folder, answers, environment) for folder, answers in made for environment in environments_of(folder)]


IN_A_CLUSTER = re.compile("medium|large")


def in_folder(folder: Path, files: list[Path]) -> Path:
    """A folder with these files alone."""
    for file in files:
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def files(builds: list[Built], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The built manifests, a file for each service."""
    folder = tmp_path_factory.mktemp("manifests")
    for build in builds:
        (folder / f"{build.name}.yaml").write_text(build.text)
    return sorted(folder.iterdir())


def test_the_tier_decides_replicas_and_threads(builds: list[Built]) -> None:
    for build in builds:
        replicas = build.one("Deployment")["spec"]["replicas"]
        if build.environment == "production":
            assert replicas == build.tier["replicas"], build.name
        else:
            assert 1 < replicas < build.tier["replicas"], build.name
        config = {each["data"]["WEB_THREADS"] for each in build.configuration}
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
        configs = {each["metadata"]["name"] for each in build.configuration}
        assert len(configs) == 1
        assert {each["envFrom"][0]["configMapRef"]["name"] for each in containers} == configs


def test_a_new_setting_reaches_every_pod_by_one_line(service: Generate, tmp_path: Path) -> None:
    """And replaces the pods: their ConfigMap has another name then."""
    shutil.copytree(service(), tmp_path / "service")
    before = Built(tmp_path / "service", {"scale_tier": "small"})
    with (tmp_path / "service/deploy/kubernetes/release/settings.env").open("a") as settings:
        settings.write("PARCELS_PER_PAGE=50\n")
    after = Built(tmp_path / "service", {"scale_tier": "small"})
    configs = {each["metadata"]["name"]: each["data"] for each in after.configuration}
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
        config = {each["data"].get("TRUSTED_PROXIES") for each in build.configuration}
        assert (len(ingresses), config) == ((1, {"1"}) if "ingress" in build.answers else (0, {None}))
        for ingress in ingresses:
            (tls,), (rule,) = ingress["spec"]["tls"], ingress["spec"]["rules"]
            assert tls == {"hosts": [rule["host"]], "secretName": "order-service-tls"}
            assert ingress["metadata"]["namespace"] == build.namespace
    hosts = [build.one("Ingress")["spec"]["rules"][0]["host"] for build in builds if "ingress" in build.answers]
    assert {host.partition(".")[2] for host in hosts} == {"example.com", "staging.example.com"}


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
    # What prometheus-operator has brought to a cluster is held to its own schemas in test_overlays.py.
    of_the_operator = re.compile(r"WARN .+ find schema for kind \w+ with api version monitoring\.coreos\.com/")
    assert [line for line in said if not line.startswith("INFO") and not of_the_operator.match(line)] == []
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


@pytest.mark.parametrize("alone", [True, False], ids=["small", "with overlays"])
def test_checkov_finds_what_the_service_explains_and_nothing_else(
    builds: list[Built], files: list[Path], tmp_path: Path, alone: bool
) -> None:
    settings = [one.settings_of_checkov for one in builds if bool(IN_A_CLUSTER.match(one.name)) != alone]
    explained = settings[0]
    assert {each.read_text() for each in settings} == {explained.read_text()}
    lines = explained.read_text().splitlines()
    exceptions = {
        line.removeprefix("  - "): lines[number - 1] for number, line in enumerate(lines) if line.startswith("  - ")
    }
    for exception, reason in exceptions.items():
        assert reason.startswith("  # "), f"{exception} lacks a reason"
    folder = in_folder(tmp_path, [file for file in files if bool(IN_A_CLUSTER.match(file.name)) != alone])
    assert checkov("--directory", folder, "--config-file", explained) == set()
    assert checkov("--directory", folder, "--framework=kubernetes") == exceptions.keys()


def kube_score(files: list[Path]) -> set[str]:
    """The checks that built manifests fail."""
    command: list[str | Path] = [program("kube-score"), "score", "--ignore-container-cpu-limit", "--output-format=json"]
    return {
        check["check"]["id"]
        for file in files
        for scored in json.loads(run([*command, file]).stdout)
        for check in scored["checks"]
        if not check["skipped"] and check["grade"] < 10
    }


def test_kube_score_finds_what_is_explained_and_nothing_else(files: list[Path]) -> None:
    small = [file for file in files if not IN_A_CLUSTER.match(file.name)]
    assert kube_score(small) == KUBE_SCORE_EXCEPTIONS.keys() | OF_SMALL.keys()
    overlays = [file for file in files if IN_A_CLUSTER.match(file.name)]
    assert kube_score(overlays) == KUBE_SCORE_EXCEPTIONS.keys() | OF_OVERLAYS.keys()


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
