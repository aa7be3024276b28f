"""Generates a service: what `make new` runs.

Cookiecutter does the work. Around it: its own environment, answers that are checked before anything is written, and
the `.cruft.json` that later updates and tier changes need. Cookiecutter's modules are called the way cruft calls them:
the user's Cookiecutter configuration and replay files play no part, and cruft, with all that it imports, is not needed.
"""

import os
import sys

import environment  # before anything newer than Python 3.6: it says so if this Python is too old

# isort: split
import argparse
import difflib
import importlib.util
import json
import logging
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn
from urllib.parse import urlsplit, urlunsplit

TEMPLATE = environment.ROOT
SERVICE = "<<cookiecutter.project_slug>>"


class RefusalError(Exception):
    """The user asked for something that cannot be; the message is one line for each thing."""


class Arguments(argparse.ArgumentParser):
    """A parser that refuses in one line, and knows what was probably meant."""

    def error(self, message: str) -> NoReturn:
        """Raises RefusalError in place of printing the usage and leaving."""
        raise RefusalError(message)


def main() -> int:
    """Returns 0 with a service made, 1 after saying in a line why not, 130 when interrupted."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaving this way removes what is half made
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        if Path(sys.prefix).resolve() != environment.folder_of("new").resolve():
            python = str(environment.ensure("new"))
            os.execv(python, [python, *sys.argv])  # noqa: S606 the interpreter that was just installed
        return new()
    except (RefusalError, environment.InstallError) as error:
        print(*(f"error: {line}" for line in str(error).splitlines()), sep="\n", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130


def new() -> int:
    """Asks, checks, generates and says how to start."""
    questions = Questions(json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8")))
    no_input, given = parse(command_line(), questions)
    out = Path(os.environ.get("OUT") or TEMPLATE.parent).expanduser().absolute()
    answers = questions.answer(given, no_input=no_input, free=lambda slug: target_refusal(out / slug))
    service = out / answers["project_slug"]
    link = Link.of_checkout()
    generate(answers, service, link)
    if not link.commit:
        print(f"{service.name} has no .cruft.json, because {link.why_not}; to link it later: {link.how}")
    print(f"{answers['project_slug']} is in {service}. To start it:")
    print(f"  cd {shlex.quote(str(service))}")
    print("  make install run")
    return 0


# --- answers ---------------------------------------------------------------------------------------------------------


def command_line() -> list[str]:
    """The words after the script's name, or else those of `make new ARGS="..."`, which make hands over untouched."""
    if sys.argv[1:]:
        return sys.argv[1:]
    try:
        return shlex.split(os.environ.get("ARGS", ""))
    except ValueError as error:
        raise RefusalError(
            f"ARGS cannot be split into words: {error}; an apostrophe goes between double quotes"
        ) from error


