"""Writes the table of the tiers into README.md, from `_tiers` in cookiecutter.json: what `make readme` runs."""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- tiers: make readme -->\n", "<!-- end of tiers -->\n"


def table(definition: dict[str, Any]) -> str:
    """The tiers side by side in Markdown: for whom, what they bring, how they are sized."""
    tiers: dict[str, dict[str, Any]] = definition["_tiers"]
    labels = definition["__prompts__"]["scale_tier"]
    rows = [["", *tiers], ["---"] * (len(tiers) + 1)]
    rows.append(["for", *(labels[tier].partition(": ")[2] for tier in tiers)])
    brought = [[feature for feature in tier["features"] if feature != "alone"] for tier in tiers.values()]
    if any(brought):
        rows.append(["brings", *(", ".join(features).replace("_", " ") for features in brought)])
    for name, values in sizes(tiers).items():
        rows.append([name.replace("_", " "), *(str(value) for value in values)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def sizes(tiers: dict[str, dict[str, Any]]) -> dict[str, list[Any]]:
    """Each size and threshold, with its value in every tier."""
    flat = [
        {
            **{name: value for name, value in tier.items() if name not in {"features", "thresholds"}},
            **tier["thresholds"],
        }
        for tier in tiers.values()
    ]
    return {name: [sized[name] for sized in flat] for name in flat[0]}


def with_table(readme: str, definition: dict[str, Any]) -> str:
    """The README with its table of the tiers as cookiecutter.json has it now."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table(definition) + END + after


def main() -> int:
    """Rewrites README.md."""
    readme = ROOT / "README.md"
    definition = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
    readme.write_text(with_table(readme.read_text(encoding="utf-8"), definition), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
