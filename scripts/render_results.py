"""Writes the tables of results into README.md, and draws their plots, from ``scripts/results``.

Between ``<!-- results:NAME -->`` and ``<!-- end -->`` stands what this script wrote; with
``--check`` it only says whether that is current.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reproduce import METRICS

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "scripts" / "results"
MARK = re.compile(r"(<!-- results:(?P<name>\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> int:
    """Render; gives the exit code: 1 when ``--check`` finds the README old."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    options = parser.parse_args()
    text = options.readme.read_text("utf-8")
    published = json.loads((ROOT / "scripts" / "published.json").read_text("utf-8"))
    new = MARK.sub(lambda found: found[1] + section(found["name"], published) + found[3], text)
    if options.check:
        return int(new != text)
    options.readme.write_text(new, "utf-8")
    return 0


def section(name: str, published: Mapping[str, Any]) -> str:
    """The table of ``scripts/results/reproduce-NAME.json``, published figures below our own."""
    document = json.loads((RESULTS / f"reproduce-{name}.json").read_text("utf-8"))
    lines = ["| system | MRR | Hits@1 | Hits@3 | Hits@10 | MRR, tail | MRR, head | minutes |",
             "|---|---|---|---|---|---|---|---|"]
    for system, row in sorted(document["rows"].items(),
                              key=lambda item: -item[1]["both"]["mrr"]["mean"]):
        cells = [row["both"][metric] for metric in METRICS]
        cells += [row[side]["mrr"] for side in ("tail", "head")]
        seeds = len(row["seeds"])
        lines.append(f"| {system}{'' if seeds > 1 else ', one seed'} | "
                     + " | ".join(_percent(cell, seeds) for cell in cells)
                     + f" | {row['seconds']['mean'] / 60:.0f} |")
    notes = []
    for system, entry in sorted(published.get(document["benchmark"], {}).items(),
                                key=lambda item: -item[1]["figures"][0]):
        # A graph cut to size has other answers; nothing published can be compared with it.
        if "subset" in document["dataset"]:
            break
        mark = ""
        if "note" in entry:
            if entry["note"] not in notes:
                notes.append(entry["note"])
            mark = f" [{notes.index(entry['note']) + 1}]"
        figures = " | ".join("–" if figure is None else f"{figure:.1f}"
                             for figure in entry["figures"])
        lines.append(f"| *{system}, as published ({entry['source']})*{mark} | {figures} | | | |")
    lines += ["", *(f"[{number}] {note}." for number, note in enumerate(notes, start=1))]
    return "\n".join(lines).rstrip() + "\n"


def _percent(cell: Mapping[str, float], seeds: int) -> str:
    spread = f" ± {100 * cell['sd']:.1f}" if seeds > 1 else ""
    return f"{100 * cell['mean']:.1f}{spread}"


if __name__ == "__main__":
    sys.exit(main())
