"""Two generated services, side by side on the platform of the first, put together as its README says."""

import re
import shutil
from pathlib import Path

INTRODUCED = re.compile(r"# [^\n]+\ninclude:\n  - platform/compose\.yaml\n\n")
"""The lines of compose.yaml that whoever has a platform of their own deletes, with what says so."""


def without_platform(service: Path) -> Path:
    """Deletes what a team does that has a platform of its own."""
    shutil.rmtree(service / "platform")
    compose = service / "compose.yaml"
    text, edits = INTRODUCED.subn("", compose.read_text(encoding="utf-8"))
    assert edits == 1
    compose.write_text(text, encoding="utf-8")
    return service


def joined(folder: Path, first: Path, second: Path) -> tuple[Path, Path]:
    """Copies both into a folder; the first one's platform has the lines of the second that its README shows."""
    one = Path(shutil.copytree(first, folder / first.name))
    other = without_platform(Path(shutil.copytree(second, folder / second.name)))
    network = add(one / "platform", one.name, other.name)
    compose = other / "compose.yaml"
    head, name, rest = compose.read_text(encoding="utf-8").partition(f"name: {other.name}\n")
    compose.write_text(f"{head}{name}\n{network}{rest}", encoding="utf-8")
    return one, other


def add(platform: Path, own: str, slug: str) -> str:
    """Adds to a platform the lines that its README shows for `billing`, for a service of another name.

    Each is beside the one of the platform's own service. Returns what it shows for the `compose.yaml` of the other.
    """
    page = (platform / "README.md").read_text(encoding="utf-8")
    section = page.partition("\n## Another service\n")[2].partition("Teams that share")[0]
    lines: list[str] = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    for line in lines[:-1]:
        there = line.replace("../../billing/", "../").replace("billing", own)
        files = [platform / name for name in ("compose.yaml", "prometheus/prometheus.yml")]
        (file,) = [file for file in files if there in file.read_text(encoding="utf-8")]
        text = file.read_text(encoding="utf-8")
        assert text.count(there) == 1
        file.write_text(text.replace(there, there + line.replace("billing", slug)), encoding="utf-8")
    return lines[-1]


def seen_by_prometheus(folder: Path, platform: Path) -> Path:
    """Copies what Compose mounts into Prometheus to a folder as it is there; returns its configuration."""
    text = (platform / "compose.yaml").read_text(encoding="utf-8")
    for source, target in re.findall(r"^ +- (\.\S+):/etc/prometheus/(\S+):ro$", text, re.MULTILINE):
        shutil.copytree(platform / source, folder / target)
    return folder / "platform/prometheus.yml"
