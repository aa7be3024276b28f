"""The service's logrotate configuration, read by logrotate: no line is lost, none is kept too long."""

from __future__ import annotations

import gzip
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from template_checkout import DEFINITION, TIERS
from test_names import LONGEST_SLUG

from .load import Account, under_load
from .processes import eventually, run
from .programs import program
from .service import Service, generate

ROTATIONS = 8
WORKERS = 4
THREADS = 2
DAY = 24 * 60 * 60


class Rotation:
    """A service's own configuration, for a log in a folder of the test's."""

    def __init__(self, service: Service, folder: Path) -> None:
        self._program = program("logrotate")
        self.log = folder / "log" / f"{service.slug}.log"
        self.log.parent.mkdir()
        owner, group = self.log.parent.owner(), self.log.parent.group()
        text = (service.folder / "deploy" / "logrotate" / service.slug).read_text()
        text = text.replace(f"/var/log/{service.slug}/{service.slug}.log", str(self.log))
        self._configuration, self._state = folder / "logrotate.conf", folder / "state"
        self._configuration.write_text(re.sub(r"(?m)^( +su) .*$", rf"\1 {owner} {group}", text))
        self._configuration.chmod(0o644)

    def run(self, *options: str) -> str:
        """Run logrotate as its timer does; it must have nothing to complain of."""
        done = run([self._program, *options, "--verbose", "--state", self._state, self._configuration])
        assert done.returncode == 0, done.stderr
        assert "error:" not in done.stderr, done.stderr
        return done.stderr

    def rotated(self) -> list[Path]:
        """Return the rotated files, the oldest first."""
        return sorted(path for path in self.log.parent.iterdir() if path != self.log)

    def force(self) -> None:
        """Rotate now. A second names a file, so there is one rotation in each at most."""
        before = len(self.rotated())

        def one_more() -> bool:
            self.run("--force")
            return len(self.rotated()) > before

        eventually(one_more, "a rotated file")

    def lines(self) -> list[str]:
        """Return all lines, of whatever is compressed and whatever is not."""
        read = {".gz": gzip.open}
        found: list[str] = []
        for path in (*self.rotated(), self.log):
            with read.get(path.suffix, open)(path, "rt", encoding="utf-8", newline="\n") as file:
                text = file.read()
            assert text == "" or text.endswith("\n"), path
            found += text.split("\n")[:-1]
        return found


def _open_files(pid: int) -> set[Path]:
    return {entry.readlink() for entry in Path(f"/proc/{pid}/fd").iterdir()}


def _each_told_once(account: Account, lines: list[str]) -> None:
    logged = Counter(record["path"] for record in map(json.loads, lines) if record["message"] == "request")
    sent = Counter(one.path for one in account.answered)
    assert max(sent.values()) == 1
    assert not sent - logged, f"lost: {len(sent - logged)} of {len(sent)}"
    assert not logged - sent, f"doubled: {len(logged - sent)} of {len(sent)}"


def test_no_line_is_lost_or_doubled_while_logs_are_rotated_under_load(small: Service, tmp_path: Path) -> None:
    """Several workers, each of which holds the file that is taken away from them."""
    rotation = Rotation(small, tmp_path)
    with small.serving(LOG_FILE=str(rotation.log), WEB_CONCURRENCY=str(WORKERS), WEB_THREADS=str(THREADS)) as service:

        def booted() -> bool:
            return service.scrape().total("http_request_capacity") == WORKERS * THREADS

        def followed() -> bool:
            files = [_open_files(worker) for worker in service.workers()]
            return len(files) == WORKERS and all(rotation.log in each for each in files)

        with under_load(service, step=lambda number: ("GET", f"/nowhere/{number}", None)) as account:
            eventually(booted, "every worker serves")
            for _ in range(ROTATIONS):
                rotation.force()
                eventually(followed, "every worker writes to the next file", 10)
        assert not account.lost
        assert not account.refused
    rotated = rotation.rotated()
    assert len(rotated) == ROTATIONS
    assert [path.suffix == ".gz" for path in rotated] == [True] * (ROTATIONS - 1) + [False]
    lines = rotation.lines()
    assert len(lines) > ROTATIONS * 50
    _each_told_once(account, lines)
    print(f"{len(account.answered)} requests, {len(lines)} lines in {len(rotated) + 1} files")


def test_the_longest_slug_is_rotated_too(variant: Callable[..., Service], tmp_path: Path) -> None:
    made = variant(project_slug=LONGEST_SLUG)
    rotation = Rotation(Service(made.folder.parent / LONGEST_SLUG, LONGEST_SLUG, made.tier), tmp_path)
    rotation.log.write_text("{}\n")
    rotation.run("--force")
    assert len(rotation.rotated()) == 1


@pytest.mark.parametrize("every_hours", [1, 24])
@pytest.mark.parametrize("tier", TIERS)
def test_logs_are_kept_for_as_many_days_as_the_tier_says(tier: str, every_hours: int, tmp_path: Path) -> None:
    """Whether it was busy and rotated every hour, or quiet and rotated once a day."""
    days = DEFINITION["_tiers"][tier]["retention_days"]
    rotation = Rotation(generate(tmp_path, scale_tier=tier), tmp_path)
    now = time.time()
    for hours in range(every_hours, (days + 3) * 24, every_hours):
        at = now - (hours - 0.5) * 60 * 60  # no file is so old to the second that it depends on when logrotate looks
        old = Path(f"{rotation.log}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(at))}.gz")
        old.write_bytes(gzip.compress(b"{}\n"))
        os.utime(old, (at, at))
    rotation.log.write_text("{}\n")
    rotation.run("--force")
    oldest = max(now - path.stat().st_mtime for path in rotation.rotated()) / DAY
    assert days - 0.1 < oldest < days + 1
