"""Writes the tables of results into `PAGES`, and draws plots, from ``scripts/results``.

Between ``<!-- results:NAME -->`` and ``<!-- end -->`` stands what this script wrote; with
``--check`` it only says whether that is current. NAME is a benchmark and a scale, as in
``reproduce-NAME.json``, or ``nations``, the table of every system on the nations graph and on the
subset of MKG-W, or ``overview``, every system's MRR on the benchmarks with images.
``reproduce-NAME-relations.svg`` shows, for the relations with the most test facts, the MRR of the
best fusion with a generator, of that generator and of the best scorer in it, and the weight of
each part; ``reproduce-NAME-degrees.svg`` their MRR by how much train says of both ends.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rcParams
from matplotlib.figure import Figure
from reproduce_document import COLUMNS, is_wide, least_mrr, percent, row_figures, run_folder

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "scripts" / "results"
PAGES = (ROOT / "README.md", ROOT / "docs" / "benchmarks.md")
OVERVIEW = ("MKG-W", "MKG-Y", "DB15K")
"""The columns of that table; its rows are the systems of the first."""
SEEDS = 3
"""What a figure is the mean of unless it says otherwise."""
MARKERS = "os^"
SHOWN = 12
LONGEST = 30
"""Of a relation's name in a plot."""
SUBSET = "MKG-W-subset"
SYSTEMS = {
    "all fused": ("fused, all", "generator + all scorers"),
    "generator + ComplEx-N3": ("generator + nations-complex", "generator + ComplEx-N3"),
    "generator + DistMult": ("generator + nations-distmult", "generator + DistMult"),
    "generator + RotatE": ("generator + nations-rotate", "generator + RotatE"),
    "generator + LBMKGC": ("generator + nations-lbmkgc", "generator + LBMKGC"),
    "generator + MoCME": ("generator + nations-mocme", "generator + MoCME"),
    "all, ensemble": ("ensemble, all", "all, ensemble"),
    "all, reranked": ("rerank, all", "all, reranked"),
    "ComplEx-N3": ("nations-complex", "ComplEx-N3"),
    "DistMult": ("nations-distmult", "DistMult"),
    "RotatE": ("nations-rotate", "RotatE"),
    "LBMKGC": ("nations-lbmkgc", "LBMKGC, text"),
    "MoCME (our reconstruction)": ("nations-mocme", "MoCME (our reconstruction), text"),
    "generator: names, neighbours, captions": ("generator", "generator, captions"),
    "generator without captions": ("nations-names-only", "generator, names only"),
    "KGT5": ("nations-kgt5", "KGT5"),
    "KGT5-context": ("nations-kgt5-context", "KGT5-context"),
    "MMKG-T5": ("nations-mmkg-t5", "MMKG-T5, captions"),
    "MMKG-T5 without captions": ("nations-mmkg-t5-names-only", "MMKG-T5, names only"),
}
"""What each system is called in `RESULTS` on nations, and on the subset of MKG-W, where scorers
read texts and no images."""
ELSEWHERE = {"DistMult (PyKEEN)": "DistMult", "ComplEx (PyKEEN)": "ComplEx",
             "RotatE (PyKEEN)": "RotatE", "frequency of the answer": "frequency"}
"""And in the document of ``scripts/bench_nations.py``."""
NAMING = ("reads whose caption names whom; a model that was told the names wrote the captions, and "
          "published systems had others")
