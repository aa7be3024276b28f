"""What gunicorn and the flask command load."""

import click
from werkzeug.serving import is_running_from_reloader

from .app import create_app
from .settings import load_settings

settings = load_settings()
app = create_app(settings)
if is_running_from_reloader():
    # The process of `make run` that answers; its socket is open by now.
    click.echo(f"{settings.own_url(settings.port)} answers; Ctrl+C stops it")
