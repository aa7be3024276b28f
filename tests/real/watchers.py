"""What watches a service from outside and tells people, and stand-ins for those that are told."""

from __future__ import annotations

import base64
import json
import re
import shutil
import socketserver
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

from .processes import free_port
from .programs import program
from .servers import Prometheus, Server


def changed(text: str, changes: Mapping[str, str]) -> str:
    """Return a text with others in place of some; each of these must be there."""
    for old, new in changes.items():
        assert old in text, f"{old} is not in {text}"
        text = text.replace(old, new)
    return text


def hurried(rules: str) -> str:
    """Return rules that wait seconds where those of the service wait minutes."""
    rules = re.sub(r"\[\d+m\]", "[4s]", rules)
    return re.sub(r"(?m)^( +for:) \d+\w+$", r"\1 1s", rules)


def answers(port: int, path: str) -> bool:
    """Ask whether a server of this machine says 200."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return bool(answer.status == 200)


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
        hurry = {"group_wait: 30s": "group_wait: 0s", "group_interval: 5m": "group_interval: 1s"}
        here = {"/etc/alertmanager/secrets": str(own)}
        configuration.write_text(changed(configuration.read_text(), changes | hurry | here))
        command: list[str | Path] = [
            program("prometheus-alertmanager"),
            f"--config.file={configuration}",
            f"--storage.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ]
        super().__init__(command, folder, port)

    def ready(self) -> bool:
        return answers(self.port, "/-/ready")


class Watcher(Prometheus):
    """A Prometheus with the service's configuration, rules and targets, in a hurry.

    `changes` are texts to replace, by file; `alertmanagers` are the ports that hear of alerts.
    """

    def __init__(
        self, folder: Path, monitoring: Path, changes: Mapping[str, Mapping[str, str]], alertmanagers: list[int]
    ) -> None:
        port = free_port()
        own = folder / "prometheus"
        shutil.copytree(monitoring / "prometheus", own)
        for rules in own.glob("rules/*.yml"):
            rules.write_text(hurried(rules.read_text()))
        addresses = [f"127.0.0.1:{each}" for each in alertmanagers]
        ours = {"alertmanager:9093": ", ".join(addresses), "localhost:9090": f"127.0.0.1:{port}", ": 15s": ": 1s"}
        for file in ("prometheus.yml", "targets/service.yml", "targets/uptime.yml"):
            here = (ours if file == "prometheus.yml" else {}) | dict(changes[file])
            (own / file).write_text(changed((own / file).read_text(), here))
        command: list[str | Path] = [
            program("prometheus"),
            f"--config.file={own / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        Server.__init__(self, command, folder, port)


@dataclass(frozen=True)
class Posted:
    """A request that a stand-in got."""

    path: str
    body: Any


class Webhook(ThreadingHTTPServer):
    """What Slack and PagerDuty are here: it takes JSON and says what they say."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taking)
        self.posted: list[Posted] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Taking(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        cast(Webhook, self.server).posted.append(Posted(self.path, json.loads(body)))
        said = b'{"status": "success"}' if self.path.startswith("/v2") else b"ok"
        self.send_response(202 if self.path.startswith("/v2") else 200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@dataclass(frozen=True)
class Mail:
    """A letter, and the password that its sender showed."""

    password: str
    subject: str
    to: str
    text: str
    html: str


class MailServer(socketserver.ThreadingTCPServer):
    """Takes mail from whoever shows any password."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiving)
        self.letters: list[Mail] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Receiving(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self._say("220 stand-in")
        password = ""
        while line := self.rfile.readline().decode().strip():
            verb, _, rest = line.partition(" ")
            if verb == "EHLO":
                self._say("250-stand-in\r\n250 AUTH PLAIN")
            elif verb == "AUTH":
                password = base64.b64decode(rest.removeprefix("PLAIN ")).decode().split("\0")[2]
                self._say("235 welcome")
            elif verb == "DATA":
                self._say("354 go on")
                self._keep(password)
                self._say("250 taken")
            elif verb == "QUIT":
                self._say("221 bye")
                return
            else:
                self._say("250 ok")

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())

    def _keep(self, password: str) -> None:
        lines = []
        while (line := self.rfile.readline()) != b".\r\n":
            lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
        letter = message_from_bytes(b"".join(lines), policy=policy.default)
        text, html = (part.get_content() if (part := letter.get_body((kind,))) else "" for kind in ("plain", "html"))
        mail = Mail(password, str(letter["Subject"]), str(letter["To"]), text, html)
        cast(MailServer, self.server).letters.append(mail)


@contextmanager
def listening(server: socketserver.BaseServer) -> Iterator[None]:
    """Serve from a thread until the block ends."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@contextmanager
def running(server: Server) -> Iterator[None]:
    """Wait until a server is ready; stop it at the end of the block."""
    try:
        server.await_ready()
        yield
    finally:
        server.end()
