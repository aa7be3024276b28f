"""Answers that are refused, and the line that says what to type instead."""

import ast
import importlib.util
import json
import keyword
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest
from template_checkout import DEFINITION, ROOT, SERVICE, Generate, generate_with_cookiecutter, run

LONG = 200


def load_hook() -> ModuleType:
    """The hook as `make new` loads it: unrendered, and without running it."""
    specification = importlib.util.spec_from_file_location("pre_gen_project", ROOT / "hooks" / "pre_gen_project.py")
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


HOOK = load_hook()

REFUSED = {
    "an empty name": ("project_name", "", "project_name is empty: type a name"),
    "a name of spaces": ("project_name", "  \u3000 ", "project_name is empty"),
    "a name that shows nothing": ("team", "\u200b\u200d", "team is empty"),
    "a line break": ("project_name", "Order\nService", "character 6 is U+000A, a line break"),
    "a carriage return": ("team", "pay\rments", "character 4 is U+000D, a line break"),
    "a line separator": ("project_name", "Order\u2028Service", "U+2028, a line break; a name is one line of text"),
    "a paragraph separator": ("project_name", "Order\u2029", "type 'Order'"),
    "a tab": ("project_name", "Order\tService", "U+0009, a control character"),
    "a null": ("project_name", "Order\0", "U+0000, a control character"),
    "an escape sequence": ("team", "\x1b[31mred", "U+001B, a control character"),
    "a delete": ("team", "a\x7f", "U+007F, a control character"),
    "a next line of C1": ("team", "a\x85b", "U+0085, a line break"),
    "half an emoji": ("project_name", "Orders \ud83d", "U+D83D, half a character"),
    "a byte that is not UTF-8": ("project_name", "Orders \udcff", "U+DCFF, half a character"),
    "text that runs backwards": ("project_name", "Order \u202eecivreS", "U+202E, a mark that reorders the text"),
    "an isolate": ("team", "a\u2067b", "U+2067, a mark that reorders the text"),
    "a byte order mark": ("project_name", "\ufeffOrders", "U+FEFF, no character"),
    "a noncharacter": ("project_name", "Orders\uffff", "U+FFFF, no character"),
    "a name that is an expression": ("project_name", "<< 7*7 >>", "project_name holds <<"),
    "a name that ends one": ("project_name", "a >> b", "project_name holds >>"),
    "a name that is a statement": ("team", "a <% if", "team holds <%"),
    "a name that ends a statement": ("team", "100 %>", "team holds %>"),
    "a name that is a comment": ("team", "<# a", "team holds <#"),
    "a name that ends a comment": ("team", "C #>", "type 'C # >'"),
    "a name without an end": ("project_name", "x" * (LONG + 1), "has 201 characters: type at most 200"),
    "a number where text is asked": ("project_name", 2024, "project_name is 2024, which is not text"),
    "an empty slug": ("project_slug", "", "project_slug=service"),
    "capitals": ("project_slug", "Order-Service", "project_slug=order-service"),
    "an underscore": ("project_slug", "order_service", "project_slug=order-service"),
    "a space": ("project_slug", "order service", "project_slug=order-service"),
    "a dot": ("project_slug", "order.service", "a letter, then lower-case letters, digits and hyphens"),
    "a leading digit": ("project_slug", "3d-print", "project_slug=service-3d-print"),
    "a leading hyphen": ("project_slug", "-orders", "project_slug=orders"),
    "a closing hyphen": ("project_slug", "orders-", "no hyphen at the end"),
    "a closing line break": ("project_slug", "orders\n", "project_slug 'orders\\n'"),
    "a path": ("project_slug", "../orders", "project_slug=orders"),
    "accents": ("project_slug", "commandes-passées", "project_slug=commandes-passees"),
    "digits of another script": ("project_slug", "order-٣", "project_slug=order"),
    "41 characters": ("project_slug", "a" * 41, "at most 40 characters"),
    "Python's keyword": (
        "project_slug",
        "class",
        "the name of a Python keyword; type for example project_slug=class-service",
    ),
    "the standard library": ("project_slug", "logging", "a module of Python's standard library"),
    "what 3.12 dropped": ("project_slug", "distutils", "a module of Python's standard library"),
    "what 3.14 brought": ("project_slug", "annotationlib", "a module of Python's standard library"),
    "a dependency": ("project_slug", "flask", "a package that the service depends on"),
    "a dependency of two words": ("project_slug", "prometheus-client", "project_slug=prometheus-client-service"),
    "a dependency's other spelling": ("project_slug", "prometheus--client", "a package that the service depends on"),
    "the service's own folder": ("project_slug", "tests", "a folder or module of every service"),
    "a watcher's job": ("project_slug", "prometheus", "type for example project_slug=prometheus-service"),
    "YAML's no": ("project_slug", "no", "the name of something else than text in YAML"),
    "YAML's nothing": ("project_slug", "null", "project_slug=null-service"),
    "Kubernetes' own Service": ("project_slug", "kubernetes", "through which Kubernetes itself is reached"),
}


