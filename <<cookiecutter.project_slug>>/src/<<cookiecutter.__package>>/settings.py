<% import "sizes.j2" as sizes %>
<% set tier = cookiecutter._tiers[cookiecutter.scale_tier] %>
"""Every environment variable the service reads, typed and checked before anything starts."""

import os
import socket
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

SERVICE = "<< cookiecutter.project_slug >>"
"""The service's name in every signal, unless OTEL_SERVICE_NAME says otherwise."""

SLOW_REQUEST_SECONDS = << tier.thresholds.latency_seconds >>
"""A request that takes longer is always logged, and is an edge of the latency histogram."""

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
Url = TypeVar("Url", str, SecretStr)


class SettingsError(SystemExit):
    """One line for each variable that cannot be used; never a value, which may be a secret.

    Nothing can go on without them: Python prints the lines, without a traceback, and exits with 1.
    """


class Dependency(NamedTuple):
    """One entry of HEALTH_DEPENDENCIES."""

    name: str
    url: str
    critical: bool


def _pairs(text: str) -> list[tuple[str, str]]:
    entries = [entry.partition("=") for entry in text.split(",") if entry.strip()]
    pairs = [(name.strip(), value.strip()) for name, _, value in entries]
    if not all(name.removeprefix("!") and value for name, value in pairs):
        raise ValueError("an entry is not of the form name=value")
    return pairs


def _log_levels(text: object) -> object:
    if not isinstance(text, str):
        return text
    return {name: level.upper() for name, level in _pairs(text)}


def _dependencies(text: object) -> object:
    if not isinstance(text, str):
        return text
    check = _url("http", "https")
    return tuple(
        Dependency(name.removeprefix("!"), check(url), name.startswith("!"))
        for name, url in _pairs(text)
    )


def _url(*schemes: str) -> Callable[[Url], Url]:
    def check(url: Url) -> Url:
        text = url.get_secret_value() if isinstance(url, SecretStr) else url
        if any(character in text for character in " ;,\t\r\n"):
            raise ValueError("holds a character that a URL does not")
        try:
            parts = urlsplit(text)
            _ = parts.port
        except ValueError:
            # urllib's own message quotes the text, which may hold a password.
            raise ValueError("is not a URL, or has a port that is none") from None
        located = parts.hostname or text.startswith(("sqlite://", "unix://"))
        if parts.scheme not in schemes or not located:
            raise ValueError(f"is not a URL that starts with {' or '.join(schemes)}")
        return url

    return check


def _sentry_dsn(secret: SecretStr) -> SecretStr:
    parts = urlsplit(_url("http", "https")(secret).get_secret_value())
    if not parts.username or not parts.path.rpartition("/")[2].isdigit():
        raise ValueError("has no key or no project number")
    return secret


def _writable_file(path: Path) -> Path:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640))
    except OSError as error:
        raise ValueError(f"cannot be written: {error.strerror}") from error
    return path


def _own_address(host: str) -> str:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.bind((host, 0))
    except OSError as error:
        raise ValueError(f"cannot be listened on: {error.strerror}") from error
    return host


def _run_by_hand() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


Port = Annotated[int, Field(ge=1, le=65535, description="a port number, 1 to 65535")]
Ratio = Annotated[float, Field(ge=0, le=1, description="a number from 0 to 1")]


class Settings(BaseSettings):
    """Field names are the variables' names in lower case; descriptions say what is allowed."""

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, validate_default=True
    )

    environment: str = Field(
        "development",
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        description="a name in lower case such as development, staging or production",
    )
    app_version: str = Field(
        default_factory=lambda: version(SERVICE),
        pattern=r"^[A-Za-z0-9._+-]{1,64}$",
        description="up to 64 letters, digits and ._+-",
    )
    app_revision: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._+-]{1,64}$",
        description="a commit: up to 64 letters, digits and ._+-",
    )
    otel_service_name: str = Field(
        SERVICE,
        pattern=r"^[A-Za-z0-9._-]{1,63}$",
        description="up to 63 letters, digits and ._-",
    )

    flask_debug: bool = Field(False, description="0 or 1")
    host: Annotated[str, AfterValidator(_own_address)] | None = Field(
        None, description="an address of this machine, such as 127.0.0.1 or ::1"
    )
    port: Port = 8000
    metrics_port: Port = 9464
    web_concurrency: int = Field(<< tier.workers >>, ge=1, le=256, description="processes, 1 to 256")
    web_threads: int = Field(<< tier.threads >>, ge=1, le=1024, description="threads, 1 to 1024")
    drain_seconds: float = Field(
        default_factory=lambda fields: 0 if fields.get("environment") == "development" else 5,
        ge=0,
        le=3600,
        description="seconds, 0 to 3600",
    )
    trusted_proxies: int = Field(0, ge=0, le=10, description="a number of proxies, 0 to 10")

    log_level: Annotated[Level, BeforeValidator(lambda text: str(text).upper())] = Field(
        "INFO", description="DEBUG, INFO, WARNING, ERROR or CRITICAL"
    )
    log_levels: Annotated[dict[str, Level], NoDecode, BeforeValidator(_log_levels)] = Field(
        default_factory=dict, description="logger=LEVEL,logger=LEVEL"
    )
    log_format: Literal["json", "console"] = Field(
        default_factory=lambda: "console" if _run_by_hand() else "json",
        description="json or console",
    )
    log_file: Annotated[Path, AfterValidator(_writable_file)] | None = Field(
        None, description="the path of a file that can be written"
    )
    log_client_ip: Literal["full", "truncated", "off"] = Field(
        "full", description="full, truncated or off"
    )
    log_sample_ratio: Ratio = 1.0

    sentry_dsn: Annotated[SecretStr, AfterValidator(_sentry_dsn)] | None = Field(
        None, description="https://KEY@HOST/PROJECT"
    )
    sentry_sample_rate: Ratio = 1.0
    health_dependencies: Annotated[
        tuple[Dependency, ...], NoDecode, BeforeValidator(_dependencies)
    ] = Field((), description="name=url,!name=url with http or https URLs; ! marks a critical one")
