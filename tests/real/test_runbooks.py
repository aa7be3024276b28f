"""Every command of every runbook, typed as it stands beside a service that is broken as the runbook says: it shows why.

The service is small's, in Compose and under systemd, on a machine of its own (`box.py`) whose systemd, PostgreSQL,
Prometheus, Alertmanager and exporter are real. Where Docker's Compose and a cluster would be are stand-ins:
`engine/docker` runs each container's program, `cluster.py` answers kubectl, which is real. A second environment,
staging, is watched by the same Prometheus and is well.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
import tempfile
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from commands import commands_of

from . import servers
from .box import Box, box
from .cluster import Cluster
from .processes import eventually, run
from .programs import built, program
from .service import STAGE, Service, generate, request
from .stand_ins import Webhook, chain, listening, website
from .watchers import changed

ENGINE = Path(__file__).parent / "engine"
LOADER = Path(__file__).parent / "compose_loader"
PAGE = "docs/monitoring.md"
NOWHERE = "127.0.0.1:1"
ENVIRONMENTS = ("local", "staging")
MESSAGE = 'cannot read "order" twice'
HOSTS = f"127.0.0.1 {socket.gethostname()} localhost service staging hung prometheus alertmanager blackbox\n"
PROGRAMS = {
    # What Prometheus 3 does by itself; and alerts are sent again within a second.
    "prom/prometheus": ("prometheus", "--enable-feature=expand-external-labels", "--rules.alert.resend-delay=1s"),
    "prom/alertmanager": ("prometheus-alertmanager",),
    "prom/blackbox-exporter": ("prometheus-blackbox-exporter",),
}
"""Debian's, in the place of an image's."""

PLACEHOLDERS = {"CLIENT_ADDRESS": "127.0.0.1", "REQUEST_ID": "shown-to-me", "HOST": "localhost"}
HOUR = 3600
STAGING = {
    "ENVIRONMENT": "staging",
    "PORT": "8001",
    "METRICS_PORT": "9465",
    "DATABASE_URL": "sqlite:////run/staging.db",
}
HUNG = {"PORT": "8002", "METRICS_PORT": "9466"}
AUTHORITY = "/etc/authority.pem"


class Incident:
    """The machine, the service on it, and what watches both environments."""

    def __init__(self, machine: Box, service: Service, stack: ExitStack) -> None:
        self.box, self.service, self.stack = machine, service, stack
        self.slug, self.folder = service.slug, service.folder
        self.refusing = Webhook(valid=False)
        self.cluster = Cluster(self.slug, self.last_words, self.in_service)
        self.original = self.read("compose.yaml")
        self.logs = re.findall(r"(?m)^logs\(\) \{.*$", self.read(PAGE))

    # --- files and commands ---

    def file(self, place: str | Path) -> Path:
        """A file of the service's, or one by its whole path, as it lies on the machine."""
        return self.box.path(self.folder / place)

    def read(self, place: str | Path) -> str:
        """Its text."""
        return self.file(place).read_text(encoding="utf-8")

    def edit(self, place: str, changes: Mapping[str, str]) -> None:
        """Replace texts in a file, each of which must be there."""
        self.file(place).write_text(changed(self.read(place), changes), encoding="utf-8")

    def type(self, command: str, logs: int = 0) -> str:
        """What a command says where the service's repository is, `logs` being that of Compose, a box or Kubernetes."""
        return self.box.type(f"{self.logs[logs]}\n{command}", folder=self.folder, KUBECONFIG="/etc/kubeconfig")

    def query(self, query: str) -> str:
        """What Prometheus answers: a line a series, with its labels and its value."""
        return self.type(f"promtool query instant http://localhost:9090 {shlex.quote(query)}")

    def last_words(self) -> str:
        """What the service said of late."""
        return self.type("docker compose logs --no-log-prefix --tail 30 service")

    def in_service(self, command: Any) -> str:
        """What a command says in the service's container."""
        return self.type(f"docker compose exec service {shlex.join(command)}")

    # --- containers ---

    def containers(self, **environment: str) -> None:
        """Give the service variables in compose.yaml, and the engine what Compose makes of it."""
        lines = "".join(f"\n      {name}: {json.dumps(value)}" for name, value in environment.items())
        text = self.original.replace("      ENVIRONMENT: local", f"      ENVIRONMENT: local{lines}", 1)
        self.file("compose.yaml").write_text(text, encoding="utf-8")
        said = self.type(f"{built(LOADER)}")
        plans = {}
        for name, one in json.loads(said)["services"].items():
            image = one["image"].partition(":")[0]
            if image in PROGRAMS or name == "service":
                plans[name] = {"image": one["image"], "restarted": one["restart"] == "unless-stopped"}
                plans[name] |= self._service(one) if name == "service" else self._watcher(one, *PROGRAMS[image])
        for name, others in {"staging": STAGING, "hung": STAGING | HUNG}.items():
            plans[name] = {**plans["service"], "environment": plans["service"]["environment"] | others}
        self.box.path("/etc/containers.json").write_text(json.dumps(plans))

    def _service(self, one: Mapping[str, Any]) -> dict[str, Any]:
        (command,) = re.findall(r"(?m)^CMD (\[.*\])$", self.read("Dockerfile"))
        path = f"{self.folder}/.venv/bin:/usr/bin:/bin"
        own = {"PATH": path, "PYTHONPATH": str(STAGE), "STAGE_PACKAGE": self.service.package}
        staged = command.replace(f"{self.service.package}.wsgi:app", "stage:app")
        return {
            "command": json.loads(staged),
            "environment": own | one["environment"],
            "mounts": [],
            "folder": str(self.folder),
        }

    def _watcher(self, one: Mapping[str, Any], name: str, *options: str) -> dict[str, Any]:
        mounts = []
        for volume in one["volumes"]:
            source = volume["source"]
            if volume["type"] == "volume":
                source = f"/var/lib/volumes/{source}"
                self.box.path(source).mkdir(parents=True, exist_ok=True)
            mounts.append((source, volume["target"]))
        return {
            "command": [str(program(name)), *options, *one["command"]],
            "environment": {"PATH": "/usr/bin:/bin", "SSL_CERT_FILE": AUTHORITY} | one.get("environment", {}),
            "mounts": mounts,
            "folder": "/",
        }

    def started(self, *names: str, **environment: str) -> None:
        """Have containers run, with these variables for the service."""
        self.containers(**({"DATABASE_URL": self.database, "SENTRY_DSN": f"http://key@{NOWHERE}/1"} | environment))
        said = self.type(f"docker compose up --detach {' '.join(names)}")
        assert not said, said

    # --- the beginning ---

    def begin(self) -> None:
        """Start both environments and all that watches them."""
        self.box.path("/etc/hosts").write_text(HOSTS)
        for script in ENGINE.iterdir():
            place = self.box.path(f"/usr/local/sbin/{script.name}")
            place.write_bytes(script.read_bytes())
            place.chmod(0o755)
        for server in (self.refusing, self.cluster):
            self.stack.enter_context(listening(server))
        self.cluster.configuration(self.box.path("/etc"))
        self.postgres = self.stack.enter_context(servers.postgres())
        self.database = self.postgres.database("orders")
        self.certificate, root = chain(Path(self.stack.enter_context(tempfile.TemporaryDirectory())), days=2)
        self.box.path(AUTHORITY).write_bytes(root.read_bytes())
        self.edit("monitoring/prometheus/prometheus.yml", {": 15s": ": 1s"})
        for file, address in (("service", "staging:9465"), ("uptime", "http://staging:8001/health/ready")):
            targets = f"monitoring/prometheus/targets/{file}.yml"
            other = f"- targets: [{address}]\n  labels: {{service: {self.slug}, environment: staging}}\n"
            self.file(targets).write_text(self.read(targets) + other)
        self.edit(
            "monitoring/alertmanager/alertmanager.yml",
            {
                "group_wait: 30s": "group_wait: 0s",
                "group_interval: 5m": "group_interval: 1s",
                "global:": f"global:\n  pagerduty_url: {self.refusing.url}/v2/enqueue",
                "smtp.example.com:587": NOWHERE,
            },
        )
        for tests in ("tests", "watchers/tests"):  # test_rules runs these, which make check-config would do again
            shutil.rmtree(self.file(f"monitoring/prometheus/{tests}"))
        for name in ("pagerduty_routing_key", "smtp_password"):
            self.file(f"monitoring/alertmanager/secrets/{name}").write_text("no longer valid")
        self.containers()
        self._backfill()
        self.started("service", "staging", "prometheus", "alertmanager", "blackbox")
        self.well()

    def well(self) -> None:
        """Wait until both environments are ready and scraped, as they are not at once after they were mended."""
        for environment, port in zip(ENVIRONMENTS, (8000, 8001), strict=True):
            eventually(partial(servers.answers, port, "/health/ready"), f"{environment} is ready", 60)
        up = f'up{{job="{self.slug}"}} == 1'
        eventually(lambda: len(self.query(up).splitlines()) == len(ENVIRONMENTS), "both environments are scraped", 60)

    def _backfill(self) -> None:
        """Give Prometheus what it saw an hour and a day before, and some minutes in which requests failed."""
        now = int(time.time())
        of_boom = '{method="GET",route="/stage/boom",'
        usual = {
            'http_request_duration_seconds_count{method="GET",route="/stage/ok",status="200",': (24 * HOUR, HOUR),
            'service:security_events:increase10m{event="authn_login_fail",': (HOUR,),
            f"route:http_requests:increase5m{of_boom}": (0,),
            f"route:http_requests_failed:increase5m{of_boom}": (0,),
            "service:http_requests:increase5m{": (0,),
            "service:http_requests_failed:increase5m{": (0,),
        }
        lines = []
        for name, times in usual.items():
            for environment in ENVIRONMENTS:
                own = f'service="{self.slug}",environment="{environment}"'
                if "_count" in name:
                    own += f',job="{self.slug}",instance="before"'
                for ago in (second for each in times for second in range(each + 600, max(each - 1200, 30), -30)):
                    lines.append(f"{name}{own}}} {30 * HOUR - ago if '_count' in name else 20} {now - ago}")
        text = "\n".join([*lines, "# EOF", ""])
        self.box.path("/root/before").write_text(text)
        made = self.type("promtool tsdb create-blocks-from openmetrics /root/before /var/lib/volumes/prometheus")
        assert "BLOCK ULID" in made, made

    # --- what users and others do ---

    def get(self, path: str, times: int = 1, port: int = 8000, **headers: str) -> None:
        """Ask the service for something, all at once."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        threads = [threading.Thread(target=self._ask, args=(port, path, sent)) for _ in range(times)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    @staticmethod
    def _ask(port: int, path: str, headers: Mapping[str, str]) -> None:
        try:
            request(port, path, headers=headers, seconds=60)
        except OSError:
            return  # the service is meant to break

    def seen(self, query: str) -> None:
        """Wait until Prometheus has an answer."""
        eventually(lambda: self.query(query), query, 40)


# --- breakages --------------------------------------------------------------------------------------------------------

Breakage = Callable[[Incident], AbstractContextManager[None]]


@contextmanager
def a_view_raises(incident: Incident) -> Iterator[None]:
    """With a message that holds quotes; some do in staging too."""
    path = f"/stage/boom?message={urllib.parse.quote(MESSAGE)}"
    for _ in range(3):
        incident.get(path, 3, X_Request_ID="shown-to-me")
        incident.get("/stage/boom", port=8001)
        time.sleep(1)
    yield


@contextmanager
def a_route_is_slow(incident: Incident) -> Iterator[None]:
    for _ in range(2):
        incident.get("/stage/slow/1.5", 6)
        incident.get("/stage/ok", 6, port=8001)
    yield


@contextmanager
def threads_are_busy(incident: Incident, path: str = "/stage/slow/1.5") -> Iterator[None]:
    """All of them all the time, and more clients than threads."""
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            incident.get(path)

    clients = [threading.Thread(target=ask) for _ in range(20)]
    for client in clients:
        client.start()
        time.sleep(0.05)  # so that no worker takes them all
    yield
    over.set()
    for client in clients:
        client.join()


@contextmanager
def threads_are_busy_or_hang(incident: Incident) -> Iterator[None]:
    """Those of one more instance all wait for what does not come."""
    with kept(incident, TARGETS), threads_are_busy(incident):
        incident.type("docker compose up --detach hung")
        eventually(lambda: servers.answers(8002, "/health/live"), "it runs")
        incident.get("/stage/ok", port=8002)
        threading.Thread(target=incident.get, args=("/stage/slow/60.0", 20, 8002), daemon=True).start()
        incident.edit(TARGETS, {"[staging:9465]": "[staging:9465, hung:9466]"})
        yield
    incident.type("docker compose kill hung")


@contextmanager
def workers_are_killed(incident: Incident) -> Iterator[None]:
    """While requests of some length are served."""
    incident.get("/stage/slow/1.5", 2)
    master = "$(systemctl show --property=MainPID --value compose-service)"
    for _ in range(3):
        incident.type(f"kill -KILL $(pgrep --oldest --parent {master})")
        time.sleep(1)
    yield


@contextmanager
def the_database_is_gone(incident: Incident) -> Iterator[None]:
    incident.postgres.stop()
    for _ in range(3):
        request(8000, "/stage/sql", method="POST", body=b"SELECT 1", seconds=60)
        request(8001, "/stage/sql", method="POST", body=b"SELECT no", seconds=60)
        time.sleep(1)
    yield
    incident.postgres.restart()
    eventually(lambda: servers.answers(8000, "/health/ready"), "the service is ready again")


@contextmanager
def sentry_is_unreachable(incident: Incident) -> Iterator[None]:
    install(incident)
    incident.get("/stage/boom", 3)
    yield


@contextmanager
def passwords_are_tried(incident: Incident) -> Iterator[None]:
    for _ in range(4):
        incident.get("/stage/login/%22admin%22", 10)
        incident.get("/stage/login/a-user", port=8001)
    incident.get("/stage/ok")
    yield


@contextmanager
def a_setting_is_wrong(incident: Incident) -> Iterator[None]:
    """In Compose, under systemd, and in the pod whose log is Compose's."""
    incident.started("service", PORT="80000")
    with under_systemd(incident, PORT="80000"):
        yield
    incident.started("service")


