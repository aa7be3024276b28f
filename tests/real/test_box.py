"""docs/box.md, from its first line to its last, on a bare Debian: what it says is typed, and leaves a watched service.

The machine is a Debian root with its own network, processes and package manager. systemd is not booted there: two
scripts, `machine/systemctl` and `machine/systemd-run`, stand in for it and start what the units name.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from template_checkout import commit

from .containers import CERTIFICATES, needs_root, pip_configuration, stand_in
from .processes import Program, children, clean_environment, eventually, run
from .service import Service, generate

NOT_RUN = {
    "sudo certbot ": "a certificate needs a name that leads to this machine",
    "certbot python3-certbot-nginx": "nothing uses it, as above",
    "systemctl status ": "systemd itself is not booted here",
    "sudo journalctl ": "as above",
    "sudo tail -f ": "never ends",
}
TYPED = {"Routing key": "routing-key\n", "Webhook": "https://hooks.example.com/1\n", "Password": "of the mail server\n"}
"""What is answered to a command that asks."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ANSWERS = {
    "curl --fail": '"status":"healthy"',
    "alert add": "",
    "alert query": "Only a trial",
    "promtool query": "pending",
}
"""What is awaited of a command that asks a server which has just been started."""

LOOPBACK = {"0100007F", "0" * 24 + "01000000"}

FROM_OUTSIDE = ("apt-get", "/bin/pip")
"""What needs the network of the machine that the tests run on."""

BOOT = """
set -e
mount -t proc proc "$1/proc"
mount --bind /dev "$1/dev"
mount --rbind {certificates} "$1{certificates}"
{python} -c '
import fcntl, socket, struct
interface = socket.socket()
fcntl.ioctl(interface, 0x8914, struct.pack("16sH14x", b"lo", 1))'  # SIOCSIFFLAGS: lo is up
exec sleep infinity
"""
REMEMBER = "declare -p PASSWORD VERSION REPOSITORY RELEASE >/root/variables 2>/dev/null"


