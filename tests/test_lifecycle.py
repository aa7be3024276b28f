"""A living service: linked to the template, moved to another tier and to a newer template, its owner's edits kept."""

import itertools
import json
import sys
from pathlib import Path

import pytest
from template_checkout import SERVICE, TIERS, Generate, commit, run, tree

PAIRS = list(itertools.permutations(TIERS, 2))


def cruft(*arguments: str | Path, cwd: Path) -> str:
    """What cruft says."""
    done = run(sys.executable, "-m", "cruft", *arguments, cwd=cwd)
    return done.stdout + done.stderr


def create(template: Path, out: Path, **answers: str) -> Path:
    """A service made by cruft and committed by its owner."""
    out.mkdir(exist_ok=True)
    said = cruft("create", "--no-input", "--output-dir", out, "--extra-context", json.dumps(answers), template, cwd=out)
    assert "To start it" not in said, "cruft runs the hooks again at each update: the next steps are not for it"
    (service,) = out.iterdir()
    commit(service, "Generated")
    return service


def update(service: Path, **answers: str) -> str:
    """Updates a service, with other answers where some are given."""
    more = ["--variables-to-update", json.dumps(answers)] if answers else []
    return cruft("update", "--skip-apply-ask", *more, cwd=service)


def files_of(service: Path) -> dict[str, bytes]:
    """Every file but the link itself."""
    files = tree(service)
    del files[".cruft.json"]
    return files


def test_what_cruft_creates_is_what_cookiecutter_generates(template: Path, service: Generate, tmp_path: Path) -> None:
    made = create(template, tmp_path / "out")
    assert files_of(made) == tree(service())
    assert "up to date" in cruft("check", cwd=made)
    assert not cruft("diff", cwd=made).strip()


@pytest.mark.parametrize(("old", "new"), PAIRS, ids=["-to-".join(pair) for pair in PAIRS])
def test_a_service_moved_to_another_tier_is_one_generated_there(
    template: Path, service: Generate, tmp_path: Path, old: str, new: str
) -> None:
    made = create(template, tmp_path / "out", scale_tier=old)
    said = update(made, scale_tier=new)
    assert "Good work" in said
    assert ".rej" not in said
    assert files_of(made) == tree(service(scale_tier=new))
    context = json.loads((made / ".cruft.json").read_text())["context"]["cookiecutter"]
    assert context["scale_tier"] == new


@pytest.mark.parametrize(("old", "new"), [(TIERS[0], TIERS[-1]), (TIERS[-1], TIERS[0])])
def test_the_owners_edits_survive_a_change_of_tier(
    template: Path, service: Generate, tmp_path: Path, old: str, new: str
) -> None:
    made = create(template, tmp_path / "out", scale_tier=old)
    readme = made / "README.md"
    readme.write_text(readme.read_text() + "\nOwned by the orders team.\n")
    (made / "src" / "order_service" / "invoices.py").write_text('"""Invoices."""\n')
    (made / ".editorconfig").unlink()
    commit(made, "The owner's work")
    update(made, scale_tier=new)
    expected = tree(service(scale_tier=new))
    expected["README.md"] += b"\nOwned by the orders team.\n"
    expected["src/order_service/invoices.py"] = b'"""Invoices."""\n'
    del expected[".editorconfig"]
    assert files_of(made) == expected


def test_a_service_follows_a_newer_template_and_keeps_its_name(own_template: Path, tmp_path: Path) -> None:
    name = """Ali's "best" {{ orders }} \\ 100% 👩‍👩‍👧 خدمة"""
    made = create(own_template, tmp_path / "out", project_name=name, project_slug="ledger", scale_tier="medium")
    (own_template / SERVICE / "NEWS.md").write_text(
        '<% import "quote.j2" as quote %>\n# News of << quote.markdown(cookiecutter.project_name) >>\n'
    )
    quotes = own_template / "templates" / "quote.j2"
    quotes.write_text(quotes.read_text().replace("<% macro markdown(value) %>", "<% macro markdown(value) %>**New:**"))
    commit(own_template, "News")
    update(made)
    assert (made / "NEWS.md").read_text().startswith("# News of **New:**Ali's")
    context = json.loads((made / ".cruft.json").read_text())["context"]["cookiecutter"]
    assert context["project_name"] == name
    assert "up to date" in cruft("check", cwd=made)


def test_an_update_does_not_bring_the_example_back(own_template: Path, tmp_path: Path) -> None:
    made = create(own_template, tmp_path / "out")
    run(sys.executable, "scripts/remove_example.py", cwd=made)
    commit(made, "Without the example")
    before = files_of(made)
    example = own_template / SERVICE / "src" / "<<cookiecutter.__package>>" / "orders"
    (example / "refunds.py").write_text('"""Refunds of orders."""\n')
    for path in (
        example / "routes.py",
        own_template / SERVICE / "scripts" / "remove_example.py",
        own_template / SERVICE / "docs" / "box.md",
    ):
        path.write_text(path.read_text() + "# News\n")
    commit(own_template, "News")
    said = update(made)
    assert "Good work" in said
    assert ".rej" not in said
    before["docs/box.md"] += b"# News\n"
    assert files_of(made) == before