def memory_runs_out(_: Incident) -> None:
    """Have the kernel end something that it knows as gunicorn."""
    old = Path("/sys/fs/cgroup/memory")
    top, limits = (old, ["memory.limit_in_bytes"]) if old.is_dir() else (old.parent, ["memory.max", "memory.swap.max"])
    group = top / f"proof-{uuid.uuid4().hex[:12]}"
    group.mkdir()
    try:
        for limit in limits:
            (group / limit).write_text("20M")
        takes = "open('/proc/self/comm', 'w').write('gunicorn'); print(len(b'x' * 200_000_000))"
        enter = f'echo $$ >{group}/cgroup.procs && exec python3 -c "{takes}"'
        assert run(["bash", "-c", enter]).returncode < 0, "it was not killed"
    finally:
        group.rmdir()


@contextmanager
def it_ends_again_and_again(incident: Incident) -> Iterator[None]:
    """Killed at first, then by a module that is missing."""
    age = f'time() - process_start_time_seconds{{service="{incident.slug}", environment="local"}}'
    for _ in range(4):
        eventually(lambda: servers.answers(8000, "/health/live"), "it runs")
        incident.seen(f"({age}) < 20 and on (service, environment) up == 1")
        incident.type("systemctl kill --signal=SIGKILL compose-service")
    main = f"src/{incident.service.package}/wsgi.py"
    whole = incident.read(main)
    incident.file(main).write_text(f"import billing\n{whole}")
    incident.started("service")
    with under_systemd(incident):
        yield
    incident.file(main).write_text(whole)
    incident.started("service")


