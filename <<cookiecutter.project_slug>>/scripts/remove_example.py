<% set database = cookiecutter.database == 'postgresql' %>
"""Removes the example feature, orders, and this script; or says why not, and changes nothing."""

import os
import re
import shutil
<% if database %>
import sqlite3
<% endif %>
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
<% if database %>
from contextlib import closing
<% endif %>
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "<< cookiecutter.__package >>"

WHOLE = [
    Path(f"src/{PACKAGE}/orders"),
    Path("tests/orders"),
    Path("monitoring/grafana/dashboards/orders.json"),
<% if "infrastructure" in cookiecutter._tiers[cookiecutter.scale_tier].features %>
    Path("monitoring/grafana/dashboards/business.json"),
<% endif %>
    Path("scripts/remove_example.py"),
]

# What goes of a file that stays: whole lines, as they were generated.
LINES = {
    Path(f"src/{PACKAGE}/app.py"): r"^from \.orders import init_orders\n|^    init_orders\(app\)\n",
<% if "cluster" in cookiecutter._tiers[cookiecutter.scale_tier].features %>
    Path("monitoring/grafana/dashboards/kustomization.yaml"): r"^  - .+-(?:business|orders)\n.+\n",
<% endif %>
    Path("scripts/load.py"): r'^    \("[A-Z]+", "/api/v1/orders.*\),\n',
    Path("README.md"): r"^curl .* localhost:8000/api/v1/orders\n|^`orders/` is (?:.+\n)+\n",
    Path("Makefile"): r"^## remove-example: (?:.+\n)+\n| remove-example",
}

# What would no longer work. The word alone, in text of the owner's, is reported and left.
USE = re.compile(
    rf"(\bfrom \.+|\b{PACKAGE}\.)orders\b|\bfrom (\.+|{PACKAGE}) import .*\borders\b"
    r"|\binit_orders\b|/api/v1/orders\b|\borders\.\w*_orders?\b|\borders\.id\b"
    r"|\b(orders_created|order_value|order_lookups)_total\b|\b(OrderRecord|NewOrder)\b"
)
WORD = re.compile("orders", re.IGNORECASE)
NOT_OURS = re.compile(r"\.git|\.venv|\.cache|__pycache__|instance|\.\w+_cache")
<% if database %>

VERSIONS = Path("migrations/versions")
FIRST = VERSIONS / "0001_orders.py"
START = '''"""The start: an empty database."""

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
'''
<% endif %>


class RefusedError(Exception):
    """Why nothing was changed."""


