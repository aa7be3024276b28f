"""On call as code: PagerDuty's rotations and escalation, Sentry's alerts, and the commands of docs/on-call.md.

No provider can be installed where these tests run. What PagerDuty's takes is read from its published binding, what
Sentry's takes from a list made of its reference (terraform_arguments.yaml).
"""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import hcl2
import pytest
import yaml
from commands import commands_of, typed

from .processes import free_port
from .programs import program
from .servers import Server, answers, running
from .service import generate
from .terraform import Schema, named, names, parsed, planned, problems, resources, terraform, unquoted, wrong

HOSTILE = {
    "project_slug": "proof-service",
    "project_name": 'Käse "Wein" ${path.root} %{ if x } \\ %s',
    "team": '${var.host} "quoted" \\',
}
FOLDERS = {
    "PagerDuty": ("on-call", "pagerduty"),
    "Sentry, mail": ("sentry", "pagerduty"),
    "Sentry, Slack": ("sentry", "slack"),
}
SECRETS = {"on-call": "pagerduty_token", "sentry": "sentry_token"}
PROVIDERS = {"on-call": "pagerduty", "sentry": "sentry"}
SENTRY = yaml.safe_load((Path(__file__).parent / "terraform_arguments.yaml").read_text())["sentry"]

Made = Callable[..., Path]
Blocks = dict[str, tuple[Schema, set[str]]]
"""The arguments that each kind of block takes, and the attributes that it has beside them."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Returns the folder of a medium service that is paged by this."""

    @cache
    def made(paging: str, **answers: str) -> Path:
        return generate(tmp_path_factory.mktemp(paging), scale_tier="medium", paging=paging, **answers).folder

    return made


def folder_of(service: Made, case: str, **answers: str) -> Path:
    name, paging = FOLDERS[case]
    return service(paging, **answers) / "deploy/terraform" / name


# --- what a provider takes -------------------------------------------------------------------------------------------

EVERY_CONFIG = {"connection", "count", "depends_on", "for_each", "lifecycle", "provider", "provisioners", "alias"}
PLAIN = {"str": "string", "Number": "number", "bool": "bool"}


@cache
def bound(module: str) -> tuple[Schema, set[str]]:
    """The arguments and attributes of a kind of PagerDuty's, from the binding: classes with an argument each."""
    package = program("cdktf-cdktf-provider-pagerduty").parents[1]
    (file,) = package.glob(f"lib/python*/site-packages/cdktf_cdktf_provider_pagerduty/{module}/__init__.py")
    classes = {node.name: node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)}
    name = "PagerdutyProvider" if module == "provider" else "".join(word.capitalize() for word in module.split("_"))

    def methods(owner: str) -> list[ast.FunctionDef]:
        return [node for node in classes[owner].body if isinstance(node, ast.FunctionDef)]

    def schema(owner: str) -> Schema:
        (made,) = (node for node in methods(owner) if node.name == "__init__")
        found: Schema = {}
        for argument in made.args.kwonlyargs:
            if argument.arg in EVERY_CONFIG:
                continue
            kind = ast.unparse(argument.annotation) if argument.annotation else ""
            required = "" if kind.startswith("typing.Optional") else "!"
            inner = re.search(r"'(\w+)'", kind)
            found[f"{argument.arg}{required}"] = schema(inner[1]) if inner else simple(kind)
        return found

    def simple(kind: str) -> str:
        (word,) = re.findall(r"\b(?:str|Number|bool)\b", kind)
        return f"list({PLAIN[word]})" if "Sequence" in kind else PLAIN[word]

    return schema(f"{name}Config"), {node.name for node in methods(name) if node.decorator_list}


def takes(folder: Path, of: str) -> Blocks:
    """What the provider takes of each kind of resource, or of data source, that a folder has."""
    kinds = {kind for kind, _, _ in resources(folder, of)}
    if folder.name == "sentry":
        listed = SENTRY["resources" if of == "resource" else "data"]
        return {kind: (listed[kind]["arguments"], set(listed[kind]["computed"])) for kind in kinds if kind in listed}
    prefix = "" if of == "resource" else "data_pagerduty_"
    return {kind: bound(prefix + kind.removeprefix("pagerduty_")) for kind in kinds}


