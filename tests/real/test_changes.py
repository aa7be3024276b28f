"""What an owner changes on the first day: the service's own tests accept it, or say what to edit where."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from .processes import run
from .service import Service

RULE = """
      - alert: {name}
        expr: {expression}
        for: 5m
        labels:
          severity: warning
          team: platform
        annotations:
          summary: '{{{{ $labels.service }}}} is idle'
          description: 'It is {{{{ $value }}}}.'
          dashboard_url: '{{{{ or $externalLabels.grafana_url "http://localhost:3000" }}}}/d/{dashboard}'
          runbook_url: '{{{{ or $externalLabels.runbooks_url "docs/runbooks" }}}}/{name}.md'
"""
RECORDED = """\
groups:
  - name: idle
    rules:
      - record: service:orders_shipped:ratio_rate5m
        expr: |
          sum by (service, environment) (rate(orders_shipped_total{service="proof-service"}[5m]))
          / (sum by (service, environment) (rate(orders_created_total{service="proof-service"}[5m])) > 0)
"""
DASHBOARD = "proof-service-service?var-environment={{ $labels.environment | urlquery }}"
UNIT_TEST = """
  - name: {name}
    interval: 15s
    input_series:
      - series: 'up{{job="proof-service", service="proof-service", environment="production"}}'
        values: '{values}'
    alert_rule_test:
      - eval_time: 2m
        alertname: {name}
        exp_alerts: []
      - eval_time: 30m
        alertname: {name}
        exp_alerts:
          - exp_labels: {{{labels}severity: warning, team: platform, service: proof-service, environment: production}}
            exp_annotations:
              summary: proof-service is idle
              description: It is {value}.
              dashboard_url: http://localhost:3000/d/proof-service-service?var-environment=production
              runbook_url: docs/runbooks/{name}.md
"""
LOGIN = """from flask import Blueprint, Response, request

from .problems import problem

login = Blueprint("login", __name__)


@login.post("/login")
def log_in() -> Response:
    return problem(401 if request.get_data() else 400, "Unknown.")
