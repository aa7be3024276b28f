"""The log agent: a real Fluent Bit reads a node's files and ships each line, whatever happens on the way.

Fluent Bit is no package that can be had: FLUENT_BIT names a binary of 5.1, and without it these tests are skipped, in
CI too, where tests/test_logs.py compares the options with the documentation. Loki, Elasticsearch and Splunk are
VictoriaLogs behind a front that records what it is sent; CloudWatch, Google Cloud Logging, Datadog and New Relic are
that front alone.
"""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from .log_stores import PREFIX, Metadata, Record, Store, VictoriaLogs, store
from .processes import Program, clean_environment, eventually, free_port
from .servers import running
from .service import generate
from .stand_ins import listening, self_signed

BEGAN = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
TRACE, SPAN, REQUEST = "5b8aa5a2d2c872e8321cf37308d69df2", "051581bf3cb55c13", "f577652876e8789db2fdea11d1fc9fbf"
RUNTIME_CUTS = 16_384
"""Bytes after which a container runtime begins another part of a line."""


def moment(number: int) -> str:
    return (BEGAN + timedelta(milliseconds=number * 7 + 1)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def line(number: int, **more: Any) -> str:
    """A line as a service writes it."""
    level = "ERROR" if number % 10 == 0 else "INFO"
    fields = {
        "timestamp": moment(number),
        "level": level,
        "message": f"line {number}",
        "logger": "request",
        "service": "parcels",
        "environment": "staging",
        "version": "1.2.3",
        "request_id": REQUEST,
        "trace_id": TRACE,
        "span_id": SPAN,
        "trace_sampled": True,
        "user_id": "c-1",
        "method": "GET",
        "path": "/api/v1/parcels",
        "status_code": 500,
        "client_ip": "203.0.113.7",
        "duration_ms": 13.17,
    }
    return json.dumps(fields | more)


FAILED = {"type": "ValueError", "message": "no parcel", "stacktrace": "Traceback (most recent call last):\n  ..."}


class Node:
    """The files of a node's containers, as containerd writes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def pod(self, pod: str, container: str) -> Path:
        folder = self.folder / f"shop_{pod}_0a1b2c3d-0000-4000-8000-000000000000" / container
        folder.mkdir(parents=True, exist_ok=True)
        return folder / "0.log"

    def write(self, *lines: str, pod: str = "parcels-7d4b9-x2x", container: str = "service") -> None:
        with self.pod(pod, container).open("ab") as file:
            for text in lines:
                file.write(b"".join(_parts(text.encode())))

    def rotate(self) -> None:
        """As the kubelet does: the file is renamed, the runtime opens another."""
        file = self.pod("parcels-7d4b9-x2x", "service")
        file.rename(file.with_name("0.log.20261129-101112"))


def _parts(text: bytes) -> Iterator[bytes]:
    read = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z").encode()
    while len(text) > RUNTIME_CUTS:
        yield read + b" stdout P " + text[:RUNTIME_CUTS] + b"\n"
        text = text[RUNTIME_CUTS:]
    yield read + b" stdout F " + text + b"\n"


class Agent:
    """Fluent Bit with the configuration of a service, whose folders and ports are those of a test."""

    def __init__(
        self, folder: Path, configuration: Path, start: str, changes: dict[str, str], **variables: str
    ) -> None:
        self.folder, self.port = folder, free_port()
        self.node = Node(folder / "pods")
        self.state = folder / "state"
        self.state.mkdir()
        self._start = folder / "config" / start
        self._start.parent.mkdir()
        places = {
            "/var/log/pods": str(self.node.folder),
            "/var/lib/docker/containers": str(folder / "containers"),
            "/var/lib/fluent-bit": str(self.state),
            "http_port: 2020": f"http_port: {self.port}",
            "http_listen: 0.0.0.0": "http_listen: 127.0.0.1",
        }
        for file in configuration.glob("*.yaml"):
            text = file.read_text()
            for old, new in (places | changes).items():
                text = text.replace(old, new)
            (self._start.parent / file.name).write_text(text)
        self._environment = clean_environment(ENVIRONMENT="production", NODE_NAME="node-1", **variables)
        self.log = folder / "agent.log"
        self.program: Program | None = None

    def _change(self, pattern: str, replacement: str) -> None:
        for file in self._start.parent.glob("*.yaml"):
            file.write_text(re.sub(pattern, replacement, file.read_text()))

    def limit_buffer(self, size: str) -> None:
        """Give it less room before it starts."""
        self._change(r"total_limit_size: \S+", f"total_limit_size: {size}")

    def trust(self, certificate: Path) -> None:
        """Let it trust one certificate only."""
        self._change(r"tls\.ca_file: \S+", f"tls.ca_file: {certificate}")

    def start(self) -> None:
        command = [os.environ["FLUENT_BIT"], f"--config={self._start}"]
        self.program = Program(command, environment=self._environment, stdout=self.log, stderr=self.log)
        eventually(self._ready, "the agent answers", 60)

    def _ready(self) -> bool:
        assert self.program is not None
        if not self.program.alive():
            pytest.fail(self.log.read_text()[-3000:], pytrace=False)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/uptime", timeout=5) as answer:
            return bool(answer.status == 200)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.program is not None:
            self.program.stop(number, 30)

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v2/metrics/prometheus", timeout=5) as answer:
            return str(answer.read().decode())

    def value(self, metric: str) -> float:
        """The sum of a metric's series."""
        found = re.findall(rf"^{metric}(?:\{{.*\}})? (\S+)$", self.metrics(), re.MULTILINE)
        return sum(map(float, found))


def _settings(kind: str, port: int, metadata: int, certificate: Path) -> tuple[dict[str, str], dict[str, str]]:
    """What is changed in the configuration so that it leads here, and the variables."""
    host, number, trusted = "localhost", str(port), f"\n      tls.ca_file: {certificate}"
    settings: dict[str, tuple[dict[str, str], dict[str, str]]] = {
        "grafana": (
            {},
            {"LOKI_HOST": host, "LOKI_PORT": number, "LOKI_TLS": "on", "LOKI_USER": "user", "LOKI_PASSWORD": "secret"},
        ),
        "elastic": (
            {},
            {
                "ELASTICSEARCH_HOST": host,
                "ELASTICSEARCH_PORT": number,
                "ELASTICSEARCH_USER": "user",
                "ELASTICSEARCH_PASSWORD": "secret",
            },
        ),
        "aws": (
            {
                "region: ${AWS_REGION}": "region: ${AWS_REGION}\n"
                f"      endpoint: {host}\n      port: {number}{trusted}"
            },
            {"AWS_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"},
        ),
        "gcp": (
            {
                "resource: k8s_container": "resource: k8s_container\n"
                f"      cloud_logging_base_url: https://{host}:{number}\n"
                f"      metadata_server: http://127.0.0.1:{metadata}{trusted}"
            },
            {"GOOGLE_CLOUD_PROJECT": "shop", "CLUSTER_NAME": "main", "CLUSTER_LOCATION": "europe-west3"},
        ),
        "datadog": (
            {"host: ${DATADOG_HOST}": f"host: ${{DATADOG_HOST}}\n      port: {number}"},
            {"DATADOG_HOST": host, "DATADOG_API_KEY": "secret"},
        ),
        "newrelic": (
            {},
            {"NEW_RELIC_LOGS_URL": f"https://{host}:{number}/log/v1", "NEW_RELIC_LICENSE_KEY": "secret"},
        ),
        "splunk": ({}, {"SPLUNK_HOST": host, "SPLUNK_PORT": number, "SPLUNK_HEC_TOKEN": "secret"}),
    }
    changes, variables = settings[kind]
    return {"tls.verify_hostname: on": f"tls.verify_hostname: on{trusted}"} | changes, variables


@dataclass
class Shipped:
    """What arrived of all that a node's containers wrote."""

    records: list[Record]
    requests: list[tuple[str, dict[str, str]]]
    stored: list[str] = field(default_factory=list)
    """The messages that VictoriaLogs has."""

    def of(self, message: str) -> Record:
        """The first record with a message."""
        return next(record for record in self.records if record["line"].get("message") == message)


LAST = 600
MESSAGES = {f"line {number}" for number in range(LAST)}


def numbered(records: list[Record]) -> list[str]:
    messages = (record["line"].get("message") for record in records)
    return [text for text in messages if isinstance(text, str) and text.startswith("line ")]


def through_an_outage_and_restarts(agent: Agent, shop: Store, real: VictoriaLogs | None) -> Shipped:
    """Write lines while all is well, while the store is away, and while the agent is."""
    node = agent.node
    agent.start()
    try:
        node.write(*(line(number) for number in range(100)))
        node.write(*FOREIGN, pod="proxy-0", container="nginx")
        node.write("line of the agent", pod="fluent-bit-x2x4z", container="fluent-bit")
        node.write(line(100, exception=FAILED), line(101, big="x" * 40_000), *map(line, range(102, 200)))
        eventually(lambda: len({*numbered(shop.records)}) == 200, f"the first lines at {shop.kind}", 60)

        shop.away = True
        node.write(*map(line, range(200, 300)))
        eventually(lambda: agent.value("fluentbit_output_retries_total") > 0, "the agent tries again")
        node.write(*map(line, range(300, 350)))
        read = [agent.value("fluentbit_input_records_total")]
        eventually(lambda: agent.value("fluentbit_input_records_total") >= max(read[0], 350), "all is read")
        agent.stop(signal.SIGKILL)

        node.write(*map(line, range(350, 400)))
        node.rotate()
        node.write(*map(line, range(400, 450)))
        agent.start()
        node.write(*map(line, range(450, 500)))
        shop.away = False
        agent.stop()

        node.write(*map(line, range(500, LAST)))
        agent.start()
        eventually(lambda: {*numbered(shop.records)} == MESSAGES, f"all lines at {shop.kind}", 90)
    finally:
        agent.stop()
    if real:
        eventually(lambda: {*real.messages()} >= MESSAGES, "all lines are stored")
    stored = real.messages() if real else []
    return Shipped(shop.records, shop.requests, stored)


FOREIGN = (
    "10.0.0.1 - - [29/Nov/2026:10:11:12 +0000] GET /",
    '"a JSON text that is no object"',
    '{"msg":"its own fields","time":"2026-11-29T10:11:12Z","stream":"its own","level":"info","log":"its own"}',
    '{"msg":"a time that is none","timestamp":"yesterday"}',
    '{"message":"names ours","kubernetes":"its own","service":"its own","error":"its own","trace":"its own"}',
    "Traceback (most recent call last):",
    '  File "app.py", line 1, in <module>',
    "    parcels[0]",
    "IndexError: list index out of range",
)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Shipped]:
    """Returns what arrived at a store: the run is made once for each."""
    if not os.environ.get("FLUENT_BIT"):
        pytest.skip("FLUENT_BIT names no binary of Fluent Bit 5.1")

    @cache
    def made(kind: str) -> Shipped:
        folder = tmp_path_factory.mktemp(kind)
        with placed(folder, kind) as (agent, shop, real):
            return through_an_outage_and_restarts(agent, shop, real)

    return made