def refused(folder: Path) -> Iterator[str]:
    """What the provider would refuse of a folder."""
    for of in ("resource", "data"):
        schemas = takes(folder, of)
        for kind, name, body in resources(folder, of):
            if kind in schemas:
                yield from problems(f"{kind}.{name}", body, schemas[kind][0])
            else:
                yield f"{kind}.{name}: the provider knows no {kind}"
    if folder.name == "sentry":
        (local,) = parsed(folder)["locals"]
        filters = SENTRY["resources"]["sentry_alert"]["arguments"]["action_filters!"]
        yield from wrong("local.actions", local["actions"], filters["actions!"])
    provider = SENTRY["provider"] if folder.name == "sentry" else bound("provider")[0]
    for body in named(parsed(folder)["provider"]).values():
        yield from problems("provider", body, provider)


@pytest.mark.parametrize("case", FOLDERS)
def test_terraform_would_format_the_files_as_they_are(service: Made, case: str) -> None:
    for folder in (folder_of(service, case), folder_of(service, case, **HOSTILE)):
        code, said = terraform(folder, "fmt", "-check", "-diff")
        assert code == 0, said


@pytest.mark.parametrize("case", FOLDERS)
def test_the_provider_knows_every_argument_and_misses_none(service: Made, case: str) -> None:
    assert not list(refused(folder_of(service, case)))


MISTAKES = {
    "PagerDuty": [
        ("rotation_turn_length_seconds", "rotation_length_seconds", "knows no rotation_length_seconds"),
        ("type              = ", "kind = ", "type must be given"),
        ("urgency = ", "urgent = ", "knows no urgent"),
        ("num_loops = 2", 'num_loops = "twice"', "is a string, where the provider takes number"),
        ("  timeout = ", "  time_out = ", "knows no time_out"),
        ("  email = ", "  mail = ", "email must be given"),
        ("service_region = ", "region = ", "provider: the provider knows no region"),
        ("time_zone   =", "timezone =", "time_zone must be given"),
    ],
    "Sentry, Slack": [
        ("event_frequency_count", "event_frequency", "knows no event_frequency"),
        ('interval = "1m"', 'interval = "2m"', "is none of"),
        ("first_seen_event", "first_seen", "knows no first_seen"),
        ("frequency_minutes", "frequency", "frequency_minutes must be given"),
        ("channel_name", "channel", "knows no channel"),
        ("slug    ", "name ", "slug must be given"),
        ('"sentry_alert"', '"sentry_alarm"', "knows no sentry_alarm"),
    ],
}


@pytest.mark.parametrize(("case", "mistake"), [(case, each) for case in MISTAKES for each in MISTAKES[case]])
def test_a_mistaken_argument_is_noticed(
    service: Made, tmp_path: Path, case: str, mistake: tuple[str, str, str]
) -> None:
    right, mistaken, said = mistake
    folder = Path(shutil.copytree(folder_of(service, case), tmp_path / FOLDERS[case][0]))
    for file in folder.glob("*.tf"):
        text = file.read_text()
        file.write_text(re.sub(rf"(?<=[ \n(]){re.escape(right)}", mistaken, text))
    assert [problem for problem in refused(folder) if said in problem]


@pytest.mark.parametrize("case", FOLDERS)
def test_every_reference_leads_to_an_attribute_that_exists(service: Made, case: str) -> None:
    folder = folder_of(service, case)
    text = "".join(file.read_text() for file in folder.glob("*.tf"))
    provider = PROVIDERS[folder.name]
    references = set(re.findall(rf"\b(data\.)?({provider}_\w+)\.(\w+)(?:\[[^]]*\])?\.(\w+)", text))
    assert references
    for data, kind, name, attribute in references:
        of = "data" if data else "resource"
        assert (kind, name) in {each[:2] for each in resources(folder, of)}
        arguments, computed = takes(folder, of)[kind]
        assert attribute in names(arguments) | computed, f"{kind} has no {attribute}"
    blocks = parsed(folder)
    assert set(re.findall(r"\bvar\.(\w+)", text)) == set(named(blocks["variable"])), "each is used, and only those"
    assert set(re.findall(r"\blocal\.(\w+)", text)) == {name for each in blocks["locals"] for name in own(each)}


