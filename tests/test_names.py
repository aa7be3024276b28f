"""Names that people type and paste: a project and a team may be called any of these, and every file stays valid."""

import ast
import html
import json
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml
from cookiecutter.utils import create_env_with_context
from formats import inline, markdown, parse_all, plain
from jinja2 import FileSystemLoader
from template_checkout import DEFINITION, ROOT, Generate, run, tree
from test_answers import HOOK

NAMES = {
    "apostrophe": "Ali's orders",
    "double quotes": 'The "best" orders',
    "more double quotes": '"' * 3 + "orders" + '"' * 4,
    "more apostrophes": "'" * 3 + "orders" + "'" * 4,
    "all quotes": """'"`’“”«»'""",
    "backslashes": "C:\\new\\table \\u0041 \\",
    "a closing backslash": "orders\\",
    "braces": "{orders} {{ orders }} {% orders %} {# orders #}",
    "half a brace": "orders {{",
    "interpolations": "${orders} $orders $$ %{orders} %(orders)s %s %% $(orders) #{orders}",
    "percent": "100% of 5 % %",
    "comment signs": "# orders // orders -- orders /* orders */ ; orders",
    "a colon": "orders: yes",
    "a list": "- orders",
    "a number": "007",
    "a leading digit": "3D orders",
    "a numbered list": "1. orders",
    "a boolean": "no",
    "nothing": "null",
    "an alias": "*orders &orders !orders @orders |orders >orders",
    "brackets": "[orders](orders) <b>orders</b> <!-- orders --> &amp; &lt;",
    "a script": "</script><script>alert(1)</script></title>",
    "emphasis": "__orders__ **orders** ~~orders~~ `orders` ``orders``",
    "a table": "orders | orders || orders",
    "a heading": "# orders #",
    "mathematics": "$a$ $$b$$",
    "accents": "Übergrößenträger à la façon ñ",
    "combining accents": "e\u0301 o\u0302",
    "Arabic": "خدمة الطلبات",
    "Hebrew": "שירות ההזמנות",
    "both directions": "Orders שירות (2) \u200f",
    "Chinese": "订单服务",
    "Cyrillic": "Служба заказов",
    "emoji": "Orders 👩‍👩‍👧 🏴󠁧󠁢󠁥󠁮󠁧󠁿 🚀",
    "emoji alone": "🚀",
    "mathematical letters": "𝕆𝕣𝕕𝕖𝕣𝕤",
    "a space that does not break": "Orders\u00a0Service",
    "a space of no width": "Orders\u200bService",
    "spaces around": "  Orders  ",
    "200 letters": "x" * 200,
    "200 emoji": "🚀" * 200,
    "200 quotes": '"' * 200,
    "200 words": "a " * 99 + "bc",
    "a question": "Orders? Yes! * ~ ^",
    "an address": "https://example.com/?a=b&c=d",
    "mail": "Orders <orders@example.com>",
    "an option": "--no-input",
    "a keyword": "import this",
    "a dunder": "__init__",
}
NAMES["all signs"] = " ".join(NAMES[case] for case in ("all quotes", "braces", "interpolations", "an option"))


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_any_name_leaves_every_file_valid_and_is_kept_as_typed(service: Generate, name: str) -> None:
    made = service(project_name=name, team=name, project_slug="ledger", scale_tier="large")
    parsed = parse_all(made)
    assert parsed["pyproject.toml"]["project"]["description"] == name
    assert list(tree(made)) == list(tree(service(project_slug="ledger", scale_tier="large")))


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_any_name_heads_the_readme_as_typed(service: Generate, name: str) -> None:
    made = service(project_name=name, team=name, project_slug="ledger", scale_tier="large")
    tokens = markdown((made / "README.md").read_text(encoding="utf-8"))
    assert plain(tokens[1]) == name.strip()


def test_any_name_passes_the_services_own_style(service: Generate) -> None:
    """Ruff reads strings too: it has rules about quotes, line lengths and letters that look like others."""
    services = [
        service(project_name=name, team=name, project_slug="ledger", scale_tier="large") for name in NAMES.values()
    ]
    services += [service(project_slug=slug, scale_tier="large") for slug in SLUGS]
    for command in ("check", "--quiet", "--output-format=concise"), ("format", "--check", "--quiet"):
        said = run(sys.executable, "-m", "ruff", *command, "--no-cache", *services, cwd=services[0], check=False)
        assert said.returncode == 0, said.stdout[:2000]


LONGEST_SLUG = "a" * HOOK.LONGEST_SLUG

SLUGS = [
    "a",
    LONGEST_SLUG,
    "x1",
    "a--b",
    "app",
    "orders",
    "observability",
    "default",
    "metrics",
    "flask-app",
    "api",
]


@pytest.mark.parametrize("slug", SLUGS)
def test_any_accepted_slug_leaves_every_file_valid(service: Generate, slug: str) -> None:
    made = service(project_slug=slug, scale_tier="large")
    project = parse_all(made)["pyproject.toml"]["project"]
    assert project["name"] == made.name == slug
    assert (made / "src" / slug.replace("-", "_")).is_dir()


@pytest.mark.parametrize("slug", HOOK.SHARED.split())
def test_a_small_service_may_have_a_name_that_others_share(service: Generate, slug: str) -> None:
    assert parse_all(service(project_slug=slug))["pyproject.toml"]["project"]["name"] == slug


