<% import "places.j2" as places with context %>
"""Every metric and label that rules, dashboards and runbooks name is one that something makes."""

import re

import pytest

from ..support import ROOT, a_process, samples_of
from . import queries
from .queries import Metrics, Query, problems
from .rules import RULES

PROGRAM = """
import runpy
from urllib.request import urlopen

from <<cookiecutter.__package>>.app import create_app
<% if cookiecutter.database == 'postgresql' %>
from <<cookiecutter.__package>>.database import db
<% endif %>
from <<cookiecutter.__package>>.observability import metrics
from <<cookiecutter.__package>>.settings import Settings
from <<cookiecutter.__package>>.workers import exposition
from tests.support import ROOT, free_port

settings = Settings(_env_file=None, metrics_port=free_port(), log_file="service.log")
app = create_app(settings)
<% if cookiecutter.database == 'postgresql' %>
with app.app_context():
    db.create_all()
<% endif %>
client = app.test_client()
for method, path, body, _ in runpy.run_path(str(ROOT / "scripts" / "load.py"))["MIX"]:
    client.open(path, method=method, data=body and body.replace(b"%d", b"1"))
client.get("/health")
for registry in (app.extensions["metric_registry"], metrics.registry):
    for metric in list(registry._collector_to_names):
        # One that this traffic did not touch has no series yet: make one.
        if getattr(metric, "_labelnames", ()) and not metric._metrics:
            metric.labels(*metric._labelnames)
exposition.serve_metrics(settings)
print(urlopen(f"http://127.0.0.1:{settings.metrics_port}/metrics").read().decode())
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Metrics:
    """What gunicorn's master exposes after a little traffic: every metric that is declared."""
    folder = tmp_path_factory.mktemp("scrape")
    done = a_process(
        PROGRAM,
        folder,
        PROMETHEUS_MULTIPROC_DIR=str(folder),
        HEALTH_DEPENDENCIES="mail=http://127.0.0.1:1/",
        TMPDIR=str(folder),
    )
    assert done.returncode == 0, done.stderr.decode()
    return {
        name: frozenset(label for labels, _ in samples for label in labels)
        for name, samples in samples_of(done.stdout.decode()).items()
    }


@pytest.fixture(scope="module")
def known(made: Metrics) -> Metrics:
    """Every series that a query may name."""
    return queries.with_recorded({**queries.of_exporters(), **made})


def test_all_that_rules_panels_and_runbooks_name_exists(known: Metrics) -> None:
    found = [problem for query in queries.all_queries() for problem in problems(query, known)]
    assert not found, "\n".join(found)


def test_every_file_that_holds_queries_is_read() -> None:
    read = {query.where.partition(":")[0] for query in queries.all_queries()}
    files = [*queries.DASHBOARDS.glob("*.json"), *RULES]
    files += [path for path in queries.<% if places.shared %>pages()<% else %>DOCS.rglob("*.md")<% endif %> if "```promql" in queries.read(path)]
    assert {str(path.relative_to(ROOT)) for path in files} <= read


OTHER_UNITS = (
    "ms milliseconds us microseconds ns nanoseconds minutes hours days kb mb gb kib mib gib"
)
OTHER_UNITS += " kilobytes megabytes gigabytes bits percent"


def test_metrics_are_in_base_units(made: Metrics) -> None:
    """Prometheus' naming conventions: seconds, bytes, ratios of 0 to 1."""
    for name in made:
        wrong = {*OTHER_UNITS.split()} & set(name.split("_"))
        assert not wrong, (
            f"{declared_at(name)} {name} is in {wrong.pop()}: a metric is in seconds, bytes or a"
            " ratio of 0 to 1, and its name ends so"
        )


def declared_at(metric: str) -> str:
    """Where the service declares a metric: file and line."""
    base = re.sub("_(total|bucket|count|sum)$", "", metric)
    for path in sorted((ROOT / "src").rglob("*.py")):
        for number, line in enumerate(queries.read(path).splitlines(), 1):
            if f'"{base}' in line:
                return f"{path.relative_to(ROOT)}:{number}:"
    return "A library's"


WRONG = {
    "http_request_latency > 1": (
        "names http_request_latency, which nothing makes: declare it in the service with counter(),"
        " gauge() or histogram(), or list it in monitoring/prometheus/exporters/"
    ),
    "http_requests_capacity > 1": (
        "names http_requests_capacity, which nothing makes: is it http_request_capacity? Else"
        " declare it in the service with counter(), gauge() or histogram(), or list it in"
        " monitoring/prometheus/exporters/"
    ),
    'sum(rate(http_request_duration_seconds_count{service="x", code="500"}[5m]))': (
        "selects http_request_duration_seconds_count by code, a label that it does not have; it has"
        " environment, instance, job, method, route, service, status"
    ),
    'sum by (path) (http_request_duration_seconds_count{service="x"})': (
        "groups by or shows path, a label that nothing in it has"
    ),
    'log_messages_total{service="x"} / on (pod) http_request_capacity{service="x"}': (
        "groups by or shows pod, a label that nothing in it has"
    ),
    'sum(log_messages_total{job="x"})': (
        "selects log_messages_total without service: on a Prometheus that others use as well it"
        " would meet theirs"
    ),
    'sum(up{service="x"})': (
        "selects up without job: on a Prometheus that others use as well it would meet theirs"
    ),
    '{job="x"}': "selects series without the name of a metric",
    "rate(process_open_fds)": (
        "is no query: expected type matrix in call to function 'rate', got vector"
    ),
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_query_is_reported_with_its_place(text: str, known: Metrics) -> None:
    query = Query("rules/latency.yml:7: HighLatency", text)
    assert problems(query, known) == [f"rules/latency.yml:7: HighLatency {WRONG[text]}"]


def test_a_legend_shows_labels_that_exist(known: Metrics) -> None:
    query = Query(
        "service.json: Lines", 'log_messages_total{service="x"}', shown=("instance", "pod")
    )
    assert problems(query, known) == [
        "service.json: Lines groups by or shows pod, a label that nothing in it has"
    ]


def test_the_service_makes_nothing_that_an_exporter_lists(made: Metrics) -> None:
    assert not made.keys() & queries.of_exporters().keys()
