"""The contract between what the service tells and what watches it: every name in it exists."""

import pytest

from ..support import a_process, samples_of
from . import queries
from .queries import Metrics, Query, problems

PROGRAM = """
import runpy
from urllib.request import urlopen

from <<cookiecutter.__package>>.app import create_app
<% if cookiecutter.database == 'postgresql' %>
from <<cookiecutter.__package>>.database import db
<% endif %>
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
    client.open(path, method=method, data=body and body % (1, 2))
client.get("/health")
exposition.serve_metrics(settings)
print(urlopen(f"http://127.0.0.1:{settings.metrics_port}/metrics").read().decode())
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Metrics:
    """What Prometheus gets from gunicorn's master, once there was a little traffic."""
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
    assert {path.name for path in queries.DASHBOARDS.glob("*.json")} <= read
    assert {f"rules/{path.name}" for path in queries.RULES.glob("*.yml")} <= read
    marked = [path for path in queries.DOCS.rglob("*.md") if "```promql" in queries.read(path)]
    assert {str(path.relative_to(queries.DOCS)) for path in marked} <= read


WRONG = {
    "http_request_latency > 1": (
        "names http_request_latency, which neither the service makes nor an exporter lists"
    ),
    'sum(rate(http_request_duration_seconds_count{code="500"}[5m]))': (
        "selects http_request_duration_seconds_count by code, a label that it does not have"
    ),
    "sum by (path) (http_request_duration_seconds_count)": (
        "groups by or shows path, a label that nothing in it has"
    ),
    "process_open_fds / on (pod) process_max_fds": (
        "groups by or shows pod, a label that nothing in it has"
    ),
    '{job="x"}': "selects series without the name of a metric",
    "rate(process_open_fds)": (
        "is no query: expected type matrix in call to function 'rate', got vector"
    ),
}


@pytest.mark.parametrize("text", WRONG)
def test_what_does_not_exist_is_told_by_its_place_and_its_name(text: str, known: Metrics) -> None:
    query = Query("rules/latency.yml: HighLatency", text)
    assert problems(query, known) == [f"rules/latency.yml: HighLatency {WRONG[text]}"]


def test_a_legend_shows_labels_that_exist(known: Metrics) -> None:
    query = Query("service.json: CPU", "process_cpu_seconds_total", shown=("instance", "pod"))
    assert problems(query, known) == [
        "service.json: CPU groups by or shows pod, a label that nothing in it has"
    ]


def test_the_service_makes_nothing_that_an_exporter_lists(made: Metrics) -> None:
    assert not made.keys() & queries.of_exporters().keys()
