"""The exporters that Debian has, with the settings of the platform's Compose files."""

from __future__ import annotations

import shutil
from pathlib import Path

from .processes import Program, clean_environment, free_port
from .programs import program
from .servers import Prometheus, Server, answers
from .watchers import changed, hurried


class Exporter(Server):
    """One of them. What it asks is in its environment."""

    def __init__(self, folder: Path, name: str, *options: str, **environment: str) -> None:
        self._environment = environment
        port = free_port()
        folder = folder / name
        folder.mkdir()
        command: list[str | Path] = [program(name), f"--web.listen-address=127.0.0.1:{port}", *options]
        super().__init__(command, folder, port)

    def _run(self) -> Program:
        log = self.folder / "server.log"
        environment = clean_environment(**self._environment)
        return Program(self._command, environment=environment, folder=self.folder, stdout=log, stderr=log)

    def ready(self) -> bool:
        return answers(self.port, "/metrics")


class Platform(Prometheus):
    """A Prometheus with the platform's configuration and a service's rules, in the places that Compose gives them.

    It scrapes and evaluates every second, and its rules do not wait. `targets` are the addresses of the jobs, by the
    host and port that Compose knows them by.
    """

    def __init__(self, folder: Path, service: Path, targets: dict[str, str]) -> None:
        port = free_port()
        platform, own = folder / "platform", folder / "services" / service.name
        shutil.copytree(service / "platform/prometheus", platform)
        shutil.copytree(service / "monitoring/prometheus", own)
        configuration = platform / "prometheus.yml"
        # The PostgreSQL exporter tries for a second before it says that the server is down.
        slower = {"job_name: postgres\n": "job_name: postgres\n    scrape_interval: 2s\n    scrape_timeout: 2s\n"}
        here = {"localhost:9090": f"127.0.0.1:{port}", ": 15s": ": 1s"} | slower
        configuration.write_text(changed(configuration.read_text(), here))
        for host, address in targets.items():
            (file,) = (each for each in folder.glob("**/targets/*.yml") if f"- {host}\n" in each.read_text())
            file.write_text(changed(file.read_text(), {f"- {host}\n": f"- {address}\n"}))
        for rules in (*platform.glob("rules/*.yml"), *own.glob("rules/*.yml")):
            rules.write_text(hurried(rules.read_text()))
        super().__init__(folder, configuration, port)
