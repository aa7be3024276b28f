"""What watches a service from outside and tells people, with the service's own configuration."""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from .processes import free_port
from .programs import program
from .servers import Prometheus, Server, answers
from .service import Service
from .stand_ins import Posted, Webhook


def platform_of(service: Service) -> Path:
    """Return the folder of what exists once for all services: a small one has it among its own."""
    platform = service.folder / "platform"
    return platform if platform.exists() else service.folder / "monitoring"


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

    The folder of secrets is this server's own. In a `hurry` it gathers alerts for a second, not for half a minute.
    """

    def __init__(  # noqa: PLR0913 - what of the configuration is changed has this many parts
        self,
        folder: Path,
        monitoring: Path,
        secrets: dict[str, str],
        changes: dict[str, str],
        *,
        hurry: bool = True,
        options: Iterable[str] = ("--cluster.listen-address=",),
    ) -> None:
        port = free_port()
        shutil.copytree(monitoring / "alertmanager", folder / "alertmanager")
        own = folder / "alertmanager" / "secrets"
        for name, secret in secrets.items():
            (own / name).write_text(secret)
        configuration = folder / "alertmanager" / "alertmanager.yml"
        waits = {"group_wait: 30s": "group_wait: 1s", "group_interval: 5m": "group_interval: 1s"} if hurry else {}
        here = {"/etc/alertmanager/secrets": str(own)}
        configuration.write_text(self.configured(changed(configuration.read_text(), changes | waits | here)))
        command: list[str | Path] = [
            program("prometheus-alertmanager"),
            f"--config.file={configuration}",
            f"--storage.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            *options,
        ]
        super().__init__(command, folder, port)

    def configured(self, text: str) -> str:
        """Return the configuration to use, for subclasses that change more of it than texts."""
        return text

    def ready(self) -> bool:
        return answers(self.port, "/-/ready")


@dataclass(frozen=True)
class Notified:
    """One alert, as a receiver got it."""

    receiver: str
    status: str
    alert: str
    service: str
    environment: str
    team: str
    severity: str
    at: float
    """When, by the clock of `time.monotonic`."""

    @property
    def pages(self) -> bool:
        """Whether it may wake somebody."""
        return self.receiver == "page"


def notified(notifications: Iterable[Posted]) -> list[Notified]:
    """Return every alert of these notifications."""
    return [
        Notified(
            receiver=posted.path.removeprefix("/"),
            status=alert["status"],
            alert=alert["labels"]["alertname"],
            service=alert["labels"]["service"],
            environment=alert["labels"]["environment"],
            team=alert["labels"]["team"],
            severity=alert["labels"]["severity"],
            at=posted.at,
        )
        for posted in notifications
        for alert in posted.body["alerts"]
    ]


class Notifying(Alertmanager):
    """An Alertmanager that sends all that a receiver would get to a webhook, at a path of the receiver's name."""

    def __init__(
        self,
        folder: Path,
        monitoring: Path,
        webhook: Webhook,
        *,
        hurry: bool = True,
        options: Iterable[str] = ("--cluster.listen-address=",),
    ) -> None:
        self._webhook, self._hurry = webhook, hurry
        super().__init__(folder, monitoring, {}, {}, hurry=hurry, options=options)

    def configured(self, text: str) -> str:
        configuration = yaml.safe_load(text)
        for one in configuration["receivers"]:
            hook = {"url": f"{self._webhook.url}/{one['name']}", "send_resolved": True}
            if one.keys() > {"name"}:
                one["webhook_configs"] = [hook]
            for channel in one.keys() - {"name", "webhook_configs"}:
                del one[channel]
        if self._hurry:
            # Long enough for what explains an alert to fire as well.
            configuration["route"]["group_wait"] = "3s"
        return str(yaml.safe_dump(configuration))

    def alerts(self) -> list[str]:
        """Return the names of those that fire and notify somebody, or would if nothing silenced them."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v2/alerts", timeout=20) as answer:
            names = [alert["labels"]["alertname"] for alert in json.load(answer)]
        return [name for name in names if name != "Watchdog"]


class Watcher(Prometheus):
    """A Prometheus with the service's configuration, rules and targets, that scrapes every second.

    `changes` are texts to replace, by file; in a `hurry` its rules do not wait either. `every` is how often it scrapes
    and evaluates.
    """

    def __init__(
        self,
        folder: Path,
        monitoring: Path,
        changes: Mapping[str, Mapping[str, str]],
        *,
        hurry: bool = False,
        every: str = "1s",
    ) -> None:
        port = free_port()
        own = folder / "prometheus"
        shutil.copytree(monitoring / "prometheus", own)
        here = {"prometheus.yml": {"localhost:9090": f"127.0.0.1:{port}", ": 15s": f": {every}"}}
        for files in (here, changes):
            for file, texts in files.items():
                (own / file).write_text(changed((own / file).read_text(), texts))
        if hurry:
            for rules in (*own.glob("rules/*.yml"), *own.glob("watchers/*.yml")):
                rules.write_text(hurried(rules.read_text()))
        options = ["--rules.alert.resend-delay=1s"] if hurry else []
        super().__init__(folder, own / "prometheus.yml", port, *options)
