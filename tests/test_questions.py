"""Every question does something, and is asked only where it does; so does every size of a tier."""

import json
from pathlib import Path
from typing import Any

import pytest
from new import Questions
from template_checkout import (
    DEFINITION,
    OPTIONS,
    TIERS,
    Generate,
    copy_template,
    generate_with_cookiecutter,
    tree,
)
from test_answers import HOOK
from test_tiers import changed

QUESTIONS = Questions(DEFINITION)
CHOICES = [name for name in OPTIONS if name != "scale_tier"]
TEXTS = {"project_name": "Ledger", "project_slug": "ledger", "team": "payments"}


def asked_in(option: str) -> list[str]:
    """The tiers in which `make new` asks a question."""
    return [tier for tier in TIERS if QUESTIONS.is_asked(option, {"scale_tier": tier})]


def differs(service: Generate, tier: str, option: str, choice: str) -> bool:
    """Whether a choice generates something else than the default does."""
    return tree(service(scale_tier=tier, **{option: choice})) != tree(service(scale_tier=tier))


def test_every_question_is_looked_at() -> None:
    assert {*TEXTS, *CHOICES, "scale_tier"} == set(QUESTIONS.variables)
    assert set(DEFINITION["_asked_from"]) <= set(CHOICES)
    assert set(DEFINITION["_asked_from"].values()) <= set(TIERS[1:])


@pytest.mark.parametrize("option", CHOICES)
def test_every_choice_does_something_and_is_offered_only_where_it_does(service: Generate, option: str) -> None:
    first, *larger = asked_in(option)
    assert [each for each in OPTIONS[option][1:] if not differs(service, first, option, each)] == []
    assert [tier for tier in larger if not differs(service, tier, option, OPTIONS[option][1])] == []


@pytest.mark.parametrize("option", DEFINITION["_asked_from"])
def test_where_a_question_is_not_asked_its_answer_changes_nothing(service: Generate, option: str) -> None:
    for tier in TIERS[: -len(asked_in(option))]:
        assert [each for each in OPTIONS[option][1:] if differs(service, tier, option, each)] == []


@pytest.mark.parametrize("option", DEFINITION["_asked_from"])
def test_a_question_says_itself_from_which_tier_on_it_matters(option: str) -> None:
    assert f"from {DEFINITION['_asked_from'][option]} on" in QUESTIONS.label(option).lower()


@pytest.mark.parametrize(("variable", "value"), TEXTS.items())
def test_every_text_reaches_a_file(service: Generate, variable: str, value: str) -> None:
    usual = {"project_name": "Orders", "project_slug": "orders"}
    assert tree(service(**(usual | {variable: value}))) != tree(service(**usual))


def test_no_tier_is_another_one(service: Generate) -> None:
    trees = [tree(service(scale_tier=tier)) for tier in TIERS]
    assert all(trees.count(each) == 1 for each in trees)


@pytest.mark.parametrize("size", HOOK.SIZES)
def test_every_size_of_a_tier_stands_in_some_file(service: Generate, tmp_path: Path, size: str) -> None:
    value: Any = DEFINITION["_tiers"]["small"]
    for key in size.split("."):
        value = value[key]
    template = copy_template(tmp_path / "template")
    definition = DEFINITION | {"_tiers": changed(size, value + 1 if isinstance(value, int) else value / 2)}
    (template / "cookiecutter.json").write_text(json.dumps(definition))
    assert tree(generate_with_cookiecutter(template, tmp_path / "out")) != tree(service(scale_tier="small"))