def own(block: dict[str, Any]) -> set[str]:
    """The names of a block, without those that the parser adds."""
    return {name for name in block if not name.startswith("__")}


# --- secrets, variables ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", FOLDERS)
def test_the_provider_is_pinned_and_sentrys_to_the_version_whose_reference_was_read(service: Made, case: str) -> None:
    folder = folder_of(service, case)
    (block,) = parsed(folder)["terraform"]
    (wanted,) = block["required_providers"]
    pinned = {name: unquoted(value) for name, value in wanted[PROVIDERS[folder.name]].items()}
    assert re.fullmatch(r"\d+\.\d+\.\d+", pinned["version"])
    if folder.name == "sentry":
        assert pinned == {"source": SENTRY["source"], "version": SENTRY["version"]}


@pytest.mark.parametrize("case", FOLDERS)
def test_the_secret_is_sensitive_and_reaches_the_provider_alone(service: Made, case: str) -> None:
    folder = folder_of(service, case)
    blocks, secret = parsed(folder), SECRETS[folder.name]
    variables = named(blocks["variable"])
    assert [name for name, body in variables.items() if body.get("sensitive")] == [secret]
    assert "default" not in variables[secret]
    assert named(blocks["provider"])[PROVIDERS[folder.name]]["token"] == f"${{var.{secret}}}"
    text = "".join(file.read_text() for file in folder.glob("*.tf"))
    assert text.count(f"var.{secret}") == 2, "the provider's block and the variable's own validation"
    assert f"TF_VAR_{secret}" in (folder / "README.md").read_text()


@pytest.mark.parametrize("case", FOLDERS)
def test_every_variable_and_output_says_what_it_is(service: Made, case: str) -> None:
    blocks = parsed(folder_of(service, case))
    for name, body in named(blocks["variable"]).items():
        assert {"description", "type", "validation"} <= body.keys(), name
    for name, body in named(blocks["output"]).items():
        assert body.keys() >= {"description", "value"}, name
        assert ("integration_key" in body["value"]) <= bool(body.get("sensitive")), name


def values_of(folder: Path) -> dict[str, str]:
    """Variables with good values: those of the page's first example, and the secret."""
    example, *_ = re.findall(r"```hcl\n(.+?)```", (folder / "README.md").read_text(), re.DOTALL)
    return {name: hcl(value) for name, value in hcl2.loads(example).items()} | {SECRETS[folder.name]: "secret"}


def hcl(value: Any) -> str:
    """A value as Terraform takes it on the command line."""
    return unquoted(value) if isinstance(value, str) else json.dumps(plain(value))


def plain(value: Any) -> Any:
    """What the parser read, without the quotes that it leaves around texts and without what it adds."""
    if isinstance(value, dict):
        return {unquoted(name): plain(each) for name, each in value.items() if not name.startswith("__")}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return unquoted(value) if isinstance(value, str) else value


def rotation(**changes: Any) -> dict[str, Any]:
    """A rotation that is well but for the changes."""
    good = {"time_zone": "Europe/Berlin", "first_handoff": "2026-11-30T09:00:00+01:00", "people": ["ada@example.com"]}
    return good | changes


