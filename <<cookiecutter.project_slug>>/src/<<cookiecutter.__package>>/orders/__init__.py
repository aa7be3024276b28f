"""Orders: the example feature. It shows a validated request, a metric, a user, a cached read."""

from flask import Flask

from .routes import orders


def init_orders(app: Flask) -> None:
    app.register_blueprint(orders)