class Machine:
    """A Debian in a folder, on which root types commands one after the other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        script = BOOT.format(certificates=CERTIFICATES, python=sys.executable)
        spaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
        self.program = Program([*spaces, "bash", "-c", script, "bash", root], environment=clean_environment())
        (self._first,) = eventually(lambda: children(self.program.pid), "the machine runs")
        eventually(lambda: Path(f"/proc/{self._first}/cmdline").read_bytes().startswith(b"sleep"), "it has booted")

    def type(self, command: str, seconds: float = 600) -> str:
        """Run a command in a shell that knows the variables of those before it; return what it said."""
        answer = next((text for question, text in TYPED.items() if f"'{question}" in command), "")
        network = [] if any(word in command for word in FROM_OUTSIDE) else ["--net"]
        script = f"test ! -e /root/variables || . /root/variables\n{command}\nended=$?\n{REMEMBER}\nexit $ended"
        enter = ["nsenter", f"--target={self._first}", "--mount", "--pid", *network, "chroot", str(self.root)]
        typed = ["bash", "-c", 'printf %s "$1" | "${@:2}"', "bash", answer]
        done = run(
            [*typed, *enter, "/bin/bash", "-c", script],
            environment={"PATH": PATH, "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive"},
            seconds=seconds,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def answers(self, command: str, text: str) -> bool:
        """Whether a command says a text."""
        return text in self.type(command)

    def listening(self) -> set[tuple[str, int]]:
        """The address and the port of each socket that listens."""
        found = set()
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{self._first}/net/{table}").read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if state == "0A":
                    address, port = local.split(":")
                    found.add((address, int(port, 16)))
        return found


@contextmanager
def bare() -> Iterator[Machine]:
    """A Debian with sudo and nothing else, where no server starts by itself; it is gone afterwards."""
    needs_root()
    with tempfile.TemporaryDirectory(prefix="proof-box-", ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        done = run(["tar", "--extract", f"--file={stand_in()}", f"--directory={root}"])
        assert done.returncode == 0, done.stderr
        root.chmod(0o755)
        for file in (Path("/etc/resolv.conf"), *Path("/etc/apt/apt.conf.d").glob("99*")):
            shutil.copy(file, root / file.relative_to("/"))
        (root / "etc/pip.conf").write_text(pip_configuration())
        (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
        (root / "usr/sbin/policy-rc.d").chmod(0o755)
        for script in (Path(__file__).parent / "machine").iterdir():
            shutil.copy(script, root / "usr/local/bin")
        (root / CERTIFICATES.relative_to("/")).mkdir(parents=True, exist_ok=True)
        machine = Machine(root)
        try:
            machine.type("apt-get -q update && apt-get -q install --yes --no-install-recommends sudo")
            yield machine
        finally:
            machine.program.stop(signal.SIGKILL)


def commands_of(page: str) -> list[str]:
    """The commands in the page's blocks; a continued line is one command."""
    text = "".join(re.findall(r"(?ms)^```sh\n(.*?)^```$", page))
    return [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if line]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A service in a repository, with a release."""
    made = generate(tmp_path_factory.mktemp("box"), cache="redis", database="postgresql", uptime_monitor="blackbox")
    commit(made.folder)
    tagged = run(["git", "tag", "v0.1.0"], folder=made.folder)
    assert tagged.returncode == 0
    return made


def test_the_page_leads_from_a_bare_machine_to_a_watched_service(service: Service) -> None:
    commands = commands_of((service.folder / "docs/box.md").read_text())
    skipped = {part for part in NOT_RUN if any(part in command for command in commands)}
    assert skipped == NOT_RUN.keys(), "what is not run is on the page"
    slug = service.slug
    with bare() as machine:
        shutil.copytree(service.folder, machine.root / "srv/repository")
        for command in commands:
            if any(part in command for part in NOT_RUN):
                continue
            if command.startswith("REPOSITORY="):
                machine.type("REPOSITORY=file:///srv/repository")
                continue
            if "v0.0.9" in command:
                # The former release that the page goes back to.
                (machine.root / f"opt/{slug}/v0.0.9").symlink_to("v0.1.0")
            print(f"$ {command}")
            awaited = next((text for start, text in ANSWERS.items() if start in command), None)
            if awaited is None:
                machine.type(command)
            else:
                eventually(partial(machine.answers, command, awaited), awaited or command, 90)
            if "apt-get install" in command:
                # What Debian starts when it is installed.
                machine.type("pg_ctlcluster 15 main start && systemctl start redis-server")

        installed = machine.type(f"/opt/{slug}/current/.venv/bin/pip list --format=freeze")
        assert "gunicorn==" in installed
        assert not re.search(r"(?m)^(pytest|ruff|mypy|hatchling|types-\S+)==", installed), installed
        assert (machine.root / f"etc/{slug}/environment").stat().st_mode & 0o777 == 0o600
        secrets = machine.root / "etc/alertmanager/secrets"
        assert (secrets / "smtp_password").read_text() == "of the mail server"
        assert (secrets / "smtp_password").stat().st_mode & 0o777 == 0o640

        # nginx says who calls; what a caller says of it is not believed.
        machine.type("curl --fail --silent --retry 20 --retry-all-errors --retry-delay 1 localhost/health/ready")
        machine.type("curl --silent --header 'X-Forwarded-For: 203.0.113.9' 127.0.0.1/nowhere")
        log = machine.root / f"var/log/{slug}/{slug}.log"

        def logged() -> list[dict[str, Any]]:
            lines = map(json.loads, log.read_text().splitlines())
            return [line for line in lines if line.get("path") == "/nowhere"]

        (line,) = eventually(logged, "the request's line")
        assert line["client_ip"] == "127.0.0.1"

        ask = (
            "curl --silent --get localhost:9090/api/v1/query --data-urlencode 'query={__name__=~\"up|probe_success\"}'"
        )
        wanted = {("up", job) for job in (slug, "uptime", "prometheus", "alertmanager")} | {("probe_success", "uptime")}
        eventually(
            lambda: well(machine.type(ask)) == wanted, "all is scraped, and the address that is probed answers", 90
        )
        assert {port for address, port in machine.listening() if address not in LOOPBACK} == {80}


def well(answer: str) -> set[tuple[str, str]]:
    """The names and jobs of the series that are 1."""
    found = json.loads(answer)["data"]["result"]
    return {(one["metric"]["__name__"], one["metric"]["job"]) for one in found if one["value"][1] == "1"}