@contextmanager
def under_systemd(incident: Incident, **environment: str) -> Iterator[None]:
    """On ports of its own: Compose's service has the others."""
    install(incident, **{"PORT": "8010", "METRICS_PORT": "9474"} | environment)
    incident.type(f"systemctl restart {incident.slug}")
    yield
    incident.type(f"systemctl stop {incident.slug}")


def install(incident: Incident, **environment: str) -> None:
    """As docs/box.md has it, what lies in the folder copied, with the unit as it is."""
    slug, folder = incident.slug, f"/opt/{incident.slug}/current"
    (user,) = re.findall(r"(?m)^User=(.*)$", incident.read(f"deploy/systemd/{slug}.service"))
    settings = {"HOST": "127.0.0.1", "DATABASE_URL": incident.database, "REDIS_URL": f"redis://{NOWHERE}/0"}
    settings |= {"SENTRY_DSN": f"http://key@{NOWHERE}/1"} | environment
    interpreter = incident.service.tool("python").resolve()
    open_to_all = " ".join(shlex.quote(str(folder)) for folder in interpreter.parents)
    drop_in = f"/etc/systemd/system/{slug}.service.d"
    installed = incident.type(f"""
        id --user {user} >/dev/null 2>&1 || useradd --system --user-group --no-create-home {user}
        rm -rf /opt/{slug} && mkdir -p /opt/{slug} && cp -a . /opt/{slug}/v0.1.0 && chmod 755 /opt/{slug}/v0.1.0
        ln -s v0.1.0 {folder}
        grep -rlI {incident.folder} {folder}/.venv/bin {folder}/.venv/lib/python3*/site-packages/*.pth |
            xargs sed -i 's|{incident.folder}|{folder}|'
        install -D --mode=600 /dev/null /etc/{slug}/environment
        install --mode=644 deploy/systemd/{slug}.service /etc/systemd/system/
        install -d --owner={user} /var/log/{slug}
        mkdir -p {drop_in} && printf '[Service]\\nProtectHome=no\\n' >{drop_in}/home.conf  # Python may lie there
        chmod o+x {open_to_all}
        systemctl daemon-reload
    """)
    assert not installed, installed
    incident.box.path(f"/etc/{slug}/environment").write_text("".join(f"{n}={v}\n" for n, v in settings.items()))