WELL: dict[str, dict[str, list[Any]]] = {
    "on-call": {
        "rotations": [
            {"one": rotation()},
            {"half": rotation(hours=12), "other": rotation(first_handoff="2026-11-30T15:00:00-05:00", hours=12)},
            {"one": rotation(time_zone="Etc/UTC", first_handoff="2028-02-29T00:30:00Z")},
        ],
        "grouping_minutes": [0, 1440],
    },
    "sentry": {"sentry_url": ["https://sentry.example.com/api/"], "organization": ["example-ltd"]},
    "Slack": {"slack": [None, {"workspace": "Example Ltd", "channel": "#parcels-alerts"}]},
}
BAD: dict[str, dict[str, list[tuple[Any, str]]]] = {
    "on-call": {
        "rotations": [
            ({}, "0 are given"),
            ({str(number): rotation() for number in range(4)}, "4 are given"),
            ({"one": rotation(), "europe": rotation(people=[])}, "europe has none"),
            ({"one": rotation(people=["Ada"])}, "an address of the form name@example.com"),
            ({"one": rotation(people=["ada@example.com"] * 2)}, "one names somebody twice"),
            ({"one": rotation(time_zone="Berlin")}, "such as Europe/Berlin or Etc/UTC, not Berlin"),
            ({"one": rotation(time_zone="+01:00")}, "not +01:00"),
            ({"one": rotation(first_handoff="2027-02-30T09:00:00+01:00")}, "It is not 2027-02-30T09:00:00+01:00"),
            ({"one": rotation(first_handoff="2026-11-30T25:00:00+01:00")}, "It is not 2026-11-30T25:00:00+01:00"),
            ({"one": rotation(first_handoff="2026-11-30T09:00:00")}, "a day that exists"),
            ({"one": rotation(first_handoff="Monday")}, "It is not Monday"),
            ({"one": rotation(), "two": rotation(hours=0)}, "1 to 24 whole hours"),
            ({"one": rotation(hours=23)}, "nobody is on call"),
            (
                {"one": rotation(hours=12), "two": rotation(first_handoff="2026-11-30T16:00:00-05:00", hours=12)},
                "nobody is on call",
            ),
        ],
        "escalate_to": [([], "One to ten addresses"), (["lead"], "One to ten addresses")],
        "grouping_minutes": [(-1, "0 to 1440"), (1.5, "0 to 1440")],
        "service_region": [("de", "us or eu")],
        "pagerduty_token": [("", "empty")],
    },
    "sentry": {
        "sentry_token": [("", "empty")],
        "sentry_url": [("https://sentry.io", "https://HOST/api/"), ("http://sentry.io/api/", "https://HOST/api/")],
        "organization": [("Example Ltd", "lower case"), ("", "lower case")],
        "project": [("Parcels", "lower case")],
        "team": [("#logistics", "no #")],
        "environment": [("", "one word")],
    },
    "Slack": {"slack": [({"workspace": "", "channel": "#a"}, "not empty"), ({"workspace": "W", "channel": "a"}, "#")]},
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_bad_value_is_refused_by_terraform_by_name(service: Made, tmp_path: Path, case: str) -> None:
    """The variables alone: they need no provider."""
    folder = folder_of(service, case)
    variables_alone(folder, tmp_path)
    good, slack = values_of(folder), case.endswith("Slack")
    well = WELL[folder.name] | (WELL["Slack"] if slack else {})
    for turn in range(max(map(len, well.values()))):
        now = {name: given(values[turn]) for name, values in well.items() if turn < len(values)}
        code, said = planned(tmp_path, good | now)
        assert code == 0, said
    bad = BAD[folder.name] | (BAD["Slack"] if slack else {})
    for turn in range(max(map(len, bad.values()))):
        wrong_now = {name: values[turn] for name, values in bad.items() if turn < len(values)}
        code, said = planned(tmp_path, good | {name: given(value) for name, (value, _) in wrong_now.items()})
        assert code == 1
        assert set(re.findall(r'variable "(\w+)" {', said)) == wrong_now.keys(), f"{wrong_now}: {said}"
        assert said.count("Error: Invalid value for variable") == len(wrong_now), said
        in_one_line = re.sub(r"\s+", " ", said)
        assert [why for _, why in wrong_now.values() if why not in in_one_line] == [], said


def given(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def variables_alone(folder: Path, to: Path, more: str = "") -> None:
    """The variables of a folder, and some lines that need no provider either."""
    text = "\n".join(file.read_text() for file in folder.glob("*.tf"))
    (to / "variables.tf").write_text("".join(re.findall(r"(?ms)^variable .*?^}\n", text)) + more)
    assert terraform(to, "init")[0] == 0


# --- who is on call, what is told ------------------------------------------------------------------------------------


def examples(folder: Path) -> list[dict[str, Any]]:
    """The rotations that the page shows: the weekly one, and those that follow the sun."""
    blocks = re.findall(r"```hcl\n(.+?)```", (folder / "README.md").read_text(), re.DOTALL)
    return [plain(hcl2.loads(block)["rotations"]) for block in blocks]


def test_the_second_is_whoever_is_next_in_turn(service: Made, tmp_path: Path) -> None:
    folder = folder_of(service, "PagerDuty")
    (local,) = re.findall(r"(?ms)^locals .*?^}\n", (folder / "pagerduty.tf").read_text())
    weekly, around = examples(folder)
    variables_alone(folder, tmp_path, local + 'output "made" { value = [local.schedules, local.people, local.week] }\n')
    for rotations in (weekly, around, {"alone": rotation()}):
        values = values_of(folder) | {"rotations": json.dumps(rotations)}
        options = [f"-var={name}={value}" for name, value in values.items()]
        code, said = terraform(tmp_path, "apply", "-auto-approve", *options)
        assert code == 0, said
        schedules, people, week = json.loads((tmp_path / "terraform.tfstate").read_text())["outputs"]["made"]["value"]
        assert week == timedelta(weeks=1).total_seconds()
        assert set(people) == {"lead@example.com"}.union(*(each["people"] for each in rotations.values()))
        for name, each in rotations.items():
            first, *others = each["people"]
            assert (schedules[f"{name} first"]["level"], schedules[f"{name} first"]["people"]) == (1, [first, *others])
            second = schedules.get(f"{name} second", {"level": 2, "people": [first]})
            assert (second["level"], second["people"]) == (2, [*others, first])
        assert len(schedules) == sum(min(2, len(each["people"])) for each in rotations.values())


def test_the_page_shows_rotations_that_overlap_at_every_hour_of_the_year(service: Made) -> None:
    """Of the sun's example, whichever way the clocks of its time zones change."""
    _, around = examples(folder_of(service, "PagerDuty"))
    handoffs = {name: datetime.fromisoformat(each["first_handoff"]) for name, each in around.items()}
    for name, each in around.items():
        zone = ZoneInfo(each["time_zone"])
        assert handoffs[name].utcoffset() == handoffs[name].astimezone(zone).utcoffset(), name
    begin = datetime(2027, 1, 1, tzinfo=UTC)
    for hour in range(365 * 24):
        now = begin + timedelta(hours=hour)
        on_call = {name for name, each in around.items() if within(each, handoffs[name], now)}
        soon = {name for name, each in around.items() if within(each, handoffs[name], now + timedelta(minutes=59))}
        assert on_call & soon, f"nobody from {now} on"


def within(rotation: dict[str, Any], handoff: datetime, now: datetime) -> bool:
    """Whether it is between the hour of the hand-off, in the rotation's time zone, and its end."""
    local = now.astimezone(ZoneInfo(rotation["time_zone"]))
    since = local.replace(tzinfo=None) - datetime.combine(local.date(), handoff.time())
    return since % timedelta(days=1) < timedelta(hours=rotation["hours"])


def test_a_page_goes_on_to_the_second_and_then_to_others(service: Made) -> None:
    (policy,) = (body for kind, _, body in resources(folder_of(service, "PagerDuty")) if "escalation" in kind)
    assert [rule["escalation_delay_in_minutes"] for rule in policy["rule"]][-1] == 15
    assert sorted(rule["escalation_delay_in_minutes"] for rule in policy["rule"]) == [5, 15, 15]


def test_sentry_tells_of_what_its_page_says_in_production(service: Made) -> None:
    folder = folder_of(service, "Sentry, mail")
    alerts = {name: plain(body) for _, name, body in resources(folder)}
    told = {
        name: (each["trigger_conditions"], each["action_filters"][0]["conditions"]) for name, each in alerts.items()
    }
    assert told == {
        "new_issue": ([{"first_seen_event": {}}], []),
        "many_events": ([], [{"event_frequency_count": {"interval": "1m", "value": 10}}]),
        "many_users": ([], [{"event_unique_user_frequency_count": {"interval": "1h", "value": 100}}]),
    }
    assert {each["environment"] for each in alerts.values()} == {"${var.environment}"}
    assert unquoted(named(parsed(folder)["variable"])["environment"]["default"]) == "production"
    page = (folder / "README.md").read_text().replace("\n", " ")
    assert "a new issue, an issue with more than 10 events in a minute" in page
    assert "an issue that more than 100 users meet in an hour" in page


# --- the commands of the pages ---------------------------------------------------------------------------------------


def test_the_routing_key_is_handed_to_alertmanager_without_being_shown(service: Made, tmp_path: Path) -> None:
    made = Path(shutil.copytree(service("pagerduty"), tmp_path / "service"))
    (command,) = (
        each.text for each in commands_of(made, "deploy/terraform/on-call/README.md") if "routing_key" in each.text
    )
    folder = made / "deploy/terraform/on-call"
    for file in folder.glob("*.tf"):
        file.unlink()
    (folder / "key.tf").write_text('output "routing_key" {\n  value     = "k3y"\n  sensitive = true\n}\n')
    assert terraform(folder, "init")[0] == 0
    assert terraform(folder, "apply", "-auto-approve")[0] == 0
    said = typed(command.partition(" && ")[2], folder, CHECKPOINT_DISABLE="1")
    assert "k3y" not in said
    (written,) = (path for path in made.rglob("pagerduty_routing_key"))
    assert written.read_text() == "k3y"
    assert f"secrets/{written.name}" in (written.parents[1] / "alertmanager.yml").read_text()


class Alertmanager(Server):
    """One with a configuration that notifies nobody."""

    def __init__(self, folder: Path) -> None:
        """It keeps what it stores in this folder."""
        configuration, port = folder / "alertmanager.yml", free_port()
        configuration.write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
        command: list[str | Path] = [
            program("prometheus-alertmanager"),
            f"--config.file={configuration}",
            f"--storage.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ]
        super().__init__(command, folder, port)

    def ready(self) -> bool:
        return answers(self.port, "/-/ready")


@contextmanager
def alertmanager(folder: Path) -> Iterator[str]:
    with running(Alertmanager(folder)) as server:
        yield f"127.0.0.1:{server.port}"


def test_what_is_known_is_silenced_and_found_at_the_hand_off(service: Made, tmp_path: Path) -> None:
    program("amtool")
    add, query = (each.text for each in commands_of(service("pagerduty"), "docs/on-call.md") if "amtool" in each.text)
    with alertmanager(tmp_path) as address:
        assert re.search(r"\b[0-9a-f-]{36}\b", typed(add.replace("ALERTMANAGER:9093", address), tmp_path, USER="ada"))
        said = typed(query.replace("ALERTMANAGER:9093", address), tmp_path)
    assert "HighLatency" in said
    assert "Waiting for the provider" in said


def test_the_last_errors_are_found_among_lines_as_the_service_writes_them(service: Made, tmp_path: Path) -> None:
    made = service("slack")
    (find,) = (each.text for each in commands_of(made, "docs/on-call.md") if each.text.startswith("logs "))
    (line,) = re.findall(r"```json\n(.+)\n```", (made / "README.md").read_text())
    lines = [line.replace('"level":"INFO"', '"level":"ERROR"').replace("parcels", str(number)) for number in range(30)]
    assert len({line, *lines}) == 31
    (tmp_path / "log").write_text("\n".join([*lines, line, ""]))
    said = typed(f"logs() {{ cat log; }}\n{find}", tmp_path)
    assert said.split() == lines[-20:]


def test_the_form_of_a_report_is_copied_to_where_reports_are(service: Made, tmp_path: Path) -> None:
    made = Path(shutil.copytree(service("slack"), tmp_path / "service"))
    (copy,) = (each.text for each in commands_of(made, "docs/on-call.md") if "post-incident" in each.text)
    typed(copy, made)
    (report,) = (made / "docs/incidents").glob("*-payments-refused.md")
    assert datetime.strptime(report.name[:10], "%Y-%m-%d")
    assert report.read_text() == (made / "docs/post-incident.md").read_text()
