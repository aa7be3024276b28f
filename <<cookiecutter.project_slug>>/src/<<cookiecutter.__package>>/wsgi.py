"""What gunicorn and the flask command load."""

import sys

from .app import create_app
from .settings import SettingsError

try:
    app = create_app()
except SettingsError as error:
    sys.exit(str(error))
