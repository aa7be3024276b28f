"""One machine: systemd's unit, logrotate and the service agree with each other."""

import json
import os
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flask import Flask

from <<cookiecutter.__package>>.app import init_proxies
from <<cookiecutter.__package>>.settings import SERVICE, Settings

from ..support import PRODUCTION, ROOT, a_process

UNIT = (ROOT / "deploy" / "systemd" / f"{SERVICE}.service").read_text()
PAGES = [ROOT / "docs" / "monitoring.md", *sorted((ROOT / "docs" / "runbooks").glob("*.md"))]
ROTATION = (ROOT / "deploy" / "logrotate" / SERVICE).read_text()

LONGEST_STOP = """
from <<cookiecutter.__package>> import gunicorn_conf as conf
print(conf.settings.drain_seconds + conf.graceful_timeout)
"""


def unit(setting: str) -> list[str]:
    """All values that the unit gives a setting."""
    return re.findall(rf"(?m)^{setting}=(.*)$", UNIT)


def test_systemd_waits_for_the_drain_and_for_requests_in_flight(tmp_path: Path) -> None:
    told = {name.upper(): value for name, value in PRODUCTION.items()}
    done = a_process(LONGEST_STOP, tmp_path, **told)
    assert done.returncode == 0, done.stderr
    (patience,) = unit("TimeoutStopSec")
    # What is left is for workers that have to be killed, and for the last events.
    assert float(patience) >= float(done.stdout) + 15


def test_the_log_that_is_written_is_the_log_that_is_rotated() -> None:
    (log,) = [value.partition("=")[2] for value in unit("Environment") if "LOG_FILE" in value]
    assert ROTATION.splitlines()[0] == f"{log} {{"
    assert log.startswith(f"/var/log/{unit('LogsDirectory')[0]}/")


def test_logs_are_rotated_as_the_user_that_writes_them() -> None:
    (user,) = unit("User")
    assert f"su {user} {user}\n" in ROTATION
    assert len(user) <= 31  # systemd refuses longer ones


def test_nginx_leaves_nothing_of_a_callers_that_the_service_believes() -> None:
    proxy = (ROOT / "deploy" / "nginx" / f"{SERVICE}.conf").read_text()
    app = Flask(__name__)
    init_proxies(app, Settings(_env_file=None, environment="local", trusted_proxies=1))
    hops = {name: count for name, count in vars(app.wsgi_app).items() if name.startswith("x_")}
    believed = {f"X-Forwarded-{name[2:].title()}" for name, count in hops.items() if count}
    assert set(re.findall(r"proxy_set_header (X-Forwarded-\w+) ", proxy)) == believed
    (target,) = re.findall(r"proxy_pass http://127\.0\.0\.1:(\d+);", proxy)
    assert int(target) == Settings.model_fields["port"].default


def test_the_last_half_hour_is_read_from_the_log_and_the_one_before_it(tmp_path: Path) -> None:
    (line,) = re.findall(r"(?m)^logs\(\) \{ sudo .*$", PAGES[0].read_text())
    function = line.replace(f"/var/log/{SERVICE}", str(tmp_path)).replace("sudo ", "")
    assert function.count(str(tmp_path)) == 1

    def write(name: str, age: int, *minutes: int) -> None:
        now = datetime.now(UTC)
        times = [now - timedelta(minutes=each) for each in minutes]
        entries = [{"timestamp": f"{t:%Y-%m-%dT%H:%M:%S}.000Z", "message": ""} for t in times]
        for entry, ago in zip(entries, minutes, strict=True):
            entry["message"] = f"{ago} minutes ago"
        file = tmp_path / f"{SERVICE}.log{name}"
        file.write_text("".join(json.dumps(e, separators=(",", ":")) + "\n" for e in entries))
        os.utime(file, (now.timestamp() - age, now.timestamp() - age))

    write("", 0, 10, 1)
    write("-20260102-030405", 700, 90, 40, 20)
    write("-20260102-020405.gz", 5400, 15)
    done = subprocess.run(  # noqa: S603 - the page's own function
        ["/bin/bash", "-c", f"{function}\nlogs"], capture_output=True, text=True, check=True
    )
    read = [json.loads(each)["message"] for each in done.stdout.splitlines()]
    assert read == ["20 minutes ago", "10 minutes ago", "1 minutes ago"]
    assert not done.stderr


def test_what_runbooks_run_on_the_machine_has_what_the_unit_gives_the_service() -> None:
    text = "".join(page.read_text() for page in PAGES).replace("\\\n", " ")
    commands = re.findall(r"sudo systemd-run .*", text)
    assert commands
    for command in commands:
        words = command.split()
        assert f"--uid={unit('User')[0]}" in words
        assert f"--working-directory={unit('WorkingDirectory')[0]}" in words
        assert f"--property=EnvironmentFile={unit('EnvironmentFile')[0]}" in words
        given = {word.removeprefix("--setenv=") for word in words if word.startswith("--setenv=")}
        assert given == set(unit("Environment"))