@pytest.mark.parametrize(("variable", "value", "line"), REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_answer_is_refused_in_one_line_that_says_what_to_type(variable: str, value: object, line: str) -> None:
    said = HOOK.refusal(variable, value)
    assert said is not None
    assert line in said
    assert variable in said
    assert said.isprintable(), "no control character of the answer reaches the terminal"


@pytest.mark.parametrize(("variable", "value", "line"), REFUSED.values(), ids=REFUSED.keys())
def test_the_suggested_slug_is_accepted(variable: str, value: object, line: str) -> None:
    del variable, line
    assert HOOK.refusal("project_slug", HOOK.suggestion(str(value))) is None


def test_no_service_is_named_like_a_keyword_or_a_standard_module() -> None:
    for word in (*keyword.kwlist, *sys.stdlib_module_names):
        slug = word.replace("_", "-")
        assert HOOK.refusal("project_slug", slug) is not None, slug
        assert HOOK.refusal("project_slug", HOOK.suggestion(slug)) is None, slug


def test_no_service_is_named_like_what_it_installs() -> None:
    lines = (ROOT / SERVICE / "constraints.txt").read_text().splitlines()
    distributions = {line.partition("==")[0] for line in lines if "==" in line and "<%" not in line}
    accepted = sorted(name for name in distributions if not HOOK.taken_by(name))
    assert not accepted, f"add these to DEPENDENCIES in hooks/pre_gen_project.py: {' '.join(accepted)}"


@pytest.mark.parametrize("slug", HOOK.SHARED.split())
def test_a_name_of_the_platform_is_refused_where_services_share_one(slug: str) -> None:
    assert HOOK.refusal("project_slug", slug) is None
    assert HOOK.shared_refusal(slug, "small", DEFINITION["_tiers"]) is None
    for tier in ("medium", "large"):
        said = HOOK.shared_refusal(slug, tier, DEFINITION["_tiers"])
        assert f"type for example project_slug={slug}-service" in said
        assert HOOK.shared_refusal(f"{slug}-service", tier, DEFINITION["_tiers"]) is None


@pytest.mark.parametrize(("tier", "made"), [("small", True), ("medium", False)])
def test_a_name_of_the_platform_makes_a_small_service_and_no_other(
    template: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], tier: str, made: bool
) -> None:
    with nullcontext() if made else pytest.raises(Exception, match="Hook script failed"):
        generate_with_cookiecutter(template, tmp_path / "out", project_slug="grafana", scale_tier=tier)
    assert ("project_slug 'grafana' is a name that the platform has itself" in capfd.readouterr().err) != made
    assert (tmp_path / "out" / "grafana").exists() == made


ACCEPTED = {
    "one letter": ("project_slug", "a"),
    "40 characters": ("project_slug", "a" * 40),
    "hyphens and digits": ("project_slug", "order--service-2"),
    "200 emoji": ("project_name", "👩" * LONG),
    "a family of joined emoji": ("project_name", "👩‍👩‍👧 Family"),
    "a right-to-left mark": ("project_name", "خدمة\u200f (1)"),
    "spaces around": ("project_name", " Orders "),
    "single halves of the marks": ("project_name", "a < b > c % d # e"),
}


