"""Where a log agent sends lines: a front with TLS that records, and VictoriaLogs behind it where that can be."""

from __future__ import annotations

import gzip
import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

from .processes import free_port
from .programs import program
from .servers import Server, answers
from .stand_ins import Quiet, encrypt, listening

Record = dict[str, Any]


class VictoriaLogs(Server):
    """Stores and answers what agents send as Loki, Elasticsearch bulk and Splunk HEC."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        super().__init__(
            [
                program("victoria-logs"),
                f"-storageDataPath={folder / 'data'}",
                f"-httpListenAddr=127.0.0.1:{port}",
                "-retentionPeriod=100y",
            ],
            folder,
            port,
        )

    def ready(self) -> bool:
        return answers(self.port, "/health")

    def messages(self) -> list[str]:
        """The message of every line that is stored."""
        address = f"http://127.0.0.1:{self.port}/select/logsql/query?query=*"
        with urllib.request.urlopen(address, timeout=30) as answer:
            lines = [json.loads(line) for line in answer.read().splitlines()]
        return [line.get("message", line["_msg"]) for line in lines]


class Store(ThreadingHTTPServer):
    """Takes what an agent ships over TLS and keeps each record; closed, it answers nobody."""

    request_queue_size = 64

    def __init__(self, kind: str, certificate: Path, real: VictoriaLogs | None, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Taking)
        self.kind, self.real = kind, real
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.records: list[Record] = []
        self.groups: set[str] = set()
        """CloudWatch's: a stream can only be made in one that exists."""
        self.away = False
        self.lock = threading.Lock()
        encrypt(self, certificate)


class _Taking(Quiet, BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        store = cast(Store, self.server)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if store.away:
            return self._answer(503, b"")
        headers = {name.lower(): value for name, value in self.headers.items()}
        plain = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
        if store.kind == "aws" and self._lacks_group(store, headers["x-amz-target"], plain):
            return self._answer(*NO_GROUP)
        said = ANSWERS[store.kind]
        if store.real:
            said = self._handed_on(store.real, PREFIX[store.kind] + self.path, headers, body)
        with store.lock:
            store.requests.append((self.path, headers))
            store.records += SHIPPED[store.kind](plain, headers)
        return self._answer(*said)

    @staticmethod
    def _lacks_group(store: Store, action: str, body: bytes) -> bool:
        group = json.loads(body)["logGroupName"]
        if action.endswith(".CreateLogGroup"):
            store.groups.add(group)
        return group not in store.groups

    def _handed_on(self, real: VictoriaLogs, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        kept = {name: headers[name] for name in ("content-encoding", "content-type") if name in headers}
        if "splunk" in path:
            kept["content-type"] = "application/json"
        asked = urllib.request.Request(f"http://127.0.0.1:{real.port}{path}", body, kept, method="POST")
        with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310 - the scheme stands above
            return answer.status, answer.read()

    def _answer(self, status: int, said: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("x-amzn-RequestId", "1")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)


PREFIX = {
    "grafana": "/insert",
    "elastic": "/insert/elasticsearch",
    "splunk": "/insert/splunk",
}
"""Where VictoriaLogs has the store's own paths. The others are stand-ins alone: of Datadog's it takes strings only."""

ANSWERS = {
    "grafana": (204, b""),
    "elastic": (200, b'{"errors":false,"items":[]}'),
    "aws": (200, b"{}"),
    "gcp": (200, b"{}"),
    "datadog": (202, b"{}"),
    "newrelic": (202, b'{"requestId":"1"}'),
    "splunk": (200, b'{"text":"Success","code":0}'),
}
NO_GROUP = (400, b'{"__type":"ResourceNotFoundException","message":"The specified log group does not exist."}')


def _of_loki(body: bytes, _: dict[str, str]) -> Iterator[Record]:
    for stream in json.loads(body)["streams"]:
        for moment, line, *rest in stream["values"]:
            labels, metadata, fields = stream["stream"], rest[0] if rest else {}, json.loads(line)
            yield {"labels": labels, "at": moment, "metadata": metadata, "line": labels | metadata | fields}


def _of_bulk(body: bytes, _: dict[str, str]) -> Iterator[Record]:
    lines = [json.loads(line) for line in body.splitlines()]
    for action, document in zip(lines[::2], lines[1::2], strict=True):
        yield {"action": action, "line": document}


def _of_cloudwatch(body: bytes, headers: dict[str, str]) -> Iterator[Record]:
    if headers["x-amz-target"].endswith(".PutLogEvents"):
        put = json.loads(body)
        for event in put["logEvents"]:
            where = {name: put[name] for name in ("logGroupName", "logStreamName")}
            yield {**where, "at": event["timestamp"], "line": json.loads(event["message"])}


def _of_google(body: bytes, _: dict[str, str]) -> Iterator[Record]:
    written = json.loads(body)
    for entry in written["entries"]:
        yield {"entry": {"resource": written.get("resource"), **entry}, "line": entry["jsonPayload"]}


def _of_datadog(body: bytes, _: dict[str, str]) -> Iterator[Record]:
    for line in json.loads(body):
        yield {"line": line}


def _of_new_relic(body: bytes, _: dict[str, str]) -> Iterator[Record]:
    for batch in json.loads(body):
        for log in batch["logs"]:
            yield {"at": log["timestamp"], "line": {"message": log.get("message"), **log["attributes"]}}


def _of_splunk(body: bytes, _: dict[str, str]) -> Iterator[Record]:
    decoder, text, at = json.JSONDecoder(), body.decode(), 0
    while at < len(text.rstrip()):
        event, at = decoder.raw_decode(text, at)
        while at < len(text) and text[at].isspace():
            at += 1
        yield {"envelope": event, "line": event["event"]}


SHIPPED: dict[str, Callable[[bytes, dict[str, str]], Iterator[Record]]] = {
    "grafana": _of_loki,
    "elastic": _of_bulk,
    "aws": _of_cloudwatch,
    "gcp": _of_google,
    "datadog": _of_datadog,
    "newrelic": _of_new_relic,
    "splunk": _of_splunk,
}


class Metadata(ThreadingHTTPServer):
    """Google's metadata server: a stand-in that gives whoever asks a token."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Telling)


class _Telling(Quiet, BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        known = {
            "token": b'{"access_token":"token","expires_in":3600,"token_type":"Bearer"}',
            "zone": b"projects/1/zones/europe-west3-a",
            "project-id": b"shop",
        }
        said = known.get(self.path.rpartition("/")[2], b"1")
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)


@contextmanager
def store(kind: str, certificate: Path, real: VictoriaLogs | None) -> Iterator[Store]:
    """A store that listens until the end of the block."""
    server = Store(kind, certificate, real)
    with listening(server):
        yield server
