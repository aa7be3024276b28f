"""The page at `/` in a real browser: what it asks for, and for whom it does not."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from . import servers
from .processes import clean_environment, run
from .programs import program
from .service import Gunicorn, Service, request
from .stand_ins import Quiet, encrypt, listening, self_signed

SWITCHES = """
--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run
--disable-background-networking --disable-component-update --ignore-certificate-errors
--enable-logging=stderr --virtual-time-budget=4000 --dump-dom
"""
CHROMIUM = SWITCHES.split()


class Visit(NamedTuple):
    """What a browser made of the page."""

    page: str
    console: list[str]
    asked: list[str]


class _Internet(ThreadingHTTPServer):
    """Every host name there is, over TLS, from one port of this machine."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Host)
        encrypt(self, self_signed(folder))
        self.asked: list[str] = []


class _Host(Quiet, BaseHTTPRequestHandler):
    """Stands for every host outside: hands out a script that proves that it ran."""

    def do_GET(self) -> None:
        """Write down who was asked for what."""
        cast(_Internet, self.server).asked.append(f"{self.headers['Host']}{self.path}")
        self.send_response(200)
        self.send_header("Content-Type", "text/javascript")
        self.end_headers()
        self.wfile.write(b"document.documentElement.dataset.counted = 'yes';")

    do_POST = do_GET  # noqa: N815 - http.server's name


def _visit(service: Gunicorn, *, do_not_track: bool = False) -> Visit:
    """Open the page in Chromium, with every other host led to one of ours."""
    with tempfile.TemporaryDirectory() as profile, listening(internet := _Internet(Path(profile))):
        (Path(profile) / "Default").mkdir()
        settings = {"enable_do_not_track": do_not_track}
        (Path(profile) / "Default/Preferences").write_text(json.dumps(settings))
        outside = f"127.0.0.1:{internet.server_port}"
        done = run(
            [
                program("chromium"),
                *CHROMIUM,
                f"--user-data-dir={profile}",
                f"--host-resolver-rules=MAP *:443 {outside}, EXCLUDE 127.0.0.1",
                f"http://127.0.0.1:{service.port}/",
            ],
            environment=clean_environment(HOME=profile),
            seconds=90,
        )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert "<html" in done.stdout, done.stderr[-2000:]
    theirs = ("google.com", "googleapis.com", "gvt1.com", "chrome")
    return Visit(done.stdout, console, [one for one in internet.asked if not _browsers_own(one, theirs)])


def _browsers_own(asked: str, names: tuple[str, ...]) -> bool:
    host = asked.partition("/")[0]
    return any(host.endswith(name) for name in names)


@pytest.fixture(scope="module")
def stores() -> Iterator[tuple[servers.Postgres, servers.Redis]]:
    """What production insists on."""
    with servers.postgres() as postgres, servers.redis() as redis:
        yield postgres, redis


@contextmanager
def _in(
    environment: str,
    service: Service,
    stores: tuple[servers.Postgres, servers.Redis],
    **extra: str,
) -> Iterator[Gunicorn]:
    postgres, redis = stores
    url = f"postgresql://postgres@127.0.0.1:{postgres.port}/postgres"
    production: dict[str, Any] = {"ENVIRONMENT": environment, "DATABASE_URL": url, "REDIS_URL": redis.url}
    with service.serving(staged=False, **production | extra) as running:
        yield running


SCRIPTS = {
    "plausible": ("PLAUSIBLE_DOMAIN", "shop.example", "plausible.io/js/script.js"),
    "google_analytics": (
        "GOOGLE_ANALYTICS_ID",
        "G-ABCDE12345",
        "www.googletagmanager.com/gtag/js?id=G-ABCDE12345",
    ),
}


def test_the_page_is_clean_and_asks_nobody(small: Service) -> None:
    """No script, no error, no blocked resource, nothing from elsewhere."""
    with small.serving(staged=False) as service:
        visit = _visit(service)
        assert visit.console == []
        assert visit.asked == []
        assert "<script" not in visit.page
        assert "/health" in visit.page
        page = service.get("/")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert page.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("chosen", sorted(SCRIPTS))
def test_a_visit_is_counted_in_production_unless_the_visitor_objects(
    variant: Callable[..., Service],
    stores: tuple[servers.Postgres, servers.Redis],
    chosen: str,
) -> None:
    """The policy lets the script run, and just that; Do Not Track and GPC keep it away."""
    name, value, script = SCRIPTS[chosen]
    service = variant(web_analytics=chosen)
    with _in("production", service, stores, **{name: value}) as running:
        visit = _visit(running)
        assert visit.console == []
        assert script in visit.asked
        assert 'data-counted="yes"' in visit.page
        objecting = _visit(running, do_not_track=True)
        assert objecting.console == []
        assert objecting.asked == []
        assert "<script" not in objecting.page
        for header in ({"DNT": "1"}, {"Sec-GPC": "1"}):
            answer = request(running.port, "/", headers=header)
            assert "<script" not in answer.text
            assert script.partition("/")[0] not in answer.headers["content-security-policy"]
        plain = request(running.port, "/")
        assert "<script" in plain.text
        assert {"dnt", "sec-gpc"} <= set(plain.headers["vary"].lower().split(", "))


@pytest.mark.parametrize("chosen", sorted(SCRIPTS))
def test_outside_production_nobody_is_counted(
    variant: Callable[..., Service],
    stores: tuple[servers.Postgres, servers.Redis],
    chosen: str,
) -> None:
    """Developers and staging are no visitors."""
    name, value, _ = SCRIPTS[chosen]
    with _in("staging", variant(web_analytics=chosen), stores, **{name: value}) as running:
        assert "<script" not in running.get("/").text