def names_of(made: Path) -> dict[str, str]:
    """The names of a service that are shared with others: on a machine, in a Grafana, in a cluster."""
    unit = (made / f"deploy/systemd/{made.name}.service").read_text(encoding="utf-8")
    found = dict(re.findall(r"^(User)=(.+)$", unit, re.MULTILINE))
    for file in (made / "monitoring/grafana/dashboards").glob("*.json"):
        found[file.name] = json.loads(file.read_text(encoding="utf-8"))["uid"]
    compose = yaml.safe_load((made / "compose.yaml").read_text(encoding="utf-8"))
    found |= {"Compose": compose["name"], "image": compose["services"]["service"]["image"]}
    job = yaml.safe_load((made / "deploy/kubernetes/migration/job.yaml").read_text(encoding="utf-8"))
    return found | {"job": job["metadata"]["name"]}


LONGEST = {"User": 31, "service.json": 40, "orders.json": 40, "job": 63}
"""Of systemd, Grafana and Kubernetes."""


def test_two_services_that_begin_alike_keep_two_of_each_name(service: Generate) -> None:
    begin = "payments-of-our-customers-in-the-"  # 33 letters
    assert len(begin) == 33
    one, other = (names_of(service(project_slug=f"{begin}{end}")) for end in ("east", "north"))
    assert one.keys() == other.keys() > LONGEST.keys()
    for what in one:
        assert one[what] != other[what]
        assert len(one[what]) <= LONGEST.get(what, 128)
    # Whoever reads one knows the service, and an update of the template changes none.
    assert one["service.json"] == "payments-of-our-customers-8a0fbb-service"
    assert one["User"] == "svc-payments-of-our-cust-8a0fbb"


def test_only_a_name_that_is_too_long_gets_a_checksum() -> None:
    environment = create_env_with_context({"cookiecutter": DEFINITION})
    environment.loader = FileSystemLoader(ROOT / "templates")
    within = environment.get_template("quote.j2").module.within
    assert within(27, "a" * 27) == "a" * 27
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    cut = {str(within(27, f"{'x' * 20}{one}-{other}-{'y' * 16}")) for one in letters for other in letters}
    assert len(cut) == len(letters) ** 2
    assert all(re.fullmatch(r"x{20}-[0-9a-f]{6}", name) for name in cut)


# --- the quoting macros ----------------------------------------------------------------------------------------------


def quoted(form: str, name: str) -> str:
    """What a macro of templates/quote.j2 makes of a name."""
    environment = create_env_with_context({"cookiecutter": DEFINITION})
    environment.loader = FileSystemLoader(ROOT / "templates")
    opening, closing = "<" * 2, ">" * 2
    source = f'<% import "quote.j2" as quote %>{opening} quote.{form}(name) {closing}'
    return str(environment.from_string(source).render(name=name))


def read_markdown(text: str) -> str:
    """What a reader sees of a paragraph that holds nothing but text."""
    tokens = markdown(f"{text}\n")
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert {token.type for token in inline(tokens)} <= {"text", "text_special", "softbreak"}
    return plain(tokens[1])


def read_hcl(text: str) -> str:
    """An HCL string's value; python-hcl2 parses it and leaves the escapes in, which are undone here."""
    literal: str = hcl2.loads(f"name = {text}\n")["name"][1:-1]
    assert not re.search(r"(?<!\$)\$\{|(?<!%)%\{", literal), "an interpolation"
    return re.sub(r"\\(.)", r"\1", literal.replace("$${", "${").replace("%%{", "%{"))


def read_html(text: str) -> str:
    """What a browser makes of text or an attribute, once Jinja has found nothing in it to do."""
    assert not set(text) & set("{<>\"'")
    return html.unescape(text)


def read_go_template(text: str) -> str:
    """What a Go template makes of a YAML string in which a raw string literal is all that it has to do."""
    value: str = yaml.safe_load(text)
    literals = re.compile(r"\{\{`([^`]*)`\}\}")
    assert "{{" not in literals.sub("", value), "an action"
    return literals.sub(lambda found: found[1], value)


READ: dict[str, Any] = {
    "go_template": read_go_template,
    "yaml": yaml.safe_load,
    "json": json.loads,
    "toml": lambda text: tomllib.loads(f"name = {text}")["name"],
    "hcl": read_hcl,
    "python": ast.literal_eval,
    "shell": lambda text: " ".join(shlex.split(text)),
    "html": read_html,
    "markdown": read_markdown,
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_a_macro_writes_what_its_format_reads_back(name: str) -> None:
    for form, read in READ.items():
        expected = name.strip() if form == "markdown" else name
        assert read(quoted(form, expected)) == expected, form


def test_the_hook_cannot_be_broken_by_a_name(service: Generate) -> None:
    """The answers stand in the hooks' source between quotes."""
    for name in ['"""', '\\"""', '"""\\', "\\", "\\\\", '\\\\"""', "'''", '""" + __import__("os").abort() + """', '"']:
        assert service(project_name=name, team=name, project_slug="ledger").name == "ledger"


@pytest.mark.real
@pytest.mark.parametrize("case", ["all signs", "200 emoji"])
def test_a_service_with_a_hostile_name_installs_and_passes(service: Generate, tmp_path: Path, case: str) -> None:
    made = tmp_path / "ledger"
    shutil.copytree(
        service(project_name=NAMES[case], team=NAMES[case], project_slug="ledger", scale_tier="large"), made
    )
    run("make", "install", cwd=made)
    said = run("make", "test", cwd=made).stdout
    assert re.search(r"\d+ passed", said)
    run("make", "lint", cwd=made)
