<% if cookiecutter.web_analytics == 'plausible' %>
"""Web analytics: in production, on the page that people see, for those who do not object."""

import pytest

from .conftest import MakeService
from .support import PRODUCTION, Service
from .test_home import Page, policy_of

SCRIPT = "https://plausible.io/js/script.js"


@pytest.fixture
def site(make_service: MakeService) -> Service:
    """The service in production, known to Plausible."""
    return make_service(**PRODUCTION, plausible_domain="shop.example")


def scripts(service: Service, headers: dict[str, str] | None = None) -> list[str | None]:
    page = Page(service.client.get("/", headers=headers).text)
    return [script["src"] for script in page.all("script")]


def test_a_visit_is_counted(site: Service) -> None:
    assert scripts(site) == [SCRIPT]
    (script,) = Page(site.client.get("/").text).all("script")
    assert script["data-domain"] == "shop.example"
    assert "defer" in script


def test_the_policy_allows_plausible_and_nobody_else(site: Service) -> None:
    policy = policy_of(site)
    assert policy["script-src"] == policy["connect-src"] == ["https://plausible.io"]
    assert policy["default-src"] == ["'none'"]


def test_a_server_of_ones_own_can_be_named(make_service: MakeService) -> None:
    settings = {"plausible_domain": "shop.example", "plausible_url": "https://stats.example"}
    service = make_service(**PRODUCTION, **settings)
    assert scripts(service) == ["https://stats.example/js/script.js"]
    assert policy_of(service)["script-src"] == ["https://stats.example"]


@pytest.mark.parametrize("settings", [{}, {"environment": "staging"}])
def test_nothing_is_counted_outside_production(
    make_service: MakeService, settings: dict[str, str]
) -> None:
    service = make_service(plausible_domain="shop.example", **settings)
    assert scripts(service) == []
    assert "script-src" not in policy_of(service)


def test_nothing_is_counted_without_a_domain(make_service: MakeService) -> None:
    assert scripts(make_service(**PRODUCTION)) == []
<% else %>
"""Web analytics: in production, on the page that people see, for those who do not object."""

import pytest

from .conftest import MakeService
from .support import PRODUCTION, Service
from .test_home import Page, policy_of

TAG_MANAGER = "https://www.googletagmanager.com"


@pytest.fixture
def site(make_service: MakeService) -> Service:
    """The service in production, known to Google Analytics."""
    return make_service(**PRODUCTION, google_analytics_id="G-ABCDE12345")


def scripts(service: Service, headers: dict[str, str] | None = None) -> list[str | None]:
    page = Page(service.client.get("/", headers=headers).text)
    return [script["src"] for script in page.all("script")]


def test_a_visit_is_counted(site: Service) -> None:
    tag, ours = Page(site.client.get("/").text).all("script")
    assert tag["src"] == f"{TAG_MANAGER}/gtag/js?id=G-ABCDE12345"
    assert ours["data-id"] == "G-ABCDE12345"
    assert ours["src"]
    answer = site.client.get(ours["src"])
    assert b"gtag" in answer.data
    answer.close()


def test_the_policy_allows_google_analytics_and_nobody_else(site: Service) -> None:
    policy = policy_of(site)
    assert policy["script-src"] == ["'self'", TAG_MANAGER]
    assert policy["default-src"] == ["'none'"]
    hosts = {source for sources in policy.values() for source in sources if "://" in source}
    assert hosts == {
        TAG_MANAGER,
        "https://*.google-analytics.com",
        "https://*.analytics.google.com",
    }


@pytest.mark.parametrize("settings", [{}, {"environment": "staging"}])
def test_nothing_is_counted_outside_production(
    make_service: MakeService, settings: dict[str, str]
) -> None:
    service = make_service(google_analytics_id="G-ABCDE12345", **settings)
    assert scripts(service) == []
    assert "script-src" not in policy_of(service)


def test_nothing_is_counted_without_an_id(make_service: MakeService) -> None:
    assert scripts(make_service(**PRODUCTION)) == []
<% endif %>


@pytest.mark.parametrize("name", ["DNT", "Sec-GPC"])
def test_who_objects_is_not_counted(site: Service, name: str) -> None:
    assert scripts(site, {name: "1"}) == []
    answer = site.client.get("/", headers={name: "1"})
    assert "script-src" not in answer.headers["Content-Security-Policy"]


def test_who_does_not_object_is(site: Service) -> None:
    assert scripts(site, {"DNT": "0", "Sec-GPC": "0"})


def test_caches_keep_the_two_pages_apart(site: Service) -> None:
    assert site.client.get("/").headers["Vary"] == "DNT, Sec-GPC"
