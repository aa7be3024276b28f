"""What a service asks of its log store, for each store: queries, fields, retention, and what installs them."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import hcl2
import pytest
import yaml
from formats import read_json, read_ndjson, read_splunk
from template_checkout import DEFINITION, OPTIONS, Generate

BACKENDS = OPTIONS["telemetry_backend"]
QUESTIONS = [
    "Errors of the last hour",
    "Requests over a second",
    "Errors by service",
    "One request across services",
    "One user's last hour",
    "Security events",
]
DAYS = {tier: DEFINITION["_tiers"][tier]["retention_days"] for tier in ("medium", "large")}


def asked(made: Path) -> dict[str, str]:
    """Each question of the page, and the query that answers it first."""
    page = (made / "docs/log-queries.md").read_text()
    found = re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```\w+\n(.+?)\n```", page, re.DOTALL | re.MULTILINE)
    return {title: query for title, query in found if title in QUESTIONS}


def stored_names(made: Path) -> dict[str, str]:
    found: dict[str, str] = yaml.safe_load((made / "monitoring/logs/fields.yml").read_text())
    return found


def terraform(made: Path) -> dict[str, Any]:
    """All blocks of the folder, those of a kind in one list."""
    blocks: dict[str, Any] = {}
    for file in sorted((made / "deploy/terraform/logs").glob("*.tf")):
        for kind, found in hcl2.loads(file.read_text()).items():
            if isinstance(found, list):
                blocks.setdefault(kind, []).extend(found)
    return blocks


def text_of(literal: str) -> str:
    """The value of an HCL string, whose escapes python-hcl2 leaves."""
    return str(json.loads(literal))


# --- queries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_page_answers_each_question_in_the_stores_language(service: Generate, backend: str) -> None:
    queries = asked(service(scale_tier="medium", telemetry_backend=backend))
    assert list(queries) == QUESTIONS
    assert len(set(queries.values())) == len(QUESTIONS)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_query_is_of_one_service_but_where_it_asks_all(service: Generate, backend: str) -> None:
    made = service(scale_tier="medium", telemetry_backend=backend)
    for title, query in asked(made).items():
        of_all = title in ("Errors by service", "One request across services")
        # CloudWatch has a log group for each service and environment, which is chosen beside the query.
        assert ("order-service" in query) == (not of_all and backend != "aws"), query
    names = stored_names(made)
    for title, name in (("Errors by service", "service"), ("One request across services", "request_id")):
        if backend not in ("gcp", "datadog", "elastic") or name != "service":  # counted beside the query
            assert names[name] in asked(made)[title]


def test_kibanas_saved_searches_ask_what_the_page_says(service: Generate) -> None:
    made = service(scale_tier="medium", telemetry_backend="elastic")
    saved = read_ndjson(made / "monitoring/logs/kibana/saved-searches.ndjson")
    found = {}
    for each in saved:
        if each["type"] == "search":
            source = json.loads(each["attributes"]["kibanaSavedObjectMeta"]["searchSourceJSON"])
            assert source["query"]["language"] == "kuery"
            found[each["attributes"]["title"].removeprefix("order-service: ")] = source["query"]["query"]
            assert [reference["name"] for reference in each["references"]] == [source["indexRefName"]]
            assert set(each["attributes"]["columns"]) <= set(stored_names(made).values())
    assert found == asked(made)
    views = {each["id"] for each in saved if each["type"] == "index-pattern"}
    assert {reference["id"] for each in saved for reference in each["references"]} == views
    assert len({each["id"] for each in saved}) == len(saved)


def test_cloudwatchs_saved_queries_ask_what_the_page_says(service: Generate) -> None:
    made = service(scale_tier="medium", telemetry_backend="aws")
    (values,) = terraform(made)["locals"]
    saved = {**values["queries"], **values["queries_of_all_services"]}
    assert sorted(map(text_of, saved.values())) == sorted(asked(made).values())


def test_splunks_saved_searches_ask_what_the_page_says(service: Generate) -> None:
    made = service(scale_tier="medium", telemetry_backend="splunk")
    saved = read_splunk(made / "monitoring/logs/splunk/default/savedsearches.conf")
    found = {name.removeprefix("order-service: "): saved[name]["search"] for name in saved.sections()}
    alert = found.pop("error lines")
    assert found == {title: query.replace("\n", " ") for title, query in asked(made).items()}
    assert alert == found["Errors of the last hour"].partition(" |")[0].replace("-1h", "-5m")


def test_new_relics_dashboard_asks_what_the_page_says(service: Generate) -> None:
    made = service(scale_tier="medium", telemetry_backend="newrelic")
    (dashboard,) = (one['"newrelic_one_dashboard"'] for one in terraform(made)["resource"] if "one_dash" in str(one))
    (page,) = dashboard['"lines"']["page"]
    shown = {text_of(widget["title"]): text_of(widget["nrql_query"][0]["query"]) for widget in page["widget_table"]}
    assert shown == {title: query.replace("\n", " ") for title, query in asked(made).items() if "_ID" not in query}
    places = {(widget["row"], widget["column"]) for widget in page["widget_table"]}
    assert len(places) == len(shown)


# --- Elasticsearch ---------------------------------------------------------------------------------------------------


def mapped(properties: dict[str, Any], above: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The fields of a mapping that hold values, each by its whole name."""
    for name, field in properties.items():
        if "properties" in field:
            yield from mapped(field["properties"], f"{above}{name}.")
        else:
            yield f"{above}{name}", field