@contextmanager
def placed(
    folder: Path, kind: str, start: str = "kubernetes.yaml"
) -> Iterator[tuple[Agent, Store, VictoriaLogs | None]]:
    """An agent that is not started yet and the store that it leads to."""
    with ExitStack() as stack:
        service = generate(folder, scale_tier="medium", telemetry_backend=kind)
        certificate = self_signed(folder, name="localhost")
        real = None
        if kind in PREFIX:
            (folder / "victoria").mkdir()
            real = stack.enter_context(running(VictoriaLogs(folder / "victoria")))
        shop = stack.enter_context(store(kind, certificate, real))
        metadata = Metadata()
        stack.enter_context(listening(metadata))
        changes, variables = _settings(kind, shop.server_port, metadata.server_port, certificate)
        configuration = service.folder / "platform/fluent-bit/config"
        (folder / "agent").mkdir()
        agent = Agent(folder / "agent", configuration, start, changes, **variables)
        stack.callback(agent.stop)
        yield agent, shop, real


STORES = ("grafana", "elastic", "aws", "gcp", "datadog", "newrelic", "splunk")
IDS = [kind if kind in PREFIX else f"{kind}-to-a-stand-in" for kind in STORES]
each_store = pytest.mark.parametrize("kind", STORES, ids=IDS)


