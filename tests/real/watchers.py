"""What watches a service from outside and tells people, with the service's own configuration."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from .processes import free_port
from .programs import program
from .servers import Prometheus, Server, answers


def changed(text: str, changes: Mapping[str, str]) -> str:
    """Return a text with others in place of some; each of these must be there."""
    for old, new in changes.items():
        assert old in text, f"{old} is not in {text}"
        text = text.replace(old, new)
    return text


def hurried(rules: str) -> str:
    """Return rules that wait and look back seconds where those of the service do minutes."""
    rules = re.sub(r"\[\d+m\]|(?<=offset )\d+m\b", lambda found: "[4s]" if found[0][0] == "[" else "4s", rules)
    rules = re.sub(r"\[15m:1m\]", "[4s:1s]", rules)
    rules = re.sub(r"\b(?:5|10|15) \* 60\b", "4", rules)
    return re.sub(r"(?m)^( +(?:keep_firing_)?for:) \d+\w+$", r"\1 1s", rules)


class Blackbox(Server):
    """The exporter with the service's configuration, but for its time limit."""

    def __init__(self, folder: Path, monitoring: Path) -> None:
        port = free_port()
        text = (monitoring / "blackbox" / "blackbox.yml").read_text()
        (folder / "blackbox.yml").write_text(changed(text, {"timeout: 5s": "timeout: 1s"}))
        command: list[str | Path] = [program("prometheus-blackbox-exporter")]
        options = [f"--config.file={folder / 'blackbox.yml'}", f"--web.listen-address=127.0.0.1:{port}"]
        super().__init__([*command, *options], folder, port)

    def ready(self) -> bool:
        return answers(self.port, "/-/healthy")


class Alertmanager(Server):
    """An Alertmanager with the service's configuration: `changes` are texts to replace, each of which must be there.

    The folder of secrets is this server's own.
    """

    def __init__(self, folder: Path, monitoring: Path, secrets: dict[str, str], changes: dict[str, str]) -> None:
        port = free_port()
        shutil.copytree(monitoring / "alertmanager", folder / "alertmanager")
        own = folder / "alertmanager" / "secrets"
        for name, secret in secrets.items():
            (own / name).write_text(secret)
        configuration = folder / "alertmanager" / "alertmanager.yml"
        hurry = {"group_wait: 30s": "group_wait: 1s", "group_interval: 5m": "group_interval: 1s"}
        here = {"/etc/alertmanager/secrets": str(own)}
        configuration.write_text(self.configured(changed(configuration.read_text(), changes | hurry | here)))
        command: list[str | Path] = [
            program("prometheus-alertmanager"),
            f"--config.file={configuration}",
            f"--storage.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ]
        super().__init__(command, folder, port)

    def configured(self, text: str) -> str:
        """Return the configuration to use, for subclasses that change more of it than texts."""
        return text

    def ready(self) -> bool:
        return answers(self.port, "/-/ready")


class Watcher(Prometheus):
    """A Prometheus with the service's configuration, rules and targets, that scrapes every second.

    `changes` are texts to replace, by file; in a `hurry` its rules do not wait either.
    """

    def __init__(
        self, folder: Path, monitoring: Path, changes: Mapping[str, Mapping[str, str]], *, hurry: bool = False
    ) -> None:
        port = free_port()
        own = folder / "prometheus"
        shutil.copytree(monitoring / "prometheus", own)
        here = {"prometheus.yml": {"localhost:9090": f"127.0.0.1:{port}", ": 15s": ": 1s"}}
        for files in (here, changes):
            for file, texts in files.items():
                (own / file).write_text(changed((own / file).read_text(), texts))
        if hurry:
            for rules in (*own.glob("rules/*.yml"), *own.glob("watchers/*.yml")):
                rules.write_text(hurried(rules.read_text()))
        options = ["--rules.alert.resend-delay=1s"] if hurry else []
        super().__init__(folder, own / "prometheus.yml", port, *options)