def elastic(service: Generate, tier: str = "medium", slug: str = "order-service") -> Path:
    made = service(scale_tier=tier, telemetry_backend="elastic", project_slug=slug)
    return made / "monitoring/logs/elasticsearch"


def test_every_field_of_a_line_is_mapped_and_no_other_can_be(service: Generate) -> None:
    folder = elastic(service)
    mappings = read_json(folder / "template.json")["template"]["mappings"]
    fields = dict(mapped(mappings["properties"]))
    added = {name for name in fields if name.startswith("client.geo.")} | {"ingest_error"}
    assert fields.keys() - added == set(stored_names(folder.parents[2]).values())
    assert mappings["dynamic"] is False
    kinds = {"boolean", "date", "float", "geo_point", "integer", "ip", "keyword", "long", "match_only_text", "short"}
    assert {field["type"] for field in fields.values()} <= kinds
    # A term of more than 32,766 bytes would refuse the whole line.
    assert all(field["ignore_above"] <= 8191 for field in fields.values() if field["type"] == "keyword")


def test_no_value_of_a_field_refuses_a_line(service: Generate) -> None:
    template = read_json(elastic(service) / "template.json")["template"]
    assert template["settings"]["index.mapping.ignore_malformed"] is True
    pipeline = read_json(elastic(service) / "pipeline.json")
    assert pipeline["on_failure"], "a line whose processing fails is kept"
    # Those of one name alone are the line's own, which a caller's field cannot have.
    fields = {name for name, _ in mapped(template["mappings"]["properties"])}
    looked_at = {".".join(path) for path in pipeline["processors"][0]["script"]["params"]["fields"]}
    assert looked_at == {name for name in fields if "." in name} | {"event_name", "ingest_error"}


PROCESSORS = {
    "date": {"field", "formats", "target_field", "timezone", "locale", "output_format"},
    "dot_expander": {"field", "path", "override"},
    "geoip": {"field", "target_field", "database_file", "properties", "ignore_missing", "first_only"},
    "remove": {"field", "keep", "ignore_missing"},
    "script": {"source", "params", "lang", "id"},
    "set": {"field", "value", "copy_from", "override", "ignore_empty_value", "media_type"},
}
OF_EVERY_PROCESSOR = {"description", "if", "ignore_failure", "on_failure", "tag"}


def test_elasticsearch_knows_every_option_of_the_pipeline(service: Generate) -> None:
    """By the reference of Elasticsearch 8's ingest processors."""
    pipeline = read_json(elastic(service) / "pipeline.json")
    for processor in pipeline["processors"] + pipeline["on_failure"]:
        ((kind, options),) = processor.items()
        assert options.keys() <= PROCESSORS[kind] | OF_EVERY_PROCESSOR, processor


@pytest.mark.parametrize("tier", DAYS)
def test_lines_are_deleted_after_the_tiers_days(service: Generate, tier: str) -> None:
    policy = read_json(elastic(service, tier) / "lifecycle.json")["policy"]
    assert policy["phases"]["delete"] == {"min_age": f"{DAYS[tier]}d", "actions": {"delete": {}}}
    loki = service(scale_tier=tier) / "monitoring/logs/loki/overrides.yml"
    (kept,) = yaml.safe_load(loki.read_text())["overrides"]["fake"]["retention_stream"]
    assert (kept["period"], kept["selector"]) == (f"{DAYS[tier]}d", '{service="order-service"}')
    made = service(scale_tier=tier, telemetry_backend="splunk")
    indexes = read_splunk(made / "monitoring/logs/splunk/default/indexes.conf")
    assert int(indexes["order-service"]["frozenTimePeriodInSecs"]) == DAYS[tier] * 86400
    for backend in ("aws", "gcp", "datadog"):
        variables = terraform(service(scale_tier=tier, telemetry_backend=backend))["variable"]
        (days,) = (one['"retention_days"'] for one in variables if '"retention_days"' in one)
        assert (days["default"], days["type"]) == (DAYS[tier], "number")


