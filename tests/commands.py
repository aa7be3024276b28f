"""The commands that pages tell a reader to type, and a terminal to type them into."""

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAMS = (
    r"(?:\.venv/bin/\S+|cookiecutter|cruft|curl|df|docker|flask|gh|git|journalctl|kubectl|make|openssl|pip|pipx|sudo"
    r"|systemctl|systemd-analyze|terraform|uv|uvx)"
)
INLINE = re.compile(rf"(?<!`)`((?:[A-Z_]+=\S+ )*{PROGRAMS} [^`]+)`(?!`)")
COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
FENCE = re.compile(r"\s*```(\w*)$")


@dataclass(frozen=True)
class Command:
    """A line to type, and where a reader finds it."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        """As an editor takes it."""
        return f"{self.page}:{self.line}: {self.text}"


def commands_of(folder: Path, page: str) -> Iterator[Command]:
    """The commands of a page's shell blocks and those that stand as code between its words."""
    fence, begun, number_of_first = "", "", 0
    for number, line in enumerate((folder / page).read_text(encoding="utf-8").splitlines(), start=1):
        if found := FENCE.match(line):
            fence = "" if fence else found[1] or "text"
        elif not fence:
            for each in INLINE.findall(line):
                yield Command(page, number, each)
        elif fence == "console" and line.startswith("$ "):
            yield Command(page, number, line.removeprefix("$ "))
        elif fence in {"bash", "sh"} and line.strip() and not line.lstrip().startswith("#"):
            number_of_first = number_of_first if begun else number
            begun += line.strip().removesuffix("\\")
            if not line.endswith("\\"):
                yield Command(page, number_of_first, begun)
                begun = ""


class Terminal:
    """A shell command that runs in a terminal of its own, where programs ask and colour as they do for a person."""

    def __init__(self, command: str, cwd: Path, **environment: str) -> None:
        """Starts the command."""
        self.command, self.said = command, ""
        self._seen = 0
        self._side, other = os.openpty()
        self._process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=cwd, env={**os.environ, "TERM": "xterm-256color", **environment},
            stdin=other, stdout=other, stderr=other, start_new_session=True,
        )  # fmt: skip
        os.close(other)

    def wait_for(self, text: str, seconds: float = 120) -> None:
        """Reads until a text has come since the last one that was waited for."""
        deadline = time.monotonic() + seconds
        while text not in self.said[self._seen :]:
            if not self._read(deadline):
                pytest.fail(f"{self.command} did not say {text!r}:\n{self.said[-3000:]}", pytrace=False)
        self._seen = self.said.index(text, self._seen) + len(text)

    def answer(self, prompts: Sequence[tuple[str, str]], seconds: float = 120) -> None:
        """Waits for each prompt in turn and types the answer to it."""
        for prompt, answer in prompts:
            self.wait_for(prompt, seconds)
            os.write(self._side, f"{answer}\n".encode())

    def end(self, seconds: float = 300) -> int:
        """Reads to the end and returns the exit code."""
        deadline = time.monotonic() + seconds
        try:
            while self._read(deadline):
                pass
            return self._process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.command} took longer than {seconds} s:\n{self.said[-3000:]}", pytrace=False)
        finally:
            self.stop()

    def stop(self) -> None:
        """Ends the command and whatever it has started, first as Ctrl-C does."""
        for number in (signal.SIGINT, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(10)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        if self._side >= 0:
            os.close(self._side)
            self._side = -1

    def _read(self, deadline: float) -> bool:
        """Whether more came; not where the command ended or the time is over."""
        ready, _, _ = select.select([self._side], [], [], max(0.0, deadline - time.monotonic()))
        try:
            chunk = os.read(self._side, 1 << 16) if ready else b""
        except OSError:  # nobody has the other side open any more
            return False
        self.said += COLOUR.sub("", chunk.decode(errors="replace")).replace("\r", "")
        return bool(chunk)


def typed(command: str, cwd: Path, prompts: Sequence[tuple[str, str]] = (), **environment: str) -> str:
    """What a command says in a terminal, once it has ended well."""
    terminal = Terminal(command, cwd, **environment)
    try:
        terminal.answer(prompts)
        code = terminal.end()
    finally:
        terminal.stop()
    if code:
        pytest.fail(f"{command} in {cwd} ended with {code}:\n{terminal.said}", pytrace=False)
    return terminal.said
