"""Servers and services that the proofs share, each started once and stopped whatever happens."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import FrameType

import pytest

from . import servers
from .service import Service, generate

HERE = Path(__file__).parent
TIERS = ("small", "medium", "large")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder starts real programs."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.real)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="session", autouse=True)
def _clean_up_when_told_to_stop() -> None:
    """A SIGTERM, as CI sends at its time limit, must not leave servers behind."""
    signal.signal(signal.SIGTERM, _interrupt)


@pytest.fixture(scope="session")
def service_of(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[[str], Service]:
    """Return the service of a tier: generated and installed once a worker, by its own `make install`."""

    @cache
    def made(tier: str) -> Service:
        service = generate(tmp_path_factory.mktemp(tier), scale_tier=tier)
        # One by what every Python has, the others by uv where the template has it.
        by_pip = tier == "small" and worker_id in ("master", "gw0")
        beside = "" if by_pip else f"{Path(sys.executable).parent}:"
        code, said = service.make("install", PATH=beside + os.environ["PATH"])
        assert code == 0, said
        return service

    return made


@pytest.fixture(scope="session")
def small(service_of: Callable[[str], Service]) -> Service:
    """The small tier's service, installed."""
    return service_of("small")


@pytest.fixture(scope="session")
def variant(small: Service, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Service]:
    """Return a service of other answers, run with the small one's installed packages."""

    def made(**answers: str) -> Service:
        other = generate(tmp_path_factory.mktemp("variant"), **answers)
        return Service(other.folder, other.slug, other.tier, answers, borrowed=small)

    return made


@pytest.fixture(scope="session")
def bugsink() -> Iterator[servers.Bugsink]:
    """A Bugsink; each test takes an inbox of its own."""
    with servers.bugsink() as server:
        yield server


@pytest.fixture(scope="session")
def requests_on_demand() -> int:
    """How many hostile requests to send: 20,000, or what PROOF_HOSTILE_REQUESTS says."""
    return int(os.environ.get("PROOF_HOSTILE_REQUESTS", "20000"))


@pytest.fixture(scope="session")
def deaths_on_demand() -> int:
    """How many workers must die: 200, or what PROOF_WORKER_DEATHS says."""
    return int(os.environ.get("PROOF_WORKER_DEATHS", "200"))