def test_of_two_services_whose_names_begin_alike_each_has_its_own_index_template(service: Generate) -> None:
    """`logs-orders-*` takes the data streams of `orders-archive` too; Elasticsearch prefers the higher priority."""
    shorter = read_json(elastic(service, slug="orders") / "template.json")
    longer = read_json(elastic(service, slug="orders-archive") / "template.json")
    assert 200 < shorter["priority"] < longer["priority"], "logs-*-* of Elasticsearch itself has 100"


# --- Terraform -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_terraform_is_looked_at_where_there_is_some(service: Generate, backend: str) -> None:
    made = service(scale_tier="medium", telemetry_backend=backend)
    assert (made / "deploy/terraform/logs").exists() == (backend in ("aws", "gcp", "datadog", "newrelic"))
    assert '"deploy/terraform/*"' in (made / "scripts/check_config.py").read_text()
    assert "setup-terraform" in (made / ".github/workflows/ci.yml").read_text()


# --- two services ----------------------------------------------------------------------------------------------------


def names_in_a_store(made: Path) -> set[str]:
    """What a service is called, or calls its own, in a store that others use as well."""
    logs, found = made / "monitoring/logs", set()
    for file in logs.glob("kibana/*.ndjson"):
        found |= {str(each[key]) for each in read_ndjson(file) for key in ("id",)}
    for file in logs.glob("elasticsearch/template.json"):
        template = read_json(file)
        found |= {
            *template["index_patterns"],
            *(each for each in template["template"]["settings"].values() if str(each).startswith("logs-")),
        }
    for file in logs.glob("splunk/default/[ist]*.conf"):
        found |= set(read_splunk(file).sections())
    for file in logs.glob("splunk/default/props.conf"):
        found |= set(read_splunk(file).options("_json"))
    for file in (made / "deploy/terraform/logs").glob("*.tf"):
        found |= set(
            re.findall(r'^  (?:(?:alarm_|display_)?name|bucket_id) += "([^"]+)"', file.read_text(), re.MULTILINE)
        )
    return found - {"error-lines"}  # of a log group, whose name is the service's


@pytest.mark.parametrize("backend", [each for each in BACKENDS if each != "grafana"])
def test_two_services_share_no_name_in_a_store(service: Generate, backend: str) -> None:
    one, other = (
        names_in_a_store(service(scale_tier="medium", telemetry_backend=backend, project_slug=slug))
        for slug in ("order-service", "billing")
    )
    shared = {"install", "ui", "launcher", "_meta"}
    assert one
    assert not (one & other) - shared


# --- the command that installs ---------------------------------------------------------------------------------------


class Recorder(BaseHTTPRequestHandler):
    """Answers as Elasticsearch and Kibana do, keeps what it was sent, and looks into none of it."""

    sent: list[tuple[str, str, dict[str, str], bytes]]
    answer: dict[str, Any]
    status: int

    def do_PUT(self) -> None:
        """Takes a body."""
        length = int(self.headers["Content-Length"])
        self.sent.append((self.command, self.path, dict(self.headers), self.rfile.read(length)))
        body = json.dumps(self.answer).encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """The same."""
        self.do_PUT()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def recorder(answer: dict[str, Any], status: int = 200) -> Iterator[tuple[str, list[Any]]]:
    """The address of a server that answers this, and what it is sent."""
    handler = type("Handler", (Recorder,), {"sent": [], "answer": answer, "status": status})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", handler.sent  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            thread.join()


