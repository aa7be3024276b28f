"""A machine of its own, made of this one: its files, with its own network, its own processes, and systemd as the first.

What is changed there is gone with it. systemd, its journal and whatever else runs there are this machine's programs.
"""

from __future__ import annotations

import ctypes
import shlex
import signal
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from .containers import needs_root
from .processes import Program, children, eventually, run
from .programs import program, unavailable

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CONTROL_GROUPS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
CLONE_NEWNET = 0x40000000

# Nothing of this machine's own starts there, and nothing there sets what the kernel has once for all.
BOOT = """
set -e
scratch=$1 root=$1/root
shift
mount -t tmpfs tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" "$root"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty kmsg; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
for folder; do
    own=$scratch/own$folder
    mkdir -p "$root$folder" "$own/upper" "$own/work"
    mount -t overlay overlay -o "lowerdir=$folder,upperdir=$own/upper,workdir=$own/work" "$root$folder"
done
cd "$root/etc/systemd/system"
rm -rf -- *
for service in sysctl modules-load remount-fs tmpfiles-setup udevd update-utmp; do
    ln -s /dev/null "systemd-$service.service"
done
for mount in sys-kernel-debug sys-kernel-tracing sys-fs-fuse-connections dev-hugepages dev-mqueue; do
    ln -s /dev/null "$mount.mount"
done
printf '[Unit]\\nRequires=dbus.socket systemd-journald.service\\nAfter=dbus.socket\\nAllowIsolate=yes\\n' >proof.target
printf '[Journal]\\nStorage=volatile\\nRateLimitBurst=0\\n' >"$root/etc/systemd/journald.conf"
tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
exec env -i container=proof PATH={path} chroot "$root" /lib/systemd/systemd --system --unit=proof.target
"""


class Box:
    """The machine."""

    def __init__(self, scratch: Path, folders: list[Path]) -> None:
        self._group = _control_group()
        script = BOOT.format(path=PATH)
        spaces = ["unshare", *(f"--{space}" for space in ("mount", "net", "pid", "ipc", "uts", "cgroup"))]
        enter = f'echo $$ >{self._group}/cgroup.procs && exec "$@"'
        boot: list[str | Path] = ["bash", "-c", enter, "bash", *spaces, "--fork", "--kill-child"]
        self._said = scratch.with_suffix(".log")
        scratch.mkdir()
        self.program = Program(
            [*boot, "bash", "-c", script, "bash", scratch, *folders], stdout=self._said, stderr=self._said
        )
        eventually(self._booted, f"a machine runs: {self._said}", 60)

    def _booted(self) -> bool:
        assert self.program.alive(), self._said.read_text()
        (self._first,) = children(self.program.pid)
        state = run([*self._enter, "systemctl", "is-system-running"]).stdout.strip()
        return state in {"running", "degraded"}

    @property
    def _enter(self) -> list[str]:
        return ["nsenter", f"--target={self._first}", "--all", "--root", "--wd"]

    def path(self, place: str | Path) -> Path:
        """Where a file of the machine's is found from outside."""
        return Path(f"/proc/{self._first}/root{place}")

    def type(self, command: str, *, folder: str | Path = "/root", seconds: float = 60, **environment: str) -> str:
        """What a command says there, on both of its outputs, whatever it ends with."""
        variables = {"PATH": PATH, "HOME": "/root", "TERM": "dumb"} | environment
        typed = f"cd {shlex.quote(str(folder))} && {{ {command}\n}} 2>&1"
        return run([*self._enter, "bash", "-c", typed], environment=variables, seconds=seconds).stdout

    @contextmanager
    def network(self) -> Iterator[None]:
        """Put this thread, and all that it starts, into the machine's network."""
        with Path("/proc/thread-self/ns/net").open() as here, Path(f"/proc/{self._first}/ns/net").open() as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(here.fileno())

    def end(self) -> None:
        """Leave nothing of it."""
        self.program.stop(signal.SIGKILL)
        groups = sorted((path for path in self._group.rglob("*") if path.is_dir()), reverse=True)
        for group in (*groups, self._group):
            eventually(partial(_removed, group), f"{group} is empty")


def _control_group() -> Path:
    top = next((place for place in CONTROL_GROUPS if (place / "cgroup.procs").exists()), None)
    if top is None:
        unavailable("a control group", "mount cgroup2 on /sys/fs/cgroup")
    group = top / f"proof-{uuid.uuid4().hex[:12]}"
    group.mkdir()
    return group


def _removed(group: Path) -> bool:
    group.rmdir()
    return True


def _enter(space: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(space, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def box(*folders: Path) -> Iterator[Box]:
    """A machine until the block ends. Folders are named that may lie on file systems of their own."""
    needs_root()
    for name in ("systemd-analyze", "dbus-daemon", "sudo"):
        program(name)
    with tempfile.TemporaryDirectory(prefix="proof-box-") as folder:
        started = Box(Path(folder) / "machine", list(folders))
        try:
            yield started
        finally:
            started.end()
