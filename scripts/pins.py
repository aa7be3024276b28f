"""Renews both constraints files: what `make pins` runs.

`constraints.txt` here pins this template's tools. The one in the service pins what any service installs, its build
backend included: one resolution for all options at once, so that every service has the same versions, with a condition
around each line that only some of them need. A service is generated with the lines of its own features, nothing else.
"""

import itertools
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cookiecutter.prompt import prompt_for_config
from cookiecutter.utils import create_env_with_context
from jinja2 import FileSystemLoader
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
SERVICE = "<<cookiecutter.project_slug>>"
OLDEST_PYTHON = "3.11"

Answers = tuple[tuple[str, str], ...]
"""One value for each option, in the order of cookiecutter.json."""

Condition = tuple[tuple[str, tuple[str, ...]], ...]
"""Options and the values of them that need a package, all to be met; empty: every service needs it."""


class PinError(Exception):
    """The pins cannot be renewed; the message is one line."""


def main() -> int:
    """Writes both files, or says in one line why not."""
    try:
        tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
        (ROOT / "constraints.txt").write_text(
            "".join(f"{line}\n" for line, _ in resolve(set(itertools.chain.from_iterable(tools.values()))).values())
        )
        (ROOT / SERVICE / "constraints.txt").write_text(service_constraints())
    except PinError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def service_constraints() -> str:
    """The text of the service's constraints file, conditions included."""
    needed_by: dict[str, set[Answers]] = {}
    everyone = set()
    for answers, project in rendered_projects():
        everyone.add(answers)
        for requirement in requirements_of(project):
            needed_by.setdefault(requirement, set()).add(answers)
    options = options_of(everyone)
    conditions = {requirement: condition_of(requirement, needed_by[requirement], options) for requirement in needed_by}
    resolved = resolve(needed_by)
    roots: dict[str, set[Condition]] = {name: set() for name in resolved}
    for requirement, condition in conditions.items():
        for name in reachable(canonicalize_name(Requirement(requirement).name), resolved):
            roots[name].add(condition)
    lines = []
    for test, group in itertools.groupby(resolved, key=lambda name: test_of(roots[name])):
        pins = [resolved[name][0] for name in group]
        lines += [f"<% if {test} %>", *pins, "<% endif %>"] if test else pins
    return "".join(f"{line}\n" for line in lines)


def rendered_projects() -> Iterable[tuple[Answers, dict[str, Any]]]:
    """The service's pyproject.toml for each combination of options."""
    definition = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
    choices = {name: value for name, value in definition.items() if isinstance(value, list) and name[0] != "_"}
    environment = create_env_with_context({"cookiecutter": definition})
    environment.loader = FileSystemLoader([ROOT / SERVICE, ROOT / "templates"])
    template = environment.get_template("pyproject.toml")
    plain = prompt_for_config({"cookiecutter": definition}, no_input=True)
    for values in itertools.product(*choices.values()):
        answers = tuple(zip(choices, values, strict=True))
        yield answers, tomllib.loads(template.render(cookiecutter={**plain, **dict(answers)}))


def requirements_of(project: Mapping[str, Any]) -> set[str]:
    """All that `make install` of a service asks for: to run, to develop and to build."""
    optional = project["project"].get("optional-dependencies", {})
    groups = project.get("dependency-groups", {})
    return {
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *itertools.chain.from_iterable((*optional.values(), *groups.values())),
    }


def options_of(everyone: set[Answers]) -> dict[str, set[str]]:
    """Each option and all of its values."""
    options: dict[str, set[str]] = {}
    for answers in everyone:
        for option, value in answers:
            options.setdefault(option, set()).add(value)
    return options


def condition_of(requirement: str, needed_by: set[Answers], options: Mapping[str, set[str]]) -> Condition:
    """Which options bring a requirement.

    Raises:
        PinError: it depends on options in a way that is no "this option has one of these values, and that one ..."
    """
    found = options_of(needed_by)
    combinations = 1
    for values in found.values():
        combinations *= len(values)
    if combinations != len(needed_by):
        raise PinError(
            f"pyproject.toml asks for {requirement!r} under a condition that is not a conjunction of options"
        )
    return tuple((option, tuple(sorted(found[option]))) for option in options if found[option] != options[option])


def resolve(requirements: Iterable[str]) -> dict[str, tuple[str, set[str]]]:
    """Every package's pinned line, and the packages that it was asked for by, sorted by name.

    Raises:
        PinError: uv finds no versions that go together.
    """
    command = [sys.executable, "-m", "uv", "pip", "compile", "--universal", "--python-version", OLDEST_PYTHON]
    command += ["--quiet", "--no-config", "--no-header", "--annotation-style", "line", "--upgrade", "-"]
    text = "\n".join(sorted(requirements))
    answer = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise PinError(" ".join(answer.stderr.split()))
    resolved: dict[str, tuple[str, set[str]]] = {}
    for line in answer.stdout.splitlines():
        pin, _, origins = line.partition("# via ")
        if match := re.match(r"[A-Za-z0-9._-]+(?===)", pin):
            name = canonicalize_name(match[0])
            if name in resolved:
                raise PinError(f"{name} has two versions, one for some Pythons: raise the oldest one in pyproject.toml")
            resolved[name] = (pin.strip(), {canonicalize_name(origin) for origin in origins.split(", ") if origin})
    return resolved


def reachable(root: str, resolved: Mapping[str, tuple[str, set[str]]]) -> set[str]:
    """A package and all that it brings with it."""
    found = {root}
    while more := {name for name, (_, origins) in resolved.items() if name not in found and origins & found}:
        found |= more
    return found


def test_of(conditions: set[Condition]) -> str:
    """The conditions as a Jinja expression, met where one of them is; empty where all services meet one."""
    if () in conditions:
        return ""
    wider = {one for one in conditions if not any(set(other) < set(one) for other in conditions)}
    return " or ".join(" and ".join(comparison(*part) for part in condition) for condition in sorted(wider))


def comparison(option: str, values: tuple[str, ...]) -> str:
    """One option's part of a Jinja expression."""
    if len(values) == 1:
        return f'cookiecutter.{option} == "{values[0]}"'
    listed = ", ".join(f'"{value}"' for value in values)
    return f"cookiecutter.{option} in ({listed})"


if __name__ == "__main__":
    sys.exit(main())
