<% set features = cookiecutter._tiers[cookiecutter.scale_tier].features %>
"""The service's table of contents."""

from pathlib import Path

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from .bodies import init_bodies
<% if cookiecutter.cache == 'redis' %>
from .cache import init_cache
<% if "dependency_metrics" in features %>
from .cache_metrics import init_cache_metrics
<% endif %>
<% endif %>
<% if cookiecutter.database == 'postgresql' %>
from .database import init_database
<% if "dependency_metrics" in features %>
from .database_metrics import init_database_metrics
<% endif %>
<% endif %>
from .doctor import init_doctor
from .home import init_home
from .observability import Health, init_observability
from .orders import init_orders
from .problems import init_problems
from .settings import Settings, load_settings


def create_app(settings: Settings | None = None) -> Flask:
    """The service, ready to answer. Raises SettingsError where a variable cannot be used."""
    settings = settings or load_settings()
    app = Flask(__name__, instance_path=str(Path("instance").absolute()))
    init_observability(app, settings)
    init_proxies(app, settings)
    init_bodies(app)
    init_problems(app)
<% if cookiecutter.database == 'postgresql' %>
    init_database(app, settings)
<% if "dependency_metrics" in features %>
    init_database_metrics(app, settings)
<% endif %>
<% endif %>
<% if cookiecutter.cache == 'redis' %>
    init_cache(app, settings)
<% if "dependency_metrics" in features %>
    init_cache_metrics(app)
<% endif %>
<% endif %>
    init_doctor(app, settings)
    init_home(app, settings)
    init_orders(app)
    health: Health = app.extensions["health"]
    health.startup_done()
    return app


def init_proxies(app: Flask, settings: Settings) -> None:
    """Believe the forwarding headers of as many proxies as stand in front, and of no more."""
    hops = settings.trusted_proxies
    if hops:
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops, x_prefix=hops
        )
