"""Building an image and running containers on a machine without a container engine.

buildah builds, on a stand-in for Python's own image that is made of Debian packages; crun, an OCI runtime as Docker and
Kubernetes use one, runs. Containers share this machine's network by default, and have no limits.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .processes import Output, Program, clean_environment, run
from .programs import CACHE, built, program, unavailable

HERE = Path(__file__).parent
STAND_IN = CACHE / "stand-in-for-python-1.tar"
CERTIFICATES = Path("/etc/ssl/certs")


def needs_root() -> None:
    """Layers and containers hold files of several users."""
    if os.geteuid():
        unavailable("root", "run this as root: images and containers hold files of several users")


def stand_in() -> Path:
    """A file system like that of Python's slim image: its python and pip in /usr/local, and no bytecode."""
    if not STAND_IN.exists():
        program("debian-archive-keyring.gpg")
        unfinished = STAND_IN.with_suffix(f".{uuid.uuid4().hex}")
        bare = (
            'find "$1" -name "*.pyc" -delete; rm -rf "$1"/usr/share/doc/* "$1"/usr/share/locale/* "$1"/usr/share/man/*'
        )
        options = ["--variant=minbase", "--include=ca-certificates,python3-venv", "--format=tar"]
        options += ['--customize-hook=chroot "$1" python3 -m venv /usr/local', f"--customize-hook={bare}"]
        done = run([program("mmdebstrap"), *options, "bookworm", unfinished], seconds=600)
        if done.returncode:
            unfinished.unlink(missing_ok=True)
            unavailable("Debian's packages", f"mmdebstrap said {done.stderr.strip()[-300:]}")
        unfinished.rename(STAND_IN)
    return STAND_IN


class Images:
    """A store of images, as long as the tests run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Where the kernel cannot overlay, each layer is a copy of all below it: no more of them than must be.
        overlays = "overlay" in Path("/proc/filesystems").read_text().split()
        driver = "overlay" if overlays else "vfs"
        self.keeps_layers = overlays
        self.engine = f"{program('buildah')} --root {folder}/store --runroot {folder}/run --storage-driver {driver}"
        (folder / "pip.conf").write_text(pip_configuration())
        self.build_options = " ".join(
            (
                f"--isolation chroot --layers={str(overlays).lower()}",
                f"--volume {folder}/pip.conf:/etc/pip.conf:ro",
                f"--volume {CERTIFICATES}:{CERTIFICATES}:ro",
            )
        )

    def do(self, *words: str | Path, seconds: float = 300) -> str:
        """Run a command of buildah's."""
        done = run([*self.engine.split(), *words], seconds=seconds)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def add_base(self, tag: str) -> None:
        """Give the stand-in the name of the image that a Dockerfile is built on."""
        container = self.do("from", "scratch")
        self.do("add", "--quiet", container, stand_in(), "/")
        self.do("config", "--env", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "--cmd", "python3", container)
        self.do("commit", "--quiet", "--rm", container, f"docker.io/library/{tag}")

    def inspect(self, name: str) -> dict[str, Any]:
        """What an engine reads of an image: user, command, health check and so on."""
        found: dict[str, Any] = json.loads(self.do("inspect", "--type", "image", name))
        configuration: dict[str, Any] = found["Docker"]["config"]
        return configuration

    def sizes(self) -> dict[str, str]:
        """How big each image is, uncompressed, layers below included."""
        listed = json.loads(self.do("images", "--json"))
        return {name: image["size"] for image in listed for name in image["names"] or []}

    def clear(self) -> None:
        """Let go of every root that is mounted."""
        self.do("rm", "--all")

    def root_of(self, name: str) -> Path:
        """Where the files of an image lie, unpacked."""
        container = self.do("from", "--pull-never", name)
        return Path(self.do("mount", container))


def pip_configuration() -> str:
    """Let pip in a build reach its index as pip does here."""
    settings = {name[4:].lower(): value for name, value in os.environ.items() if name.startswith("PIP_")}
    kept = ("cert", "index_url", "extra_index_url", "proxy", "default_timeout", "trusted_host")
    lines = [f"{name.replace('_', '-')} = {settings[name]}" for name in kept if name in settings]
    return "\n".join(["[global]", *lines, ""])


