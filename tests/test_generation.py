"""What is generated: exactly the files of the tier and the options, each valid, none with a trace of the template."""

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from formats import parse_all, read_toml
from template_checkout import (
    DEFINITION,
    OPTIONS,
    ROOT,
    SERVICE,
    TIERS,
    Generate,
    combinations,
    copy_template,
    generate_with_cookiecutter,
    run,
    tree,
)

MANIFEST: dict[str, list[str]] = yaml.safe_load((ROOT / "tests" / "manifest.yaml").read_text())


def expected_files(answers: dict[str, str]) -> set[str]:
    """The files that the manifest lists for a set of answers."""
    tiers = TIERS[: TIERS.index(answers["scale_tier"]) + 1]
    features = DEFINITION["_tiers"][answers["scale_tier"]]["features"]
    chosen = {"every service", *tiers, *features, *(f"{option}={value}" for option, value in answers.items())}
    return {name for key, names in MANIFEST.items() if chosen.issuperset(key.split(" & ")) for name in names}


def test_the_manifest_names_features_and_options_that_exist() -> None:
    features = {feature for tier in DEFINITION["_tiers"].values() for feature in tier["features"]}
    options = {f"{option}={value}" for option, values in OPTIONS.items() for value in values}
    assert {part for key in MANIFEST for part in key.split(" & ")} <= {"every service", *TIERS, *features, *options}


def test_the_files_are_exactly_those_that_the_manifest_lists(service: Generate, answers: dict[str, str]) -> None:
    names = tree(service(**answers))
    made = {name.replace("src/order_service/", "src/PACKAGE/").replace("order-service", "SLUG") for name in names}
    assert made == expected_files(answers)


def test_every_file_is_valid_in_its_format(service: Generate, answers: dict[str, str]) -> None:
    parse_all(service(**answers))


def test_every_choice_is_generated_by_some_test() -> None:
    for option, values in OPTIONS.items():
        assert {answers[option] for answers in combinations()} == set(values), option


def test_the_defaults_need_no_answer(service: Generate) -> None:
    made = service()
    assert made.name == "order-service"
    assert tree(made) == tree(service(**{option: values[0] for option, values in OPTIONS.items()}))


DELIMITERS = {
    "the start of an expression": "<" * 2,
    "the start of a statement": "<" + "%",
    "the end of a statement": "%" + ">",
    "the start of a comment": "<" + "#",
    "the end of a comment": "#" + ">",
}


@pytest.mark.parametrize("delimiter", DELIMITERS.values(), ids=DELIMITERS.keys())
def test_no_delimiter_is_left_over(service: Generate, delimiter: str) -> None:
    for answers in combinations():
        for name, content in tree(service(**answers)).items():
            assert delimiter.encode() not in content, name
            assert delimiter not in name


TRACES = re.compile(r"(?i)\bcookiecutter\b|\bcruft\b|scale[ _]tier|\b(the|this|a|our) template\b(?! (file|tag))")


def test_no_line_tells_of_the_template(service: Generate) -> None:
    for answers in combinations():
        for name, content in tree(service(**answers)).items():
            lines = [line for line in content.decode("utf-8", "replace").splitlines() if TRACES.search(line)]
            assert not lines, f"{name}: {lines}"


# Words that only a service with that choice has reason to hold. What is redacted may look like anybody's secret.
WORDS = {
    "cache=redis": r"redis",
    "database=postgresql": r"postgres|psycopg|sqlalchemy|database_url",
    "paging=pagerduty": r"pagerduty",
    "paging=slack": r"slack",
    "telemetry_backend=grafana": r"\bloki\b|logql",
    "telemetry_backend=elastic": r"elastic|kibana",
    "telemetry_backend=aws": r"cloudwatch",
    "telemetry_backend=gcp": r"google.cloud|google_",
    "telemetry_backend=datadog": r"datadog",
    "telemetry_backend=newrelic": r"new.?relic",
    "telemetry_backend=splunk": r"splunk",
    "uptime_monitor=blackbox": r"blackbox",
    "uptime_monitor=pingdom": r"pingdom",
    "uptime_monitor=statuscake": r"statuscake",
    "uptime_monitor=uptimerobot": r"uptimerobot",
    "web_analytics=plausible": r"plausible",
    "web_analytics=google_analytics": r"google.?analytics|googletagmanager",
}
ABOUT_SECRETS = re.compile(r"redaction|secrets")
ADDRESS_WITH_PASSWORD = re.compile(r"\w+://[^ /]*:[^ /]*@")


@pytest.mark.parametrize("choice", WORDS)
def test_nothing_is_left_of_an_option_that_was_not_chosen(service: Generate, choice: str) -> None:
    option, _, value = choice.partition("=")
    word = re.compile(WORDS[choice], re.IGNORECASE)
    others = [other for other in OPTIONS[option] if other != value]
    for tier in TIERS:
        for other in others:
            for name, content in tree(service(scale_tier=tier, **{option: other})).items():
                lines = [line for line in content.decode().splitlines() if word.search(line)]
                lines = [line for line in lines if not ADDRESS_WITH_PASSWORD.search(line)]
                assert not lines or ABOUT_SECRETS.search(name), f"{name}: {lines}"
                assert not word.search(name)


def test_the_same_answers_give_the_same_bytes(service: Generate, template: Path, tmp_path: Path) -> None:
    for tier in TIERS:
        out = tmp_path / tier
        out.mkdir()
        again = generate_with_cookiecutter(template, out, scale_tier=tier)
        assert tree(again) == tree(service(scale_tier=tier))
        modes = {path.relative_to(again): path.stat().st_mode for path in again.rglob("*")}
        first = service(scale_tier=tier)
        assert modes == {path.relative_to(first): path.stat().st_mode for path in first.rglob("*")}


