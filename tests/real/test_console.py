"""What a developer sees in a terminal of 140 columns: the development server, run by hand."""

from __future__ import annotations

import fcntl
import json
import os
import re
import struct
import termios
from contextlib import suppress
from pathlib import Path

from .processes import Output, Program, eventually, free_port
from .service import ORDER, Service, request

COLUMNS = 140


class Terminal(Output):
    """A pseudo-terminal that a program writes to."""

    def _open(self) -> tuple[int, int]:
        ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
        return ours, theirs

    def _follow(self) -> None:
        with suppress(OSError):  # as Linux says that nobody has the other end any more
            super()._follow()

    def text(self) -> str:
        """Return what it shows, with its colours' codes."""
        return super().text().replace("\r\n", "\n")


def _shown(service: Service) -> str:
    """Return what `flask run --debug` shows of some requests and of a changed file."""
    port, terminal = free_port(), Terminal()
    command: list[str | Path] = [service.tool("flask"), "--app", "stage", "run", "--debug", f"--port={port}"]
    environment = service.environment(TERM="xterm-256color", DATABASE_URL=f"sqlite:///{service.database}")
    program = Program(command, environment=environment, folder=service.folder, stdout=terminal, stderr=terminal)
    try:
        eventually(lambda: request(port, "/health/live").status == 200, "an answer", 90)
        assert request(port, "/api/v1/orders", method="POST", body=_json(ORDER)).status == 201
        assert request(port, "/api/v1/orders", method="POST", body=b"{}").status == 400
        assert request(port, "/stage/boom?message=out-of-paper").status == 500
        request(port, "/stage/levels/m")
        request(port, "/stage/slow/1.1")
        eventually(lambda: "/stage/slow/1.1 200" in re.sub("\x1b.*?m", "", terminal.text()), "the last line")
        os.utime(service.folder / "src" / service.package / "wsgi.py")
        eventually(lambda: terminal.text().count("Debugger is active") == 2, "a restart", 60)
    finally:
        program.stop()
    return terminal.text()


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def test_a_terminal_shows_a_line_for_each_request_and_one_traceback_for_a_failure(small: Service) -> None:
    """In colours, ids dimmed, and readable at 140 columns."""
    colored = _shown(small)
    assert "\x1b[32m201\x1b[0m" in colored
    assert "\x1b[31m500\x1b[0m" in colored
    assert re.search("\x1b\\[2mrequest_id=[0-9a-f]{32}\x1b\\[0m", colored)
    shown = re.sub(r"\x1b\[\d+m", "", colored).replace(str(small.folder), "/home/a-developer/a-service")
    assert "\x1b" not in shown
    lines = [line for line in shown.splitlines() if re.match(r"\d\d:\d\d:\d\d ", line)]
    assert [line for line in lines if len(line) > COLUMNS] == []
    requests = [line[9:] for line in lines if " ms " in line]
    wanted = [
        r"POST /api/v1/orders 201 \d+ ms user_id=c-1 request_id=[0-9a-f]{32}",
        r"POST /api/v1/orders 400 \d+ ms request_id=[0-9a-f]{32}",
        r"GET /stage/boom 500 \d+ ms in boom, stage\.py:\d+ request_id=[0-9a-f]{32}",
        r"GET /stage/levels/m 200 \d+ ms request_id=[0-9a-f]{32}",
        r"GET /stage/slow/1\.1 200 1[1-9]\d\d ms slow request_id=[0-9a-f]{32}",
    ]
    assert len(requests) == len(wanted), requests
    for line, pattern in zip(requests, wanted, strict=True):
        assert re.fullmatch(pattern, line), line
    assert "Running on" not in shown, "an address that does not answer yet"
    assert shown.count("Traceback (most recent call last)") == 1
    assert shown.count("RuntimeError: out-of-paper") == 1
    for pattern in (
        r"WARNING stage\.one: at a level mark=m request_id=[0-9a-f]{8}…$",
        r"^http://127\.0\.0\.1:\d+ answers; Ctrl\+C stops it$",
        r"INFO werkzeug: Debugger PIN \d{3}-\d{3}-\d{3}$",
        r"INFO werkzeug: Detected change in '.*wsgi\.py', reloading$",
    ):
        assert re.search(pattern, shown, re.M), shown