<% if cookiecutter.database == 'postgresql' %>

    database_url: Annotated[SecretStr, AfterValidator(_url("postgresql", "sqlite"))] = Field(
        SecretStr("sqlite:///<< cookiecutter.project_slug >>.db"),
        description="postgresql://USER:PASSWORD@HOST/DATABASE",
    )
    database_pool_size: int = Field(
        << sizes.pool(tier) >>,
        ge=1,
        le=1000,
        description="connections of each process, 1 to 1000",
    )
<% if "dependency_metrics" in tier.features %>
    slow_query_seconds: float = Field(
        0.2, gt=0, le=60, description="seconds, more than 0 and up to 60"
    )
<% endif %>
<% endif %>
<% if cookiecutter.cache == 'redis' %>
<% if cookiecutter.database != 'postgresql' %>

<% endif %>
    redis_url: Annotated[SecretStr, AfterValidator(_url("redis", "rediss", "unix"))] | None = Field(
        None, description="redis://:PASSWORD@HOST:PORT/NUMBER"
    )
<% endif %>
<% if cookiecutter.web_analytics == 'plausible' %>

    plausible_domain: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9.-]{1,253}$",
        description="the site's domain, as registered with Plausible",
    )
    plausible_url: Annotated[str, AfterValidator(_url("https", "http"))] = Field(
        "https://plausible.io", description="the address of the Plausible server"
    )
<% elif cookiecutter.web_analytics == 'google_analytics' %>

    google_analytics_id: str | None = Field(
        None, pattern=r"^G-[A-Z0-9]{4,20}$", description="a measurement id, G-XXXXXXXXXX"
    )
<% endif %>

    @property
    def resource(self) -> dict[str, str]:
        """Whose telemetry it is; the word is OpenTelemetry's."""
        names = {
            "service": self.otel_service_name,
            "environment": self.environment,
            "version": self.app_version,
            "revision": self.app_revision,
        }
        return {name: value for name, value in names.items() if value}

    @property
    def own_host(self) -> str:
        """The address at which this machine reaches the service."""
        return self.host or "127.0.0.1"

    def own_url(self, port: int) -> str:
        """Where this machine reaches what listens on a port of the service."""
        host = self.own_host
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def in_production(self) -> bool:
        return self.environment == "production"

    # Field by field, so that all that is wrong is reported at once.
    @field_validator("sentry_dsn")
    @classmethod
    def _gets_errors(cls, dsn: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if dsn and info.data.get("log_level") == "CRITICAL":
            raise ValueError("gets nothing while LOG_LEVEL is CRITICAL; allowed: LOG_LEVEL=ERROR")
        return dsn

    @field_validator("flask_debug"<% if cookiecutter.database == 'postgresql' %>, "database_url"<% endif %><% if cookiecutter.cache == 'redis' %>, "redis_url"<% endif %>)
    @classmethod
    def _is_safe_in_production(cls, value: Any, info: ValidationInfo) -> Any:
        if info.data.get("environment") != "production":
            return value
        if info.field_name == "flask_debug" and value:
            raise ValueError("production needs it off, or anybody can run code in it; allowed: 0")
<% if cookiecutter.database == 'postgresql' %>
        if info.field_name == "database_url" and value.get_secret_value().startswith("sqlite"):
            raise ValueError("production needs a server")
<% endif %>
<% if cookiecutter.cache == 'redis' %>
        if info.field_name == "redis_url" and value is None:
            raise ValueError("production needs a server")
<% endif %>
        return value


def load_settings() -> Settings:
    """Settings from the environment and, in a checkout, from .env.

    Raises SettingsError, one line a variable: its name, the problem, what is allowed.
    """
    try:
        return Settings()
    except ValidationError as error:
        # Not of a default that depends on a variable which is wrong itself.
        problems = [p for p in error.errors() if p["type"] != "default_factory_not_called"]
        raise SettingsError("\n".join(map(_explain, problems))) from None


def _explain(problem: ErrorDetails) -> str:
    name = str(problem["loc"][0])
    message = problem["msg"].removeprefix("Value error, ")
    if "; allowed: " not in message:
        message += f"; allowed: {Settings.model_fields[name].description}"
    return f"{name.upper()}: {message}"


if __name__ == "__main__":
    # gunicorn reads WEB_CONCURRENCY before its configuration can say what is wrong with it.
    load_settings()