def test_texts_end_with_one_line_break_and_no_line_with_a_space(service: Generate, answers: dict[str, str]) -> None:
    for name, content in tree(service(**answers)).items():
        if not content:
            continue
        assert content.endswith(b"\n"), name
        assert not content.endswith(b"\n\n"), name
        assert b"\r" not in content, name
        assert not re.search(rb"[ \t]\n", content), name
        if not name.endswith((".py", ".py.mako")):
            assert b"\n\n\n" not in content, f"{name}: a condition left a gap"


def test_the_template_keeps_back_no_file_that_its_own_ignore_rules_hide() -> None:
    below = [str(path.relative_to(ROOT)) for path in (ROOT / SERVICE).rglob("*") if path.is_file()]
    caches = re.compile(r"__pycache__|_cache/")
    hidden = run("git", "check-ignore", "--stdin", cwd=ROOT, check=False, typed="\n".join(below)).stdout.splitlines()
    assert not [name for name in hidden if not caches.search(name)]


def test_no_private_address_and_no_package_index_is_named(service: Generate) -> None:
    words = [str(ROOT), str(Path.home()) + "/", "--index-url", "--extra-index-url", "--find-links", "--trusted-host"]
    for tier in TIERS:
        for name, content in tree(service(scale_tier=tier)).items():
            assert not [word for word in words if word.encode() in content], name


# --- permissions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", ["077", "027"])
def test_a_strict_umask_keeps_no_file_from_the_images_user(template: Path, tmp_path: Path, umask: str) -> None:
    clone = f"umask {umask} && git clone --quiet '{template}' clone"
    generate = f"'{sys.executable}' -m cookiecutter --no-input --output-dir out clone"
    run("sh", "-c", f"{clone} && {generate}", cwd=tmp_path)
    assert (tmp_path / "clone" / "README.md").stat().st_mode & 0o004 == 0
    made = tmp_path / "out" / "order-service"
    for path in (made, *made.rglob("*")):
        needed = 0o755 if path.is_dir() else 0o644
        assert path.stat().st_mode & 0o777 & needed == needed, path


def test_a_secret_that_was_there_before_stays_its_owners_alone(template: Path, tmp_path: Path) -> None:
    made = generate_with_cookiecutter(template, tmp_path)
    secret = made / "monitoring" / "alertmanager" / "secrets" / "smtp_password"
    secret.write_text("hunter2")
    secret.chmod(0o600)
    os.utime(secret, (0, 0))
    again = ["--no-input", "--overwrite-if-exists", "--output-dir", str(tmp_path)]
    run(sys.executable, "-m", "cookiecutter", *again, template, cwd=tmp_path)
    assert secret.stat().st_mode & 0o777 == 0o600


# --- pins ------------------------------------------------------------------------------------------------------------


def pins_of(service: Path) -> set[str]:
    """The packages that a service's constraints name."""
    lines = (service / "constraints.txt").read_text().splitlines()
    assert lines == sorted(lines, key=lambda line: line.partition("=")[0])
    assert all(re.fullmatch(r"[a-z0-9-]+==[^ ]+( ; .+)?", line) for line in lines)
    return {line.partition("==")[0] for line in lines}


def requirements_of(service: Path) -> set[str]:
    """The packages that a service's pyproject.toml asks for, to run, to develop and to build."""
    project = read_toml(service / "pyproject.toml")
    optional = project["project"].get("optional-dependencies", {})
    listed = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(name for names in (*optional.values(), *project.get("dependency-groups", {}).values()) for name in names),
    ]
    return {re.match(r"[A-Za-z0-9._-]+", name)[0].lower().replace("_", "-") for name in listed}  # type: ignore[index]


def test_all_that_a_service_asks_for_is_pinned(service: Generate, answers: dict[str, str]) -> None:
    made = service(**answers)
    assert requirements_of(made) <= pins_of(made)


def test_a_service_pins_nothing_that_only_others_ask_for(service: Generate) -> None:
    bare, full = service(database="none", cache="none"), service(database="postgresql", cache="redis")
    assert requirements_of(bare) < requirements_of(full)
    assert not (requirements_of(full) - requirements_of(bare)) & pins_of(bare)


# --- the hook's table ------------------------------------------------------------------------------------------------


def test_a_feature_that_the_table_lacks_stops_generation(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    template = copy_template(tmp_path / "template")
    definition: dict[str, Any] = json.loads(json.dumps(DEFINITION))
    definition["_tiers"]["large"]["features"].append("no_such_feature")
    (template / "cookiecutter.json").write_text(json.dumps(definition))
    with pytest.raises(Exception, match="Hook script failed"):
        generate_with_cookiecutter(template, tmp_path / "out")
    said = capfd.readouterr().err
    assert "tier large has the feature 'no_such_feature': give it a line in hooks/post_gen_project.py" in said
    assert not list((tmp_path / "out").iterdir())


def test_the_next_steps_are_printed_once_and_last(
    template: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    generate_with_cookiecutter(template, tmp_path)
    assert capfd.readouterr().out.splitlines() == [
        "order-service is ready. To start it:",
        "  cd order-service",
        "  make install run",
    ]


def test_how_long_generating_takes(template: Path, tmp_path: Path) -> None:
    for tier in TIERS:
        begun = time.monotonic()
        options = ["--no-input", "--output-dir", str(tmp_path / tier)]
        run(sys.executable, "-m", "cookiecutter", *options, template, f"scale_tier={tier}", cwd=tmp_path)
        print(f"{tier}: {time.monotonic() - begun:.2f} s")
    assert len(list(tmp_path.glob("*/order-service"))) == len(TIERS)
