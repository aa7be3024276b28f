<% import "log_store.j2" as store with context %>
"""Every field that a saved log query names is one of a log line, under its name in the store."""

import json
import re

import yaml

from ..support import ROOT

FIELDS: dict[str, str] = yaml.safe_load((ROOT / "monitoring" / "logs" / "fields.yml").read_text())
SCHEMA = next(ROOT.glob("src/*/observability/log_line.schema.json"))
PAGE = ROOT / "docs" / "log-queries.md"
LANGUAGES = "<< store.language >><< "|esql" if store.backend == "elastic" >>"
WORDS = """
    << store.words | wordwrap(90) | indent >>
""".split()
"""Of the language, and names that a query gives."""


def fields_of_a_line() -> set[str]:
    """The names in the schema, a dot between the parts of one; not those that no line has."""
    names: set[str] = set()
    for name, definition in json.loads(SCHEMA.read_text())["properties"].items():
        if "properties" in definition:
            names |= {f"{name}.{part}" for part in definition["properties"]}
        elif "$ref" not in definition:
            names.add(name)
    return names


def queries() -> list[str]:
    return re.findall(rf"```(?:{LANGUAGES})\n(.+?)```", PAGE.read_text(), re.DOTALL)


def named_in(query: str) -> set[str]:
    """The fields that a query names: its words but texts in quotes, numbers and the language's."""
    words = re.findall(r"[A-Za-z_][\w.-]*", re.sub(r"\"[^\"]*\"|'[^']*'|logs-\*", "", query))
    return set(words).difference(WORDS)


def test_every_field_of_a_line_has_a_name_in_the_store() -> None:
    # A security event's own field is its caller's, to the schema.
    assert FIELDS.keys() == fields_of_a_line() | {"event_name"}


def test_every_field_that_a_query_names_is_one_that_a_line_has() -> None:
    stored = {name.removeprefix("@") for name in FIELDS.values()}
    found = [
        f"docs/log-queries.md: {name} is no field of a line: {query}"
        for query in queries()
        for name in sorted(named_in(query) - stored)
    ]
    assert not found, "\n".join(found)


def test_a_query_names_the_fields_that_are_in_it() -> None:
    assert all(named_in(query) for query in queries())