def parse(words: list[str], questions: "Questions") -> tuple[bool, dict[str, str]]:
    """Splits the command line into whether to ask, and the answers it holds."""
    parser = Arguments(
        prog="make new ARGS=...",
        usage='make new [OUT=folder] [ARGS="[--no-input] [variable=value ...]"]',
        description="Generates a service beside the template, or in OUT. What is not given is asked.",
        epilog=questions.overview(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--no-input", action="store_true", help="take the default where nothing is given")
    flags, values = (
        [word for word in words if word.startswith("-")],
        [word for word in words if not word.startswith("-")],
    )
    for flag in flags:
        if flag not in {"--no-input", "--help", "-h"}:
            raise RefusalError(f"there is no flag {flag}{nearest(flag, ['--no-input', '--help'])}")
    no_input: bool = parser.parse_args(flags).no_input
    given: dict[str, str] = {}
    for word in values:
        variable, separator, value = word.partition("=")
        if not separator:
            raise RefusalError(f"{word!r} is no answer: write variable=value, in quotes where the value holds a space")
        if variable in given:
            raise RefusalError(f"{variable} is given twice: leave one out")
        given[variable] = questions.accepted(variable, value)
    return no_input, given


def nearest(word: str, known: list[str]) -> str:
    """A question that names what was probably meant, or else all there is."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f": did you mean {close[0]}?" if close else f": there is {', '.join(known)}"


class Questions:
    """What cookiecutter.json asks, in its order."""

    def __init__(self, definition: dict[str, Any]) -> None:
        """Takes cookiecutter.json's content."""
        self.definition = definition
        self.prompts: dict[str, Any] = definition["__prompts__"]
        self.variables = {name: value for name, value in definition.items() if not name.startswith("_")}
        self.refusal: Callable[[str, object], str | None] = hook("pre_gen_project").refusal
        self.suggestion: Callable[[str], str] = hook("pre_gen_project").suggestion
        self.shared_refusal: Callable[[str, str, object], str | None] = hook("pre_gen_project").shared_refusal

    def choices(self, variable: str) -> list[str]:
        """What may be chosen; nothing for a variable that takes text."""
        value = self.variables[variable]
        return value if isinstance(value, list) else []

    def label(self, variable: str) -> str:
        """The question in words."""
        prompt = self.prompts[variable]
        return str(prompt["__prompt__"] if isinstance(prompt, dict) else prompt)

    def is_asked(self, variable: str, answers: dict[str, str]) -> bool:
        """Whether a service of the tier that was chosen depends on this answer."""
        first = self.definition["_asked_from"].get(variable)
        tiers = self.choices("scale_tier")
        return first is None or tiers.index(answers["scale_tier"]) >= tiers.index(first)

    def overview(self) -> str:
        """Every variable with its question and its choices."""
        lines = ["variables:"]
        for variable in self.variables:
            choices = self.choices(variable)
            lines.append(f"  {variable:18} {self.label(variable)}{' ' + ', '.join(choices) if choices else ''}")
        return "\n".join(lines)

    def accepted(self, variable: str, value: str) -> str:
        """The answer as the template takes it: of a choice that is given by its number, the name.

        Raises:
            RefusalError: there is no such variable or choice, or no service can be called this.
        """
        if variable not in self.variables:
            raise RefusalError(f"there is no variable {variable!r}{nearest(variable, list(self.variables))}")
        choices = self.choices(variable)
        if choices and value.isdecimal():
            if not 1 <= int(value) <= len(choices):
                raise RefusalError(
                    f"{variable} has no choice {value}: type 1 to {len(choices)}, or {', '.join(choices)}"
                )
            return choices[int(value) - 1]
        if choices and value not in choices:
            raise RefusalError(f"{variable} has no choice {value!r}{nearest(value, choices)}")
        problem = self.refusal(variable, value)
        if problem:
            raise RefusalError(problem)
        return value

    def answer(self, given: dict[str, str], *, no_input: bool, free: Callable[[str], str | None]) -> dict[str, str]:
        """All answers: the given ones and, for the others, what the user types or the default.

        Args:
            given: answers as `accepted` returns them
            no_input: take defaults and ask nothing
            free: says in one line why a slug's folder cannot be made, or returns None
        """
        from cookiecutter.prompt import render_variable
        from cookiecutter.utils import create_env_with_context

        environment = create_env_with_context({"cookiecutter": self.definition})
        answers: dict[str, str] = {}

        def shared(tier: str) -> str | None:
            return self.shared_refusal(answers["project_slug"], tier, self.definition["_tiers"])

        checks = {"project_slug": free, "scale_tier": shared}
        for variable, raw in self.variables.items():
            also = checks.get(variable)
            default = raw[0] if isinstance(raw, list) else render_variable(environment, raw, answers)
            if variable in given:
                answers[variable] = given[variable]
            elif no_input or not self.is_asked(variable, answers):
                answers[variable] = self.accepted(variable, default)
            else:
                if variable == "project_slug" and self.refusal(variable, default):
                    default = self.suggestion(default)
                answers[variable] = self.ask(variable, default, also)
            taken = also(answers[variable]) if also else None
            if taken:
                raise RefusalError(taken)
        return answers

    def ask(self, variable: str, default: str, also: Callable[[str], str | None] | None) -> str:
        """Asks until the answer is good. A choice may be typed as it is shown, and with its variable, as in ARGS."""
        choices = self.choices(variable)
        labels = self.prompts[variable] if choices else {}
        print(self.label(variable))
        for number, choice in enumerate(choices, start=1):
            print(f"  {number}  {labels.get(choice, choice)}")
        shown = {name.casefold(): choice for choice in choices for name in (choice, labels.get(choice, choice))}
        while True:
            try:
                typed = input(f"{'Number or name ' if choices else ''}[{default}]: ").strip()
            except EOFError:
                raise RefusalError(
                    f'nothing more to read where {variable} is asked: ARGS="--no-input" asks nothing'
                ) from None
            try:
                typed = typed.removeprefix(f"{variable}=")
                value = self.accepted(variable, shown.get(typed.casefold(), typed) or default)
            except RefusalError as error:
                print(f"  {error}")
                continue
            problem = also(value) if also else None
            if not problem:
                return value
            print(f"  {problem}")


def hook(name: str) -> ModuleType:
    """A hook of the template as a module; it runs nothing when it is loaded."""
    specification = importlib.util.spec_from_file_location(name, TEMPLATE / "hooks" / f"{name}.py")
    if specification is None or specification.loader is None:
        raise RefusalError(f"this template has no hooks/{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def target_refusal(service: Path) -> str | None:
    """Says in one line why no service can be made at this path, or returns None. Nothing is written."""
    if os.path.lexists(service):
        return f"{service} exists: choose another project_slug, or another folder with OUT="
    parent = nearest_folder(service)
    if not parent.is_dir():
        return f"{parent} is not a folder: choose another with OUT="
    if not os.access(parent, os.W_OK | os.X_OK):
        return f"{parent} cannot be written to: choose another folder with OUT="
    return None


def nearest_folder(path: Path) -> Path:
    """The nearest of a path's parents that exists."""
    return next(parent for parent in path.parents if os.path.lexists(parent))


# --- generation ------------------------------------------------------------------------------------------------------


class Link:
    """What a service remembers of the template, so that cruft can update it: an address and a commit."""

    def __init__(self, address: str, commit: str, *, why_not: str = "", how: str = "") -> None:
        """An empty commit says that there is nothing to remember: `why_not` and `how` then say it in words."""
        self.address = address
        self.commit = commit
        self.why_not = why_not
        self.how = how

    @classmethod
    def of_checkout(cls) -> "Link":
        """Asks git what this checkout is.

        The address is the origin's where the origin has the commit, as the service then updates on every machine, else
        the checkout's own path.
        """
        path = str(TEMPLATE)
        if is_distrusted():
            trust = f"git config --global --add safe.directory {shlex.quote(path)}"
            how = f"run `{trust}`, then `cruft link {shlex.quote(path)}` in it, and give the same answers"
            return cls(path, "", why_not="git does not trust this checkout, which another user owns", how=how)
        if not is_checkout():
            how = "run `cruft link` in it with the template's address, and give the same answers"
            return cls(path, "", why_not="this template is no git checkout", how=how)
        commit = git("rev-parse", "--verify", "--quiet", "HEAD")
        if not commit or git("status", "--porcelain"):
            how = f"commit them, run `cruft link {shlex.quote(path)}` in it, and give the same answers"
            return cls(path, "", why_not="this template has changes that are not committed", how=how)
        origin = git("config", "--get", "remote.origin.url")
        if origin and git("branch", "--remotes", "--list", "origin/*", "--contains", "HEAD"):
            return cls(public(origin), commit)
        return cls(path, commit)


def is_checkout() -> bool:
    """Whether the template is the root of a git checkout, and git is there to be asked."""
    root = git("rev-parse", "--show-toplevel")
    return bool(root) and Path(root).resolve() == TEMPLATE


def is_distrusted() -> bool:
    """Whether git refuses to look at the template because another user owns it."""
    complaint = ask_git("rev-parse").stderr
    return b"dubious ownership" in complaint or b"unsafe repository" in complaint  # the latter is git 2.35's


def git(*arguments: str) -> str:
    """What git answers about the template; nothing where it fails or is not installed."""
    answer = ask_git(*arguments)
    return os.fsdecode(answer.stdout).strip() if answer.returncode == 0 else ""


def ask_git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Runs git on the template, in English; a git that is not installed fails without a word."""
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(TEMPLATE), *arguments]
    try:
        return subprocess.run(command, env={**surroundings, "LC_ALL": "C"}, capture_output=True, check=False)
    except OSError:
        return subprocess.CompletedProcess(command, 127, b"", b"")


def public(address: str) -> str:
    """The address without a user's name and password, and whole where it is a relative path."""
    parts = urlsplit(address)
    if parts.scheme in {"http", "https"}:
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    if not parts.scheme and (TEMPLATE / address).exists():
        return str((TEMPLATE / address).resolve())
    return address


def generate(answers: dict[str, str], service: Path, link: Link) -> None:
    """Makes the service's folder, whole or not at all.

    Raises:
        RefusalError: the template has a mistake, or the disk does not take the service.
    """
    from cookiecutter.exceptions import CookiecutterException
    from cookiecutter.generate import generate_context, generate_files
    from cookiecutter.prompt import prompt_for_config
    from jinja2 import TemplateError

    logging.getLogger("cookiecutter").addHandler(
        logging.NullHandler()
    )  # it would print a hook's failure as a traceback
    logging.getLogger("cookiecutter").propagate = False
    try:
        with tempfile.TemporaryDirectory(prefix=".new-", dir=nearest_folder(service)) as work:
            template = Path(work, "template")
            snapshot(template)
            context = generate_context(context_file=str(template / "cookiecutter.json"), extra_context=answers)
            context["cookiecutter"] = prompt_for_config(context, no_input=True)
            context["cookiecutter"]["_template"] = link.address
            context["cookiecutter"]["_commit"] = link.commit
            made = Path(generate_files(repo_dir=template, context=context, output_dir=work))
            if link.commit:
                (made / ".cruft.json").write_text(cruft_state(link, context), encoding="utf-8")
            service.parent.mkdir(parents=True, exist_ok=True)
            made.rename(service)
    except CookiecutterException as error:
        raise RefusalError(f"{service.name} was not made: {' '.join(str(error).split())}") from error
    except TemplateError as error:
        where = f" ({getattr(error, 'filename', None)}:{getattr(error, 'lineno', None)})"
        raise RefusalError(
            f"{service.name} was not made: the template has a mistake: {error.message}{where}"
        ) from error
    except OSError as error:
        raise RefusalError(f"{service.name} was not made: {error}") from error


def snapshot(target: Path) -> None:
    """Copies the template as git sees it: caches that tools leave in the service's folder are no part of it."""
    parts = ["cookiecutter.json", "hooks", "templates", SERVICE]
    if is_checkout():
        listing = git(
            "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *(f":(literal){p}" for p in parts)
        )
        files = [TEMPLATE / name for name in listing.split("\0") if name]
    else:
        files = [path for part in parts for path in (TEMPLATE / part, *sorted((TEMPLATE / part).rglob("*")))]
        caches = {"__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".venv"}
        files = [path for path in files if not caches & set(path.parts)]
    for path in files:
        if path.is_file():
            copy = target / path.relative_to(TEMPLATE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)


def cruft_state(link: Link, context: dict[str, Any]) -> str:
    """The text of .cruft.json, as `cruft create` would write it."""
    state = {"template": link.address, "commit": link.commit, "checkout": None, "context": context, "directory": None}
    return json.dumps(state, ensure_ascii=False, indent=2, separators=(",", ": ")) + "\n"


if __name__ == "__main__":
    sys.exit(main())
