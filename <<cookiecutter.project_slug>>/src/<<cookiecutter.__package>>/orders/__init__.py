"""Orders: the example feature. It shows a validated request, a metric, a user<% if cookiecutter.cache == 'redis' %>, a cached read<% endif %>."""

from flask import Flask

from .routes import orders


def init_orders(app: Flask) -> None:
    app.register_blueprint(orders)
