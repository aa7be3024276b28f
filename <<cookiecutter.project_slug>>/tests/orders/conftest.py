"""Fixtures of the tests of orders."""

<% if cookiecutter.database == 'postgresql' %>
import pytest

from <<cookiecutter.__package>>.database import db

from ..conftest import MakeService
from ..support import Service


@pytest.fixture
def shop(make_service: MakeService) -> Service:
    """The service, with an empty table of orders."""
    service = make_service()
    with service.app.app_context():
        db.create_all()
    return service
<% else %>
from pathlib import Path

import pytest

from <<cookiecutter.__package>>.orders import store

from ..conftest import MakeService
from ..support import Service


@pytest.fixture
def shop(make_service: MakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    """The service, with an empty table of orders."""
    monkeypatch.setattr(store, "FILE", tmp_path / "orders.db")
    return make_service()
<% endif %>