@contextmanager
def a_key_is_not_valid(incident: Incident) -> Iterator[None]:
    """And something fires, of which nobody hears."""
    incident.get("/stage/boom", 3)
    labels = {"service": incident.slug, "environment": "production", "severity": "critical"}
    alerts = [{"labels": labels | {"alertname": f"Broken{number}"}, "annotations": {}} for number in range(4)]
    headers, body = {"Content-Type": "application/json"}, json.dumps(alerts).encode()
    assert request(9093, "/api/v2/alerts", method="POST", headers=headers, body=body).status == 200
    eventually(lambda: " 403" in incident.type("docker compose logs alertmanager"), "it has given up", 40)
    yield
    incident.started("alertmanager")


RULES = "monitoring/prometheus/rules"


def a_rule(incident: Incident, name: str, expression: str) -> None:
    """Write a file of rules for Prometheus."""
    rule = {"record": f"{name}:broken", "expr": expression}
    incident.file(f"{RULES}/{name}.yml").write_text(json.dumps({"groups": [{"name": name, "rules": [rule]}]}))


@contextmanager
def a_rule_cannot_be_evaluated(incident: Incident) -> Iterator[None]:
    up = f'up{{job="{incident.slug}", service="{incident.slug}"}}'
    a_rule(incident, "mine", f"{up} * on (service) {up}")
    incident.type("docker compose kill --signal SIGHUP prometheus")
    yield
    for file in incident.file(RULES).glob("mine*.yml"):
        file.unlink()
    incident.type("docker compose kill --signal SIGHUP prometheus")


def a_rule_is_refused(incident: Incident) -> None:
    a_rule(incident, "mine_too", "up{")


ALERTMANAGER = "monitoring/alertmanager/alertmanager.yml"
PROMETHEUS = "monitoring/prometheus/prometheus.yml"


@contextmanager
def kept(incident: Incident, *files: str) -> Iterator[None]:
    """Have files of the service's as they were, afterwards."""
    texts = {file: incident.read(file) for file in files}
    yield
    for file, text in texts.items():
        incident.file(file).write_text(text)


def mended(file: str, changes: Mapping[str, str]) -> Callable[[Incident], None]:
    return lambda incident: incident.edit(file, changes)


@contextmanager
def alertmanager_does_not_start(incident: Incident) -> Iterator[None]:
    with kept(incident, ALERTMANAGER):
        incident.edit(ALERTMANAGER, {"receiver: nobody": "receiver: pigeons"})
        incident.type("docker compose restart alertmanager")
        yield


@contextmanager
def configurations_are_refused(incident: Incident) -> Iterator[None]:
    with kept(incident, ALERTMANAGER):
        a_rule_is_refused(incident)
        incident.edit(ALERTMANAGER, {"receiver: nobody": "receiver: pigeons"})
        incident.type("docker compose kill --signal SIGHUP prometheus alertmanager")
        yield


def configurations_are_mended(incident: Incident) -> None:
    incident.edit(ALERTMANAGER, {"receiver: pigeons": "receiver: nobody"})
    incident.file(f"{RULES}/mine_too.yml").unlink()


NAMED = "    - static_configs:\n        - targets: [alertmanager:9093]\n\nscrape"


@contextmanager
def no_alertmanager_is_named(incident: Incident) -> Iterator[None]:
    with kept(incident, PROMETHEUS):
        incident.edit(PROMETHEUS, {NAMED: "    []\n\nscrape"})
        incident.type("docker compose kill --signal SIGHUP prometheus")
        yield


@contextmanager
def a_rule_takes_too_long(incident: Incident) -> Iterator[None]:
    a_rule(incident, "mine", "sum_over_time(vector(1)[2h:1ms])")
    incident.type("docker compose kill --signal SIGHUP prometheus")
    yield
    incident.file(f"{RULES}/mine.yml").unlink()
    incident.type("docker compose kill --signal SIGHUP prometheus")


