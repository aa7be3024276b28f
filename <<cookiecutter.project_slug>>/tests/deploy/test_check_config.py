"""`make check-config`: what it looks at exists, and Renovate raises what it installs."""

import json
import re
import runpy
from typing import Any

import pytest
import yaml

from <<cookiecutter.__package>>.settings import SERVICE

from ..support import ROOT

SCRIPT = runpy.run_path(str(ROOT / "scripts" / "check_config.py"))
CHECKS: list[Any] = SCRIPT["CHECKS"]
RENOVATE = json.loads((ROOT / "renovate.json").read_text())


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.files)
def test_each_path_that_is_looked_at_exists(check: Any) -> None:
    for pattern in check.files.split():
        assert list(ROOT.glob(pattern)), pattern


def test_each_version_that_is_installed_is_one_that_renovate_finds() -> None:
    source = (ROOT / "scripts" / "check_config.py").read_text()
    patterns = [text for one in RENOVATE["customManagers"] for text in one["matchStrings"]]
    in_python = [pattern.replace("(?<", "(?P<") for pattern in patterns]
    found = {match["currentValue"] for each in in_python for match in re.finditer(each, source)}
    asked = {re.split("==|@", check.get)[-1] for check in CHECKS if re.search("==|@", check.get)}
    assert asked
    assert found == asked


def test_renovate_leaves_the_image_of_the_service_to_its_releases() -> None:
    kustomization = ROOT / "deploy" / "kubernetes" / "release" / "kustomization.yaml"
    (image,) = yaml.safe_load(kustomization.read_text())["images"]
    (left,) = (rule for rule in RENOVATE["packageRules"] if rule.get("enabled") is False)
    assert left["matchPackageNames"] == [image["name"]] == [SERVICE]
    assert {"docker-compose", "kustomize"} <= set(left["matchManagers"])