@contextmanager
def images() -> Iterator[Images]:
    """A store that is gone afterwards."""
    needs_root()
    folder = Path(tempfile.mkdtemp(prefix="proof-images-"))
    store = Images(folder)
    try:
        yield store
    finally:
        store.clear()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Mount:
    """A folder of this machine that a container sees."""

    source: Path
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Plan:
    """How a container is run: what Compose or Kubernetes would say."""

    root: Path
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = "0:0"
    folder: str = "/"
    mounts: Sequence[Mount] = ()
    memory: Sequence[str] = ()
    """Where it finds an empty file system in memory."""
    read_only: bool = True
    own_network: bool = False

    def specification(self) -> dict[str, Any]:
        """The plan in the OCI runtime's words, without any capability."""
        uid, gid = map(int, self.user.split(":"))
        safe = ["nosuid", "nodev", "noexec"]
        mounts: list[dict[str, Any]] = [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            *(
                {"destination": place, "type": "tmpfs", "source": "tmpfs", "options": [*safe, "mode=1777"]}
                for place in ("/dev/shm", *self.memory)  # noqa: S108
            ),
            *(
                {
                    "destination": mount.target,
                    "type": "bind",
                    "source": str(mount.source),
                    "options": ["rbind", "ro" if mount.read_only else "rw"],
                }
                for mount in self.mounts
            ),
        ]
        spaces = ["pid", "ipc", "uts", "mount", *(["network"] if self.own_network else [])]
        return {
            "ociVersion": "1.0.0",
            "process": {
                "user": {"uid": uid, "gid": gid},
                "args": list(self.command),
                "env": [f"{name}={value}" for name, value in self.environment.items()],
                "cwd": self.folder,
                "noNewPrivileges": True,
                "capabilities": {kind: [] for kind in ("bounding", "effective", "permitted")},
            },
            "root": {"path": str(self.root), "readonly": self.read_only},
            "mounts": mounts,
            "linux": {"namespaces": [{"type": space} for space in spaces]},
        }


class Container:
    """A container that runs until its program ends or somebody stops it."""

    def __init__(self, plan: Plan, output: Output, errors: Output) -> None:
        self._plan = plan
        self._name = f"proof-{uuid.uuid4().hex[:12]}"
        self._folder = Path(tempfile.mkdtemp(prefix="proof-container-"))
        (self._folder / "config.json").write_text(json.dumps(plan.specification()))
        command = [*self._crun, "run", "--bundle", str(self._folder), self._name]
        self.program = Program(command, folder=self._folder, stdout=output, stderr=errors)

    @property
    def _crun(self) -> list[str]:
        # crun refuses machines with control groups of both versions; limits are not what is tested.
        alone = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /sys/fs/cgroup && exec "$@"', "sh"]
        return [*alone, str(program("crun")), f"--root={self._folder}/state", "--cgroup-manager=disabled"]

    def within(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run one more program in it, as an engine runs a health check."""
        variables = [f"--env={name}={value}" for name, value in self._plan.environment.items()]
        options = [*variables, f"--user={self._plan.user}", f"--cwd={self._plan.folder}"]
        return run([*self._crun, "exec", *options, self._name, *command], seconds=60)

    def send(self, number: signal.Signals) -> None:
        """Send its first process a signal."""
        done = run([*self._crun, "kill", self._name, number.name.removeprefix("SIG")])
        assert done.returncode == 0, done.stderr

    def end(self) -> None:
        """Leave nothing of it behind."""
        run([*self._crun, "delete", "--force", self._name])
        self.program.stop(signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def container(plan: Plan, output: Output, errors: Output) -> Iterator[Container]:
    """Run a container while the block runs."""
    needs_root()
    started = Container(plan, output, errors)
    try:
        yield started
    finally:
        started.end()


def compose(folder: Path) -> dict[str, Any]:
    """What Compose's own loader makes of a folder's files: .env and includes read, defaults filled in."""
    done = run([built(HERE / "compose_loader")], folder=folder, environment=clean_environment())
    assert done.returncode == 0, done.stderr
    model: dict[str, Any] = json.loads(done.stdout)
    return model


def mounts_of(service: Mapping[str, Any], volumes: Path) -> list[Mount]:
    """A service's mounts in Compose, where each named volume is a folder below `volumes`."""
    found = []
    for volume in service.get("volumes", []):
        source = Path(volume["source"])
        if volume["type"] == "volume":
            source = volumes / volume["source"]
            source.mkdir(parents=True, exist_ok=True)
        found.append(Mount(source, volume["target"], bool(volume.get("read_only"))))
    return found


def memory_of(service: Mapping[str, Any]) -> list[str]:
    """Where Compose gives a service an empty file system in memory; the loader writes a list of one as text."""
    places = service.get("tmpfs", [])
    return [places] if isinstance(places, str) else list(places)
