"""`make remove-example`: nothing of the example is left, nothing of the owner's is lost, nothing is half done."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from formats import parse_all
from template_checkout import Generate, commit, run, tree

ORDERS = re.compile(r"(?i)orders|\border_(?!service)|remove.example|\bthe example\b")
APP = "src/order_service/app.py"


def remove(made: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command without `make install`: it needs nothing that is not Python's own, but for a later migration."""
    return subprocess.run(
        [sys.executable, "scripts/remove_example.py"],
        cwd=made,
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "DATABASE_URL"} | environment,
    )


def copied(service: Generate, tmp_path: Path, **answers: str) -> Path:
    """A service for one test to change."""
    return Path(shutil.copytree(service(**answers), tmp_path / "order-service"))


@pytest.fixture
def made(service: Generate, tmp_path: Path) -> Path:
    """A service that its owner has committed."""
    folder = copied(service, tmp_path)
    commit(folder)
    return folder


def mentions(folder: Path) -> list[str]:
    """Every line and every path that names the example."""
    return [
        f"{name}: {line}"
        for name, content in tree(folder).items()
        for line in (name, *content.decode("utf-8", "replace").splitlines())
        if ORDERS.search(line)
    ]


def test_no_mention_is_left(service: Generate, tmp_path: Path, answers: dict[str, str]) -> None:
    made = copied(service, tmp_path, **answers)
    before = tree(made)
    assert mentions(made)
    done = remove(made, TMPDIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "The word is still in" not in done.stdout
    assert mentions(made) == []
    parse_all(made)
    run(sys.executable, "-m", "ruff", "check", "--no-cache", ".", cwd=made)
    run(sys.executable, "-m", "ruff", "format", "--no-cache", "--check", ".", cwd=made)
    (archive,) = tmp_path.glob("*.tar.gz")
    assert str(archive) in done.stdout
    shutil.rmtree(made)
    made.mkdir()
    with tarfile.open(archive) as kept:
        kept.extractall(made, filter="data")
    assert tree(made).items() <= before.items()
    assert mentions(made)


def test_what_is_in_git_needs_no_archive(made: Path, tmp_path: Path) -> None:
    done = remove(made, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob("*.tar.gz"))
    assert "make remove-example" in done.stdout
    assert run("make", "remove-example", cwd=made, check=False).returncode == 2


USES = {
    APP: "    init_orders(app)  # first\n",
    ".env": "LOG_LEVELS=order_service.orders=DEBUG\n",
    "monitoring/prometheus/rules/parcels.yml": "expr: rate(orders_created_total[5m]) > 1\n",
    "src/order_service/parcels.py": """\
from .orders.store import read
from . import database, orders
url_for("orders.read_order", order_id=7)
ForeignKey("orders.id")
""",
    "tests/test_parcels.py": """\
from order_service.orders import store
URL = "/api/v1/orders"
""",
}


def test_each_line_that_uses_it_is_named_and_nothing_changes(made: Path) -> None:
    expected = []
    for file, lines in USES.items():
        path = made / file
        text = path.read_text() if path.exists() else ""
        path.write_text(text + lines)
        if file == APP:  # where the lines of the example itself are gone from
            text = text.replace("from .orders import init_orders\n", "").replace("    init_orders(app)\n", "")
        first = text.count("\n") + 1
        expected += [f"  {file}:{number}: {line.strip()}" for number, line in enumerate(lines.splitlines(), first)]
    commit(made)
    before = tree(made)
    done = remove(made)
    assert done.returncode == 1
    said = done.stderr.splitlines()
    assert said[0] == "The example stays: these lines use it, change them first:"
    assert sorted(said[1:]) == sorted(expected)
    assert tree(made) == before


def test_a_line_of_the_example_that_was_edited_is_named(made: Path) -> None:
    load = made / "scripts/load.py"
    load.write_text(load.read_text().replace('"/api/v1/orders/1", None, 4),', '"/api/v1/orders/2", None, 4),  # mine'))
    commit(made)
    done = remove(made)
    assert done.returncode == 1
    assert "  scripts/load.py:" in done.stderr


def test_the_word_in_the_owners_text_is_named_and_kept(made: Path) -> None:
    (made / "docs/shipping.md").write_text("# Shipping\n\nOrders leave at noon.\n")
    commit(made)
    done = remove(made)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "The word is still in docs/shipping.md:3: Orders leave at noon."
    assert mentions(made) == ["docs/shipping.md: Orders leave at noon."]


@pytest.mark.parametrize("file", [APP, "src/order_service/orders/store.py", "tests/orders/test_more.py"])
def test_what_is_not_committed_is_not_lost(made: Path, file: str) -> None:
    with (made / file).open("a") as text:
        text.write("# mine\n")
    before = tree(made)
    done = remove(made)
    assert done.returncode == 1
    said = done.stderr.splitlines()
    assert said[0] == "The example stays: these changes are not committed, commit them first:"
    assert said[1].endswith(file)
    assert tree(made) == before


def test_other_changes_and_other_files_are_let_be(made: Path) -> None:
    (made / "docs/box.md").write_text("mine")
    (made / "nowhere").symlink_to("gone")
    os.mkfifo(made / "pipe")
    (made / ".venv").mkdir()
    (made / ".venv/notes.txt").write_text("orders")
    done = remove(made)
    assert (done.returncode, done.stderr) == (0, "")
    assert "The word is still in" not in done.stdout
    assert (made / "docs/box.md").read_text() == "mine"


def test_what_the_owner_removed_by_hand_is_no_hindrance(made: Path) -> None:
    shutil.rmtree(made / "src/order_service/orders")
    (made / "monitoring/grafana/dashboards/orders.json").unlink()
    commit(made)
    done = remove(made)
    assert (done.returncode, done.stderr) == (0, "")
    assert mentions(made) == []


def test_a_service_of_the_same_name_keeps_its_name(service: Generate, tmp_path: Path) -> None:
    made = Path(shutil.copytree(service(project_name="Orders"), tmp_path / "orders"))
    commit(made)
    done = remove(made)
    assert (done.returncode, done.stderr) == (0, "")
    assert "The word is still in" not in done.stdout
    assert (made / "src/orders/app.py").is_file()
    assert not (made / "src/orders/orders").exists()
    assert "/api/v1/orders" not in "".join(content.decode() for content in tree(made).values())


def test_the_table_in_developments_database_goes_with_its_rows(made: Path) -> None:
    file = made / "instance/order_service.db"
    file.parent.mkdir()
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE orders (customer TEXT)")
        database.execute("INSERT INTO orders VALUES ('c-4711')")
        database.execute("CREATE TABLE parcels (id INTEGER)")
    database.close()
    done = remove(made)
    assert done.returncode == 0, done.stderr
    assert b"c-4711" not in file.read_bytes()
    with sqlite3.connect(file) as database:
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("parcels",)]
    database.close()


def test_a_database_that_is_busy_is_named_and_nothing_changes(made: Path) -> None:
    before = tree(made)
    (made / "instance").mkdir()
    database = sqlite3.connect(made / "instance/order_service.db")
    database.execute("BEGIN EXCLUSIVE")
    done = remove(made)
    database.close()
    assert done.returncode == 1
    assert done.stderr == "The example stays: instance/order_service.db: database is locked\n"
    shutil.rmtree(made / "instance")
    assert tree(made) == before


def test_a_database_that_ran_its_migration_still_finds_it(made: Path) -> None:
    assert remove(made).returncode == 0
    (start,) = (made / "migrations/versions").iterdir()
    assert 'revision = "0001"' in start.read_text()
