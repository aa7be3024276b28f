"""The log agent's configuration: what Fluent Bit documents, for each store, without a copy of itself."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from formats import read_yaml
from template_checkout import OPTIONS, ROOT, Generate

DOCUMENTED: dict[str, Any] = yaml.safe_load((ROOT / "tests/real/fluent_bit_options.yaml").read_text())
STORES = OPTIONS["telemetry_backend"]

SECTIONS = ("includes", "service", "parsers", "multiline_parsers", "pipeline")

each_store = pytest.mark.parametrize("store", STORES)


@pytest.fixture
def agent(service: Generate, store: str) -> Path:
    """The folder of the agent that ships to a store."""
    return service(scale_tier="medium", telemetry_backend=store) / "platform/fluent-bit"


def files_of(agent: Path) -> list[Path]:
    return sorted((agent / "config").glob("*.yaml"))


def plugins(configuration: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each input, filter, output and processor of a configuration, after its section."""
    for section, each in configuration.get("pipeline", {}).items():
        for plugin in each:
            yield section, plugin
            for processor in plugin.get("processors", {}).get("logs", []):
                yield "filters", processor


def undocumented(configuration: dict[str, Any]) -> list[str]:
    """What a configuration names that Fluent Bit's documentation does not."""
    found = [name for name in configuration if name not in SECTIONS]
    found += [f"service: {name}" for name in configuration.get("service", {}) if name not in DOCUMENTED["service"]]
    for section in ("parsers", "multiline_parsers"):
        for parser in configuration.get(section, []):
            found += [f"{section}: {name}" for name in parser if name not in DOCUMENTED[section]]
    for section, plugin in plugins(configuration):
        own = DOCUMENTED.get(section, {}).get(plugin["name"])
        if own is None:
            found.append(f"{section}: {plugin['name']}")
            continue
        known = {"name", *own, *DOCUMENTED[f"any {section[:-1]}"]}
        found += [f"{section}: {plugin['name']}: {name}" for name in plugin if name not in known]
    return found


@each_store
def test_every_option_is_one_that_fluent_bit_documents(agent: Path) -> None:
    for file in files_of(agent):
        (configuration,) = read_yaml(file)
        assert undocumented(configuration) == [], file.name


def test_an_option_that_fluent_bit_does_not_know_is_named() -> None:
    wrong = {
        "services": {},
        "service": {"flash": 1},
        "pipeline": {"outputs": [{"name": "loki", "retries": 1}, {"name": "lokki"}]},
    }
    assert undocumented(wrong) == [
        "services",
        "service: flash",
        "outputs: loki: retries",
        "outputs: lokki",
    ]


@each_store
def test_examples_of_other_stores_are_documented_options(agent: Path) -> None:
    page = (agent.parents[1] / "docs/logs.md").read_text()
    blocks = re.findall(r"```yaml\n(.+?)```", page, re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        assert undocumented(yaml.safe_load(block)) == []


@each_store
def test_lines_are_encrypted_kept_on_disk_and_tried_again_without_end(agent: Path, store: str) -> None:
    (configuration,) = read_yaml(agent / f"config/output-{store}.yaml")
    (output,) = configuration["pipeline"]["outputs"]
    assert output["retry_limit"] == "no_limits"
    assert output["storage.total_limit_size"] == "2G"
    if output["name"] not in ("cloudwatch_logs", "stackdriver"):  # they know no other way
        assert output["tls"] in (True, "${LOKI_TLS}")
        assert output["tls.verify_hostname"] is True
    for file in ("kubernetes.yaml", "docker.yaml"):
        (configuration,) = read_yaml(agent / "config" / file)
        (tail,) = configuration["pipeline"]["inputs"]
        assert tail["storage.type"] == "filesystem"
        assert tail["db"].startswith("/var/lib/fluent-bit/")


SECRET = re.compile(r"passwd|password|token|api_?key|license_key|shared_key")


@each_store
def test_credentials_are_references_to_variables(agent: Path) -> None:
    for file in files_of(agent):
        (configuration,) = read_yaml(file)
        for _, plugin in plugins(configuration):
            for name, value in plugin.items():
                if SECRET.search(name):
                    assert re.fullmatch(r"\$\{[A-Z_]+\}", value), f"{file.name}: {name}"


def variables_of(agent: Path) -> set[str]:
    """What the configuration takes from the environment."""
    return {name for file in files_of(agent) for name in re.findall(r"\$\{([A-Z_]+)\}", file.read_text())}


@each_store
def test_every_variable_of_the_configuration_is_set_or_named_on_the_page(agent: Path) -> None:
    (values,) = read_yaml(agent / "values.yaml")
    page = (agent / "README.md").read_text()
    named = set(re.findall(r"^([A-Z_]+)=", page, re.MULTILINE))
    assert variables_of(agent) <= named | {each["name"] for each in values["env"]}
    (compose,) = read_yaml(agent / "compose.yaml")
    assert variables_of(agent) - {"NODE_NAME"} <= named | set(compose["services"]["fluent-bit"]["environment"])
    assert named - {"AWS_REGION"} <= variables_of(agent) | {"AWS_REGION"}


def test_loki_has_three_labels_none_of_which_differs_from_line_to_line(service: Generate) -> None:
    made = service(scale_tier="medium", telemetry_backend="grafana")
    (configuration,) = read_yaml(made / "platform/fluent-bit/config/output-grafana.yaml")
    (output,) = configuration["pipeline"]["outputs"]
    labels = {each.partition("=")[0] for each in output["labels"].split(",")}
    assert labels == {"service", "environment", "level"}


@each_store
def test_the_chart_gets_each_file_of_the_configuration_as_it_is(agent: Path) -> None:
    page = (agent / "README.md").read_text()
    handed = re.findall(r"--set-file 'config\.extraFiles\.(\S+?)=(\S+?)'", page)
    needed = {file.name for file in files_of(agent)} - {"docker.yaml"}
    assert {name.replace("\\.", ".") for name, _ in handed} == needed
    for name, path in handed:
        assert path.endswith("/" + name.replace("\\.", "."))
        assert "{{" not in (agent.parents[1] / path).read_text(), "the chart would expand it"
    (values,) = read_yaml(agent / "values.yaml")
    assert f"--config=/fluent-bit/etc/conf/{'kubernetes.yaml'}" in values["args"]
    assert page.count("0.58.1") == 1
    assert "0.58.1" in (agent / "values.yaml").read_text()


@each_store
def test_the_agent_runs_the_same_version_everywhere(agent: Path) -> None:
    (compose,) = read_yaml(agent / "compose.yaml")
    assert compose["services"]["fluent-bit"]["image"] == "fluent/fluent-bit:5.1.1"
    assert "(Fluent Bit 5.1.1)" in (agent / "values.yaml").read_text()


@each_store
def test_the_agent_asks_nothing_of_the_cluster_and_changes_nothing_of_its_node_but_its_own_folder(agent: Path) -> None:
    (values,) = read_yaml(agent / "values.yaml")
    assert values["rbac"] == {"create": False}
    assert values["serviceAccount"]["automountServiceAccountToken"] is False
    assert values["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    writable = [each["mountPath"] for each in values["daemonSetVolumeMounts"] if not each.get("readOnly")]
    assert writable == ["/var/lib/fluent-bit"]
    assert values["tolerations"] == [{"operator": "Exists"}]
    (configuration,) = read_yaml(agent / "config/lines.yaml")
    assert configuration["service"]["storage.path"].startswith(writable[0])


@each_store
def test_the_agent_names_nothing_of_the_service_it_came_with(agent: Path) -> None:
    """One agent serves all: names come from the lines."""
    for file in (*files_of(agent), agent / "values.yaml", agent / "compose.yaml"):
        assert "order" not in file.read_text(), file.name


def renamed(configuration: dict[str, Any]) -> dict[str, str]:
    """What the store calls each field of a line, by what the service calls it."""
    found: dict[str, str] = {}
    for section, plugin in plugins(configuration):
        if section == "filters" and (prefix := plugin.get("add_prefix")):
            found |= {f"exception.{name}": prefix + name for name in ("type", "message", "stacktrace")}
        if section == "filters" and (renames := plugin.get("rename")):
            pairs = dict(each.split() for each in ([renames] if isinstance(renames, str) else renames))
            found = {old: pairs.pop(new, new) for old, new in found.items()}
            found |= {old: new for old, new in pairs.items() if not new.startswith("field_")}
    return found


OF_THE_ENTRY = {"logging.googleapis.com/trace_sampled": "traceSampled"}
"""What Google Cloud's agents are told, and what the entry then has."""


@each_store
def test_the_page_names_what_the_store_has_for_what_the_service_writes(agent: Path, store: str) -> None:
    (configuration,) = read_yaml(agent / f"config/output-{store}.yaml")
    page = (agent.parents[1] / "docs/logs.md").read_text()
    said = dict(re.findall(r"^\| `(\S+)` \| `(\S+)` \|$", page, re.MULTILINE))
    said.pop("timestamp", None)  # the output's own work
    if store == "datadog":
        said.pop("level")  # Datadog's own
    made = {old: OF_THE_ENTRY.get(new, new.rpartition("/")[2]) for old, new in renamed(configuration).items()}
    assert made == {old: new.removeprefix("jsonPayload.") for old, new in said.items()}