"""


def _edit(service: Service, file: str, old: str, new: str) -> None:
    path = service.folder / file
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{file} has no {old!r}"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def _add(service: Service, file: str, text: str) -> None:
    with (service.folder / file).open("a", encoding="utf-8") as opened:
        opened.write(text)


def _add_panel(service: Service, title: str, metric: str, **changes: Any) -> None:
    path = service.folder / "monitoring/grafana/dashboards/service.json"
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    lowest = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    scope = "service='proof-service', environment='$environment'" + ", instance=~'$instance'" * (":" not in metric)
    panel = {
        "id": len(dashboard["panels"]) + 1,
        "type": "timeseries",
        "title": title,
        "description": "What it shows.",
        "gridPos": {"x": 0, "y": lowest, "w": 8, "h": 6},
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "fieldConfig": {"defaults": {"unit": "short"}, "overrides": []},
        "targets": [{"refId": "A", "expr": f"sum by (carrier) (rate({metric}{{{scope}}}[5m]))"}],
    }
    dashboard["panels"].append(panel | changes)
    path.write_text(json.dumps(dashboard, indent=2) + "\n", encoding="utf-8")


def _add_variable(service: Service, file: str, name: str, query: str) -> None:
    path = service.folder / "monitoring/grafana/dashboards" / file
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    variable = {"name": name, "type": "query", "query": {"query": query, "refId": name}}
    dashboard["templating"]["list"].append(variable)
    dashboard["panels"][0]["title"] += f" by ${name}"
    path.write_text(json.dumps(dashboard, indent=2) + "\n", encoding="utf-8")


def _add_runbook_and_line(service: Service, alert: str, threshold: str) -> None:
    folder = service.folder / "docs/runbooks"
    text = (folder / "SaturationHigh.md").read_text(encoding="utf-8")
    (folder / f"{alert}.md").write_text(text.replace("# SaturationHigh", f"# {alert}", 1), encoding="utf-8")
    line = f"| [{alert}](runbooks/{alert}.md) | traffic | `{threshold}` | 5m | warning |\n"
    _edit(service, "docs/monitoring.md", "| [RestartLoop]", f"{line}| [RestartLoop]")


def _add_counter(service: Service) -> None:
    declared = 'shipped = counter("orders_shipped_total", "Orders shipped.", ["carrier"])\n'
    _edit(
        service, "src/proof_service/orders/routes.py", "orders_created = counter", f"{declared}orders_created = counter"
    )


def _tests(service: Service, *files: str) -> tuple[int, str]:
    done = run(
        [service.tool("python"), "-m", "pytest", "-q", "--tb=short", *files],
        folder=service.folder,
        environment=service.environment(COLUMNS="500"),
        seconds=300,
    )
    return done.returncode, done.stdout + done.stderr


def test_what_an_owner_may_add_passes_the_tests_of_the_service(variant: Callable[..., Service]) -> None:
    """A metric without traffic, its panel, alerts on nothing and on zero, a login that answers 400 and 401."""
    service = variant(team="platform")
    _add_counter(service)
    _add_panel(service, "Shipped", "orders_shipped_total")
    recorded = "service:orders_shipped:ratio_rate5m"
    shown = f"{recorded}{{service='proof-service', environment='$environment'}}"
    _add_panel(service, "Share shipped", recorded, targets=[{"refId": "A", "expr": shown}])
    _add_variable(
        service, "orders.json", "carrier", "label_values(orders_shipped_total{service='proof-service'}, carrier)"
    )
    rules, tests = "monitoring/prometheus/rules/idle.yml", "monitoring/prometheus/tests/idle_test.yml"
    _add(service, rules, RECORDED)
    _add(service, tests, "rule_files: [../rules/idle.yml]\nevaluation_interval: 15s\ntests:")
    selected = 'up{job="proof-service", service="proof-service", environment="production"}'
    for name, expression, threshold, values, labels, value in (
        ("Gone", f"absent({selected})", "absent", "1+0x16 _x200", "job: proof-service, ", 1),
        ("Idle", f"sum by (service, environment) ({selected}) == 0", "== 0", "1+0x16 0+0x200", "", 0),
    ):
        _add(service, rules, RULE.format(name=name, expression=expression, dashboard=DASHBOARD))
        _add(service, tests, UNIT_TEST.format(name=name, values=values, labels=labels, value=value))
        _add_runbook_and_line(service, name, threshold)
    _add(service, "src/proof_service/login.py", LOGIN)
    _edit(
        service,
        "src/proof_service/app.py",
        "    init_orders(app)\n",
        "    init_orders(app)\n    app.register_blueprint(login)\n",
    )
    _edit(service, "src/proof_service/app.py", "from .observability", "from .login import login\nfrom .observability")
    code, said = _tests(service, "tests/monitoring", "tests/test_security_events.py")
    assert code == 0, said


def test_what_is_refused_is_refused_with_the_line_to_edit(variant: Callable[..., Service]) -> None:
    """Each fault by one line that names the file, the line and what is allowed."""
    service = variant(team="platform")
    rules = "monitoring/prometheus/rules/saturation.yml"
    _edit(service, rules, "http_request_capacity", "http_requests_capacity")
    _add(
        service,
        rules,
        RULE.format(
            name="Idle",
            expression='avg by (service, environment) (up{job="proof-service"}) == 0',
            dashboard="proof-service-service",
        ),
    )
    _edit(
        service,
        "src/proof_service/orders/routes.py",
        "orders_created = counter",
        'from ..observability import histogram\n\nbuilt = histogram("report_ms", "Time.")\norders_created = counter',
    )
    _add_panel(service, "Wide", "up", gridPos={"x": 20, "y": 900, "w": 8, "h": 6})
    _add_panel(service, "Mute", "up", gridPos={"x": 0, "y": 910, "w": 8, "h": 6}, description="")
    everything = [{"refId": "A", "expr": "sum(log_messages_total{service='proof-service', environment='production'})"}]
    _add_panel(service, "Other", "up", targets=everything, description="See ${runbooks_url}/Nothing.md")
    _add_panel(service, "Plain", "up", type="stat", description="About $region.")
    _edit(service, "monitoring/grafana/dashboards/orders.json", "A process on a box", "A process in a box")
    _edit(service, "monitoring/grafana/dashboards/service.json", '"Failed requests, 5 min"', '"Failures"')
    code, said = _tests(service, "tests/monitoring")
    assert code == 1, said
    line = r":\d+: "
    for expected in (
        rf"{rules}{line}\S+ names http_requests_capacity, which nothing makes: is it http_request_capacity",
        rf"{rules}{line}Idle selects up without service: on a Prometheus that others use as well it would meet theirs",
        rf"{rules}{line}Idle needs a unit test in monitoring/prometheus/tests/ in which it fires",
        rf"{rules}{line}the dashboard_url of Idle must have var-environment=\{{\{{ \$labels\.environment",
        rf"{rules}{line}Idle needs a runbook: write docs/runbooks/Idle\.md",
        rf"{rules}{line}the table of alerts in docs/monitoring\.md needs a line for Idle that says `== 0` and warning",
        rf"src/proof_service/orders/routes\.py{line}report_ms_\w+ is in ms: a metric is in seconds, bytes or a ratio",
        rf"dashboards/service\.json{line}the panel 'Wide' is not within the 24 columns",
        rf"dashboards/service\.json{line}the panel 'Mute' needs a description",
        rf"dashboards/service\.json{line}Other must select log_messages_total with environment='\$environment'",
        rf"dashboards/service\.json{line}there is no docs/runbooks/Nothing\.md",
        rf"dashboards/service\.json{line}the panel 'Plain' needs fieldConfig\.defaults\.thresholds with steps",
        r"dashboards/service\.json:\d+ uses \$region: add it to templating\.list",
        rf"dashboards/orders\.json{line}the variable instance must be that of service\.json",
        r"service\.json has no panel 'Failed requests, 5 min', which ALARMING in tests/monitoring/test_dashboards\.py",
    ):
        assert re.search(expected, said), f"{expected} is not in:\n{said}"
