"""Refuses answers that cannot become a service, each with one line that says what to type instead.

Cookiecutter and cruft render this file and run the copy alone, so it imports nothing of ours; `make new` loads the file
as it is and asks `refusal` about each answer. What an answer may hold is said here and nowhere else.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 whatever Python Cookiecutter runs on, runs this
    sys.exit(
        f"this template needs Python 3.11 or newer, and Cookiecutter runs on {sys.version_info[0]}."
        f"{sys.version_info[1]}: `pipx install --python python3.13 cookiecutter` installs it for another"
    )

# isort: split
import json
import keyword
import re
import unicodedata

LONGEST_NAME = 200
# Kubernetes takes 63 letters, a DNS label; the names and the lines of code that hold a slug need room.
LONGEST_SLUG = 40
SLUG = re.compile(r"[a-z](?:[a-z0-9-]*[a-z0-9])?")

# The sizes of a tier in `_tiers`: whole numbers or not, the least and the greatest that the service can work with.
SIZES: dict[str, tuple[type[int] | type[float], float, float]] = {
    "workers": (int, 1, 256),
    "threads": (int, 1, 1024),
    "replicas": (int, 1, 1000),
    "retention_days": (int, 1, 3650),
    "thresholds.error_ratio": (float, 0.0001, 1),
    "thresholds.error_budget": (float, 0.0001, 1),
    "thresholds.latency_seconds": (float, 0.001, 60),
    "thresholds.probe_seconds": (float, 0.001, 60),
    "thresholds.saturation_ratio": (float, 0.01, 1),
}

# What starts and ends code in this template's files. Spelt in halves, for this file is one of them.
DELIMITERS = tuple(
    first + second for first, second in (("<", "<"), (">", ">"), ("<", "%"), ("%", ">"), ("<", "#"), ("#", ">"))
)

# Embeddings, overrides and isolates: they show nothing and reorder the text around them.
REORDERING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
BYTE_ORDER_MARK = "\ufeff"

# Modules that only some of Python 3.11 to 3.14 have: the service runs on each, whichever runs this.
CHANGING_STANDARD_LIBRARY = """
    aifc annotationlib asynchat asyncore audioop cgi cgitb chunk compression crypt distutils imghdr imp lib2to3 mailcap
    msilib nis nntplib ossaudiodev pipes smtpd sndhdr spwd sunau telnetlib uu xdrlib
"""

# What a service installs, with hyphens as underscores; a test compares this with the service's constraints.txt.
DEPENDENCIES = """
    alembic annotated_types ast_serialize async_timeout attrs blinker cachelib certifi charset_normalizer click
    colorama execnet flask flask_migrate flask_sqlalchemy gunicorn hatchling idna iniconfig itsdangerous jinja2
    jsonschema jsonschema_specifications librt mako markupsafe mypy mypy_extensions orjson packaging pathspec
    pluggy prometheus_client prometheus_flask_exporter promql_parser psutil psycopg psycopg_binary pydantic
    pydantic_core pydantic_settings pygments pytest pytest_xdist python_dotenv pyyaml redis referencing requests rpds_py
    ruff sentry_sdk sqlalchemy structlog tomlkit trove_classifiers types_jsonschema types_psutil types_pyyaml
    types_requests typing_extensions typing_inspection tzdata urllib3 werkzeug
"""

# Other names that these, and the tracing of large services, are imported under; and the installers.
IMPORTED = """
    attr dotenv google mypyc opentelemetry pip pkg_resources rpds setuptools uv wheel xdist yaml
"""

# What the platform and every service's own containers are called on the network that services share, and the jobs that
# Prometheus has beside those of services.
SHARED = """
    blackbox cadvisor fluent-bit grafana kube-state-metrics loki migration node node-exporter postgres service services
"""


def visible(text: str) -> bool:
    """Whether a reader sees anything at all."""
    return any(unicodedata.category(character)[0] not in "CZ" for character in text)


def unwanted(character: str) -> str | None:
    """What makes a character one that some file format, or a reader of it, cannot be trusted with; None if nothing."""
    category = unicodedata.category(character)
    if character in "\n\r\x85\u2028\u2029":
        return "a line break"
    if category == "Cc":
        return "a control character"
    if category == "Cs":
        return "half a character: the terminal's encoding is not the one that this text was typed in"
    if character in REORDERING:
        return "a mark that reorders the text around it"
    if character == BYTE_ORDER_MARK or ord(character) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(character) <= 0xFDEF:
        return "no character"
    return None


def name_refusal(variable: str, value: str) -> str | None:
    """Says in one line why a project or team cannot be called this, or returns None."""
    if not visible(value):
        return (
            f"{variable} is empty: type a name, for example {variable}={'Orders' if variable != 'team' else 'platform'}"
        )
    for position, character in enumerate(value, start=1):
        if problem := unwanted(character):
            rest = " ".join("".join(" " if unwanted(each) else each for each in value).split())
            return (
                f"{variable}: character {position} is U+{ord(character):04X}, {problem}; a name is one line of text: "
                f"type {rest[:LONGEST_NAME]!r}"
            )
    for delimiter in DELIMITERS:
        if delimiter in value:
            return (
                f"{variable} holds {delimiter}, which the template's own files use as a mark; any other text may stand "
                f"in a name: type {value.replace(delimiter, delimiter[0] + ' ' + delimiter[1])!r}"
            )
    if len(value) > LONGEST_NAME:
        return f"{variable} has {len(value)} characters: type at most {LONGEST_NAME}"
    return None


def package_of(slug: str) -> str:
    """The Python package that a slug names."""
    return slug.replace("-", "_")


def taken_by(slug: str) -> str | None:
    """What has this name already, where the service would be mistaken for it."""
    name = package_of(re.sub("-+", "-", slug))
    if keyword.iskeyword(name):
        return "a Python keyword"
    if name in sys.stdlib_module_names or name in CHANGING_STANDARD_LIBRARY.split():
        return "a module of Python's standard library"
    if name in DEPENDENCIES.split() or name in IMPORTED.split():
        return "a package that the service depends on"
    if name in {"conftest", "migrations", "tests"}:
        return "a folder or module of every service"
    if name in {"y", "yes", "n", "no", "on", "off", "true", "false", "null"}:
        return "something else than text in YAML"
    if name == "kubernetes":
        return "the Service through which Kubernetes itself is reached"
    if name in {"alertmanager", "prometheus", "uptime"}:
        return "a job that Prometheus has beside the service's"
    return None


def suggestion(text: str) -> str:
    """The acceptable slug nearest to a text."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    slug = re.sub("[^a-z0-9]+", "-", plain).strip("-")
    if not slug[:1].isalpha():
        slug = f"service-{slug}".strip("-")
    slug = slug[:LONGEST_SLUG].rstrip("-")
    return f"{slug}-service" if taken_by(slug) else slug