def main() -> int:
    """Returns 1, with the reason on stderr, where nothing was changed."""
    os.chdir(ROOT)
    edited = {
        path: re.sub(pattern, "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for path, pattern in LINES.items()
        if path.exists()
    }
    gone = [path for path in WHOLE if path.exists()]
<% if database %>
    touched = [*edited, *gone, *([FIRST] if FIRST.exists() else [])]
<% else %>
    touched = [*edited, *gone]
<% endif %>
    try:
        left = list(mentions(edited, gone))
        if uses := [where for where, use in left if use]:
            raise RefusedError("these lines use it, change them first:", *uses)
        saved = save(touched)
<% if database %>
        history = keep_history()
<% endif %>
    except RefusedError as reason:
        print("The example stays:", "\n  ".join(reason.args), file=sys.stderr)  # noqa: T201
        return 1
    for path, text in edited.items():
        path.write_text(text, encoding="utf-8")
    for path in gone:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    print(f"The example is removed{saved}, and so is `make remove-example`.")  # noqa: T201
<% if database %>
    print(history)  # noqa: T201
<% endif %>
    for where, _ in left:
        print(f"The word is still in {where}")  # noqa: T201
    return 0


def mentions(edited: dict[Path, str], gone: Iterable[Path]) -> Iterator[tuple[str, bool]]:
    """Each line that will still name the example, and whether it would then fail."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    own = (PACKAGE, project["name"], project.get("description", ""))
    names = re.compile("|".join(map(re.escape, own)))
    for path in sorted(own_files()):
<% if database %>
        if path.parent == VERSIONS or any(path.is_relative_to(one) for one in gone):
<% else %>
        if any(path.is_relative_to(one) for one in gone):
<% endif %>
            continue
        text = edited.get(path) or path.read_bytes().decode("utf-8", "replace")
        for number, line in enumerate(text.splitlines(), 1):
            use = bool(USE.search(line))
            if use or WORD.search(names.sub("", line)):
                yield f"{path}:{number}: {line.strip()[:100]}", use


def own_files() -> Iterator[Path]:
    """What git tracks or would track, and .env; without git, what is not installed or made."""
    listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    files = [Path(name) for line in listed for name in line.split("\0")]
    if not files:
        for folder, folders, names in os.walk("."):
            folders[:] = [
                name
                for name in folders
                if not NOT_OURS.fullmatch(name) and not Path(folder, name, "pyvenv.cfg").exists()
            ]
            files += [Path(folder, name) for name in names]
    return (path for path in {*files, Path(".env")} if path.is_file() and os.access(path, os.R_OK))


def save(touched: list[Path]) -> str:
    """Where the files are kept as they were: in git, or else in an archive. Returns it in words."""
    names = list(map(str, touched))
    tracked = _git("ls-files", "--", *names)
    if not tracked:
        archive = tempfile.mkstemp(prefix=f"{ROOT.name}-", suffix=".tar.gz")[1]
        with tarfile.open(archive, "w:gz") as tar:
            for name in names:
                tar.add(name)
        return f" (the files as they were: {archive})"
    if changed := _git("status", "--porcelain", "--", *names):
        raise RefusedError("these changes are not committed, commit them first:", *changed)
    return ""


def _git(*arguments: str) -> list[str]:
    """The lines that git prints; none where there is no repository, or no git."""
    if not shutil.which("git"):
        return []
    command = ["git", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.splitlines()
<% if database %>


def keep_history() -> str:
    """Leaves migrations that every database can follow, whether it ran 0001 or not.

    A database knows by its id which migration it ran last, so 0001 stays, empty. Where there may be
    tables of it beyond this machine, the last migration drops them. Where later migrations change
    its table, 0001 stays as it is, since they could not run without.
    """
    if not FIRST.exists():
        return "Its migration was gone already."
    later = [path for path in VERSIONS.glob("*.py") if path != FIRST]
    needed = any(WORD.search(path.read_text(encoding="utf-8")) for path in later)
    if later or _a_server_is_named():
        said = f"{drop_table(needed)} drops its table, with its rows: `make migrate`"
    else:
        forget_table(Path("instance") / f"{PACKAGE}.db")
        said = "its table is dropped here; another database that ran 0001 keeps it, unused"
    if needed:
        return f"Later migrations change its table, so 0001 stays; {said}."
    FIRST.rename(VERSIONS / "0001_start.py").write_text(START, encoding="utf-8")
    return f"Migration 0001 stays, empty; {said}."


def _a_server_is_named() -> bool:
    """Whether the settings here lead to a database that others may use too."""
    own = Path(".env").read_text(encoding="utf-8") if Path(".env").exists() else ""
    settings = f"DATABASE_URL={os.environ.get('DATABASE_URL', '')}\n{own}"
    return bool(re.search(r"^(export )?DATABASE_URL *= *['\"]?postgres", settings, re.MULTILINE))


def drop_table(needed: bool) -> Path:
    """Writes the migration that drops the table, and makes it again on the way back if needed."""
    from alembic import autogenerate, config, operations, script, util  # noqa: PLC0415

    settings = config.Config("migrations/alembic.ini")
    settings.set_main_option("script_location", "migrations")
    back = "pass"
    if needed:
        from <<cookiecutter.__package>>.orders.models import OrderRecord  # noqa: PLC0415

        table = OrderRecord.__table__
        indexes = map(operations.ops.CreateIndexOp.from_index, table.indexes)
        made = operations.ops.UpgradeOps([operations.ops.CreateTableOp.from_table(table), *indexes])
        back = autogenerate.render_python_code(made).strip()
    try:
        written = script.ScriptDirectory.from_config(settings).generate_revision(
            util.rev_id(),
            "drop the example's table",
            imports="",
            upgrades='op.drop_table("orders", if_exists=True)',
            downgrades=back,
        )
    except util.CommandError as error:
        raise RefusedError(str(error)) from error
    return Path(written.path).relative_to(ROOT)


def forget_table(database: Path) -> None:
    """Drops it from development's own database, and overwrites its rows."""
    if not database.exists():
        return
    try:
        with closing(sqlite3.connect(database, 1, isolation_level=None)) as connection:
            connection.execute("DROP TABLE IF EXISTS orders")
            connection.execute("VACUUM")
    except sqlite3.Error as error:
        raise RefusedError(f"{database}: {error}") from error
<% endif %>


if __name__ == "__main__":
    sys.exit(main())
