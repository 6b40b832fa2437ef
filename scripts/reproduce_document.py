"""The document of a benchmark's rows, ``scripts/results/reproduce-NAME-SCALE.json``, and its table.

A row is the mean over the seeds of its runs, with protocol, slices and cost; `collect` reads them
from the run folders, and `added` joins them to those that were made elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench_common import spread

from caption_cache.disk import replacing
from kgc_seq2seq.config import read_yaml
from kgc_seq2seq.evaluation.ranks import middle
from kgc_seq2seq.evaluation.results import result_name, surest_result
from kgc_seq2seq.graph.folder import read_graph

METRICS = ("mrr", "hits@1", "hits@3", "hits@10")
WIDE = 0.005
"""Half of a bracket of the MRR that is shown as a bracket."""


def run_folder(work: Path, row: str, seed: int) -> Path:
    """Where the run of a row and a seed lies."""
    plain = "".join(letter if letter.isalnum() else "-" for letter in row.lower())
    return work / "runs" / plain.strip("-") / f"seed-{seed}"


def is_made(run: Path) -> bool:
    """Whether a run has its result, and what it cost."""
    return (run / "results" / f"{surest_result(run, 'test')}.json").is_file() and (
        run.with_suffix(".cost.json").is_file())


def collect(
    work: Path, plan: Mapping[str, Any], dataset: Path, file: Path, *, add: bool
) -> dict[str, Any]:
    """Write and give the document with every row that has a result.

    Args:
        work: The folder of a benchmark and, in it, a scale.
        plan: The rows of the scale's plan by name, in order.
        dataset: Whose data they are of.
        file: The document.
        add: Keep its rows and seeds that are not made here.

    Raises:
        SystemExit: It is to be added to a document that is not of the same graph and protocol, or
            the seeds of a row are not of one.
    """
    rows: dict[str, Mapping[str, Any]] = {}
    for name, row in plan.items():
        runs = [path for path in sorted(run_folder(work, name, 0).parent.glob("seed-*/"))
                if is_made(path)]
        if runs:
            rows[name] = {"kind": "fusion" if "fuse" in row else row["with"],
                          **_summary(name, runs)}
    graph = read_graph(dataset)
    if add and file.is_file():
        kept = json.loads(file.read_text("utf-8"))["rows"]
        for name, row in kept.items():
            if row["protocol"]["graph"] != graph.fingerprint:
                raise SystemExit(f"The row {name} of {file} is of other data than {dataset}; "
                                 "leave --add, or give other --results.")
        # Another plan's rows come last.
        rows = {name: added(name, kept.get(name), rows.get(name))
                for name in dict.fromkeys([*plan, *kept]) if name in kept or name in rows}
    document = {
        "benchmark": work.parent.name, "scale": work.name,
        "dataset": json.loads((dataset / "dataset.json").read_text("utf-8")), "rows": rows,
        "relation_names": dict(zip(graph.relation_ids, graph.relation_names, strict=False)),
    }
    with replacing(file) as aside:
        aside.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return document


SAME = ("split", "ranks", "ties", "candidate_set", "steps", "implying")
"""What the protocols of a row's seeds have in common, as far as they say it."""
EACH = ("mixed_precision", "weights_filtered_by")
"""What is said of each seed beside its machine: not every machine has every precision, and a
fusion's weights that do not say so were filtered by test too."""


