"""The first minutes with a new service: each command of its pages typed as it stands, in a terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from commands import Terminal, commands_of, typed
from template_checkout import ROOT, generate_with_cookiecutter

from .processes import free_port

PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # uv is there: what pip does is proven by test_smoke


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new service beside the template's folder, and nothing installed."""
    folder = tmp_path_factory.mktemp("beside")
    (folder / "template").mkdir()
    return generate_with_cookiecutter(ROOT, folder)


def on_port(command: str, port: int) -> str:
    """The command with the port that this test has in place of the one that another program may hold."""
    return command.replace("localhost:8000", f"localhost:{port}")


EXPECTED = {
    "curl localhost:8000/health": '"status": "healthy"',
    """curl -d '{"customer": "c-1", "amount": "12.50", "currency": "EUR"}' localhost:8000/api/v1/orders""": '"amount"',
    "curl localhost:8000/metrics": 'orders_created_total{source="web"} 1.0',
}


def test_the_first_minutes(made: Path) -> None:
    """`make install run` shows the address once it answers; the requests of both READMEs get what they should."""
    port = free_port()
    ports = {"PORT": str(port), "METRICS_PORT": str(free_port()), "PATH": PATH}
    pages = [*commands_of(ROOT, "README.md"), *commands_of(made, "README.md")]
    requests = [each.text for each in pages if each.text.startswith("curl")]
    assert set(requests) == EXPECTED.keys()
    running = Terminal("cd ../order-service && make install run", made.parent / "template", **ports)
    try:
        running.wait_for(f"http://127.0.0.1:{port} answers", 300)
        for request, answer in EXPECTED.items():
            assert answer in typed(on_port(request, port), made), request
        assert "errors" in typed("make doctor", made, [], **ports)
        assert "make install" in typed("make help", made, [], **ports)
    finally:
        running.stop()
    assert "Traceback" not in running.said
    typed("make install", made, [], **ports)
    again = Terminal("make run", made, **ports)
    try:
        again.wait_for(f"http://127.0.0.1:{port} answers", 120)
        assert '"status": "healthy"' in typed(on_port("curl localhost:8000/health", port), made)
    finally:
        again.stop()


def test_the_first_migration(made: Path) -> None:
    """A field more in a model, and the README's two commands bring the database to it."""
    models = made / "src/order_service/orders/models.py"
    before = models.read_text()
    lines = before.splitlines(keepends=True)
    (place,) = [number for number, line in enumerate(lines) if line.strip().startswith("customer:")]
    indent = lines[place][: -len(lines[place].lstrip())]
    lines.insert(place + 1, f"{indent}remark: Mapped[str | None]\n")
    models.write_text("".join(lines))
    commands = [each.text for each in commands_of(made, "README.md") if each.text.startswith("make migrat")]
    assert commands == ['make migration m="add customer"', "make migrate"]
    for command in commands:
        typed(command, made, PATH=PATH)
    (written,) = (made / "migrations/versions").glob("*add_customer*.py")
    assert "remark" in written.read_text()
