"""Settings: what cannot be used is refused in one line, which never shows a value."""

import re
from pathlib import Path

import pytest

from <<cookiecutter.__package>>.settings import (
    SERVICE,
    Settings,
    SettingsError,
    load_settings,
)

from .support import PRODUCTION, a_process

SECRET = "s3cr3t-hunter2"


def refused(monkeypatch: pytest.MonkeyPatch, **variables: str) -> list[str]:
    """The lines that say why."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    return str(caught.value).split("\n")


def test_no_variable_is_needed_in_development() -> None:
    settings = load_settings()
    assert settings.environment == "development"
    assert settings.otel_service_name == SERVICE
    assert (settings.port, settings.metrics_port) == (8000, 9464)
    assert settings.drain_seconds == 0
    assert settings.sentry_dsn is None
    assert settings.log_level == "INFO"
    assert settings.trusted_proxies == 0


def test_elsewhere_the_service_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "staging")
    assert load_settings().drain_seconds == 5
    monkeypatch.setenv("DRAIN_SECONDS", "0")
    assert load_settings().drain_seconds == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENVIRONMENT", "Production"),
        ("ENVIRONMENT", "pro duction"),
        ("ENVIRONMENT", "x" * 64),
        ("APP_VERSION", "1.0 beta"),
        ("APP_REVISION", "v1/2"),
        ("OTEL_SERVICE_NAME", "parcel service"),
        ("FLASK_DEBUG", "perhaps"),
        ("HOST", "no such host"),
        ("HOST", "192.0.2.1"),
        ("HOST", "[::1]"),
        ("PORT", "0"),
        ("PORT", "65536"),
        ("PORT", "http"),
        ("PORT", "80.5"),
        ("METRICS_PORT", "-1"),
        ("WEB_CONCURRENCY", "0"),
        ("WEB_CONCURRENCY", "many"),
        ("WEB_THREADS", "0"),
        ("WEB_THREADS", "9999"),
        ("DRAIN_SECONDS", "-1"),
        ("DRAIN_SECONDS", "nan"),
        ("DRAIN_SECONDS", "inf"),
        ("DRAIN_SECONDS", "soon"),
        ("TRUSTED_PROXIES", "-1"),
        ("TRUSTED_PROXIES", "all"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_LEVELS", "loudly"),
        ("LOG_LEVELS", "shop=LOUD"),
        ("LOG_LEVELS", "=INFO"),
        ("LOG_LEVELS", "shop="),
        ("LOG_FORMAT", "xml"),
        ("LOG_FILE", "/no/such/folder/service.log"),
        ("LOG_FILE", "/"),
        ("LOG_CLIENT_IP", "some"),
        ("LOG_SAMPLE_RATIO", "1.1"),
        ("LOG_SAMPLE_RATIO", "-0.1"),
        ("LOG_SAMPLE_RATIO", "nan"),
        ("LOG_SAMPLE_RATIO", "all"),
        ("SENTRY_DSN", SECRET),
        ("SENTRY_DSN", f"https://errors.example/{SECRET}"),
        ("SENTRY_DSN", f"https://{SECRET}@errors.example"),
        ("SENTRY_DSN", f"ftp://{SECRET}@errors.example/1"),
        ("SENTRY_DSN", f"https://{SECRET}@[errors/1"),
        ("SENTRY_DSN", f"https://{SECRET}@errors.example:port/1"),
        ("SENTRY_SAMPLE_RATE", "2"),
        ("HEALTH_DEPENDENCIES", "https://stock.example"),
        ("HEALTH_DEPENDENCIES", "stock=stock.example"),
        ("HEALTH_DEPENDENCIES", f"stock=ftp://{SECRET}@stock.example"),
        ("HEALTH_DEPENDENCIES", "stock="),
        ("HEALTH_DEPENDENCIES", "!=https://stock.example"),
        ("HEALTH_DEPENDENCIES", "stock=https://[stock"),
<% if cookiecutter.database == 'postgresql' %>
        ("DATABASE_URL", SECRET),
        ("DATABASE_URL", f"mysql://app:{SECRET}@db/parcels"),
        ("DATABASE_URL", f"postgresql://app:{SECRET}@[db/parcels"),
<% endif %>
<% if cookiecutter.cache == 'redis' %>
        ("REDIS_URL", SECRET),
        ("REDIS_URL", f"https://:{SECRET}@cache"),
        ("REDIS_URL", f"redis://:{SECRET}@[cache"),
<% endif %>
<% if cookiecutter.web_analytics == 'plausible' %>
        ("PLAUSIBLE_DOMAIN", "https://example.org/"),
        ("PLAUSIBLE_DOMAIN", '"><script>'),
        ("PLAUSIBLE_URL", "plausible.io"),
        ("PLAUSIBLE_URL", "javascript:alert(1)"),
        ("PLAUSIBLE_URL", "https://plausible.io; script-src *"),
<% elif cookiecutter.web_analytics == 'google_analytics' %>
        ("GOOGLE_ANALYTICS_ID", "UA-12345-1"),
        ("GOOGLE_ANALYTICS_ID", 'G-"><script>'),
<% endif %>
    ],
)
def test_a_bad_value_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    (line,) = refused(monkeypatch, **{name: value})
    variable, problem = line.split(": ", 1)
    assert variable == name
    problem, allowed = problem.split("; allowed: ")
    assert len(problem) > 5
    assert len(allowed) > 3
    assert "None" not in allowed
    assert SECRET not in line
    if len(value) > 6:
        assert value not in line


def test_the_address_to_reach_the_service_at_is_where_it_listens() -> None:
    assert Settings(_env_file=None).own_url(8000) == "http://127.0.0.1:8000"
    assert Settings(_env_file=None, host="127.0.0.2").own_url(8000) == "http://127.0.0.2:8000"
    assert Settings.model_construct(host="::").own_url(8000) == "http://[::]:8000"


def test_each_bad_value_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = refused(monkeypatch, PORT="x", LOG_LEVEL="x", ENVIRONMENT="X")
    assert [line.partition(":")[0] for line in lines] == ["ENVIRONMENT", "PORT", "LOG_LEVEL"]


def test_every_variable_says_what_is_allowed() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = load_settings()
    for name in Settings.model_fields:
        monkeypatch.setenv(name.upper(), "")
<% if cookiecutter.database == 'postgresql' %>
    monkeypatch.setenv("DATABASE_URL", plain.database_url.get_secret_value())
<% endif %>
    assert load_settings() == plain


def test_good_values_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "ENVIRONMENT": "staging-2",
        "LOG_LEVEL": "debug",
        "LOG_LEVELS": "urllib3=INFO, till=debug,",
        "LOG_FILE": str(tmp_path / "service.log"),
        "LOG_SAMPLE_RATIO": "0.25",
        "DRAIN_SECONDS": "2.5",
        "TRUSTED_PROXIES": "2",
        "SENTRY_DSN": f"https://{SECRET}@errors.example/1",
        "HEALTH_DEPENDENCIES": "stock=https://stock.example/health?a=b, !prices=http://prices:8000",
    }.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.environment == "staging-2"
    assert settings.log_level == "DEBUG"
    assert settings.log_levels == {"urllib3": "INFO", "till": "DEBUG"}
    assert settings.log_file == tmp_path / "service.log"
    assert settings.log_sample_ratio == 0.25
    assert settings.drain_seconds == 2.5
    assert settings.health_dependencies == (
        ("stock", "https://stock.example/health?a=b", False),
        ("prices", "http://prices:8000", True),
    )


def test_secrets_do_not_show_in_the_settings_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTRY_DSN", f"https://{SECRET}@errors.example/1")
<% if cookiecutter.database == 'postgresql' %>
    monkeypatch.setenv("DATABASE_URL", f"postgresql://app:{SECRET}@db/parcels")
<% endif %>
<% if cookiecutter.cache == 'redis' %>
    monkeypatch.setenv("REDIS_URL", f"redis://:{SECRET}@cache:6379/0")
<% endif %>
    settings = load_settings()
    for text in (repr(settings), str(settings), settings.model_dump_json()):
        assert SECRET not in text


def test_a_file_in_the_working_folder_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("PORT=9000\nLOG_LEVEL=WARNING\nSOMEBODY_ELSES=1\n")
    monkeypatch.setenv("LOG_LEVEL", "ERROR")
    settings = load_settings()
    assert (settings.port, settings.log_level) == (9000, "ERROR")


def test_production_takes_what_is_safe() -> None:
    settings = Settings(_env_file=None, **PRODUCTION)
    assert settings.in_production
    assert settings.log_format == "json"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FLASK_DEBUG", "1"),
<% if cookiecutter.database == 'postgresql' %>
        ("DATABASE_URL", ""),
        ("DATABASE_URL", f"sqlite:////srv/{SECRET}.db"),
<% endif %>
<% if cookiecutter.cache == 'redis' %>
        ("REDIS_URL", ""),
<% endif %>
    ],
)
def test_production_refuses_what_is_unsafe(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    safe = {variable.upper(): text for variable, text in PRODUCTION.items()}
    (line,) = refused(monkeypatch, **safe | {name: value})
    assert line.startswith(f"{name}: production needs ")
    assert "; allowed: " in line
    assert SECRET not in line
    assert "hunter2" not in line


def test_production_reports_all_that_is_missing_or_unsafe_at_once(tmp_path: Path) -> None:
    code = "import <<cookiecutter.__package>>.wsgi"
    wrong = {"FLASK_DEBUG": "1", "PORT": "eighty", "LOG_LEVEL": "critical"}
    dsn = f"https://{SECRET}@errors.example/1"
    done = a_process(code, tmp_path, ENVIRONMENT="production", SENTRY_DSN=dsn, **wrong)
    said = done.stderr.decode()
    assert (done.returncode, done.stdout) == (1, b""), said
    assert [line.partition(": ")[0] for line in said.splitlines()] == [
        "FLASK_DEBUG",
        "PORT",
        "SENTRY_DSN",
<% if cookiecutter.database == 'postgresql' %>
        "DATABASE_URL",
<% endif %>
<% if cookiecutter.cache == 'redis' %>
        "REDIS_URL",
<% endif %>
    ]
    assert all("; allowed: " in line for line in said.splitlines())
    assert SECRET not in said


def test_start_up_stops_with_that_line_and_no_traceback(tmp_path: Path) -> None:
    code = "import <<cookiecutter.__package>>.wsgi"
    done = a_process(code, tmp_path, PORT="eighty", SENTRY_DSN=SECRET)
    assert done.returncode == 1
    assert done.stdout == b""
    said = done.stderr.decode()
    port, dsn = said.splitlines()
    assert port.startswith("PORT: ")
    assert dsn.startswith("SENTRY_DSN: ")
    assert SECRET not in said


def test_the_example_of_settings_names_each_variable() -> None:
    example = (Path(__file__).parents[1] / ".env.example").read_text()
    named = set(re.findall(r"^#([A-Z_]+)=", example, re.MULTILINE))
    of_compose = {"GRAFANA_PORT", "PROMETHEUS_PORT", "ALERTMANAGER_PORT"}
    others = {"PROMETHEUS_MULTIPROC_DIR", *of_compose}
    assert named == {name.upper() for name in Settings.model_fields} | others
