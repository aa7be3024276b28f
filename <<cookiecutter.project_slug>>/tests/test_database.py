"""The database: its schema is what the models say, and its absence is a 503, not a failure."""

import pytest
from sqlalchemy import text

from <<cookiecutter.__package>>.database import db

from .conftest import MakeService
from .support import ROOT, Service, free_port


def flask(service: Service, *command: str) -> str:
    result = service.app.test_cli_runner().invoke(args=command)
    assert result.exit_code == 0, result.output
    return result.output


def test_migrations_make_what_the_models_say(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    flask(service, "db", "upgrade")
    flask(service, "db", "check")


def test_migrations_can_be_taken_back(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    flask(service, "db", "upgrade")
    flask(service, "db", "downgrade", "base")
    flask(service, "db", "upgrade")


def test_the_database_is_critical(service: Service) -> None:
    checks = service.client.get("/health").get_json()["checks"]
    assert checks["database"]["status"] == "healthy"
    assert checks["database"]["critical"] is True


def without_a_server(make_service: MakeService) -> Service:
    url = f"postgresql://app:hunter2@127.0.0.1:{free_port()}/parcels"
    service = make_service(database_url=url)

    @service.app.get("/asks")
    def asks() -> str:
        return str(db.session.execute(text("SELECT 1")).scalar())

    return service


def test_a_database_that_is_away_is_a_503_to_try_again(make_service: MakeService) -> None:
    service = without_a_server(make_service)
    answer = service.client.get("/asks")
    assert answer.status_code == 503
    assert answer.content_type == "application/problem+json"
    assert answer.headers["Retry-After"] == "5"
    assert "127.0.0.1" not in answer.text
    assert len([line for line in service.lines() if "exception" in line]) == 1
    assert "hunter2" not in service.written()


def test_a_database_that_is_away_makes_the_service_unready_but_alive(
    make_service: MakeService,
) -> None:
    service = without_a_server(make_service)
    assert service.client.get("/health/ready").status_code == 503
    assert service.client.get("/health/live").status_code == 200
    picture = service.client.get("/health")
    assert picture.get_json()["checks"]["database"]["status"] == "unhealthy"
    for secret in ("hunter2", "127.0.0.1", "refused"):
        assert secret not in picture.text
    assert service.client.get("/").status_code == 200


def test_sessions_end_with_their_request(service: Service) -> None:
    @service.app.get("/asks")
    def asks() -> str:
        return str(db.session.execute(text("SELECT 1")).scalar())

    for _ in range(30):
        assert service.client.get("/asks").text == "1"
    with service.app.app_context():
        status = db.engine.pool.status()
    assert "Checked out connections: 0" in status or "Current Checked out" not in status