@each_store
def test_every_line_arrives_over_an_outage_a_kill_a_rotation_and_a_restart(
    shipped: Callable[[str], Shipped], kind: str
) -> None:
    run = shipped(kind)
    assert {*numbered(run.records)} == MESSAGES
    twice = {text: count for text, count in Counter(numbered(run.records)).items() if count > 1}
    assert len(twice) <= 200, "only what was on its way at a kill is sent twice"
    if kind in PREFIX:
        assert {text for text in run.stored if text.startswith("line ")} == MESSAGES


@each_store
def test_parts_that_the_runtime_cut_are_one_line_again(shipped: Callable[[str], Shipped], kind: str) -> None:
    assert shipped(kind).of("line 101")["line"]["big"] == "x" * 40_000


@each_store
def test_what_is_no_object_is_a_message_and_a_stack_trace_is_one(shipped: Callable[[str], Shipped], kind: str) -> None:
    run = shipped(kind)
    names = {"elastic": "service.name", "newrelic": "service.name", "splunk": "service.name"}
    record = run.of(FOREIGN[0])["line"]
    assert record[names.get(kind, "service")] == "nginx"
    assert run.of(FOREIGN[1])
    assert run.of("\n".join(FOREIGN[5:9]))
    assert not any(record["line"].get("message") == FOREIGN[8] for record in run.records), "its last line, once more"


