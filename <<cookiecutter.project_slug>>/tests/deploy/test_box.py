"""One machine: systemd's unit, logrotate and the service agree with each other."""

import re
from pathlib import Path

from <<cookiecutter.__package>>.settings import SERVICE

from ..support import PRODUCTION, ROOT, a_process

UNIT = (ROOT / "deploy" / "systemd" / f"{SERVICE}.service").read_text()
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
