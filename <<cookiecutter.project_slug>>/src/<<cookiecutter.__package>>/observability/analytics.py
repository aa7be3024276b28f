<% if cookiecutter.web_analytics == 'plausible' %>
"""Web analytics: Plausible, on the page that people see, for those who do not object."""

from flask import Request

from ..settings import Settings


class Analytics:
    """What the page must carry, and for whom. Off outside production and without a domain."""

    def __init__(self, settings: Settings) -> None:
        self.domain = settings.plausible_domain
        self.script = f"{settings.plausible_url}/js/script.js"
        self.policy = {
            "script-src": settings.plausible_url,
            "connect-src": settings.plausible_url,
        }
        self._on = settings.in_production and self.domain is not None

    def allowed(self, request: Request) -> bool:
        """Whether this visit may be counted: Do Not Track and Global Privacy Control say no."""
        objects = "1" in (request.headers.get("DNT"), request.headers.get("Sec-GPC"))
        return self._on and not objects
<% else %>
"""Web analytics: Google Analytics, on the page that people see, for those who do not object."""

from flask import Request

from ..settings import Settings

_TAG_MANAGER = "https://www.googletagmanager.com"


class Analytics:
    """What the page must carry, and for whom. Off outside production and without an id."""

    def __init__(self, settings: Settings) -> None:
        self.measurement_id = settings.google_analytics_id
        self.script = f"{_TAG_MANAGER}/gtag/js?id={self.measurement_id}"
        # developers.google.com/tag-platform/security/guides/csp
        self.policy = {
            "script-src": f"'self' {_TAG_MANAGER}",
            "img-src": f"'self' data: {_TAG_MANAGER} https://*.google-analytics.com",
            "connect-src": f"{_TAG_MANAGER} https://*.google-analytics.com"
            " https://*.analytics.google.com",
        }
        self._on = settings.in_production and self.measurement_id is not None

    def allowed(self, request: Request) -> bool:
        """Whether this visit may be counted: Do Not Track and Global Privacy Control say no."""
        objects = "1" in (request.headers.get("DNT"), request.headers.get("Sec-GPC"))
        return self._on and not objects
<% endif %>
