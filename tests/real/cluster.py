"""Stands in for the API server of Kubernetes: objects, logs, programs run in a pod. kubectl itself is real."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from .stand_ins import Quiet

Object = dict[str, Any]

CORE = {"pods": "Pod", "events": "Event"}
APPS = {"deployments": "Deployment", "replicasets": "ReplicaSet"}


class Cluster(ThreadingHTTPServer):
    """One namespace with a service's deployment, its only pod, and what happened to it.

    `logs` returns what the pod's program said before it ended, `execute` runs a command where the service runs.
    """

    daemon_threads = True

    def __init__(self, slug: str, logs: Callable[[], str], execute: Callable[[Sequence[str]], str]) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.slug, self.logs, self.execute = slug, logs, execute
        self.patched: list[Any] = []
        self.objects = {"pods": [_pod(slug)], "events": [_event(slug)]}
        self.objects["replicasets"] = [_owned(slug, "ReplicaSet", f"{slug}-{number}", number) for number in (1, 2)]
        self.objects["deployments"] = [_owned(slug, "Deployment", slug, 2)]

    def configuration(self, folder: Path) -> Path:
        """What kubectl reads to find it."""
        file = folder / "kubeconfig"
        parts: dict[str, Any] = {"apiVersion": "v1", "kind": "Config", "current-context": "here"}
        parts["clusters"] = [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{self.server_port}"}}]
        parts["contexts"] = [{"name": "here", "context": {"cluster": "here", "user": ""}}]
        file.write_text(json.dumps(parts))  # JSON is YAML
        return file


def _labels(slug: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": slug}


def _meta(slug: str, name: str) -> Object:
    when = "2026-01-01T00:00:00Z"
    return {"name": name, "namespace": slug, "uid": name, "labels": _labels(slug), "creationTimestamp": when}


def _pod(slug: str) -> Object:
    ended = {"exitCode": 137, "reason": "OOMKilled", "startedAt": "2026-01-01T00:00:00Z"}
    state = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container"}}
    status = {
        "name": slug, "image": f"{slug}:0.1.0", "imageID": "", "ready": False, "restartCount": 7,
        "state": state, "lastState": {"terminated": ended | {"finishedAt": "2026-01-01T00:05:00Z"}},
    }  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _meta(slug, f"{slug}-2-abcde"),
        "spec": {"containers": [{"name": slug, "image": f"{slug}:0.1.0"}], "nodeName": "node-1"},
        "status": {"phase": "Running", "containerStatuses": [status]},
    }


def _event(slug: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": _meta(slug, f"{slug}.1"),
        "involvedObject": {"kind": "Pod", "namespace": slug, "name": f"{slug}-2-abcde", "uid": f"{slug}-2-abcde"},
        "type": "Warning",
        "reason": "Unhealthy",
        "message": "Liveness probe failed: HTTP probe failed with statuscode: 503",
        "firstTimestamp": "2026-01-01T00:00:00Z",
        "lastTimestamp": "2026-01-01T00:05:00Z",
        "count": 3,
    }


def _owned(slug: str, kind: str, name: str, revision: int) -> Object:
    meta = _meta(slug, name) | {"annotations": {"deployment.kubernetes.io/revision": str(revision)}}
    if kind == "ReplicaSet":
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": slug, "uid": slug, "controller": True}
        meta["ownerReferences"] = [owner]
    container = {"name": slug, "image": f"{slug}:0.{revision}.0"}
    template = {"metadata": {"labels": _labels(slug)}, "spec": {"containers": [container]}}
    spec = {"replicas": 1, "selector": {"matchLabels": _labels(slug)}, "template": template}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": meta, "spec": spec, "status": {}}


def _row(found: Object) -> Object:
    """A line of the table that kubectl prints."""
    state = found.get("status", {}).get("containerStatuses", [{}])[0]
    words = [
        found["metadata"]["name"],
        state.get("state", {}).get("waiting", {}).get("reason", "") or found.get("reason", ""),
        str(state.get("restartCount", "")) or found.get("message", ""),
    ]
    return {"cells": [*words, found.get("spec", {}).get("nodeName", "")], "object": found}


COLUMNS = [
    *({"name": name, "type": "string"} for name in ("Name", "Reason", "Restarts or message")),
    {"name": "Node", "type": "string", "priority": 1},  # with --output wide alone
]


class _Answering(Quiet, BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def _cluster(self) -> Cluster:
        return cast(Cluster, self.server)

    def do_GET(self) -> None:
        path, asked = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        if path.endswith("/log"):
            self._send(self._cluster.logs().encode(), "text/plain")
        elif path.endswith("/exec"):
            self._run(asked["command"])
        elif found := self._found(path):
            self._answer(found)
        else:
            self._answer({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}, 404)

    def do_PATCH(self) -> None:
        self._cluster.patched.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        found = self._found(urlsplit(self.path).path)
        assert found
        self._answer(found)

    def _found(self, path: str) -> Object | None:
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            known = {"groupVersion": "apps/v1", "version": "v1"}
            group = {"name": "apps", "versions": [known], "preferredVersion": known}
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]}
        for place, kinds, version in (("/api/v1", CORE, "v1"), ("/apis/apps/v1", APPS, "apps/v1")):
            if path == place:
                resources = [
                    {"name": name, "singularName": kind.lower(), "kind": kind, "namespaced": True, "verbs": ["get"]}
                    for name, kind in kinds.items()
                ]
                return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
            wanted = re.fullmatch(rf"{place}/namespaces/{self._cluster.slug}/(\w+)(?:/([^/]+))?", path)
            if wanted and wanted[1] in kinds:
                objects = self._cluster.objects[wanted[1]]
                if wanted[2]:
                    return next((one for one in objects if one["metadata"]["name"] == wanted[2]), None)
                if "as=Table" in self.headers.get("Accept", ""):
                    rows = [_row(one) for one in objects]
                    meta = {"kind": "Table", "apiVersion": "meta.k8s.io/v1"}
                    return meta | {"columnDefinitions": COLUMNS, "rows": rows}
                return {"kind": f"{kinds[wanted[1]]}List", "apiVersion": version, "metadata": {}, "items": objects}
        return None

    def _answer(self, body: Object, status: int = 200) -> None:
        self._send(json.dumps(body).encode(), "application/json", status)

    def _send(self, body: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _run(self, command: Sequence[str]) -> None:
        """Answer on a WebSocket, whose first byte of each message says which stream it is of (v5.channel.k8s.io)."""
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Protocol", "v5.channel.k8s.io")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())  # noqa: S324
        self.end_headers()
        self._message(b"\1" + self._cluster.execute(command).encode())
        self._message(b"\3" + json.dumps({"kind": "Status", "apiVersion": "v1", "status": "Success"}).encode())
        self._message(struct.pack("!H", 1000), 0x88)
        self.close_connection = True

    def _message(self, content: bytes, kind: int = 0x82) -> None:
        size = struct.pack("!BH", 126, len(content)) if len(content) > 125 else bytes([len(content)])
        self.wfile.write(bytes([kind]) + size + content)
