<% import "places.j2" as places with context %>
"""The queries of rules, dashboards and runbooks, and what is wrong with one."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

<% if places.shared %>
from <<cookiecutter.__package>>.settings import SERVICE

<% endif %>
from .rules import <% if places.shared %>PLATFORM, <% endif %>ROOT, rules

MONITORING = ROOT / "monitoring"
<% if places.shared %>
EXPORTERS = [folder / "prometheus" / "exporters" for folder in (MONITORING, PLATFORM)]
<% else %>
EXPORTERS = MONITORING / "prometheus" / "exporters"
<% endif %>
DASHBOARDS = MONITORING / "grafana" / "dashboards"
<% if places.shared %>
PLATFORM_DASHBOARDS = PLATFORM / "grafana" / "dashboards"
<% endif %>
DOCS = ROOT / "docs"

Metrics = Mapping[str, frozenset[str]]
"""The names of series, each with its labels."""

OF_THE_SCRAPE = frozenset({"job", "service", "environment", "instance"})
OF_EVERY_PROCESS = re.compile("(up|process_.+|scrape_.+)")
WATCHERS = {"prometheus", "alertmanager"}
"""Their jobs: they are no service's."""
<% if places.shared %>
OF_NODES = re.compile("kube_node_.+")
OF_PODS = re.compile("(kube|container)_.+")
"""Of all that runs in a cluster: a service's are those of pods whose name begins with its own."""
<% endif %>


@dataclass(frozen=True)
class Query:
    """A query, where an owner finds it, and the labels that are shown beside its values."""

    where: str
    text: str
    shown: tuple[str, ...] = ()


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def all_queries() -> list[Query]:
    return [*of_rules(), *of_dashboards(), *of_docs()]


# --- rules ---------------------------------------------------------------------------------------


def of_rules() -> Iterator[Query]:
    """Of alerts and recording rules, and those in an alert's annotations."""
    for line, rule in rules():
        where = f"{line}: {rule.get('alert') or rule['record']}"
        texts = " ".join((rule.get("annotations") or {}).values())
        # A text's own query has other labels, which `label "..."` reads.
        shown = set(re.findall(r"\$labels\.(\w+)", texts)) - (rule.get("labels") or {}).keys()
        yield Query(where, str(rule["expr"]), tuple(shown))
        for quoted in re.findall(r"query \(?(?:printf )?(`[^`]+`|\"(?:[^\"\\]|\\.)+\")", texts):
            text = quoted[1:-1] if quoted[0] == "`" else json.loads(quoted)
            yield Query(f"{where}, in an annotation,", text.replace("%q", '""'))


# --- dashboards ----------------------------------------------------------------------------------


def dashboards() -> dict[str, dict[str, Any]]:
<% if places.shared %>
    """Every dashboard, the service's and the platform's, by the name of its file."""
    folders = (DASHBOARDS, PLATFORM_DASHBOARDS)
    paths = sorted(path for folder in folders for path in folder.glob("*.json"))
    return {path.name: json.loads(read(path)) for path in paths}


def path_of(dashboard: str) -> Path:
    """Where the file of a dashboard lies."""
    of_platform = PLATFORM_DASHBOARDS / dashboard
    return of_platform if of_platform.exists() else DASHBOARDS / dashboard
<% else %>
    """Every dashboard, by the name of its file."""
    return {path.name: json.loads(read(path)) for path in sorted(DASHBOARDS.glob("*.json"))}
<% endif %>


