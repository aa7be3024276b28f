"""`make new`: what it asks, what it refuses, what it leaves behind."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from template_checkout import DEFINITION, OPTIONS, ROOT, SERVICE, Generate, commit, run, tree

pytestmark = pytest.mark.usefixtures("new_environment")

Said = subprocess.CompletedProcess[str]


PROMPTS = {
    name: prompt["__prompt__"] if isinstance(prompt, dict) else prompt
    for name, prompt in DEFINITION["__prompts__"].items()
}


def make_new(template: Path, out: Path | None, arguments: str = "--no-input", typed: str = "") -> Said:
    """Runs `make new ARGS=... OUT=...` and types into it."""
    where = [f"OUT={out}"] if out else []
    return run("make", "new", *where, f"ARGS={arguments}", cwd=template, check=False, typed=typed)


def refusal_of(said: Said) -> str:
    """What was refused: the one line before make's own."""
    assert said.returncode != 0, said.stdout
    lines = [line for line in said.stderr.splitlines() if not line.startswith("make")]
    assert len(lines) == 1, said.stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def description(service: Path) -> str:
    """The project's name as an answer reached a service."""
    cruft: str = json.loads((service / ".cruft.json").read_text(encoding="utf-8"))["context"]["cookiecutter"][
        "project_name"
    ]
    return cruft


def test_a_service_stands_beside_the_template_and_three_lines_say_how_to_start_it(own_template: Path) -> None:
    said = make_new(own_template, None)
    assert said.returncode == 0, said.stderr
    service = own_template.parent / "order-service"
    assert (service / "pyproject.toml").is_file()
    assert said.stdout.splitlines() == [
        f"order-service is in {service}. To start it:",
        f"  cd {service}",
        "  make install run",
    ]


def test_it_is_the_service_that_cookiecutter_makes(template: Path, service: Generate, tmp_path: Path) -> None:
    make_new(template, tmp_path, "--no-input scale_tier=large cache=none")
    made = tree(tmp_path / "order-service")
    del made[".cruft.json"]
    assert made == tree(service(scale_tier="large", cache="none"))