@pytest.mark.parametrize(("variable", "value"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_an_unusual_answer_is_accepted(variable: str, value: str) -> None:
    assert HOOK.refusal(variable, value) is None


# Cookiecutter makes a folder of the slug before any hook runs, so a path is refused only by `make new`.
THROUGH_COOKIECUTTER = ["a line break", "half an emoji", "a name that shows nothing", "capitals", "a dependency"]


@pytest.mark.parametrize("case", THROUGH_COOKIECUTTER)
def test_cookiecutter_refuses_it_too_and_leaves_nothing(template: Path, tmp_path: Path, case: str) -> None:
    variable, value, line = REFUSED[case]
    settings = json.dumps({"default_context": {variable: value}, "replay_dir": str(tmp_path / "replay")})
    (tmp_path / "settings.yaml").write_text(settings)
    out = tmp_path / "out"
    out.mkdir()
    said = run(
        sys.executable, "-m", "cookiecutter", "--no-input", "--config-file", tmp_path / "settings.yaml",
        "--output-dir", out, template, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert said.returncode != 0
    assert line in said.stderr
    assert not list(out.iterdir())


def test_all_that_is_wrong_is_said_at_once(template: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match="Hook script failed"):
        generate_with_cookiecutter(template, tmp_path, project_name="a\tb", team="", project_slug="A")
    said = capfd.readouterr().err
    assert [line for line in said.splitlines() if line.startswith(("project_name", "team", "project_slug"))]
    assert "project_name: character 2" in said
    assert "team is empty" in said
    assert "project_slug 'A'" in said


DERIVED = {
    "Order Service": "order-service",
    "Müller & Söhne": "muller-sohne",
    "3D Printing": "service-3d-printing",
    "👩‍👩‍👧": "service",
    "!!!": "service",
    "x" * LONG: "x" * 40,
    "7" * LONG: "service-" + "7" * 32,
    "a very long name of a service that goes on for quite a while": "a-very-long-name-of-a-service-that-goes",
    "خدمة الطلبات": "khdm-ltlbt",
}


@pytest.mark.parametrize("name", DERIVED, ids=DERIVED.values())
def test_the_default_slug_is_one_that_is_accepted(name: str, service: Generate) -> None:
    assert service(project_name=name).name == DERIVED[name]


# --- programs that are too old ---------------------------------------------------------------------------------------


def hook_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str = "") -> str:
    """The one line of the hook, run unrendered: a Cookiecutter that is too old knows no other marks than `{{ }}`."""
    (tmp_path / "sitecustomize.py").write_text(change)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    said = run(sys.executable, ROOT / "hooks" / "pre_gen_project.py", cwd=tmp_path, check=False)
    assert said.returncode == 1
    (line,) = said.stderr.splitlines()
    return line


def test_a_cookiecutter_that_is_too_old_is_told_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = hook_says(tmp_path, monkeypatch)
    assert said.startswith("this template needs Cookiecutter 2.6 or newer, and this one is older: `pipx install ")


def test_a_python_that_is_too_old_for_the_hook_is_told_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = hook_says(tmp_path, monkeypatch, "import sys\nsys.version_info = (3, 9, 2, 'final', 0)\n")
    assert said.startswith("this template needs Python 3.11 or newer, and Cookiecutter runs on 3.9: `pipx install ")
    ast.parse((ROOT / "hooks" / "pre_gen_project.py").read_text(), feature_version=(3, 8))


@pytest.mark.real
@pytest.mark.parametrize("version", ["1.7.3", "2.1.1", "2.5.0"])
def test_an_old_cookiecutter_says_which_it_should_be_and_leaves_nothing(
    template: Path, tmp_path: Path, version: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    packages = ["--python", sys.executable, "--from", f"cookiecutter=={version}", "--with", "setuptools<80"]
    uvx = Path(sys.executable).parent / "uvx"
    said = run(uvx, "--quiet", *packages, "cookiecutter", "--no-input", template, cwd=out, check=False)
    (line,) = said.stderr.splitlines()
    assert said.returncode == 1
    assert line.startswith("this template needs Cookiecutter 2.6 or newer")
    assert not list(out.iterdir())