def slug_refusal(slug: str) -> str | None:
    """Says in one line why a slug is not one, or returns None."""
    instead = f"type for example project_slug={suggestion(slug)}"
    if not SLUG.fullmatch(slug) or len(slug) > LONGEST_SLUG:
        return (
            f"project_slug {slug!r} is no host name to be used here: a letter, then lower-case letters, digits "
            f"and hyphens, no hyphen at the end, at most {LONGEST_SLUG} characters; {instead}"
        )
    if owner := taken_by(slug):
        return f"project_slug {slug!r} is the name of {owner}; {instead}"
    return None


def shared_refusal(slug: str, tier: str, tiers: object) -> str | None:
    """Says in one line why a service of this tier, whose platform others share, cannot be called this, or None."""
    features = tiers.get(tier, {}).get("features", []) if isinstance(tiers, dict) else []
    if "platform" not in features or re.sub("-+", "-", slug) not in SHARED.split():
        return None
    return (
        f"project_slug {slug!r} is a name that the platform has itself, which {tier} services share; type for example "
        f"project_slug={slug}-service"
    )


def size_refusal(path: str, value: object, kind: type[int] | type[float], least: float, greatest: float) -> str | None:
    """Says in one line why this is no size of a tier, or returns None."""
    allowed = f"type a {'whole ' if kind is int else ''}number from {least:g} to {greatest:g}"
    if isinstance(value, bool) or not isinstance(value, (int, kind)):
        return f"{path} is {shown(value)}, which is no {'whole ' if kind is int else ''}number: {allowed}"
    if not least <= value <= greatest:
        return f"{path} is {value}: {allowed}"
    return None


def shown(value: object) -> str:
    """A value of a tier, fit for one line; what is not there is "missing"."""
    return "missing" if value is None else json.dumps(value)[:80]


def tiers_refusal(tiers: object) -> list[str]:
    """Says, in a line each, what in the table of the tiers cannot be a size."""
    if not isinstance(tiers, dict):
        return [f"_tiers is {shown(tiers)}, which is no table: leave it as cookiecutter.json has it"]
    lines = []
    for tier, sizes in tiers.items():
        for name, limits in SIZES.items():
            value: object = sizes
            for key in name.split("."):
                value = value.get(key) if isinstance(value, dict) else None
            if line := size_refusal(f"_tiers.{tier}.{name}", value, *limits):
                lines.append(line)
    return lines


def refusal(variable: str, value: object) -> str | None:
    """Says in one line what is wrong with an answer and what to type instead; None where the answer is good.

    Choices are not looked at: Cookiecutter takes only what cookiecutter.json lists.
    """
    if variable not in {"project_name", "project_slug", "team"}:
        return None
    if not isinstance(value, str):
        return f"{variable} is {value!r}, which is not text: put it in quotes"
    return slug_refusal(value) if variable == "project_slug" else name_refusal(variable, value)


def main() -> int:
    """Prints what is wrong with the answers that Cookiecutter rendered into this copy; 1 if anything is."""
    rendered = r"""<< cookiecutter | tojson >>"""
    if not rendered.startswith("{"):
        print(
            "this template needs Cookiecutter 2.6 or newer, and this one is older: `pipx install cookiecutter` brings "
            "the newest; `make new` in a clone of the template needs none",
            file=sys.stderr,
        )
        return 1
    answers = json.loads(rendered)
    refusals = [line for variable, value in answers.items() if (line := refusal(variable, value))]
    refusals += tiers_refusal(answers.get("_tiers"))
    if line := shared_refusal(answers["project_slug"], answers["scale_tier"], answers.get("_tiers")):
        refusals.append(line)
    for line in refusals:
        print(line, file=sys.stderr)
    return 1 if refusals else 0


if __name__ == "__main__":
    sys.exit(main())