@each_store
def test_no_field_is_there_twice_and_the_lines_own_win(shipped: Callable[[str], Shipped], kind: str) -> None:
    run = shipped(kind)
    foreign = next(record["line"] for record in run.records if record["line"].get("msg") == "its own fields")
    assert foreign["time"] == "2026-11-29T10:11:12Z"
    if kind != "gcp":  # whose output takes `stream` for a container's
        assert foreign["stream"] == "its own"
    assert next(record for record in run.records if record["line"].get("msg") == "a time that is none")
    pod = {"namespace": "shop", "container": "service"}
    if kind != "grafana":  # where these two are metadata, and in the line no more
        assert run.of("names ours")["line"]["kubernetes"] == "its own"
        pod |= {"pod": "parcels-7d4b9-x2x", "node": "node-1"}
    assert run.of("line 1")["line"]["kubernetes"] == pod


def milliseconds(number: int) -> int:
    return round(datetime.fromisoformat(moment(number)).timestamp() * 1000)


def test_loki_has_labels_metadata_and_the_line_as_it_was_written(shipped: Callable[[str], Shipped]) -> None:
    run = shipped("grafana")
    record = run.of("line 7")
    assert record["labels"] == {"service": "parcels", "environment": "staging", "level": "INFO"}
    assert record["metadata"] == {
        "request_id": REQUEST,
        "trace_id": TRACE,
        "span_id": SPAN,
        "user_id": "c-1",
        "pod": "parcels-7d4b9-x2x",
        "node": "node-1",
    }
    assert record["at"] == f"{milliseconds(7)}000000"
    written = json.loads(line(7))
    assert {name: record["line"][name] for name in written} == written
    assert {*record["line"]} - {*written} == {"kubernetes", "pod", "node"}
    assert run.of(FOREIGN[0])["labels"] == {"service": "nginx", "environment": "production"}
    assert run.requests[0][1]["authorization"].startswith("Basic ")


def test_elasticsearch_has_the_names_of_its_schema_in_a_stream_of_the_service(
    shipped: Callable[[str], Shipped],
) -> None:
    run = shipped("elastic")
    record = run.of("line 100")
    assert record["action"]["create"]["_index"] == "logs-parcels-staging"
    document = record["line"]
    assert document["@timestamp"] == moment(100).replace("Z", "000000Z")
    wanted = {
        "log.level": "ERROR",
        "log.logger": "request",
        "service.name": "parcels",
        "service.environment": "staging",
        "service.version": "1.2.3",
        "trace.id": TRACE,
        "span.id": SPAN,
        "error.type": "ValueError",
        "error.message": "no parcel",
        "error.stack_trace": FAILED["stacktrace"],
        "user.id": "c-1",
        "request_id": REQUEST,
        "http.request.method": "GET",
        "http.response.status_code": 500,
        "duration_ms": 13.17,
    }
    assert {name: document[name] for name in wanted} == wanted
    assert not {"timestamp", "level", "service", "trace_id", "exception", "log", "error", "user"} & {*document}
    named = run.of("names ours")["line"]
    assert (named["field_error"], named["field_trace"]) == ("its own", "its own")
    ids = [each["action"]["create"]["_id"] for each in run.records if each["line"].get("message") == "line 7"]
    assert len({*ids}) == 1, "a line that is sent twice has one id"