@pytest.mark.parametrize("out", ["new folder/deep", "it's $(here)", "~/services"])
def test_out_names_another_folder(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    said = make_new(template, Path(out) if out.startswith("~") else tmp_path / out)
    assert said.returncode == 0, said.stderr
    assert (tmp_path / out.removeprefix("~/") / "order-service" / "pyproject.toml").is_file()


REFUSED = {
    "a misspelt variable": ("projct_name=Orders", "there is no variable 'projct_name': did you mean project_name?"),
    "an unknown variable": ("colour=red", "there is no variable 'colour': there is project_name, project_slug, team, "),
    "a variable that is not asked": ("_tiers=small", "there is no variable '_tiers'"),
    "a misspelt choice": ("scale_tier=larg", "scale_tier has no choice 'larg': did you mean large?"),
    "an unknown choice": ("database=oracle", "database has no choice 'oracle': there is postgresql, none"),
    "a number above the choices": ("scale_tier=4", "scale_tier has no choice 4: type 1 to 3, or small, medium, large"),
    "a number below the choices": ("cache=0", "cache has no choice 0: type 1 to 2, or redis, none"),
    "an empty choice": ("cache=", "cache has no choice ''"),
    "a choice in capitals": ("scale_tier=LARGE", "scale_tier has no choice 'LARGE'"),
    "an unknown flag": ("--no-imput", "there is no flag --no-imput: did you mean --no-input?"),
    "a flag of Cookiecutter's": ("--replay", "there is no flag --replay"),
    "a word alone": ("Orders", "'Orders' is no answer: write variable=value"),
    "a name without quotes": ("project_name=Order Service", "'Service' is no answer"),
    "an answer given twice": ("team=a team=b", "team is given twice"),
    "a quote without an end": ("project_name='Orders", "ARGS cannot be split into words"),
    "an expression": ("project_name='<< 7*7 >>'", "project_name holds <<"),
    "a slug from a keyword": ("project_name=Class", "project_slug=class-service"),
    "a path": ("project_slug=../x", "project_slug '../x' is no host name"),
    "a name of the platform": (
        "project_slug=grafana scale_tier=2",
        "project_slug 'grafana' is a name that the platform",
    ),
}


@pytest.mark.parametrize(("arguments", "line"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_is_refused_by_name_before_anything_is_written(
    template: Path, tmp_path: Path, arguments: str, line: str
) -> None:
    assert line in refusal_of(make_new(template, tmp_path / "out", f"--no-input {arguments}"))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_exists_is_left_as_it_is(template: Path, tmp_path: Path) -> None:
    (tmp_path / "order-service").mkdir()
    said = refusal_of(make_new(template, tmp_path))
    assert said == f"{tmp_path}/order-service exists: choose another project_slug, or another folder with OUT="
    assert [str(path) for path in tmp_path.rglob("*")] == [f"{tmp_path}/order-service"]


def test_a_link_that_leads_nowhere_is_not_written_through(template: Path, tmp_path: Path) -> None:
    (tmp_path / "order-service").symlink_to(tmp_path / "elsewhere")
    assert "exists" in refusal_of(make_new(template, tmp_path))
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_in_the_way_is_named(template: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    said = refusal_of(make_new(template, tmp_path / "out" / "deeper"))
    assert said == f"{tmp_path}/out is not a folder: choose another with OUT="


NAMES = {
    "apostrophe": "Ali's orders",
    "double quotes": 'The "best" orders',
    "all quotes": """'"`’“""",
    "dollars": "$HOME $(id) $$ ${x} $",
    "make's": "$(error x) $(shell id) # % \\",
    "unfinished": "$(x",
    "braces": "{{ x }} {% y %} {# z #}",
    "backslashes": "\\n \\ \\\\",
    "shell": "a & b; c | d > e < f * ? ! ~ `id`",
    "accents": "Größe à ñ",
    "right to left": "خدمة שירות",
    "emoji": "👩‍👩‍👧 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "spaces": " two  spaces ",
    "long": "x" * 200,
    "equals": "a=b=c",
    "hyphen": "--no-input",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_a_name_survives_make_the_shell_and_cookiecutter(template: Path, tmp_path: Path, name: str) -> None:
    quoted = "'" + name.replace("'", "'\\''") + "'"
    said = make_new(template, tmp_path, f"--no-input project_slug=named project_name={quoted}")
    assert said.returncode == 0, said.stderr
    assert description(tmp_path / "named") == name


def test_args_from_the_environment_survive_too(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARGS", "--no-input project_slug=named project_name='$(x $$ #'")
    run("make", "new", f"OUT={tmp_path}", cwd=template)
    assert description(tmp_path / "named") == "$(x $$ #"


# --- asking ----------------------------------------------------------------------------------------------------------


def test_every_question_is_asked_in_words_with_labelled_choices(template: Path, tmp_path: Path) -> None:
    said = make_new(template, tmp_path, "", typed="\n\n\nlarge\n" + "\n" * 6)
    assert said.returncode == 0, said.stderr
    for variable, prompt in DEFINITION["__prompts__"].items():
        lines = list(prompt.values()) if isinstance(prompt, dict) else [prompt]
        assert all(line in said.stdout for line in lines), variable
    assert len(DEFINITION["__prompts__"]) == len([name for name in DEFINITION if not name.startswith("_")]) <= 10
    assert (tmp_path / "order-service" / "pyproject.toml").is_file()


def test_choices_are_labelled_each_and_no_other() -> None:
    for variable, values in OPTIONS.items():
        assert list(DEFINITION["__prompts__"][variable]) == ["__prompt__", *values]


def test_a_bad_answer_is_asked_again_with_the_reason(template: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    typed = "a\tb\nLedger\n9\nclass\ntaken\nledger\n\n4\n0\nbig\n2\nnone\n" + "\n" * 5
    said = make_new(template, tmp_path, "", typed=typed)
    assert said.returncode == 0, said.stderr
    for reason in (
        "  project_name: character 2 is U+0009, a control character; a name is one line of text: type 'a b'\n",
        "  project_slug '9' is no host name",
        "  project_slug 'class' is the name of a Python keyword",
        f"  {tmp_path}/taken exists: choose another project_slug",
        "  scale_tier has no choice 4: type 1 to 3, or small, medium, large\n",
        "  scale_tier has no choice 0: type 1 to 3, or small, medium, large\n",
        "  scale_tier has no choice 'big': there is small, medium, large\n",
    ):
        assert reason in said.stdout
    context = json.loads((tmp_path / "ledger" / ".cruft.json").read_text())["context"]["cookiecutter"]
    assert (context["project_name"], context["scale_tier"], context["database"]) == ("Ledger", "medium", "none")


def test_an_answer_may_be_typed_as_it_is_shown(template: Path, tmp_path: Path) -> None:
    """A choice by its label, in any case; a slug as the refusal of another one spells it."""
    typed = "Ledger\nthe ledger\nproject_slug=the-ledger\n\nMedium\n\nNone\n\nuptimerobot\nSlack\nGoogle Analytics\n"
    said = make_new(template, tmp_path, "", typed=typed)
    assert said.returncode == 0, said.stderr
    assert "has no choice" not in said.stdout
    answers = json.loads((tmp_path / "the-ledger" / ".cruft.json").read_text())["context"]["cookiecutter"]
    assert (answers["scale_tier"], answers["cache"], answers["uptime_monitor"]) == ("medium", "none", "uptimerobot")
    assert (answers["paging"], answers["web_analytics"]) == ("slack", "google_analytics")


def test_a_default_that_would_be_refused_is_offered_in_a_form_that_is_not(template: Path, tmp_path: Path) -> None:
    said = make_new(template, tmp_path, "", typed="Class\n" + "\n" * 9)
    assert "[class-service]: " in said.stdout
    assert (tmp_path / "class-service").is_dir()


def test_a_tier_whose_platform_has_the_name_itself_is_asked_again(template: Path, tmp_path: Path) -> None:
    said = make_new(template, tmp_path, "", typed="Grafana\n\n\nmedium\nsmall\n" + "\n" * 9)
    assert (
        "  project_slug 'grafana' is a name that the platform has itself, which medium services share;" in said.stdout
    )
    assert (tmp_path / "grafana" / "compose.yaml").is_file()
    assert not (tmp_path / "grafana" / "platform").exists()


def test_a_question_that_a_small_service_does_not_depend_on_is_not_asked(template: Path, tmp_path: Path) -> None:
    said = make_new(template, tmp_path, "", typed="\n" * 9)
    assert said.returncode == 0, said.stderr
    asked = {name for name, prompt in PROMPTS.items() if prompt in said.stdout}
    assert asked == PROMPTS.keys() - DEFINITION["_asked_from"].keys()


def test_its_answer_can_be_given_all_the_same_for_a_larger_tier_later(template: Path, tmp_path: Path) -> None:
    make_new(template, tmp_path, "--no-input telemetry_backend=elastic")
    context = json.loads((tmp_path / "order-service" / ".cruft.json").read_text())["context"]["cookiecutter"]
    assert (context["scale_tier"], context["telemetry_backend"]) == ("small", "elastic")


@pytest.mark.parametrize("arguments", ["scale_tier=medium cache=none", "scale_tier=2 cache=2"])
def test_a_choice_is_given_by_its_name_or_its_number(template: Path, tmp_path: Path, arguments: str) -> None:
    make_new(template, tmp_path, f"--no-input {arguments}")
    context = json.loads((tmp_path / "order-service" / ".cruft.json").read_text())["context"]["cookiecutter"]
    assert (context["scale_tier"], context["cache"]) == ("medium", "none")


def test_what_was_given_is_not_asked(template: Path, tmp_path: Path) -> None:
    said = make_new(template, tmp_path, "project_name=Ledger scale_tier=large", typed="\n" * 8)
    assert said.returncode == 0, said.stderr
    assert DEFINITION["__prompts__"]["project_name"] not in said.stdout
    assert DEFINITION["__prompts__"]["scale_tier"]["__prompt__"] not in said.stdout


def test_nobody_there_to_answer_is_one_line_and_no_service(template: Path, tmp_path: Path) -> None:
    said = make_new(template, tmp_path, "", typed="Ledger\n")
    line = [line for line in said.stderr.splitlines() if not line.startswith("make")]
    assert line == ['error: nothing more to read where project_slug is asked: ARGS="--no-input" asks nothing']
    assert not list(tmp_path.iterdir())


def test_help_lists_every_variable_and_choice(template: Path, tmp_path: Path) -> None:
    said = make_new(template, tmp_path, "--help")
    assert said.returncode == 0
    for variable, values in OPTIONS.items():
        assert variable in said.stdout
        assert ", ".join(values) in said.stdout
    assert not list(tmp_path.iterdir())


# --- the link to the template ----------------------------------------------------------------------------------------


def cruft_create(template: Path | str, out: Path, **answers: str) -> Path:
    """A service made by cruft itself."""
    out.mkdir()
    given = ["--extra-context", json.dumps(answers)]
    run(sys.executable, "-m", "cruft", "create", "--no-input", *given, "--output-dir", out, template, cwd=out)
    (service,) = out.iterdir()
    return service


def test_the_link_is_what_cruft_create_writes(template: Path, tmp_path: Path) -> None:
    name = 'Größe \\ 👩‍👩‍👧 «"»'
    make_new(
        template, tmp_path / "make", f"--no-input project_slug=order-service scale_tier=medium project_name='{name}'"
    )
    answers = {"project_name": name, "project_slug": "order-service", "scale_tier": "medium"}
    made = cruft_create(template, tmp_path / "cruft", **answers)
    assert tree(tmp_path / "make" / "order-service") == tree(made)
    assert (made / ".cruft.json").is_file()
    state = run(sys.executable, "-m", "cruft", "check", cwd=tmp_path / "make" / "order-service")
    assert "up to date" in state.stdout


def test_the_address_is_the_origins_where_it_has_the_commit(template: Path, tmp_path: Path) -> None:
    clone = tmp_path / template.name
    run("git", "clone", "--quiet", template, clone, cwd=tmp_path)
    (clone / ".cache").symlink_to(ROOT / ".cache")
    make_new(clone, tmp_path / "make")
    made = cruft_create(template, tmp_path / "cruft")
    assert tree(tmp_path / "make" / "order-service") == tree(made)


def test_a_commit_that_the_origin_lacks_is_linked_to_the_checkout(template: Path, tmp_path: Path) -> None:
    clone = tmp_path / template.name
    run("git", "clone", "--quiet", template, clone, cwd=tmp_path)
    (clone / ".cache").symlink_to(ROOT / ".cache")
    (clone / "CHANGELOG.md").write_text("Mine.\n")
    commit(clone)
    make_new(clone, tmp_path)
    assert json.loads((tmp_path / "order-service" / ".cruft.json").read_text())["template"] == str(clone)


@pytest.mark.parametrize(
    ("origin", "recorded"),
    [
        ("https://someone:secret@example.com/a/b.git", "https://example.com/a/b.git"),
        ("git@example.com:a/b.git", "git@example.com:a/b.git"),
    ],
)
def test_no_password_of_the_origin_is_written_into_a_service(
    own_template: Path, tmp_path: Path, origin: str, recorded: str
) -> None:
    run("git", "remote", "add", "origin", origin, cwd=own_template)
    run("git", "update-ref", "refs/remotes/origin/main", "HEAD", cwd=own_template)
    make_new(own_template, tmp_path / "out")
    state = (tmp_path / "out" / "order-service" / ".cruft.json").read_text()
    assert json.loads(state)["template"] == recorded
    assert "secret" not in state


def test_uncommitted_changes_are_generated_and_not_linked(own_template: Path, tmp_path: Path) -> None:
    (own_template / SERVICE / "NOTES.md").write_text("Of << cookiecutter.project_slug >>.\n")
    said = make_new(own_template, tmp_path / "out")
    service = tmp_path / "out" / "order-service"
    assert (service / "NOTES.md").read_text() == "Of order-service.\n"
    assert not (service / ".cruft.json").exists()
    assert "has no .cruft.json, because this template has changes that are not committed" in said.stdout
    assert f"`cruft link {own_template}`" in said.stdout.splitlines()[0]


def test_a_template_that_is_no_checkout_says_how_to_link(own_template: Path, tmp_path: Path) -> None:
    shutil.rmtree(own_template / ".git")
    said = make_new(own_template, tmp_path / "out")
    assert said.returncode == 0, said.stderr
    assert not (tmp_path / "out" / "order-service" / ".cruft.json").exists()
    assert "because this template is no git checkout; to link it later: " in said.stdout.splitlines()[0]


def test_a_folder_inside_somebody_elses_checkout_is_none(own_template: Path, tmp_path: Path) -> None:
    shutil.rmtree(own_template / ".git")
    commit(own_template.parent)
    said = make_new(own_template, tmp_path / "out")
    assert "no git checkout" in said.stdout


def test_a_worktree_of_the_template_is_linked_like_a_clone(own_template: Path, tmp_path: Path) -> None:
    tree_of_it = tmp_path / "worktree"
    run("git", "worktree", "add", "--quiet", "-b", "mine", tree_of_it, cwd=own_template)
    (tree_of_it / ".cache").symlink_to(ROOT / ".cache")
    said = make_new(tree_of_it, tmp_path / "out")
    assert ".cruft.json" not in said.stdout
    service = tmp_path / "out" / "order-service"
    assert json.loads((service / ".cruft.json").read_text())["template"] == str(tree_of_it)
    (tree_of_it / SERVICE / "NEWS.md").write_text("News.\n")
    commit(tree_of_it)
    commit(service)
    run(sys.executable, "-m", "cruft", "update", "-y", cwd=service)
    assert (service / "NEWS.md").read_text() == "News.\n"


def test_a_checkout_that_another_user_owns_is_generated_and_says_how_git_comes_to_trust_it(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = tmp_path / "bin" / "git"
    git.parent.mkdir()
    git.write_text(f'#!/bin/sh\nGIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec {shutil.which("git")} "$@"\n')
    git.chmod(0o755)
    monkeypatch.setenv("PATH", f"{git.parent}:{os.environ['PATH']}")
    said = make_new(template, tmp_path / "out")
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines()[0] == (
        "order-service has no .cruft.json, because git does not trust this checkout, which another user owns; to link "
        f"it later: run `git config --global --add safe.directory {template}`, then `cruft link {template}` in it, and "
        "give the same answers"
    )


def test_caches_that_tools_leave_in_the_template_are_not_generated(own_template: Path, tmp_path: Path) -> None:
    litter = own_template / SERVICE / "src" / "__pycache__" / "old.pyc"
    litter.parent.mkdir(parents=True)
    litter.write_bytes(b"\0")
    for number in range(2):
        make_new(own_template, tmp_path / f"out-{number}")
        assert not list((tmp_path / f"out-{number}").rglob("__pycache__"))
        assert (tmp_path / f"out-{number}" / "order-service").is_dir()
        if not number:
            shutil.rmtree(own_template / ".git")


# --- what it must not do ---------------------------------------------------------------------------------------------


def test_the_users_cookiecutter_settings_play_no_part(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    settings = "default_context: {project_name: Mine, scale_tier: large, _tiers: {}}\n"
    (home / ".cookiecutterrc").write_text(settings)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("COOKIECUTTER_CONFIG", str(home / ".cookiecutterrc"))
    make_new(template, tmp_path / "out")
    state = json.loads((tmp_path / "out" / "order-service" / ".cruft.json").read_text())["context"]["cookiecutter"]
    assert (state["project_name"], state["scale_tier"]) == ("Order Service", "small")
    assert state["_tiers"] == DEFINITION["_tiers"]
    assert [path.name for path in home.iterdir()] == [".cookiecutterrc"], "no replay file is left"


def test_a_mistake_in_the_template_is_one_line_and_leaves_nothing(own_template: Path, tmp_path: Path) -> None:
    (own_template / SERVICE / "broken.md").write_text("<< cookiecutter.no_such >>\n")
    said = refusal_of(make_new(own_template, tmp_path / "out"))
    assert said.startswith("order-service was not made: ")
    assert "broken.md" in said
    assert not (tmp_path / "out").exists()


def test_a_path_that_the_hook_lists_and_the_template_lacks_is_one_line(own_template: Path, tmp_path: Path) -> None:
    hook = own_template / "hooks" / "post_gen_project.py"
    table = "FEATURES: dict[str, tuple[str, ...]] = {"
    assert table in hook.read_text()
    hook.write_text(hook.read_text().replace(table, table + '"team=platform": ("src/{package}/no_such.py",),', 1))
    said = make_new(own_template, tmp_path / "out")
    assert "feature 'team=platform' lists src/order_service/no_such.py, which the template does not have" in said.stderr
    assert "Traceback" not in said.stderr
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing(own_template: Path, tmp_path: Path, number: signal.Signals) -> None:
    hook = own_template / "hooks" / "pre_gen_project.py"
    hook.write_text(
        "import signal, time\n"
        "def refusal(*_): ...\n"
        "def suggestion(_): ...\n"
        "def shared_refusal(*_): ...\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "    print('begun', flush=True)\n"
        "    time.sleep(60)\n"
    )
    out = tmp_path / "out"
    out.mkdir()
    python = ROOT / ".cache" / "new" / "bin" / "python"
    process = subprocess.Popen(
        [python, own_template / "scripts" / "new.py", "--no-input"],
        env={**os.environ, "OUT": str(out)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    assert list(out.iterdir())
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=30)
    assert process.returncode in {1, 130, 143}
    assert "Traceback" not in said
    assert not list(out.iterdir())


def test_how_long_it_takes(template: Path, tmp_path: Path) -> None:
    seconds = []
    for number in range(3):
        begun = time.monotonic()
        make_new(template, tmp_path / str(number))
        seconds.append(time.monotonic() - begun)
    print(f"\nmake new took {min(seconds):.2f} s at best, {max(seconds):.2f} s at worst")
    assert len(list(tmp_path.glob("*/order-service"))) == 3


# --- the first run on a machine --------------------------------------------------------------------------------------


@pytest.fixture
def fresh(own_template: Path) -> Path:
    """A checkout on which nothing is installed."""
    (own_template / ".cache").unlink()
    return own_template


def with_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """Changes Python itself for the programs that are started next, and hides uv from them."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(change)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    tools = tmp_path / "bin"
    tools.mkdir()
    for program in ("sh", "make", "git"):
        (tools / program).symlink_to(str(shutil.which(program)))
    (tools / "python3").symlink_to(sys._base_executable)  # type: ignore[attr-defined]
    monkeypatch.setenv("PATH", str(tools))


def test_a_python_that_is_too_old_says_so_in_one_line(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_python(tmp_path, monkeypatch, "import sys\nsys.version_info = (3, 9, 18, 'final', 0)\n")
    said = refusal_of(make_new(fresh, tmp_path / "out"))
    assert said.startswith("this needs Python 3.11 or newer and ")
    assert "is 3.9; name another with PYTHON=" in said


def test_another_python_is_named_where_python3_is_too_old(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.version_info = (3, 9, 18, 'final', 0)\n")
    old = tmp_path / "bin" / "python3"
    old.parent.mkdir()
    old.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{old.parent}:{os.environ['PATH']}")
    assert "this needs Python 3.11 or newer" in refusal_of(make_new(template, tmp_path / "out"))
    another = f"PYTHON={sys._base_executable}"  # type: ignore[attr-defined]
    run("make", "new", another, f"OUT={tmp_path}/out", "ARGS=--no-input", cwd=template)
    assert (tmp_path / "out" / "order-service" / "pyproject.toml").is_file()


def test_a_template_that_cannot_be_written_to_says_so_in_one_line(fresh: Path, tmp_path: Path) -> None:
    (fresh / ".cache").write_text("a file, in which root cannot make a folder either")
    said = refusal_of(make_new(fresh, tmp_path / "out"))
    assert said.startswith(f"{fresh}/.cache/new cannot be made: ")
    assert said.endswith(": copy or clone the template into a folder of yours")


@pytest.mark.parametrize("script", ["environment", "new"])
def test_an_old_python_reads_the_scripts_far_enough_to_say_so(script: str) -> None:
    source = (ROOT / "scripts" / f"{script}.py").read_text()
    ast.parse(source, feature_version=(3, 7))


def test_a_python_without_venv_names_the_package_in_one_line(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = (
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'ensurepip' else find(name, *rest)\n"
    )
    with_python(tmp_path, monkeypatch, block)
    said = make_new(fresh, tmp_path / "out")
    assert said.stderr.splitlines()[-2].startswith("error: ")
    assert "install the package python3-venv" in said.stderr
    assert "Traceback" not in said.stderr


@pytest.mark.real
@pytest.mark.parametrize("uv", [False, True], ids=["pip", "uv"])
def test_with_only_python_and_make_the_first_run_ends_with_a_service(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uv: bool
) -> None:
    with_python(tmp_path, monkeypatch, "")
    (tmp_path / "bin" / "git").unlink()
    if uv:
        (tmp_path / "bin" / "uv").symlink_to(Path(sys.executable).parent / "uv")
    said = make_new(fresh, tmp_path / "out")
    assert said.returncode == 0, said.stderr
    assert (tmp_path / "out" / "order-service" / "pyproject.toml").is_file()
    assert "uv = " in (fresh / ".cache" / "new" / "pyvenv.cfg").read_text() or not uv
    again = make_new(fresh, tmp_path / "again")
    assert "Installing" in said.stderr
    assert "Installing" not in again.stderr


@pytest.mark.real
def test_a_pip_that_is_set_to_install_for_the_user_or_in_environments_only_installs_here(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_python(tmp_path, monkeypatch, "")
    settings = tmp_path / "pip.conf"
    settings.write_text("[global]\nrequire-virtualenv = true\n[install]\nuser = true\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
    monkeypatch.setenv("PIP_REQUIRE_VIRTUALENV", "1")
    monkeypatch.setenv("PIP_USER", "1")
    said = make_new(fresh, tmp_path / "out")
    assert said.returncode == 0, said.stderr


@pytest.mark.real
@pytest.mark.parametrize("change", ["the folder was moved", "the interpreter was removed"])
def test_an_environment_that_cannot_work_any_more_is_made_again(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    with_python(tmp_path, monkeypatch, "")
    (tmp_path / "bin" / "uv").symlink_to(Path(sys.executable).parent / "uv")
    make_new(fresh, tmp_path / "before")
    if "folder" in change:
        fresh = fresh.rename(tmp_path / "moved")
    else:
        python = fresh / ".cache" / "new" / "bin" / "python"
        python.unlink()
        python.symlink_to(tmp_path / "removed")
    said = make_new(fresh, tmp_path / "after")
    assert said.returncode == 0, said.stderr
    assert "Installing" in said.stderr
    assert (tmp_path / "after" / "order-service" / "pyproject.toml").is_file()


@pytest.mark.real
def test_two_first_runs_at_once_install_once(fresh: Path, tmp_path: Path) -> None:
    commands = [["make", "new", f"OUT={tmp_path}/{number}", "ARGS=--no-input"] for number in range(2)]
    both = [subprocess.Popen(each, cwd=fresh, stderr=subprocess.PIPE, text=True) for each in commands]
    said = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("Installing" in each for each in said) == 1