@contextmanager
def the_heartbeat_does_not_arrive(incident: Incident) -> Iterator[None]:
    """Set up as docs/monitoring.md says, for Debian's Alertmanager, with an address where nothing answers."""
    blocks = re.findall(r"(?ms)^```yaml\n(.*?)```$", incident.read(PAGE))
    receiver, route = (block for block in blocks if re.search("(name|receiver): heartbeat", block))
    receiver = re.sub("url_file: .*", f"url: http://{NOWHERE}/heartbeat", receiver)
    with kept(incident, ALERTMANAGER):
        added = {"\nreceivers:\n": f"\nreceivers:\n{receiver}", "\n  routes:\n": f"\n  routes:\n{route}"}
        incident.edit(ALERTMANAGER, added)
        incident.type("docker compose kill --signal SIGHUP alertmanager")
        yield
    incident.type("docker compose kill --signal SIGHUP alertmanager")


TARGETS = "monitoring/prometheus/targets/service.yml"
BLACKBOX = "monitoring/blackbox/blackbox.yml"


@contextmanager
def targets_are_missing(incident: Incident) -> Iterator[None]:
    """One environment is no longer in the file, and the exporter cannot read its own."""
    with kept(incident, TARGETS, BLACKBOX):
        targets = incident.read(TARGETS)
        incident.file(TARGETS).write_text(targets[targets.index("- targets: [staging") :])
        incident.edit(BLACKBOX, {"prober: http": "probe: http"})
        incident.type("docker compose restart blackbox")
        yield


def targets_cannot_be_read(incident: Incident) -> None:
    incident.file(TARGETS).write_text("- targets: service:9464\n")


@contextmanager
def a_certificate_runs_out(incident: Incident) -> Iterator[None]:
    """That of the intermediate authority."""
    targets = "monitoring/prometheus/targets/uptime.yml"
    with kept(incident, targets), website(incident.certificate, 443):
        incident.edit(targets, {"http://service:8000/health/ready": "https://localhost:443/200"})
        yield