def test_cloudwatch_stand_in_has_a_group_for_the_service_and_its_environment(
    shipped: Callable[[str], Shipped],
) -> None:
    run = shipped("aws")
    record = run.of("line 7")
    assert (record["logGroupName"], record["logStreamName"]) == ("/parcels/staging", "node-1")
    assert record["at"] == milliseconds(7)
    written = json.loads(line(7))
    assert {name: record["line"][name] for name in written} == written
    assert run.of(FOREIGN[0])["logGroupName"] == "/nginx/production"
    assert any(headers["x-amz-target"].endswith(".PutRetentionPolicy") for _, headers in run.requests)


def test_google_stand_in_has_severity_trace_and_stack_trace(shipped: Callable[[str], Shipped]) -> None:
    run = shipped("gcp")
    record = run.of("line 100")
    entry = record["entry"]
    assert entry["severity"] == 500, "ERROR, as LogSeverity counts"
    assert entry["logName"] == "projects/shop/logs/parcels"
    assert run.of(FOREIGN[0])["entry"]["resource"]["labels"]["pod_name"] == "proxy-0"
    assert entry["trace"].lstrip("/") == f"projects/shop/traces/{TRACE}"
    assert (entry["spanId"], entry["traceSampled"]) == (SPAN, True)
    assert entry["timestamp"] == moment(100).replace("Z", "000000Z")
    assert record["line"]["stack_trace"] == FAILED["stacktrace"]
    assert record["line"]["exception_type"] == "ValueError"
    assert not {"level", "trace_id", "span_id", "severity", "timestamp"} & {*record["line"]}
    assert entry["resource"]["type"] == "k8s_container"
    assert entry["resource"]["labels"] == {
        "project_id": "shop",
        "cluster_name": "main",
        "location": "europe-west3",
        "namespace_name": "shop",
        "pod_name": "parcels-7d4b9-x2x",
        "container_name": "service",
    }


def test_datadog_stand_in_has_its_standard_attributes(shipped: Callable[[str], Shipped]) -> None:
    run = shipped("datadog")
    record = run.of("line 100")["line"]
    wanted = {
        "env": "staging",
        "service": "parcels",
        "level": "ERROR",
        "http.status_code": 500,
        "http.method": "GET",
        "error.kind": "ValueError",
        "error.message": "no parcel",
        "error.stack": FAILED["stacktrace"],
        "network.client.ip": "203.0.113.7",
        "trace_id": TRACE,
        "timestamp": milliseconds(100),
        "ddsource": "python",
    }
    assert {name: record[name] for name in wanted} == wanted
    assert run.of("names ours")["line"]["field_error"] == "its own"
    assert run.requests[0][1]["dd-api-key"] == "secret"


def test_new_relic_stand_in_has_what_leads_to_the_trace_and_the_service(shipped: Callable[[str], Shipped]) -> None:
    run = shipped("newrelic")
    record = run.of("line 100")
    wanted = {
        "service.name": "parcels",
        "trace.id": TRACE,
        "span.id": SPAN,
        "error.class": "ValueError",
        "error.message": "no parcel",
        "error.stack": FAILED["stacktrace"],
    }
    assert {name: record["line"][name] for name in wanted} == wanted
    assert record["at"] == milliseconds(100)
    assert run.requests[0][1]["x-license-key"] == "secret"


