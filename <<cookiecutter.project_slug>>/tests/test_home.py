"""The page at `/`: small, safe, and every link on it answers."""

import tomllib
from html.parser import HTMLParser

import pytest

<% if cookiecutter.database == 'postgresql' %>
from <<cookiecutter.__package>>.database import db

<% endif %>
from .conftest import MakeService
from .support import PRODUCTION, ROOT, Service

NAME: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["description"]


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text of its headings."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self._open = [""]
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.text[self._open[-1]] = self.text.get(self._open[-1], "") + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def page(service: Service) -> Page:
    answer = service.client.get("/")
    assert answer.status_code == 200
    assert answer.content_type == "text/html; charset=utf-8"
    return Page(answer.text)


def policy_of(service: Service) -> dict[str, list[str]]:
    policy = service.client.get("/").headers["Content-Security-Policy"]
    rules = [rule.split() for rule in policy.split(";")]
    return {name: sources for name, *sources in rules}


def test_the_page_says_what_this_is(make_service: MakeService) -> None:
    service = make_service(app_version="1.2.3", app_revision="4f1c", environment="staging")
    page = Page(service.client.get("/").text)
    assert page.text["h1"] == page.text["title"] == NAME
    assert page.text["p"] == "Version 1.2.3 (4f1c), staging"


def test_every_link_answers(service: Service, page: Page) -> None:
<% if cookiecutter.database == 'postgresql' %>
    with service.app.app_context():
        db.create_all()
<% endif %>
    links = [link["href"] for link in page.all("a")]
    assert {"/health", "/health/live", "/health/ready", "/health/startup", "/metrics"} <= set(links)
    for link in links:
        assert link
        assert service.client.get(link).status_code == 200


def test_what_the_page_loads_is_there(service: Service, page: Page) -> None:
    sheets = [link["href"] for link in page.all("link") if link["rel"] == "stylesheet"]
    assert sheets
    for sheet in sheets:
        assert sheet
        answer = service.client.get(sheet)
        assert answer.status_code == 200
        answer.close()


def test_the_page_can_be_read_by_everybody(page: Page) -> None:
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("title")) == 1
    assert "viewport" in [meta.get("name") for meta in page.all("meta")]


@pytest.mark.parametrize("production", [False, True])
def test_the_policy_allows_what_is_on_the_page_and_no_more(
    make_service: MakeService, production: bool
) -> None:
    service = make_service(**PRODUCTION if production else {})
    policy = policy_of(service)
    assert policy["default-src"] == ["'none'"]
    assert policy["style-src"] == ["'self'"]
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == ["'none'"]
    assert "unsafe" not in str(policy)
    assert "script-src" not in policy


def test_nothing_on_the_page_breaks_its_policy(page: Page) -> None:
    assert page.all("script") == page.all("style") == []
    for _, attributes in page.elements:
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]


def test_the_page_is_guarded_by_headers(service: Service) -> None:
    headers = service.client.get("/").headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "strict-origin-when-cross-origin"