"""What sets our rows with mentions apart from what is published."""
rcParams["svg.hashsalt"] = "results"  # the same figures give the same file
MARK = re.compile(r"(<!-- results:(?P<name>\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> int:
    """Render; gives the exit code: 1 when ``--check`` finds a page old."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    published = json.loads((ROOT / "scripts" / "published.json").read_text("utf-8"))
    pages = {page: page.read_text("utf-8") for page in PAGES}
    new = {page: MARK.sub(lambda found: found[1] + section(found["name"], published) + found[3],
                          text) for page, text in pages.items()}
    if options.check:
        return int(new != pages)
    for page, text in new.items():
        page.write_text(text, "utf-8")
        for found in MARK.finditer(text):
            if found["name"] != "overview":
                plot(SUBSET if found["name"] == "nations" else found["name"])
    return 0


def section(name: str, published: Mapping[str, Any]) -> str:
    """The table of ``scripts/results/reproduce-NAME.json``, published figures below our own."""
    if name == "nations":
        return nations_section()
    if name == "overview":
        return overview_section(published)
    document = json.loads((RESULTS / f"reproduce-{name}.json").read_text("utf-8"))
    lines = [f"| system | {' | '.join(COLUMNS)} | minutes |", "|---" * (2 + len(COLUMNS)) + "|"]
    notes: list[str] = []

    def mark(note: str | None) -> str:
        if note is None:
            return ""
        if note not in notes:
            notes.append(note)
        return f" [{notes.index(note) + 1}]"

    for system, row in sorted(document["rows"].items(), key=lambda item: -least_mrr(item[1])):
        naming = mark(NAMING if "mentions" in row["protocol"]["system"] else None)
        within = ("" if is_wide(row) or not row["mrr_within"]
                  else f", certified to {100 * row['mrr_within']:.2f}")
        seeds = {1: ", one seed", 2: ", two seeds"}.get(len(row["seeds"]), "")
        lines.append(f"| {system}{within}{seeds}{naming} | "
                     + " | ".join(row_figures(row)) + f" | {row['seconds']['mean'] / 60:.0f} |")
    for system, entry in sorted(published.get(document["benchmark"], {}).items(),
                                key=lambda item: -item[1]["figures"][0]):
        # A graph cut to size has other answers; nothing published can be compared with it.
        if "subset" in document["dataset"]:
            break
        figures = " | ".join("–" if figure is None else f"{figure:.1f}"
                             for figure in entry["figures"])
        blanks = "| " * (len(COLUMNS) - len(entry["figures"]) + 1)
        lines.append(f"| {_as_published(system, entry)}{mark(entry.get('note'))} | {figures} "
                     f"{blanks}|")
    lines += ["", *(f"[{number}] {note}." for number, note in enumerate(notes, start=1))]
    return "\n".join(lines).rstrip() + "\n"


def _as_published(system: str, entry: Mapping[str, Any]) -> str:
    """A published system, and whose table has its figures where that is not its own."""
    source = "" if entry["source"] == system else f" ({entry['source']})"
    return f"*{system}, as published{source}*"


def overview_section(published: Mapping[str, Any]) -> str:
    """One table of every system's MRR on the benchmarks of `OVERVIEW`, published ones below."""
    rows = [json.loads((RESULTS / f"reproduce-{name}-cpu.json").read_text("utf-8"))["rows"]
            for name in OVERVIEW]
    ours = {system: [found.get(system) for found in rows] for system in rows[0]}
    theirs = {_as_published(system, entry): [published[name].get(system) for name in OVERVIEW]
              for name in OVERVIEW for system, entry in published[name].items()}
    lines = [f"| system | {' | '.join(OVERVIEW)} |", "|---" * (1 + len(OVERVIEW)) + "|"]
    for system, cells in sorted(ours.items(), key=lambda item: -_mean(item[1][0]["both"], "mrr")):
        lines.append(f"| {system} | " + " | ".join(
            row_figures(cell)[0]
            + ("" if len(cell["seeds"]) == SEEDS else f" ({len(cell['seeds'])})")
            if cell else "–" for cell in cells) + " |")
    for system, entries in sorted(theirs.items(), key=lambda item: (-max(
            entry["figures"][0] for entry in item[1] if entry), item[0])):
        lines.append(f"| {system} | " + " | ".join(
            f"{entry['figures'][0]:.1f}" if entry else "–" for entry in entries) + " |")
    return "\n".join(lines) + "\n"


def nations_section() -> str:
    """One table of every system, on the nations graph and on the subset of MKG-W."""
    nations, other, subset = (json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
                               for name in ("fusion-nations", "nations", f"reproduce-{SUBSET}"))

    # Results come as they come: either graph may still lack a system.
    found = {name: (nations["systems"].get(here), subset["rows"].get(there, {}).get("both"))
             for name, (here, there) in SYSTEMS.items()}
    found |= {name: (other["systems"][here]["test"], None) for name, here in ELSEWHERE.items()}
    columns, more = ("both_mrr", "tail_mrr", "head_mrr", "both_hits@10"), ("mrr", "hits@10")
    rows = sorted(((name, pair) for name, pair in found.items() if any(pair)), key=lambda row: -(
        _mean(row[1][0], "both_mrr") or _mean(row[1][1], "mrr")))
    return "\n".join([
        "| system | MRR | MRR, tail | MRR, head | Hits@10 | subset, MRR | subset, Hits@10 |",
        "|---|---|---|---|---|---|---|",
        *(f"| {' | '.join([name, *_figures(here, columns), *_figures(there, more)])} |"
          for name, (here, there) in rows)]) + "\n"


def _mean(found: Mapping[str, Any] | None, column: str) -> float:
    return float(found[column]["mean"]) if found else 0.0


def _figures(found: Mapping[str, Any] | None, columns: Sequence[str]) -> list[str]:
    if found is None:
        return ["–"] * len(columns)
    return [percent(found[column]) for column in columns]


def plot(name: str) -> None:
    """Draw where the best fusion with a generator and its parts are good, and what it weighs."""
    document = json.loads((RESULTS / f"reproduce-{name}.json").read_text("utf-8"))
    rows = {system: row for system, row in document["rows"].items() if not is_wide(row)}

    def best(systems: Iterable[str]) -> str:
        return max(systems, key=lambda system: _mean(rows[system]["both"], "mrr"))

    fusions = [system for system, row in rows.items() if row["kind"] == "fusion"
               and row["protocol"]["parts"][0]["label"] == "generator"]
    if not fusions:
        return
    fusion = best(fusions)
    systems = {run_folder(Path(), system, 0).parent: system for system in rows}
    generator, *scorers = (systems[Path("runs", Path(part["run"]).parent.name)]
                           for part in rows[fusion]["protocol"]["parts"])
    shown = [(f"{what}: {system}", rows[system]) for what, system in (
        ("best fused scorer", best(scorers)), ("generator", generator), ("fusion", fusion))]
    plot_relations(name, shown, document["relation_names"])
    plot_degrees(name, shown)


def plot_relations(
    name: str, rows: Sequence[tuple[str, Mapping[str, Any]]], names: Mapping[str, str]
) -> None:
    """Draw MRR by relation of a scorer, a generator and their fusion, and the fusion's weights."""
    fusion = rows[-1][1]
    counts = {relation: values["count"] for relation, values in fusion["by_relation"].items()}
    shown = sorted(counts, key=lambda relation: counts[relation])[-SHOWN:]
    figure = Figure(figsize=(10, 0.35 * len(shown) + 2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for (system, row), marker in zip(rows, MARKERS, strict=True):
        left.plot([row["by_relation"][relation]["mrr"]["mean"] for relation in shown],
                  range(len(shown)), marker, label=system)
    left.set_yticks(range(len(shown)), [f"{_short(names[relation])} ({counts[relation]})"
                                        for relation in shown])
    left.set_xlabel("filtered MRR on test, both directions")
    weights = fusion["protocol"].get("weights", {})
    parts = {part: values for part, values in weights.items() if isinstance(values, Mapping)}
    for number, (part, values) in enumerate(parts.items()):
        # Top to bottom as in the legend.
        right.barh([place + 0.8 * (0.5 - number / len(parts)) for place in range(len(shown))],
                   [(values[relation]["tail"] + values[relation]["head"]) / 2
                    for relation in shown], -0.8 / len(parts), align="edge", label=part)
    right.set_xlabel("weight, mean of both directions")
    for axis, columns in ((left, 1), (right, 2)):  # the name of a fusion takes a line
        axis.grid(axis="x", alpha=0.3)
        axis.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1), ncols=columns,
                    frameon=False)
    figure.savefig(RESULTS / f"reproduce-{name}-relations.svg", metadata={"Date": None})


def _short(name: str) -> str:
    """A name, its middle left out where it is long: URIs differ at the end."""
    return name if len(name) <= LONGEST else f"{name[:LONGEST // 2]}…{name[-LONGEST // 2:]}"


def plot_degrees(name: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Draw MRR by how many train facts the given entity has, and the answer."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axis, (part, title) in zip(panels, {
            "given_degree": "train facts of the entity that is given (queries)",
            "answer_degree": "train facts of the answer (queries)"}.items(), strict=True):
        for (system, row), marker in zip(rows, MARKERS, strict=True):
            found = row["slices"][part]
            axis.errorbar(range(len(found)), [each["mrr"]["mean"] for each in found.values()],
                          [each["mrr"]["sd"] for each in found.values()], fmt=f"{marker}-",
                          capsize=3, label=system)
        axis.set_xticks(range(len(found)), [f"{label}\n({each['count']:,})"
                                            for label, each in found.items()])
        axis.set_xlabel(title)
        axis.grid(alpha=0.3)
    panels[0].set_ylabel("filtered MRR on test")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center",
                  frameon=False)
    figure.savefig(RESULTS / f"reproduce-{name}-degrees.svg", metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