def test_splunk_has_the_service_and_its_environment(shipped: Callable[[str], Shipped]) -> None:
    run = shipped("splunk")
    record = run.of("line 7")
    assert record["line"]["service.name"] == "parcels"
    assert record["line"]["deployment.environment"] == "staging"
    assert round(float(record["envelope"]["time"]) * 1000) == milliseconds(7)
    assert record["envelope"]["host"] == "node-1"
    assert run.requests[0][1]["authorization"] == "Splunk secret"


def docker(text: str) -> str:
    """What Docker's driver json-file writes for a line: parts, each a JSON object."""
    read = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
    parts = [text[at : at + RUNTIME_CUTS] for at in range(0, len(text), RUNTIME_CUTS)]
    parts[-1] += "\n"
    return "".join(json.dumps({"log": part, "stream": "stdout", "time": read}) + "\n" for part in parts)


def test_on_a_machine_the_files_of_docker_are_read_on_where_a_killed_agent_was(
    tmp_path: Path, shipped: Callable[[str], Shipped]
) -> None:
    del shipped  # it skips where there is no Fluent Bit
    with placed(tmp_path, "newrelic", "docker.yaml") as (agent, shop, _):
        container = agent.folder / "containers" / ("0123456789ab" + "c" * 52)
        container.mkdir(parents=True)
        file = container / f"{container.name}-json.log"
        file.write_text("".join(docker(line(number)) for number in range(100)))
        agent.start()
        eventually(lambda: len({*numbered(shop.records)}) == 100, "the first lines", 60)
        agent.stop(signal.SIGKILL)
        with file.open("a") as opened:
            opened.write("".join(docker(line(number)) for number in range(100, 200)))
        file.rename(file.with_name(f"{file.name}.1"))
        file.write_text(docker("text") + docker(line(200, big="x" * 40_000, container="its own")))
        agent.start()
        wanted = {f"line {number}" for number in range(201)}
        eventually(lambda: {*numbered(shop.records)} == wanted, "all lines", 60)
    run = Shipped(shop.records, shop.requests)
    long = run.of("line 200")["line"]
    assert (long["big"], long["container"]) == ("x" * 40_000, "its own")
    text = run.of("text")["line"]
    assert (text["service.name"], text["environment"], text["container"]) == ("container", "production", "0123456789ab")


def test_a_full_buffer_drops_the_oldest_lines_and_says_so(tmp_path: Path, shipped: Callable[[str], Shipped]) -> None:
    del shipped
    with placed(tmp_path, "newrelic") as (agent, shop, _):
        agent.limit_buffer("4M")
        shop.away = True
        agent.start()
        for number in range(0, 1200, 100):
            agent.node.write(*(line(each, big="x" * 8_000) for each in range(number, number + 100)))
        eventually(lambda: agent.value("fluentbit_output_dropped_records_total") > 0, "lines are dropped", 60)
        assert agent.value("fluentbit_output_chunk_available_capacity_percent") < 75
        shop.away = False
        eventually(lambda: "line 1199" in numbered(shop.records), "the last line", 90)
        assert "line 0" not in numbered(shop.records)


def test_a_store_that_cannot_prove_who_it_is_gets_nothing(tmp_path: Path, shipped: Callable[[str], Shipped]) -> None:
    del shipped
    other = tmp_path / "other"
    other.mkdir()
    with placed(tmp_path, "newrelic") as (agent, shop, _):
        agent.trust(self_signed(other, name="localhost"))
        agent.start()
        agent.node.write(line(1))
        eventually(lambda: "certificate verify failed" in agent.log.read_text(), "it is refused", 60)
        assert shop.requests == []


def test_the_metrics_that_alerts_go_by_are_there(tmp_path: Path, shipped: Callable[[str], Shipped]) -> None:
    del shipped
    with placed(tmp_path, "newrelic") as (agent, shop, _):
        agent.node.write(line(1))
        agent.start()
        eventually(lambda: shop.records, "a line", 60)
        made = agent.metrics()
        listed = yaml.safe_load((tmp_path / "proof-service/platform/prometheus/exporters/fluent-bit.yml").read_text())
        for metric, labels in listed.items():
            found = re.search(rf"^{metric}(?:\{{(.*)\}})? ", made, re.MULTILINE)
            assert found, metric
            assert sorted(re.findall(r"(\w+)=", found[1] or "")) == labels, metric
