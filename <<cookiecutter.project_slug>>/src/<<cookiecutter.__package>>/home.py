"""The page at `/`: what this service is and where to look."""

<% if cookiecutter.web_analytics == 'none' %>
from flask import Blueprint, Flask, Response, make_response, render_template, url_for
<% else %>
from flask import Blueprint, Flask, Response, make_response, render_template, request, url_for
<% endif %>

<% if cookiecutter.web_analytics != 'none' %>
from .observability.analytics import Analytics
<% endif %>
from .settings import Settings

CONTENT_SECURITY_POLICY = {
    "default-src": "'none'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}


def init_home(app: Flask, settings: Settings) -> None:
    """Serve the page, under a policy that allows what is on it and no more."""
    home = Blueprint("home", __name__)
<% if cookiecutter.web_analytics != 'none' %>
    analytics = Analytics(settings)
<% endif %>

    @home.get("/")
    def page() -> Response:
<% if cookiecutter.web_analytics != 'none' %>
        counted = analytics.allowed(request)
        policy = CONTENT_SECURITY_POLICY | (analytics.policy if counted else {})
        answer = make_response(
            render_template(
                "home.html",
                settings=settings,
                links=_links(app),
                analytics=analytics if counted else None,
            )
        )
        answer.headers["Vary"] = "DNT, Sec-GPC"
<% else %>
        policy = CONTENT_SECURITY_POLICY
        answer = make_response(render_template("home.html", settings=settings, links=_links(app)))
<% endif %>
        answer.headers["Content-Security-Policy"] = "; ".join(map(" ".join, policy.items()))
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["Referrer-Policy"] = "strict-origin-when-cross-origin"
        return answer

    app.register_blueprint(home)


def _links(app: Flask) -> list[str]:
    """The addresses that a browser can open as they are."""
    return sorted(
        url_for(rule.endpoint)
        for rule in app.url_map.iter_rules()
        if "GET" in (rule.methods or ()) and not rule.arguments and rule.rule != "/"
    )
