"""The watch from outside: what the blackbox exporter takes for an answer, and what it says of a certificate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from .processes import run
from .programs import program
from .servers import running
from .service import generate, request
from .stand_ins import self_signed, website
from .watchers import Blackbox

DAYS = 10


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("uptime")).folder / "monitoring"


def measured(blackbox: Blackbox, address: str) -> dict[str, float]:
    text = request(blackbox.port, f"/probe?module=http_2xx&target={address}").text
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


@pytest.fixture
def probe(configuration: Path, tmp_path: Path) -> Iterator[Callable[[str], dict[str, float]]]:
    """Returns what the exporter measures of an address."""
    with running(Blackbox(tmp_path, configuration)) as blackbox:
        yield partial(measured, blackbox)


def test_the_exporter_accepts_its_configuration(configuration: Path) -> None:
    file = configuration / "blackbox/blackbox.yml"
    done = run([program("prometheus-blackbox-exporter"), "--config.check", f"--config.file={file}"])
    assert done.returncode == 0, done.stderr


def test_only_an_answer_of_2xx_is_one(probe: Callable[[str], dict[str, float]]) -> None:
    """A redirect to a login page is not, whatever the page says."""
    with website() as address:
        found = {status: probe(f"{address}/{status}")["probe_success"] for status in (200, 204, 302, 404, 503)}
    assert found == {200: 1, 204: 1, 302: 0, 404: 0, 503: 0}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of this machine that lasts some days."""
    return self_signed(tmp_path_factory.mktemp("certificate"), DAYS)


def test_a_certificate_that_nobody_trusts_is_no_answer(
    probe: Callable[[str], dict[str, float]], certificate: Path
) -> None:
    with website(certificate) as address:
        assert probe(f"{address}/200")["probe_success"] == 0


def test_the_end_of_a_certificate_is_known_before_it_comes(
    configuration: Path, tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with running(Blackbox(tmp_path, configuration)) as blackbox, website(certificate) as address:
        found = measured(blackbox, f"{address}/200")
    assert found["probe_success"] == 1
    days = (found["probe_ssl_earliest_cert_expiry"] - time.time()) / 86_400
    assert DAYS - 0.1 < days <= DAYS