def added(
    name: str, kept: Mapping[str, Any] | None, made: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    """A row of the seeds of two; where both have a seed, the one that was made counts.

    Raises:
        SystemExit: They have not the same protocol.
    """
    if kept is None or made is None:
        return kept or made or {}
    theirs, ours = kept["protocol"], made["protocol"]
    if key := _unlike(theirs, ours):
        raise SystemExit(f"The row {name} of the document has {key} {theirs[key]}, this one "
                         f"{ours[key]}; leave --add, or give other --results.")
    protocol = {key: value for key, value in ours.items() if key not in SAME or key in theirs}
    both = [kept["seeds"], made["seeds"]]
    seeds = sorted({*kept["seeds"], *made["seeds"]})

    def joined(one: Sequence[Any], other: Sequence[Any]) -> list[Any]:
        found = {seed: value for numbers, values in zip(both, (one, other), strict=True)
                 for seed, value in zip(numbers, values, strict=True)}
        return [found[seed] for seed in seeds]

    def cells(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
        if other.keys() == {"mean", "sd", "values"}:
            return spread(joined(one["values"], other["values"]))
        return {key: cells(one[key], value) if isinstance(value, Mapping) else value
                for key, value in other.items() if key in one}

    return {**cells(kept, made), "protocol": protocol, "seeds": seeds,
            "made_on": joined(kept["made_on"], made["made_on"]),
            "mrr_within": max(kept["mrr_within"], made["mrr_within"])}


def _unlike(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """What of `SAME` two protocols say differently; None: nothing."""
    return next((key for key in SAME if key in one and key in other and one[key] != other[key]),
                None)


def _summary(name: str, runs: Sequence[Path]) -> dict[str, Any]:
    tests, valids = (_results(runs, split) for split in ("test", "valid"))
    costs = [json.loads(run.with_suffix(".cost.json").read_text("utf-8")) for run in runs]
    first = tests[0]
    said = [{**test["protocol"], **_planned(run)} for run, test in zip(runs, tests, strict=True)]
    for run, theirs in zip(runs, said, strict=True):
        if key := _unlike(said[0], theirs):
            raise SystemExit(f"The row {name} has {key} {said[0][key]} in {runs[0]}, and "
                             f"{theirs[key]} in {run}; remove the one that is not of the plan.")
    sides = {side: {metric: spread(middle(test[side][metric]) for test in tests)
                    for metric in first[side] if metric != "count"}
             for side in ("both", "tail", "head")}
    slices = {name: {part: {"mrr": spread(middle(test["slices"][name][part]["both"]["mrr"])
                                          for test in tests),
                            "count": values["both"]["count"]} for part, values in parts.items()}
              for name, parts in first["slices"].items()}
    relations = {relation: {"mrr": spread(middle(test["by_relation"][relation]["both"]["mrr"])
                                          for test in tests),
                            "count": values["both"]["count"]}
                 for relation, values in first["by_relation"].items()}
    protocol = {key: value for key, value in said[0].items() if key not in ("seed", *EACH)}
    return {
        "seeds": [int(run.name.removeprefix("seed-")) for run in runs], **sides,
        # Generators choose by a part of valid, and are not ranked on all of it.
        **({"valid_mrr": spread(middle(valid["both"]["mrr"]) for valid in valids)}
           if len(valids) == len(runs) else {}),
        # Where ranks are certified, figures are middles of brackets; so far the exact MRR may be.
        "mrr_within": max(half_width(test["both"]["mrr"]) for test in tests),
        "slices": slices, "by_relation": relations,
        "parameters": protocol.get("parameters"),
        "made_on": [{**cost["machine"], **test["protocol"]["versions"],
                     **{key: test["protocol"][key] for key in EACH if key in test["protocol"]}}
                    for cost, test in zip(costs, tests, strict=True)],
        "seconds": spread(cost["seconds"] for cost in costs),
        "peak_memory_gib": spread(cost["peak_bytes"] / 2**30 for cost in costs),
        "protocol": protocol,
    }


def _results(runs: Sequence[Path], split: str) -> list[dict[str, Any]]:
    """The results of those runs that have one: certified where a run has no exact one."""
    certified = result_name(split, "certified")
    some_only = any(surest_result(run, split) == certified for run in runs)
    names = [certified, split] if some_only else [split]
    found = ([path for name in names if (path := run / "results" / f"{name}.json").is_file()]
             for run in runs)
    return [json.loads(paths[0].read_text("utf-8")) for paths in found if paths]


def _planned(run: Path) -> dict[str, int]:
    """The steps that a training was given, of which ``training.patience`` may take fewer."""
    training = read_yaml(run / "config.yaml").get("training")
    return {"steps": training["steps"]} if training else {}


def half_width(metric: float | Mapping[str, float]) -> float:
    """How far a metric may be from `middle` of it: 0 where ranks are exact."""
    return (metric["high"] - metric["low"]) / 2 if isinstance(metric, Mapping) else 0.0


def table(document: Mapping[str, Any]) -> str:
    """The rows as a Markdown table, in percent."""
    lines = [f"| system | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for name, row in document["rows"].items():
        lines.append(f"| {name} | " + " | ".join(row_figures(row)) + " |")
    return "\n".join(lines)


COLUMNS = ("MRR", "Hits@1", "Hits@3", "Hits@10", "MRR, tail", "MRR, head", "MRR, not linked")
"""What a table shows: four metrics, the MRR of each direction, and that of the queries whose two
entities no fact of train links."""


def row_figures(row: Mapping[str, Any]) -> list[str]:
    """What a table shows of a row: `COLUMNS`."""
    unlinked = row["slices"].get("linked", {}).get("not linked")  # earlier results lack it
    shown = [*(percent(row["both"][metric]) for metric in METRICS),
             *(percent(row[side]["mrr"]) for side in ("tail", "head")),
             percent(unlinked["mrr"]) if unlinked else "–"]
    if not is_wide(row):
        return shown
    # The middles of such brackets would be read as figures.
    least = least_mrr(row)
    return [f"{100 * least:.1f} to {100 * (least + 2 * row['mrr_within']):.1f}",
            *["–"] * (len(shown) - 1)]


def is_wide(row: Mapping[str, Any]) -> bool:
    """Whether the MRR of a row is so uncertain that only its bracket says something."""
    return bool(row["mrr_within"] > WIDE)


def least_mrr(row: Mapping[str, Any]) -> float:
    """The least that the MRR of a row can be."""
    return float(row["both"]["mrr"]["mean"] - row["mrr_within"])


def percent(cell: Mapping[str, Any]) -> str:
    """Mean and deviation over the seeds, in percent; one seed has no deviation."""
    spread = f" ± {100 * cell['sd']:.1f}" if len(cell["values"]) > 1 else ""
    return f"{100 * cell['mean']:.1f}{spread}"