def log_store(made: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs the command of `make log-store` with these settings alone."""
    environment = {name: value for name, value in os.environ.items() if "ELASTIC" not in name and "KIBANA" not in name}
    return subprocess.run(
        [sys.executable, made / "scripts/log_store.py"],
        env=environment | settings, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_elasticsearch_is_given_all_files_and_again_the_same(service: Generate) -> None:
    made = service(scale_tier="medium", telemetry_backend="elastic")
    files = made / "monitoring/logs"
    with recorder({"acknowledged": True, "success": True}) as (url, sent):
        for _ in range(2):
            said = log_store(made, ELASTICSEARCH_URL=url + "/", KIBANA_URL=url, ELASTIC_API_KEY="s3cret")
            assert said.returncode == 0, said.stderr
            assert "s3cret" not in said.stdout + said.stderr
    first, second = sent[:4], sent[4:]
    assert [each[:2] for each in first] == [each[:2] for each in second]
    assert [each[:2] for each in first] == [
        ("PUT", "/_ilm/policy/logs-order-service"),
        ("PUT", "/_ingest/pipeline/logs-order-service"),
        ("PUT", "/_index_template/logs-order-service"),
        ("POST", "/api/saved_objects/_import?overwrite=true"),
    ]
    bodies = [json.loads(each[3]) for each in first[:3]]
    assert bodies == [read_json(files / f"elasticsearch/{name}.json") for name in ("lifecycle", "pipeline", "template")]
    settings = bodies[2]["template"]["settings"]
    assert {settings["index.lifecycle.name"], settings["index.default_pipeline"]} == {"logs-order-service"}
    assert (files / "kibana/saved-searches.ndjson").read_bytes() in first[3][3]
    assert first[3][2]["kbn-xsrf"]
    assert {each[2]["Authorization"] for each in sent} == {"ApiKey s3cret"}


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "no key": ({"ELASTICSEARCH_URL": "https://logs.example.com"}, "ELASTIC_API_KEY is not set: docs/log-queries.md"),
    "no address": ({"ELASTIC_API_KEY": "s3cret"}, "ELASTICSEARCH_URL is not set: docs/log-queries.md"),
    "no scheme": (
        {"ELASTICSEARCH_URL": "logs.example.com:9200", "ELASTIC_API_KEY": "s3cret"},
        "ELASTICSEARCH_URL is no address: it begins with https:// or http://",
    ),
    "nobody there": (
        {"ELASTICSEARCH_URL": "http://127.0.0.1:1", "ELASTIC_API_KEY": "s3cret"},
        "elasticsearch/lifecycle.json: http://127.0.0.1:1/_ilm/policy/logs-order-service cannot be reached",
    ),
}


@pytest.mark.parametrize(("settings", "line"), WRONG.values(), ids=WRONG.keys())
def test_a_setting_that_is_wrong_is_said_in_one_line(service: Generate, settings: dict[str, str], line: str) -> None:
    said = log_store(service(scale_tier="medium", telemetry_backend="elastic"), **settings)
    assert said.returncode == 1
    assert said.stderr.count("\n") == 1
    assert said.stderr.startswith(line)
    assert "s3cret" not in said.stderr


@pytest.mark.parametrize("retention", ["a month", "30", "720h", None])
def test_a_retention_that_is_no_number_of_days_is_refused_before_anything_is_sent(
    service: Generate, tmp_path: Path, retention: str | None
) -> None:
    made = Path(shutil.copytree(service(scale_tier="medium", telemetry_backend="elastic"), tmp_path / "made"))
    file = made / "monitoring/logs/elasticsearch/lifecycle.json"
    policy = read_json(file)
    policy["policy"]["phases"]["delete"]["min_age"] = retention
    file.write_text(json.dumps(policy))
    with recorder({}) as (url, sent):
        said = log_store(made, ELASTICSEARCH_URL=url, ELASTIC_API_KEY="s3cret")
    assert (said.returncode, sent) == (1, [])
    assert (
        f"lifecycle.json: min_age of the phase delete is {json.dumps(retention)}: write a number of days" in said.stderr
    )


def test_what_elasticsearch_or_kibana_refuses_is_said_with_the_file(service: Generate) -> None:
    made = service(scale_tier="medium", telemetry_backend="elastic")
    with recorder({"error": "unknown key [phasess]"}, 400) as (url, sent):
        said = log_store(made, ELASTICSEARCH_URL=url, ELASTIC_API_KEY="s3cret")
    assert (said.returncode, len(sent)) == (1, 1)
    assert said.stderr.startswith("elasticsearch/lifecycle.json: ")
    assert "answered 400" in said.stderr
    assert "unknown key [phasess]" in said.stderr
    refused = {"success": False, "errors": [{"id": "order-service-logs", "error": {"type": "conflict"}}]}
    with recorder(refused) as (url, _):
        said = log_store(made, ELASTICSEARCH_URL=url, KIBANA_URL=url, ELASTIC_API_KEY="s3cret")
    assert said.returncode == 1
    assert said.stderr == "kibana/saved-searches.ndjson: Kibana took all but order-service-logs (conflict)\n"
