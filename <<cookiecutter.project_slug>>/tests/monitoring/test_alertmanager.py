<% import "places.j2" as places with context %>
"""Who is notified of an alert: the configuration as amtool reads it, and its secrets."""

import os
import re
import shutil
import subprocess

import pytest

from ..support import ROOT

ALERTMANAGER = ROOT / "<< places.platform >>" / "alertmanager"
CONFIGURATION = ALERTMANAGER / "alertmanager.yml"
SECRET = re.compile(r"(?m)^[\s-]*(\w*(?:password|secret|token|credentials|_key|_url)): *\S")
PUBLIC = {"client_url"}
<% if places.shared %>

pytestmark = pytest.mark.skipif(
    not ALERTMANAGER.exists(), reason="platform/ is not here: this team has its own"
)
<% endif %>


def amtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Alertmanager's tool; where it is missing the test is skipped, in CI it fails."""
    found = shutil.which("amtool")
    if not found:
        missing = "amtool is not installed: it is part of Alertmanager (prometheus-alertmanager)"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return subprocess.run(  # noqa: S603 - found on the path
        [found, *arguments], capture_output=True, text=True, timeout=30, check=False
    )


def test_alertmanager_accepts_its_configuration_and_templates() -> None:
    done = amtool("check-config", str(CONFIGURATION))
    assert done.returncode == 0, done.stdout + done.stderr


def receiver_of(**labels: str) -> str:
    """Who gets an alert with these labels."""
    texts = [f"{name}={text}" for name, text in labels.items()]
    done = amtool("config", "routes", "test", f"--config.file={CONFIGURATION}", *texts)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_critical_alert_of_production_pages_and_a_warning_is_a_message() -> None:
    assert receiver_of(severity="critical", environment="production") == "page"
    assert receiver_of(severity="warning", environment="production") == "message"


def test_no_other_environment_that_is_named_pages() -> None:
    for environment in ("staging", "development", "local"):
        assert receiver_of(severity="critical", environment=environment) == "message"


def test_what_no_route_knows_pages() -> None:
    assert receiver_of(severity="critical", environment="prod") == "page"
    assert receiver_of(severity="critical") == "page"
    assert receiver_of(environment="prod") == "page"


def test_information_reaches_nobody() -> None:
    for environment in ("production", "staging", "prod"):
        assert receiver_of(severity="info", environment=environment) == "nobody"


def test_every_template_that_is_sent_is_defined() -> None:
    files = [CONFIGURATION, *ALERTMANAGER.glob("templates/*.tmpl")]
    text = "".join(file.read_text() for file in files)
    sent = set(re.findall(r'{{-? ?template "([^"]+)"', text))
    assert sent == set(re.findall(r'{{-? ?define "([^"]+)"', text))


def test_every_secret_is_a_file_that_the_readme_names() -> None:
    text = CONFIGURATION.read_text()
    needed = set(re.findall(r"_file: /etc/alertmanager/secrets/(\w+)$", text, re.MULTILINE))
    readme = (ALERTMANAGER / "secrets" / "README.md").read_text()
    assert needed == set(re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE))
    assert len(needed) == text.count("_file:")


def test_no_secret_stands_in_the_repository() -> None:
    ignored = (ALERTMANAGER / "secrets" / ".gitignore").read_text().split()
    assert ignored == ["*", "!.gitignore", "!README.md"]
    for file in ALERTMANAGER.rglob("*"):
        if file.is_file() and file.parent.name != "secrets":
            assert set(SECRET.findall(file.read_text())) <= PUBLIC, file
