"""Writes the tables of results into README.md, and draws a plot of each, from ``scripts/results``.

Between ``<!-- results:NAME -->`` and ``<!-- end -->`` stands what this script wrote; with
``--check`` it only says whether that is current. ``reproduce-NAME-relations.svg`` shows, for the
relations with the most test facts, the MRR of the best generator, the best scorer and the best
fusion of both, and the weight that the fusion gives to each scorer.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from reproduce import cells

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "scripts" / "results"
KINDS = {"train": "generator", "train_scorer": "scorer", "fusion": "fusion"}
SHOWN = 12
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
    for found in MARK.finditer(text):
        plot(found["name"])
    return 0


def section(name: str, published: Mapping[str, Any]) -> str:
    """The table of ``scripts/results/reproduce-NAME.json``, published figures below our own."""
    document = json.loads((RESULTS / f"reproduce-{name}.json").read_text("utf-8"))
    lines = ["| system | MRR | Hits@1 | Hits@3 | Hits@10 | MRR, tail | MRR, head | minutes |",
             "|---|---|---|---|---|---|---|---|"]
    for system, row in sorted(document["rows"].items(),
                              key=lambda item: -item[1]["both"]["mrr"]["mean"]):
        seeds = len(row["seeds"])
        within = f" (MRR ± {100 * row['mrr_within']:.2f})" if row.get("mrr_within") else ""
        lines.append(f"| {system}{within}{'' if seeds > 1 else ', one seed'} | "
                     + " | ".join(_percent(cell, seeds) for cell in cells(row))
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


def plot(name: str) -> None:
    """Draw where each kind of system is good, and what the fusion weighs."""
    document = json.loads((RESULTS / f"reproduce-{name}.json").read_text("utf-8"))
    best: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for system, row in document["rows"].items():
        kind = KINDS[row["kind"]]
        if kind not in best or _mrr(row) > _mrr(best[kind][1]):
            best[kind] = system, row
    if set(best) < set(KINDS.values()):
        return
    counts = {relation: values["count"] for relation, values in
              best["fusion"][1]["by_relation"].items()}
    shown = sorted(counts, key=lambda relation: counts[relation])[-SHOWN:]
    figure = Figure(figsize=(10, 0.35 * len(shown) + 2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for kind, marker in zip(best, "so^", strict=True):
        system, row = best[kind]
        left.plot([row["by_relation"][relation]["mrr"]["mean"] for relation in shown],
                  range(len(shown)), marker, label=system)
    names = document["relation_names"]
    left.set_yticks(range(len(shown)), [f"{names[relation]} ({counts[relation]})"
                                        for relation in shown])
    left.set_xlabel("filtered MRR on test, both directions")
    weights = best["fusion"][1]["protocol"].get("weights", {})
    parts = {part: values for part, values in weights.items() if isinstance(values, Mapping)}
    for number, (part, values) in enumerate(parts.items()):
        right.barh([place + 0.8 * (number / len(parts) - 0.5) for place in range(len(shown))],
                   [(values[relation]["tail"] + values[relation]["head"]) / 2
                    for relation in shown], 0.8 / len(parts), align="edge", label=part)
    right.set_xlabel("λ, mean of both directions\n(the generator's is 1)")
    for axis in (left, right):
        axis.grid(axis="x", alpha=0.3)
        axis.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2,
                    frameon=False)
    figure.savefig(RESULTS / f"reproduce-{name}-relations.svg")


def _mrr(row: Mapping[str, Any]) -> float:
    return float(row["both"]["mrr"]["mean"])


def _percent(cell: Mapping[str, float], seeds: int) -> str:
    spread = f" ± {100 * cell['sd']:.1f}" if seeds > 1 else ""
    return f"{100 * cell['mean']:.1f}{spread}"


if __name__ == "__main__":
    sys.exit(main())
