"""The uptime monitors that are other people's systems: Terraform's own view of the files, and what providers take.

No provider can be installed where these tests run. So each argument is held against the provider's published binding
(StatusCake), or against a list made of the provider's reference (terraform_arguments.yaml).
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import yaml

from .programs import program
from .service import Service, generate, request
from .terraform import Schema, named, names, parsed, planned, problems, resources, terraform, unquoted

MONITORS = ("uptimerobot", "pingdom", "statuscake")
SECRETS = {
    "uptimerobot": "uptimerobot_api_key",
    "pingdom": "pingdom_api_token",
    "statuscake": "statuscake_api_token",
}
HOSTILE = {
    "project_slug": "proof-service",
    "project_name": 'Käse "Wein" ${path.root} %{ if x } \\ %s 👩‍👩‍👧',
    "team": '${var.host} "quoted" \\',
}
LISTED = yaml.safe_load((Path(__file__).parent / "terraform_arguments.yaml").read_text())
RENAMED = {"alert_ats": "alert_at"}
"""Bindings give lists a plural of their own making."""

Uptime = Callable[..., Path]


@pytest.fixture(scope="module")
def uptime(tmp_path_factory: pytest.TempPathFactory) -> Uptime:
    """Returns the Terraform folder of a service that chose this monitor."""

    @cache
    def made(monitor: str, **answers: str) -> Path:
        folder = tmp_path_factory.mktemp(monitor)
        return generate(folder, uptime_monitor=monitor, **answers).folder / "deploy/terraform/uptime"

    return made


# --- what a provider takes -------------------------------------------------------------------------------------------


def listed(monitor: str) -> dict[str, tuple[Schema, set[str]]]:
    """The arguments of each resource, and the attributes that it has beside them, from the list."""
    of = LISTED[monitor]["resources"]
    return {kind: (resource["arguments"], set(resource["computed"])) for kind, resource in of.items()}


def bound(monitor: str) -> dict[str, tuple[Schema, set[str]]]:
    """The same from the binding that a provider's generator wrote: classes with an argument each."""
    package = program(f"pulumiverse-{monitor}").parents[1]
    (folder,) = package.glob(f"lib/python*/site-packages/pulumiverse_{monitor}")
    classes = {
        node.name: node
        for file in folder.glob("*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef)
    }

    def schema(name: str) -> Schema:
        (made,) = (node for node in classes[name].body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
        arguments = made.args.args[1:] + made.args.kwonlyargs
        found: Schema = {}
        for argument in arguments:
            kind = ast.unparse(argument.annotation) if argument.annotation else ""
            required = "" if "Optional" in kind else "!"
            inner = re.search(r"(\w+Args)'", kind)
            found[f"{RENAMED.get(argument.arg, argument.arg)}{required}"] = schema(inner[1]) if inner else simple(kind)
        return found

    def simple(kind: str) -> str:
        word = re.findall(r"\b(?:str|int|float|bool|Any)\b", kind)[-1]
        plain = {"str": "string", "int": "number", "float": "number", "bool": "bool", "Any": "any"}[word]
        return f"list({plain})" if "Sequence" in kind else f"map({plain})" if "Mapping" in kind else plain

    def resource(kind: str) -> str:
        return "".join(word.capitalize() for word in kind.split("_")[1:])

    kinds = [f"{monitor}_contact_group", f"{monitor}_uptime_check", f"{monitor}_ssl_check"]
    return {kind: (schema(f"{resource(kind)}Args"), {"id"}) for kind in kinds}


def takes(monitor: str) -> dict[str, tuple[Schema, set[str]]]:
    return listed(monitor) if monitor in LISTED else bound(monitor)


# --- the promises ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("monitor", MONITORS)
def test_terraform_would_format_the_files_as_they_are(uptime: Uptime, monitor: str) -> None:
    for folder in (uptime(monitor), uptime(monitor, **HOSTILE), uptime(monitor, paging="slack")):
        code, said = terraform(folder, "fmt", "-check", "-diff")
        assert code == 0, said


@pytest.mark.parametrize("monitor", MONITORS)
def test_the_provider_knows_every_argument_and_misses_none(uptime: Uptime, monitor: str) -> None:
    schemas = takes(monitor)
    found = [
        problem
        for kind, name, body in resources(uptime(monitor))
        for problem in (problems(f"{kind}.{name}", body, schemas[kind][0]) if kind in schemas else [f"no {kind}"])
    ]
    assert not found, "\n".join(found)
    assert {kind for kind, _, _ in resources(uptime(monitor))} == set(schemas), "the list has what is used"


@pytest.mark.parametrize("monitor", MONITORS)
def test_every_reference_leads_to_an_attribute_that_exists(uptime: Uptime, monitor: str) -> None:
    folder, schemas = uptime(monitor), takes(monitor)
    text = "".join(file.read_text() for file in folder.glob("*.tf"))
    made = {(kind, name) for kind, name, _ in resources(folder)}
    references = re.findall(rf"\b({monitor}_\w+)\.(\w+)(?:\)\[\*\])?\.(\w+)", text)
    assert references
    for kind, name, attribute in references:
        assert (kind, name) in made
        assert attribute in names(schemas[kind][0]) | schemas[kind][1], f"{kind} has no {attribute}"
    variables = named(parsed(folder)["variable"])
    assert set(re.findall(r"\bvar\.(\w+)", text)) == set(variables), "every variable is used, and only those"


@pytest.mark.parametrize("monitor", MONITORS)
def test_the_provider_is_pinned_to_the_version_whose_arguments_were_looked_up(uptime: Uptime, monitor: str) -> None:
    (block,) = parsed(uptime(monitor))["terraform"]
    (wanted,) = block["required_providers"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", unquoted(wanted[monitor]["version"]))
    if monitor in LISTED:
        assert {name: unquoted(value) for name, value in wanted[monitor].items()} == {
            "source": LISTED[monitor]["source"],
            "version": LISTED[monitor]["version"],
        }


@pytest.mark.parametrize("monitor", MONITORS)
def test_the_secret_is_sensitive_and_reaches_the_provider_alone(uptime: Uptime, monitor: str) -> None:
    folder, secret = uptime(monitor), SECRETS[monitor]
    blocks = parsed(folder)
    variables = named(blocks["variable"])
    assert [name for name, body in variables.items() if body.get("sensitive")] == [secret]
    assert "default" not in variables[secret]
    given = named(blocks["provider"])[monitor]
    assert [value for name, value in given.items() if not name.startswith("__")] == [f"${{var.{secret}}}"]
    text = "".join(file.read_text() for file in folder.glob("*.tf"))
    assert text.count(f"var.{secret}") == 2, "the provider's block and the variable's own validation"
    assert f"TF_VAR_{secret}" in (folder / "README.md").read_text()


@pytest.mark.parametrize("monitor", MONITORS)
def test_every_variable_and_output_says_what_it_is(uptime: Uptime, monitor: str) -> None:
    blocks = parsed(uptime(monitor))
    for name, body in named(blocks["variable"]).items():
        assert {"description", "type", "validation"} <= body.keys(), name
    for name, body in named(blocks["output"]).items():
        assert body.keys() >= {"description", "value"}, name


@pytest.mark.parametrize("monitor", MONITORS)
def test_readiness_is_asked_over_https_from_several_regions(uptime: Uptime, monitor: str) -> None:
    folder = uptime(monitor)
    bodies = json.dumps([body for _, _, body in resources(folder)])
    if monitor == "pingdom":
        (check,) = (body for kind, _, body in resources(folder) if kind == "pingdom_check")
        asked = (check["encryption"], check["port"], check["host"], check["url"])
        assert asked == (True, 443, "${var.host}", '"/health/ready"')
    else:
        assert "https://${var.host}/health/ready" in bodies
    assert "var.regions" in bodies
    assert len(named(parsed(folder)["variable"])["regions"]["default"]) > 1


@pytest.mark.parametrize("monitor", MONITORS)
def test_a_name_of_any_text_is_text_to_terraform(uptime: Uptime, tmp_path: Path, monitor: str) -> None:
    text = (uptime(monitor, **HOSTILE) / f"{monitor}.tf").read_text()
    literals = sorted(set(re.findall(r'name\s+= (?:format\("%s \(%s\)", )?("(?:[^"\\]|\\.)*")', text)))
    outputs = "".join(f'output "o{number}" {{ value = {one} }}\n' for number, one in enumerate(literals))
    (tmp_path / "names.tf").write_text(outputs)
    assert terraform(tmp_path, "init")[0] == 0
    code, said = terraform(tmp_path, "apply", "-auto-approve")
    assert code == 0, said
    state = json.loads((tmp_path / "terraform.tfstate").read_text())
    expected = {HOSTILE["project_name"]} | (set() if monitor == "uptimerobot" else {HOSTILE["team"]})
    assert {output["value"] for output in state["outputs"].values()} == expected


def test_every_answer_but_success_counts_as_down(uptime: Uptime, small: Service, tmp_path: Path) -> None:
    """StatusCake counts what is listed, UptimeRobot what is not; Pingdom knows the codes, and follows redirects."""
    (check,) = (body for kind, _, body in resources(uptime("statuscake")) if kind == "statuscake_uptime_check")
    (http,) = check["http_check"]
    assert http["follow_redirects"] is False
    expression = str(http["status_codes"]).removeprefix("${").removesuffix("}")
    (tmp_path / "codes.tf").write_text(f'output "down" {{ value = {expression} }}\n')
    assert terraform(tmp_path, "init")[0] == 0
    code, said = terraform(tmp_path, "apply", "-auto-approve")
    assert code == 0, said
    state = json.loads((tmp_path / "terraform.tfstate").read_text())
    assert state["outputs"]["down"]["value"] == [str(number) for number in range(300, 600)]

    (check,) = (body for kind, _, body in resources(uptime("uptimerobot")) if kind == "uptimerobot_monitor")
    assert check["follow_redirections"] is False
    assert [unquoted(code) for code in check["success_http_response_codes"]] == ["2xx"]

    (check,) = (body for kind, _, body in resources(uptime("pingdom")) if kind == "pingdom_check")
    expected = json.loads(check["shouldcontain"])
    with small.serving(staged=False) as service:
        assert expected in request(service.port, "/health/ready").body.decode()
    assert expected not in json.dumps({"status": "unhealthy"})


GOOD = {
    "host": "orders.example.com",
    "alert_emails": '["on-call@example.com"]',
    "integration_ids": "[12]",
}
BAD = {
    "host": ["https://orders.example.com", "orders.example.com/health", "Orders.example.com", "localhost", ""],
    "alert_emails": ["[]", '["on-call"]', '["a@b@example.com"]'],
    "integration_ids": ["[0]", "[1.5]"],
    "regions": ['["The Moon"]'],
}
INTERVALS = {"uptimerobot": "interval_seconds", "pingdom": "interval_minutes", "statuscake": "interval_seconds"}


@pytest.mark.parametrize("monitor", MONITORS)
def test_a_bad_value_is_refused_by_terraform_with_a_sentence(uptime: Uptime, tmp_path: Path, monitor: str) -> None:
    """The variables alone: they need no provider."""
    text = "\n".join(file.read_text() for file in uptime(monitor).glob("*.tf"))
    (tmp_path / "variables.tf").write_text("".join(re.findall(r"(?ms)^variable .*?^}\n", text)))
    assert terraform(tmp_path, "init")[0] == 0
    good = GOOD | {SECRETS[monitor]: "secret"}
    code, said = planned(tmp_path, good)
    assert code == 0, said
    bad = BAD | {INTERVALS[monitor]: ["7"], SECRETS[monitor]: [""]}
    for turn in range(max(map(len, bad.values()))):
        wrong_now = {name: values[turn] for name, values in bad.items() if turn < len(values)}
        code, said = planned(tmp_path, good | wrong_now)
        assert code == 1
        refused = set(re.findall(r'variable "(\w+)" {', said))
        assert refused == wrong_now.keys(), f"{wrong_now}: {said}"
        assert said.count("Error: Invalid value for variable") == len(wrong_now)
