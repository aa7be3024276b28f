"""Terraform's files as data, Terraform itself, and what a provider would refuse of a block.

A schema says what a provider takes: a name, with `!` where it must be given, and `string`, `number`, `bool`, `any`,
`list(...)` or `map(...)` of these, the values that are allowed, or the schema of a block.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hcl2

from .processes import clean_environment, run
from .programs import unavailable

OF_TERRAFORM = {"for_each", "count", "depends_on", "lifecycle", "provider"}

Schema = dict[str, Any]


def terraform(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run Terraform, which asks nobody and looks for no newer version of itself."""
    found = shutil.which("terraform") or unavailable("terraform", "install it from developer.hashicorp.com/terraform")
    environment = clean_environment(CHECKPOINT_DISABLE="1", TF_IN_AUTOMATION="1")
    done = run([found, *arguments, "-no-color"], folder=folder, environment=environment)
    return done.returncode, done.stdout + done.stderr


def parsed(folder: Path) -> dict[str, list[Any]]:
    """All blocks of a folder, by kind."""
    blocks: dict[str, list[Any]] = {}
    for file in folder.glob("*.tf"):
        with file.open() as text:
            for kind, found in hcl2.load(text).items():
                if isinstance(found, list):
                    blocks.setdefault(kind, []).extend(found)
    return blocks


def unquoted(name: str) -> str:
    return name.strip('"')


def resources(folder: Path, of: str = "resource") -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Type, name and body of each resource, or of each data source."""
    for block in parsed(folder)[of]:
        for kind, named in block.items():
            for name, body in named.items():
                yield unquoted(kind), unquoted(name), static(body)


def static(body: Any) -> Any:
    """The same with each dynamic block in its place, as if its content had been written there once."""
    if isinstance(body, list):
        return [static(each) for each in body]
    if not isinstance(body, dict):
        return body
    made = {name: static(value) for name, value in body.items() if name != "dynamic"}
    for block in body.get("dynamic", ()):
        for name, dynamic in block.items():
            made.setdefault(unquoted(name), []).extend(static(dynamic["content"]))
    return made


def named(blocks: list[Any]) -> dict[str, dict[str, Any]]:
    """Blocks of one kind with one label, by that label."""
    return {unquoted(name): body for block in blocks for name, body in block.items()}


def names(schema: Schema) -> set[str]:
    return {name.rstrip("!") for name in schema}


def names_within(schema: Schema) -> set[str]:
    """The names of a schema and of those that it holds: an expression does not say where each belongs."""
    below = (names_within(inner) for inner in schema.values() if isinstance(inner, dict))
    return names(schema).union(*below)


def problems(where: str, body: dict[str, Any], schema: Schema) -> Iterator[str]:
    """What a provider would refuse of a block: unknown names, missing ones, values of another type."""
    given = {name: value for name, value in body.items() if name not in OF_TERRAFORM and not name.startswith("__")}
    for name in given.keys() - names(schema):
        yield f"{where}: the provider knows no {name}"
    for name in schema:
        if name.endswith("!") and name[:-1] not in given:
            yield f"{where}: {name[:-1]} must be given"
    for name, value in given.items():
        expected = schema.get(name) or schema.get(f"{name}!")
        if expected is not None:
            yield from wrong(f"{where}.{name}", value, expected)


def wrong(where: str, value: Any, expected: Any) -> Iterator[str]:
    """What is wrong with one value; an expression is trusted but for the names that it gives."""
    if isinstance(expected, dict):
        if isinstance(value, str):
            unknown = set(re.findall(r"(\w+) *=(?!=)", value)) - names_within(expected)
            yield from (f"{where}: the provider knows no {name}" for name in unknown)
        else:
            for block in value if isinstance(value, list) else [value]:
                yield from problems(where, block, expected)
    elif isinstance(value, list):
        if not isinstance(expected, str) or not expected.startswith("list("):
            yield f"{where}: a list, where the provider takes {expected}"
        else:
            for each in value:
                yield from wrong(where, each, expected[5:-1])
    elif isinstance(expected, list):
        if isinstance(value, str) and not value.startswith("${") and unquoted(value) not in expected:
            yield f"{where}: {value} is none of {expected}"
    elif not (isinstance(value, str) and value.startswith("${")):
        kinds = {bool: "bool", int: "number", dict: "map(string)"}
        kind = kinds.get(type(value), "string")
        if expected not in {kind, "any"}:
            yield f"{where}: {value} is a {kind}, where the provider takes {expected}"


def planned(folder: Path, values: dict[str, str]) -> tuple[int, str]:
    """Plan with these values of the variables."""
    return terraform(folder, "plan", "-input=false", *(f"-var={name}={value}" for name, value in values.items()))
