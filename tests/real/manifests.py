"""What kustomize makes of a service's folders, an environment at a time."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml
from template_checkout import DEFINITION

from .processes import run
from .programs import program

Manifests = list[dict[str, Any]]


class Built:
    """All that is applied to an environment: the service, and the migration before it."""

    def __init__(self, service: Path, answers: dict[str, str], environment: str = "production") -> None:
        self.answers, self.environment = answers, environment
        self.tier: dict[str, Any] = DEFINITION["_tiers"][answers["scale_tier"]]
        self.page = (service / "docs/kubernetes.md").read_text()
        self.settings_of_checkov = service / "deploy/kubernetes/.checkov.yaml"
        self.text = "---\n".join(kustomize(folder) for folder in applied(service, environment))
        self.manifests: Manifests = list(yaml.safe_load_all(self.text))

    @property
    def name(self) -> str:
        """The answers in short."""
        chosen = (self.answers[option] for option in ("scale_tier", "database", "cache"))
        return "-".join((*chosen, *sorted(self.answers.keys() & {"project_slug", "ingress"}), self.environment))

    @property
    def namespace(self) -> str:
        """Where its objects are."""
        slug = self.answers.get("project_slug", "order-service")
        return slug if self.environment == "production" else f"{slug}-{self.environment}"

    @property
    def configuration(self) -> Manifests:
        """The ConfigMaps that pods have their settings from: dashboards are such too."""
        return [each for each in self.manifests if each["kind"] == "ConfigMap" and "WEB_THREADS" in each["data"]]

    def one(self, kind: str) -> dict[str, Any]:
        """The only manifest of its kind."""
        (found,) = (each for each in self.manifests if each["kind"] == kind)
        return found


def environments_of(service: Path) -> list[str]:
    """The environments of a service: production is all that one without overlays has."""
    return sorted(folder.name for folder in service.glob("deploy/kubernetes/overlays/*")) or ["production"]


def applied(service: Path, environment: str) -> list[Path]:
    """The folders that docs/kubernetes.md has applied to an environment."""
    kubernetes = service / "deploy/kubernetes"
    overlay = kubernetes / "overlays" / environment
    wanted = overlay if overlay.is_dir() else kubernetes / "base"
    migrations = (folder for folder in (overlay / "migration", kubernetes / "migration") if folder.is_dir())
    return [wanted, *list(migrations)[:1]]


def kustomize(folder: Path) -> str:
    """Build with kubectl's kustomize, or with kustomize itself."""
    kubectl = shutil.which("kubectl")
    command: list[str | Path] = [kubectl, "kustomize"] if kubectl else [program("kustomize"), "build"]
    done = run([*command, folder])
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout
