"""What a log store is given and asked, read by its own parsers: LogQL, KQL, Elasticsearch's API, Terraform."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import yaml

from .processes import clean_environment, run
from .programs import maven_libraries, npm_package, program
from .service import generate
from .terraform import named, names, parsed, planned, problems, resources, terraform, unquoted

HERE = Path(__file__).parent
LISTED = yaml.safe_load((HERE / "log_store_arguments.yaml").read_text())
PROVIDERS = {"aws": "aws", "gcp": "google", "datadog": "datadog", "newrelic": "newrelic"}
SECRETS = {
    "aws": set(),
    "gcp": set(),
    "datadog": {"datadog_api_key", "datadog_app_key"},
    "newrelic": {"newrelic_api_key"},
}

Made = Callable[..., Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Returns the folder of a medium service with this store."""

    @cache
    def folder(backend: str) -> Path:
        out = tmp_path_factory.mktemp(backend)
        return generate(out, scale_tier="medium", telemetry_backend=backend).folder

    return folder


def queries(service: Path, language: str) -> list[str]:
    """What the page of queries has in a language."""
    page = (service / "docs/log-queries.md").read_text()
    return re.findall(rf"^```{language}\n(.+?)\n```", page, re.DOTALL | re.MULTILINE)


# --- queries, by parsers of their languages --------------------------------------------------------------------------

LOGQL = """
import { parser } from "@grafana/lezer-logql";
const wrong = JSON.parse(process.argv[2]).map((query) => {
  const at = [];
  parser.parse(query).iterate({ enter: (node) => void (node.type.isError && at.push(node.from)) });
  return at.length > 0;
});
console.log(JSON.stringify(wrong));
"""


def test_grafanas_own_grammar_reads_every_logql_query(made: Made) -> None:
    folder = npm_package("@grafana/lezer-logql")
    (folder / "read.mjs").write_text(LOGQL)
    found = queries(made("grafana"), "logql")
    assert len(found) == 6
    asked = [*found, *(query.replace('"', "", 1) for query in found)]
    done = run(["node", "read.mjs", json.dumps(asked)], folder=folder, environment=clean_environment())
    assert json.loads(done.stdout) == [False] * 6 + [True] * 6, "each as it is, and none without its first quote"


KQL = """
import json, sys
from kibana_ql import KqlParser
def wrong(query):
    try:
        KqlParser().parse(query)
    except Exception:
        return True
    return False
print(json.dumps([wrong(query) for query in json.loads(sys.argv[1])]))
"""


def test_a_parser_of_kql_reads_every_query(made: Made) -> None:
    python = program("kibana-ql").with_name("python")
    found = queries(made("elastic"), "kql")
    assert len(found) == 6
    asked = [*found, *(f"{query} and (" for query in found)]
    done = run([python, "-c", KQL, json.dumps(asked)], folder=HERE, environment=clean_environment())
    assert json.loads(done.stdout) == [False] * 6 + [True] * 6, "each as it is, and none with half a bracket"


# --- Elasticsearch's API ---------------------------------------------------------------------------------------------

SPOILT = {
    "lifecycle.json": ('"max_age"', '"max_days"', "max_days"),
    "pipeline.json": ('"target_field"', '"target"', "target"),
    "template.json": ('"ignore_above"', '"ignore_over"', "ignore_over"),
}


def test_elastics_own_client_knows_every_option_and_refuses_one_that_is_misspelt(made: Made, tmp_path: Path) -> None:
    source = HERE / "elasticsearch_types"
    libraries = maven_libraries(source)
    good, spoilt = made("elastic") / "monitoring/logs/elasticsearch", tmp_path / "spoilt"
    shutil.copytree(good, spoilt)
    for name, (right, wrong, _) in SPOILT.items():
        (spoilt / name).write_text((spoilt / name).read_text().replace(right, wrong, 1))
    java = program("javac").with_name("java")  # which runs a source file only where a compiler is installed
    command: list[str | Path] = [java, "-cp", f"{libraries}/*", source / "Read.java", good, spoilt]
    said = run(command, folder=tmp_path, environment=clean_environment()).stdout.splitlines()
    assert said[:3] == [f"ok {good / name}" for name in SPOILT]
    for line, (name, (_, wrong, said_of_it)) in zip(said[3:], SPOILT.items(), strict=True):
        assert line.startswith(f"refused {spoilt / name}"), wrong
        assert said_of_it in line


# --- Terraform -------------------------------------------------------------------------------------------------------


def folder_of(made: Made, backend: str) -> Path:
    return made(backend) / "deploy/terraform/logs"


@pytest.mark.parametrize("backend", PROVIDERS)
def test_terraform_would_format_the_files_as_they_are(made: Made, backend: str) -> None:
    code, said = terraform(folder_of(made, backend), "fmt", "-check", "-diff")
    assert code == 0, said


@pytest.mark.parametrize("backend", PROVIDERS)
def test_the_provider_knows_every_argument_and_misses_none(made: Made, backend: str) -> None:
    listed = LISTED[PROVIDERS[backend]]["resources"]
    folder = folder_of(made, backend)
    used = list(resources(folder))
    assert {kind for kind, _, _ in used} == set(listed), "the list has what is used"
    found = [
        problem for kind, name, body in used for problem in problems(f"{kind}.{name}", body, listed[kind]["arguments"])
    ]
    assert not found, "\n".join(found)
    text = "".join(file.read_text() for file in folder.glob("*.tf"))
    references = set(re.findall(rf"\b({PROVIDERS[backend]}_\w+)\.(\w+)(?:\[[^]]+\])?\.(\w+)", text))
    for kind, name, attribute in references:
        assert (kind, name) in {(one, other) for one, other, _ in used}
        assert attribute in names(listed[kind]["arguments"]) | set(listed[kind]["computed"]), f"no {kind}.{attribute}"
    variables = named(parsed(folder)["variable"])
    assert set(re.findall(r"\bvar\.(\w+)", text)) == set(variables), "every variable is used, and only those"


@pytest.mark.parametrize("backend", PROVIDERS)
def test_the_provider_is_pinned_and_its_secrets_are_sensitive(made: Made, backend: str) -> None:
    folder = folder_of(made, backend)
    blocks = parsed(folder)
    (wanted,) = (one["required_providers"] for one in blocks["terraform"])
    pinned = {name: unquoted(value) for name, value in wanted[0][PROVIDERS[backend]].items() if name != "__is_block__"}
    assert pinned == {name: LISTED[PROVIDERS[backend]][name] for name in ("source", "version")}
    variables = named(blocks["variable"])
    assert {name for name, body in variables.items() if body.get("sensitive")} == SECRETS[backend]
    for name in SECRETS[backend]:
        assert "default" not in variables[name]
        assert f"TF_VAR_{name}" in (folder / "README.md").read_text()
    for name, body in variables.items():
        assert {"description", "type", "validation"} <= body.keys(), name
    for name, body in named(blocks["output"]).items():
        assert body.keys() >= {"description", "value"}, name


GOOD: dict[str, dict[str, str]] = {
    "aws": {"region": "eu-central-1", "alarm_topics": '["arn:aws:sns:eu-central-1:123456789012:on-call"]'},
    "gcp": {
        "project": "parcels-123456",
        "notification_channels": '["projects/parcels-123456/notificationChannels/1"]',
    },
    "datadog": {"notify": '["@on-call@example.com"]'},
    "newrelic": {"account_id": "1234567"},
}
BAD: dict[str, dict[str, list[str]]] = {
    "aws": {
        "region": ["Frankfurt", "eu-central-1a"],
        "alarm_topics": ["[]", '["on-call"]'],
        "retention_days": ["0", "1.5", "3654"],
    },
    "gcp": {
        "project": ["Parcels", "p"],
        "notification_channels": ["[]", '["on-call"]'],
        "retention_days": ["0", "1.5", "3651"],
        "location": ["Europe"],
        "resource_type": ["pod"],
    },
    "datadog": {
        "notify": ["[]", '["on-call@example.com"]'],
        "retention_days": ["0", "1.5", "361"],
        "site": ["datadog.com"],
    },
    "newrelic": {"account_id": ["0", "1.5"], "region": ["us"]},
}
OF_ALL = {"environments": ["[]", '["Production"]'], "error_lines": ["-1", "0.5"]}


@pytest.mark.parametrize("backend", PROVIDERS)
def test_a_bad_value_is_refused_by_terraform_with_a_sentence(made: Made, tmp_path: Path, backend: str) -> None:
    """The variables alone: they need no provider."""
    text = "\n".join(file.read_text() for file in folder_of(made, backend).glob("*.tf"))
    (tmp_path / "variables.tf").write_text("".join(re.findall(r"(?ms)^variable .*?^}\n", text)))
    assert terraform(tmp_path, "init")[0] == 0
    good = GOOD[backend] | dict.fromkeys(SECRETS[backend], "secret")
    code, said = planned(tmp_path, good)
    assert code == 0, said
    bad = BAD[backend] | OF_ALL | {name: [""] for name in SECRETS[backend]}
    for turn in range(max(map(len, bad.values()))):
        wrong_now = {name: values[turn] for name, values in bad.items() if turn < len(values)}
        code, said = planned(tmp_path, good | wrong_now)
        assert code == 1
        assert set(re.findall(r'variable "(\w+)" {', said)) == wrong_now.keys(), f"{wrong_now}: {said}"
    if "retention_days" in bad:
        code, said = planned(tmp_path, good | {"retention_days": "a month"})
        assert code == 1
        assert "retention_days" in said
        assert "a number is required" in said


ROUNDED = {
    "aws": {"1": 1, "8": 14, "30": 30, "31": 60, "90": 90, "3653": 3653},
    "datadog": {"1": 3, "30": 30, "31": 45, "90": 90, "360": 360},
}


@pytest.mark.parametrize("backend", ROUNDED)
def test_a_retention_that_the_store_does_not_take_becomes_the_next_longer(
    made: Made, tmp_path: Path, backend: str
) -> None:
    text = "\n".join(file.read_text() for file in folder_of(made, backend).glob("*.tf"))
    values = text.partition("locals {")[2].partition("\n}\n")[0]
    parts = [
        *re.findall(r'(?ms)^variable "retention_days" .*?^}$', text),
        "locals {",
        *re.findall(r"(?m)^  retention\w* += .+$", values),
        '}\n\noutput "kept" {\n  value = local.retention_days\n}\n',
    ]
    (tmp_path / "retention.tf").write_text("\n".join(parts))
    assert terraform(tmp_path, "init")[0] == 0
    for asked, kept in ROUNDED[backend].items():
        code, said = terraform(tmp_path, "apply", "-auto-approve", f"-var=retention_days={asked}")
        assert code == 0, said
        state = json.loads((tmp_path / "terraform.tfstate").read_text())
        assert state["outputs"]["kept"]["value"] == kept, asked