def panels(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every panel but the rows, those in a folded row too."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panels(panel)
        else:
            yield panel


def of_dashboards() -> Iterator[Query]:
    """Of panels, annotations and variables, with durations in the place of Grafana's own."""
    yield from of_panels()
    for name, dashboard in dashboards().items():
        for annotation in dashboard["annotations"]["list"]:
            where = f"{line_of(name, annotation['name'])}: annotation {annotation['name']}"
            yield _query(where, annotation["expr"], annotation["textFormat"])
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                asked = re.fullmatch(r"label_values\((.+), *(\w+)\)", variable["query"]["query"])
                where = f"{line_of(name, variable['name'])}: variable {variable['name']}"
                assert asked, f"{where} must be of the form label_values(metric, label)"
                yield _query(where, asked[1], f"{{{{{asked[2]}}}}}")


def of_panels() -> Iterator[Query]:
    for name, dashboard in dashboards().items():
        for panel in panels(dashboard):
            for target in panel.get("targets", ()):
                where = f"{line_of(name, panel['title'])}: {panel['title']}"
                yield _query(where, target["expr"], target.get("legendFormat", ""))


def line_of(dashboard: str, name: str) -> str:
    """The file, from the repository's root, and the line where a dashboard has this name."""
    path = <% if places.shared %>path_of(dashboard)<% else %>DASHBOARDS / dashboard<% endif %>

    before = read(path).partition(json.dumps(name, ensure_ascii=False))[0]
    return f"{path.relative_to(ROOT)}:{before.count(chr(10)) + 1}"


def _query(where: str, text: str, shown: str) -> Query:
    text = re.sub(r"\$__(rate_interval|interval|range)_ms", "300000", text)
    text = re.sub(r"\$__(rate_interval|interval|range)", "5m", text)
    return Query(where, text, tuple(re.findall(r"\{\{ *(\w+) *\}\}", shown)))


# --- runbooks and other pages --------------------------------------------------------------------


<% if places.shared %>
def pages() -> list[Path]:
    return sorted(page for folder in (DOCS, PLATFORM) for page in folder.rglob("*.md"))


<% endif %>
def of_docs() -> Iterator[Query]:
    """Of blocks marked promql, one a paragraph, and of code between backticks in a line."""
    for path in <% if places.shared %>pages()<% else %>sorted(DOCS.rglob("*.md"))<% endif %>:
        text = read(path)
        blocks = re.findall(r"```promql\n(.*?)```", text, re.DOTALL)
        queries = [query for block in blocks for query in re.split(r"\n\s*\n", block.strip())]
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        queries += re.findall(r"`([^`\n]*\w\{\w+[=!][^`\n]*)`", prose)
        for query in queries:
            line = text.partition(query)[0].count("\n") + 1
            yield Query(f"{path.relative_to(ROOT)}:{line}: {query!r}", query)


# --- what there is, and what is wrong ------------------------------------------------------------


def of_exporters() -> Metrics:
    """The series of Prometheus itself and of the exporters, as the lists of them say."""
    return {
        name: frozenset(labels)
<% if places.shared %>
        for folder in EXPORTERS
        for path in sorted(folder.glob("*.yml"))
<% else %>
        for path in sorted(EXPORTERS.glob("*.yml"))
<% endif %>
        for name, labels in yaml.safe_load(read(path)).items()
    }


def with_recorded(metrics: Metrics) -> Metrics:
    """The same and the series of recording rules, with every label that they could have."""
    known = dict(metrics)
    waiting = {rule["record"]: rule for _, rule in rules() if "record" in rule}
    while ready := [
        record for record, rule in waiting.items() if Parts(rule["expr"]).metrics <= known.keys()
    ]:
        for record in ready:
            rule = waiting.pop(record)
            parts = Parts(rule["expr"])
            labels = [known[name] for name in parts.metrics]
            known[record] = frozenset(rule.get("labels") or {}).union(parts.made, *labels)
    # The expressions of the others are wrong, which is reported of them as queries.
    return known | dict.fromkeys(waiting, OF_THE_SCRAPE)


class Parts:
    """The metrics and labels in a query. Raises ValueError where it is no PromQL."""

    def __init__(self, text: str) -> None:
        self.selectors: list[tuple[str | None, dict[str, str]]] = []
        self.grouped: set[str] = set()
        self.made: set[str] = set()
        promql.walk(promql.parse(text), self._visit)

    @property
    def metrics(self) -> set[str]:
        return {name for name, _ in self.selectors if name}

    def _visit(self, part: promql.Expr) -> None:
        match part:
            case promql.VectorSelector():
                matched = {matcher.name: matcher.value for matcher in part.matchers.matchers}
                matched.pop("__name__", None)
                self.selectors.append((part.name, matched))
            case promql.AggregateExpr() if part.modifier:
                self.grouped |= set(part.modifier.labels)
            case promql.BinaryExpr() if part.modifier:
                self.grouped |= set(part.modifier.group_labels or [])
                if part.modifier.matching:
                    self.grouped |= set(part.modifier.matching.labels)
            case promql.Call() if part.func.name in ("label_replace", "label_join"):
                made = part.args[1]
                assert isinstance(made, promql.StringLiteral)
                self.made.add(made.val)


def problems(query: Query, known: Metrics) -> list[str]:
    """What is wrong with a query: lines that begin with its place."""
    try:
        parts = Parts(query.text)
    except ValueError as error:
        return [f"{query.where} is no query: {error}"]
    found = []
    labels = OF_THE_SCRAPE | parts.made
    for metric, matched in parts.selectors:
        if metric is None:
            found.append(f"{query.where} selects series without the name of a metric")
        elif metric not in known:
            close = difflib.get_close_matches(metric, known, 1, cutoff=0.85)
            found.append(
                f"{query.where} names {metric}, which nothing makes: "
                + (f"is it {close[0]}? Else " if close else "")
                + "declare it in the service with counter(), gauge() or histogram(), or list it in"
                " monitoring/prometheus/exporters/"
            )
        else:
            labels |= known[metric]
            found += [
                f"{query.where} selects {metric} by {label}, a label that it does not have; it has "
                + ", ".join(sorted(known[metric] | OF_THE_SCRAPE))
                for label in sorted(matched.keys() - known[metric] - OF_THE_SCRAPE)
            ]
            if missing := _not_told_apart(metric, matched):
                found.append(
                    f"{query.where} selects {metric} without {missing}: on a Prometheus that others"
                    " use as well it would meet theirs"
                )
    if not found:
        found += [
            f"{query.where} groups by or shows {label}, a label that nothing in it has"
            for label in sorted({*parts.grouped, *query.shown} - labels)
        ]
    return found


def _not_told_apart(metric: str, matched: Mapping[str, str]) -> str | None:
    """The label without which a selector also finds the series of others."""
    if metric == "ALERTS" or matched.get("job") in WATCHERS or "service" in matched:
        return "job" if OF_EVERY_PROCESS.fullmatch(metric) and "job" not in matched else None
<% if places.shared %>
    if OF_NODES.fullmatch(metric):
        return None
    if OF_PODS.fullmatch(metric):
        named = matched.get("pod") or matched.get("deployment") or ""
        return None if named.startswith(SERVICE) else "pod or deployment"
<% endif %>
    return "service"
