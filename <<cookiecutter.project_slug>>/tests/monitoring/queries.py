"""The queries of all that watches the service, and what is wrong with one."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

from ..support import ROOT

MONITORING = ROOT / "monitoring"
RULES = MONITORING / "prometheus" / "rules"
EXPORTERS = MONITORING / "prometheus" / "exporters"
DASHBOARDS = MONITORING / "grafana" / "dashboards"
DOCS = ROOT / "docs"

Metrics = Mapping[str, frozenset[str]]
"""The names of series, each with its labels."""

OF_THE_SCRAPE = frozenset({"job", "service", "environment", "instance"})


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


def rules() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every rule and its file."""
    for path in sorted(RULES.glob("*.yml")):
        for group in yaml.safe_load(read(path))["groups"]:
            for rule in group["rules"]:
                yield path, rule


def of_rules() -> Iterator[Query]:
    """Of alerts and recording rules, and those that an alert's text asks."""
    for path, rule in rules():
        where = f"rules/{path.name}: {rule.get('alert') or rule['record']}"
        texts = " ".join((rule.get("annotations") or {}).values())
        # A text's own query has other labels, which `label "..."` reads.
        shown = set(re.findall(r"\$labels\.(\w+)", texts)) - (rule.get("labels") or {}).keys()
        yield Query(where, rule["expr"], tuple(shown))
        for quoted in re.findall(r"query \(?(?:printf )?(`[^`]+`|\"(?:[^\"\\]|\\.)+\")", texts):
            text = quoted[1:-1] if quoted[0] == "`" else json.loads(quoted)
            yield Query(f"{where}, in its text", text.replace("%q", '""'))


# --- dashboards ----------------------------------------------------------------------------------


def dashboards() -> dict[str, dict[str, Any]]:
    """Every dashboard, by the name of its file."""
    return {path.name: json.loads(read(path)) for path in sorted(DASHBOARDS.glob("*.json"))}


def panels(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every panel but the rows, those in a folded row too."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panels(panel)
        else:
            yield panel


def of_dashboards() -> Iterator[Query]:
    """Of panels, annotations and variables, with durations in the place of Grafana's own."""
    for name, dashboard in dashboards().items():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                yield _query(f"{name}: {panel['title']}", target["expr"], target["legendFormat"])
        for annotation in dashboard["annotations"]["list"]:
            where = f"{name}: annotation {annotation['name']}"
            yield _query(where, annotation["expr"], annotation["textFormat"])
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                asked = re.fullmatch(r"label_values\((.+), *(\w+)\)", variable["query"]["query"])
                where = f"{name}: variable {variable['name']}"
                assert asked, f"{where} does not ask for a label's values"
                yield _query(where, asked[1], f"{{{{{asked[2]}}}}}")


def _query(where: str, text: str, shown: str) -> Query:
    text = re.sub(r"\$__(rate_interval|interval|range)", "5m", text)
    return Query(where, text, tuple(re.findall(r"\{\{ *(\w+) *\}\}", shown)))


# --- runbooks and other pages --------------------------------------------------------------------


def of_docs() -> Iterator[Query]:
    """Of blocks marked promql, one a paragraph, and those between backticks within a line."""
    for path in sorted(DOCS.rglob("*.md")):
        text = read(path)
        blocks = re.findall(r"```promql\n(.*?)```", text, re.DOTALL)
        queries = [query for block in blocks for query in re.split(r"\n\s*\n", block.strip())]
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        queries += re.findall(r"`([^`\n]*\w\{\w+[=!][^`\n]*)`", prose)
        for query in queries:
            yield Query(f"{path.relative_to(DOCS)}: {query!r}", query)


# --- what there is, and what is wrong ------------------------------------------------------------


def of_exporters() -> Metrics:
    """What Prometheus itself and the exporters beside the service make."""
    return {
        name: frozenset(labels)
        for path in sorted(EXPORTERS.glob("*.yml"))
        for name, labels in yaml.safe_load(read(path)).items()
    }


def with_recorded(metrics: Metrics) -> Metrics:
    """The same, and the series that recording rules make; of labels the most that they can have."""
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
    # What they record is wrong, which their own queries tell.
    return known | dict.fromkeys(waiting, OF_THE_SCRAPE)


class Parts:
    """What a query is made of."""

    def __init__(self, text: str) -> None:
        self.selectors: list[tuple[str | None, set[str]]] = []
        self.grouped: set[str] = set()
        self.made: set[str] = set()
        promql.walk(promql.parse(text), self._visit)

    @property
    def metrics(self) -> set[str]:
        return {name for name, _ in self.selectors if name}

    def _visit(self, part: promql.Expr) -> None:
        match part:
            case promql.VectorSelector():
                matched = {matcher.name for matcher in part.matchers.matchers}
                self.selectors.append((part.name, matched - {"__name__"}))
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
    """What is wrong with a query, each in a line that says where it stands."""
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
            found.append(
                f"{query.where} names {metric}, which neither the service makes nor an exporter"
                " lists"
            )
        else:
            labels |= known[metric]
            found += [
                f"{query.where} selects {metric} by {label}, a label that it does not have"
                for label in sorted(matched - known[metric] - OF_THE_SCRAPE)
            ]
    if not found:
        found += [
            f"{query.where} groups by or shows {label}, a label that nothing in it has"
            for label in sorted({*parts.grouped, *query.shown} - labels)
        ]
    return found
