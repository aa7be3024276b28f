"""Stand-ins for what a service and its watchers talk to: other hosts, and those that take a notification."""

from __future__ import annotations

import base64
import json
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

from .processes import run
from .programs import program


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


class Quiet:
    """A handler of requests that does not print them."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


def self_signed(folder: Path, days: int = 2, name: str = "") -> Path:
    """Make a certificate of this machine, by address or name, that nobody else signed; its key lies beside it."""
    file = folder / "certificate.pem"
    made = run([
        program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", str(days),
        "-subj", "/CN=localhost", "-addext", f"subjectAltName={f'DNS:{name}' if name else 'IP:127.0.0.1'}",
        "-keyout", file.with_suffix(".key"), "-out", file,
    ])  # fmt: skip
    assert made.returncode == 0, made.stderr
    return file


def chain(folder: Path, days: int) -> tuple[Path, Path]:
    """Make a certificate of localhost for 90 days, signed by one that lasts some days; returns also who signed that."""

    def do(*words: str) -> None:
        made = run([program("openssl"), *words], folder=folder)
        assert made.returncode == 0, made.stderr

    def sign(name: str, subject: str, extension: str, by: str, days: int) -> None:
        key = ["-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key"]
        do("req", *key, "-subj", f"/CN={subject}", "-addext", extension, "-out", f"{name}.csr")
        signed = ["x509", "-req", "-in", f"{name}.csr", "-copy_extensions", "copy", "-days", str(days)]
        do(*signed, "-CA", f"{by}.pem", "-CAkey", f"{by}.key", "-CAcreateserial", "-out", f"{name}.pem")

    root = ["-newkey", "rsa:2048", "-nodes", "-keyout", "root.key", "-days", "3650"]
    do("req", "-x509", *root, "-subj", "/CN=An Authority", "-out", "root.pem")
    sign("between", "An Intermediate", "basicConstraints=critical,CA:TRUE", "root", days)
    sign("certificate", "localhost", "subjectAltName=DNS:localhost", "between", 90)
    both = folder / "certificate.pem"
    both.write_text(both.read_text() + (folder / "between.pem").read_text())
    return both, folder / "root.pem"


def encrypt(server: ThreadingHTTPServer, certificate: Path) -> None:
    """Let a server accept TLS alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    server.socket = context.wrap_socket(server.socket, server_side=True)


@contextmanager
def website(certificate: Path | None = None, port: int = 0) -> Iterator[str]:
    """Serve, over TLS where there is a certificate; yields the address, below which a path names its status."""
    server = ThreadingHTTPServer(("127.0.0.1", port), _Answering)
    if certificate:
        encrypt(server, certificate)
    with listening(server):
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"


class _Answering(Quiet, BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path[1:]))
        if self.path.startswith("/3"):
            self.send_header("Location", "/200")
        self.send_header("Content-Length", "0")
        self.end_headers()


@dataclass(frozen=True)
class Posted:
    """A request that a stand-in got."""

    path: str
    body: Any
    at: float
    """When, by the clock of `time.monotonic`."""


class Webhook(ThreadingHTTPServer):
    """What Slack and PagerDuty are here: it takes JSON and says what they say, also to a key that is not valid."""

    def __init__(self, *, valid: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Taking)
        self.posted: list[Posted] = []
        self.valid = valid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Taking(Quiet, BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        webhook = cast(Webhook, self.server)
        webhook.posted.append(Posted(self.path, json.loads(body), time.monotonic()))
        said = b'{"status": "success"}' if self.path.startswith("/v2") else b"ok"
        taken = 202 if self.path.startswith("/v2") else 200
        self.send_response(taken if webhook.valid else 403)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)


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