# --- what each command must show --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """What the answer to a command must hold, as a regular expression. A part says which it is, the longest that fits.

    `first` happens before it is typed, and what `then` asks is so soon after it.
    """

    command: str
    words: str
    first: Callable[[Incident], object] | None = None
    then: Callable[[Incident], object] | None = None


LOCAL, STAGING_ = r'environment="local"', r'environment="staging"'
LAST_WORDS = r"PORT: Input should be less than or equal to 65535"
MISSING_MODULE = r"No module named 'billing'"
CRASHING = r"CrashLoopBackOff|OOMKilled"

RELOADED = "changes(prometheus_config_last_reload_success_timestamp_seconds[30s]) > 0"
ALL_TAKEN = "count({__name__=~'(prometheus|alertmanager)_config_last_reload_successful'} == 1) == 2"
PROBED = 'up{job="uptime", environment="local"} == 1'

RUNBOOKS: dict[str, tuple[Breakage, list[Look]]] = {
    "HighErrorRate": (
        a_view_raises,
        [
            Look("sort_desc(sum by", rf'{LOCAL}.*route="/stage/boom", status="500"'),
            Look("instance", rf"{LOCAL}.*service:9464"),
            Look(
                "uniq --count", r'\d+ "exception":\{"type":"RuntimeError","message":"cannot read \\"order\\" twice"\n'
            ),
            Look(
                "REQUEST_ID",
                r'"route":"/stage/boom".*"request_id":"shown-to-me"|"request_id":"shown-to-me".*stage/boom',
            ),
            Look("app_info", rf'{LOCAL}.*version="0.1.0"'),
        ],
    ),
    "HighLatency": (
        a_route_is_slow,
        [
            Look("histogram_quantile", rf'{LOCAL}.*route="/stage/slow/<float:seconds>"'),
            Look("offset 1h", rf"{LOCAL}.*=> \d"),
            Look("duration_ms", r"^1[5-9]\d\d\.\d+ \{.*/stage/slow/1\.5"),
            Look("curl", r'"database":\{"critical":true,"duration_ms":'),
            Look("process_cpu_seconds_total", rf"{LOCAL}.*=> 0\.\d*[1-9]"),
        ],
    ),
    "SaturationHigh": (
        threads_are_busy_or_hang,
        [
            Look("http_requests_in_progress", rf"{LOCAL}.*=> (?:0\.[5-9]\d*|1) "),
            Look("== 0", rf'{STAGING_}, instance="hung:9466"'),
            Look("_seconds_sum", rf'{LOCAL}.*route="/stage/slow/<float:seconds>"'),
            Look("process_workers", rf"{LOCAL}.*=> 2 "),
            Look("offset 1d", rf"{LOCAL}.*=> \d"),
        ],
    ),
    "RequestsWaiting": (
        threads_are_busy,
        [
            Look("queue_seconds_bucket", rf"{LOCAL}.*=> [1-9]"),
            Look("http_requests_in_progress", rf"{LOCAL}.*=> (?:0\.[5-9]\d*|1) "),
            Look("_seconds_sum", rf'{LOCAL}.*route="/stage/slow/<float:seconds>"'),
            Look("offset 1d", rf"{LOCAL}.*=> \d"),
            Look("process_workers", rf"{LOCAL}.*=> 2 "),
            Look("process_cpu_seconds_total", rf"{LOCAL}.*=> 0\.\d*[1-9]"),
        ],
    ),
    "WorkersDying": (
        workers_are_killed,
        [
            Look("worker_exits_total", rf'{LOCAL}.*cause="killed".*=> [1-9]|cause="killed".*{LOCAL}.*=> [1-9]'),
            Look("WORKER TIMEOUT", r"Worker \(pid:\d+\) was sent SIGKILL"),
            Look("process_resident_memory_bytes", rf"{LOCAL}.*=> \d"),
            Look("duration_ms", r"^1[5-9]\d\d\.\d+ \{.*/stage/slow/1\.5"),
        ],
    ),
    "EndpointSlow": (
        partial(threads_are_busy, path="/stage/slow/0.3"),
        [
            Look("curl", r"first byte 0\.[1-9]"),
            Look("probe_http_duration_seconds", rf'{LOCAL}.*phase="processing".*=> 0\.[1-9]'),
            Look(":p95_rate5m", rf"{LOCAL}.*=> \d"),
        ],
    ),
    "ErrorBudgetBurn": (
        a_view_raises,
        [
            Look("route:http_requests_failed", rf'{LOCAL}.*route="/stage/boom"'),
            Look("service:http_requests_failed", rf"{LOCAL}.*=> 0?\.?\d*[1-9]"),
            Look("uniq --count", r'\d+ "exception":\{"type":"RuntimeError"\n'),
            Look("sum by", rf"{LOCAL}.*service:9464"),
            Look("app_info", rf'{LOCAL}.*version="0.1.0"'),
        ],
    ),
    "InstancesDown": (
        a_setting_is_wrong,
        [
            Look("up{", rf"{LOCAL}.*=> 0 "),
            Look("saturation", rf"{STAGING_}.*=> \d"),
            Look("docker compose ps", r"Restarting \(1\)"),
            Look("systemctl status", r"python -m proof_service\.settings \(code=exited, status=1/FAILURE\)"),
            Look("get pods", rf"(?:{CRASHING}).* node-1$"),
            Look("rollout undo", r"rolled back"),
        ],
    ),
    "TelemetryLoss": (
        sentry_is_unreachable,
        [
            Look(":increase15m", rf'{LOCAL}.*reason="network_error".*signal="errors"'),
            Look("telemetry_dropped_total", rf'{LOCAL}.*reason="network_error".*signal="errors".*=> [1-9]'),
            Look("docker compose exec service", r"errors +MISSING .*SENTRY_DSN"),
            Look("kubectl", r"errors +MISSING .*SENTRY_DSN"),
            Look("systemd-run", r"errors +MISSING .*SENTRY_DSN"),
            Look("logs |", r'"message":"telemetry lost".*"network_error"'),
            Look("df ", r"Use%[\s\S]*overlay"),
        ],
    ),
    "SecurityEventSpike": (
        passwords_are_tried,
        [
            Look('increase10m{service="proof-service"}', rf'{LOCAL}.*event="authn_login_fail".*=> \d\d'),
            Look('"client_ip":"[^"]*"', r'40 "client_ip":"127\.0\.0\.1"'),
            Look('"path":', r'40 "path":"/stage/login/\\"admin\\""'),
            Look("CLIENT_ADDRESS", r'40 "status_code":401'),
        ],
    ),
    "HealthCheckFailing": (
        the_database_is_gone,
        [
            Look("dependency_up", rf'dependency="database".*{LOCAL}.*=> 0'),
            Look("curl", r'"database":\{"critical":true,"duration_ms":[\d.]+,"status":"unhealthy"'),
            Look("5..", rf'{LOCAL}.*route="/stage/sql"'),
            Look(
                "dependency (fails",
                r'"message":"dependency fails".*"dependency":"database".*"reason":"OperationalError"',
            ),
            Look('"exception":', r"connection to server at .* failed: Connection refused"),
        ],
    ),
    "EndpointDown": (
        the_database_is_gone,
        [
            Look("--write-out", r"503 in 0\.\d+ s"),
            Look("probe_http_status_code", rf"{LOCAL}.*=> 503"),
            Look("avg_over_time(up{", rf"{LOCAL}.*=> [01]"),
            Look("probe_http_duration_seconds", rf'{LOCAL}.*phase="processing"'),
            Look("up{", rf"{LOCAL}.*=> 1 "),
            Look("docker compose exec", r"Invalid HTTP response status code.*503"),
            Look("curl localhost", r'"status":"unhealthy"'),
        ],
    ),
    "ServiceDown": (
        a_setting_is_wrong,
        [
            Look("up{", rf"{LOCAL}.*=> 0 "),
            Look("curl", r"Failed to connect to localhost"),
            Look("docker compose ps", r"Restarting \(1\)"),
            Look("systemctl status", r"python -m proof_service\.settings \(code=exited, status=1/FAILURE\)"),
            Look("journalctl --unit", LAST_WORDS),
            Look("get pods", CRASHING),
            Look("describe pod", CRASHING),
            Look("journalctl --dmesg", r"oom-kill:.*task=gunicorn", first=memory_runs_out),
            Look("rollout undo", r"rolled back", then=lambda it: "proof-service:0.1.0" in str(it.cluster.patched)),
            Look("docker compose run", LAST_WORDS),
            Look("systemd-run", LAST_WORDS),
        ],
    ),
    "RestartLoop": (
        it_ends_again_and_again,
        [
            Look("process_starts", rf"{LOCAL}.*=> [4-9]"),
            Look("time() -", rf"{LOCAL}.*=> \d"),
            Look("docker compose ps", rf"Restarting \(3\)[\s\S]*{MISSING_MODULE}"),
            Look("systemctl status", rf"{MISSING_MODULE}|gunicorn .*code=exited, status=[13]/"),
            Look("journalctl --unit", MISSING_MODULE),
            Look("sudo tail", MISSING_MODULE),
            Look("describe pods", r"Reason: +OOMKilled"),
            Look("kubectl -n proof-service logs", MISSING_MODULE),
            Look("process_resident_memory_bytes", rf"{LOCAL}.*=> \d"),
            Look("get events", r"Liveness probe failed"),
        ],
    ),
    "NotificationsFailing": (
        a_key_is_not_valid,
        [
            Look("alertmanager_notifications_failed_total", r'integration="pagerduty".*=> [1-9]'),
            Look("alertmanager_notifications_total", r'integration="pagerduty".*=> [1-9]'),
            Look(
                "notifications_dropped_total", r"=> [1-9]", first=lambda it: it.type("docker compose kill alertmanager")
            ),
            Look("docker compose logs", r"pagerduty.*403", first=lambda it: it.started("alertmanager")),
            Look("amtool alert add", r"\A\s*\Z", then=lambda it: "Only a trial" in str(it.refusing.posted)),
            Look("ALERTS", r'alertname="TelemetryLoss"'),
        ],
    ),
    "RuleEvaluationFailing": (
        a_rule_cannot_be_evaluated,
        [
            Look("rule_evaluation_failures", r"rules/mine\.yml;mine.*=> [1-9]"),
            Look(
                "lastError",
                r'1 "lastError":"found duplicate series for the match group .*many-to-many matching not allowed',
            ),
            Look("docker compose logs", r"Evaluating rule failed.*many-to-many matching not allowed"),
            Look("make check-config", r"rules/mine_too\.yml", first=a_rule_is_refused),
        ],
    ),
    "RuleEvaluationMissed": (
        a_rule_takes_too_long,
        [
            Look("iterations_missed_total", r"rules/mine\.yml;mine.*=> [1-9]"),
            Look("topk", r"\A.*rules/mine\.yml;mine.*=> [1-9]"),
            Look("head_series", r"=> \d"),
            Look("evaluationTime", r"^[\d.]+ mine:broken\s*\Z"),
        ],
    ),
    "ConfigurationRefused": (
        configurations_are_refused,
        [
            Look("time() - prometheus", r"=> \d"),
            Look("time() - alertmanager", r"=> \d"),
            Look("make check-config", r'rules/mine_too\.yml[\s\S]*undefined receiver "pigeons"'),
            Look("docker compose logs", r"rules/mine_too\.yml[\s\S]*undefined receiver .*pigeons"),
            Look("SIGHUP", r"\A\s*\Z", first=configurations_are_mended, then=lambda it: it.query(ALL_TAKEN)),
        ],
    ),
    "AlertmanagerDown": (
        alertmanager_does_not_start,
        [
            Look('up{job="alertmanager"}', r"=> 0 "),
            Look("docker compose ps", r"Restarting \(1\)"),
            Look("docker compose logs", r"undefined receiver .*pigeons"),
            Look("make check-config", r'undefined receiver "pigeons"'),
            Look(
                "up --detach",
                r"\A\s*\Z",
                first=mended(ALERTMANAGER, {"receiver: pigeons": "receiver: nobody"}),
                then=lambda it: it.query('up{job="alertmanager"} == 1'),
            ),
        ],
    ),
    "PrometheusNotConnectedToAlertmanagers": (
        no_alertmanager_is_named,
        [
            Look("alertmanagers_discovered", r"=> 0 "),
            Look("api/v1/alertmanagers", r'"activeAlertmanagers":\[\]'),
            Look("status/config", r"alerting:(?!.*alertmanagers:).*scrape_configs"),
            Look(
                "SIGHUP",
                r"\A\s*\Z",
                first=mended(PROMETHEUS, {"    []\n\nscrape": NAMED}),
                then=lambda it: it.query("prometheus_notifications_alertmanagers_discovered == 1"),
            ),
        ],
    ),
    "Watchdog": (
        the_heartbeat_does_not_arrive,
        [
            Look("count(ALERTS", r"=> 1 "),
            Look("docker compose ps", r"prometheus\tUp\n.*alertmanager\tUp"),
            Look("amtool alert query", r"Watchdog"),
            Look("alertmanager_notifications_total", r'integration="webhook".*=> \d'),
            Look("docker compose logs", r"heartbeat.*connection refused"),
            Look("up --detach", r"\A\s*\Z", then=lambda it: it.query(ALL_TAKEN)),
        ],
    ),
    "TargetMissing": (
        targets_are_missing,
        [
            Look('up{job="proof-service"', rf"\A(?![\s\S]*{LOCAL})[\s\S]*{STAGING_}.*=> 1"),
            Look('up{job="uptime"', rf"{LOCAL}.*=> 0"),
            Look("docker compose ps", r"Restarting \(1\)"),
            Look("docker compose logs", r"field probe not found"),
            Look("scrapePool", r'1 "scrapePool":"proof-service"'),
            Look("curl --max-time", r'"status":"healthy"'),
            Look("promtool check config", r"targets/service\.yml", first=targets_cannot_be_read),
            Look("get pods", CRASHING),
            Look("SIGHUP", r"\A\s*\Z", then=lambda it: it.query(RELOADED)),
            Look(
                "up --detach",
                r"\A\s*\Z",
                first=mended(BLACKBOX, {"probe: http": "prober: http"}),
                then=lambda it: it.query(PROBED),
            ),
        ],
    ),
    "CertificateExpiry": (
        a_certificate_runs_out,
        [
            Look("probe_ssl_earliest_cert_expiry", rf"{LOCAL}.*=> 1\.9"),
            Look("s_client", r" 1 s:CN = An Intermediate\n +v:.* NotAfter: \w{3} "),
            Look("-in FILE", r"notAfter="),
        ],
    ),
}


# --- the proofs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Typed:
    """A command or a query of a runbook."""

    text: str
    query: bool = False


def typed_of(folder: Path, page: str) -> list[Typed]:
    """All that a runbook has somebody type."""
    text = (folder / page).read_text(encoding="utf-8")
    blocks = re.findall(r"(?s)```promql\n(.*?)```", text)
    queries = [query.strip() for block in blocks for query in re.split(r"\n\s*\n", block.strip())]
    return [*(Typed(query, query=True) for query in queries), *(Typed(each.text) for each in commands_of(folder, page))]


@pytest.fixture(scope="module")
def incident(small: Service) -> Iterator[Incident]:
    """A machine with two environments of the service, watched; each test breaks one and mends it."""
    for name in ("initdb", "psql", "promtool", "amtool", "openssl", "wget", *(name for name, *_ in PROGRAMS.values())):
        program(name)
    built(LOADER)
    with box(small.folder, STAGE) as machine, machine.network(), ExitStack() as stack:
        started = Incident(machine, small, stack)
        started.begin()
        yield started


# What these ask is typed in test_infrastructure.py, beside real servers and their exporters; kubectl needs a cluster.
OF_INFRASTRUCTURE = [
    "CacheDown",
    "CacheEvicting",
    "ContainerOOMKilled",
    "CpuHigh",
    "DatabaseDown",
    "DiskSpaceLow",
    "MemoryHigh",
    "NodePressure",
    "PodCrashLooping",
    "ReplicasMismatch",
    "ReplicationLag",
    "RolloutStuck",
    "SeriesGrowth",
]

OF_DEPENDENCIES = ["CacheHitRateLow", "SlowQueries"]
"""What is typed in test_dependencies.py."""

NOT_TYPED = [
    "DatabaseConnectionPoolHigh",
    "HighClientErrorRate",
    "LogAgentDown",
    "LogBufferFull",
    "LogLinesLost",
    "LogShippingFailing",
    "LogSilence",
    "LogVolumeSpike",
]
"""Their metrics are known to exist; no test breaks a service so and types their commands yet."""


def looks_of(runbook: str, commands: list[Typed]) -> Iterator[tuple[Typed, Look]]:
    """Each command of a runbook with what is said of it here."""
    assert runbook in RUNBOOKS, f"say in RUNBOOKS how a service breaks as {runbook}.md says, and what it shows then"
    for command in commands:
        wanted = [look for look in RUNBOOKS[runbook][1] if look.command in command.text]
        assert wanted, f"{runbook}.md: say in RUNBOOKS what this shows: {command.text}"
        yield command, max(wanted, key=lambda look: len(look.command))


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"scale_tier": "medium", "uptime_monitor": "statuscake"},
        {"scale_tier": "large", "database": "none", "cache": "none", "uptime_monitor": "pingdom", "paging": "slack"},
    ],
)
def test_every_command_of_any_service_is_looked_at(tmp_path: Path, others: dict[str, str]) -> None:
    folder = generate(tmp_path, **others).folder
    for page in folder.rglob("runbooks/*.md"):
        if page.stem in {*OF_INFRASTRUCTURE, *OF_DEPENDENCIES, *NOT_TYPED}:
            continue
        found = list(looks_of(page.stem, typed_of(folder, str(page.relative_to(folder)))))
        if not others:
            assert {look for _, look in found} == set(RUNBOOKS[page.stem][1]), f"{page.name} has no such command"


@pytest.mark.parametrize("runbook", RUNBOOKS)
def test_each_command_of_a_runbook_shows_the_cause_where_docker_and_the_cluster_are_stand_ins(
    incident: Incident, runbook: str
) -> None:
    commands = typed_of(incident.file("."), f"docs/runbooks/{runbook}.md")
    incident.well()
    with RUNBOOKS[runbook][0](incident):
        problems = [
            problem for command, look in looks_of(runbook, commands) for problem in shows(incident, command, look)
        ]
    assert not problems, "\n\n".join(problems)


def shows(incident: Incident, command: Typed, look: Look) -> Iterator[str]:
    """What is wrong with the answer to a command."""
    text = command.text
    for placeholder, value in {**PLACEHOLDERS, "FILE": str(incident.certificate)}.items():
        text = re.sub(rf"\b{placeholder}\b", value, text)
    if look.first:
        look.first(incident)
    said = ""

    def answered() -> bool:
        nonlocal said
        said = incident.query(text) if command.query else incident.type(text)
        return bool(re.search(look.words, said, re.MULTILINE))

    try:
        eventually(answered, f"it shows {look.words}", 20)
        if look.then:
            eventually(partial(look.then, incident), "it has done what it is for", 20)
    except AssertionError as problem:
        yield f"$ {text}\n{said[-1500:]}\n{problem}"
    print(f"$ {text}\n{said[:600]}")
    if command.query and incident.slug in text:
        mixed = [line for line in said.splitlines() if "=>" in line and "environment=" not in line]
        yield from (f"$ {text}\n{line}\nis of which environment?" for line in mixed)


def test_logs_prints_the_same(incident: Incident) -> None:
    """In Compose, on a box whose file holds the same lines, and of a pod whose log is Compose's."""
    incident.get("/stage/ok", 3, X_Request_ID="looked-for")
    log = incident.box.path(f"/var/log/{incident.slug}/{incident.slug}.log")
    log.parent.mkdir(exist_ok=True)
    log.write_text(incident.type("docker compose logs --no-log-prefix service"))
    incident.cluster.logs = log.read_text
    found = [incident.type("logs | grep looked-for", logs=place) for place in range(3)]
    assert found[0].count('"route":"/stage/ok"') == 3
    assert found[0] == found[1] == found[2]
