"""Compares runs query by query: paired bootstrap intervals of the differences of their metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from caption_cache.errors import InputError
from kgc_seq2seq.arrays import Bools, Floats, Longs
from kgc_seq2seq.evaluation.ranks import Ranks, gains
from kgc_seq2seq.evaluation.results import TRIPLE, ranks_of, read_ranks, read_result

PROTOCOL = {
    "graph": "data set", "split": "split", "ranks": "kind of ranks",
    "filtered_by": "splits whose facts are filtered", "ties": "rule for ties",
    "tie_tolerance": "tolerance of ties", "candidate_set": "candidates",
    "samples": "number of samples", "top_k": "tokens sampled from"}
"""What must be equal in two protocols, lest their figures mean different things."""
SIDES = ("both", "tail", "head")
COVERAGE = 0.95
_CELLS_AT_ONCE = 2**22


@dataclass(frozen=True)
class Measured:
    """What a run was measured to be."""

    name: str
    """What it is called here."""
    result: dict[str, Any]
    """Its result file."""
    table: pa.Table
    """The rank of every query, as `results.read_ranks` gives it."""


def read_measured(run: Path, result: str) -> Measured:
    """Read a result of a run folder, such as ``test``.

    Raises:
        InputError: The run was not measured so, or its ranks were not kept.
    """
    folder = run / "results"
    return Measured(str(run), read_result(folder / f"{result}.json"),
                    read_ranks(folder / f"{result}-ranks.parquet"))


def unlike(first: Measured, other: Measured) -> list[str]:
    """What the protocols of two runs differ in, in words."""
    def of(measured: Measured, key: str) -> Any:
        value = measured.result["protocol"].get(key)
        return "exact" if value == "certified" else value  # brackets of the same figures

    return [words for key, words in PROTOCOL.items() if of(first, key) != of(other, key)]


def compare(
    runs: Sequence[Measured], *, anyway: bool = False, resamples: int = 10_000, seed: int = 0
) -> dict[str, Any]:
    """Put runs side by side, and say how surely each differs from the first.

    Args:
        runs: Two or more.
        anyway: Whether to compare what was measured under unlike protocols.
        resamples: How many times the queries are drawn with replacement.
        seed: Of the draws.

    Returns:
        JSON values: ``runs``, each with its name and metrics; ``unlike``, what the protocol of
        each differs from the first's in; ``differences``, of each but the first, by side and
        metric: the difference to the first with its 95 % interval, or None where they did not
        rank the same queries.

    Raises:
        InputError: The protocols differ, and that is not wanted; or ``resamples`` is below 1.
    """
    if resamples < 1:
        raise InputError(f"{resamples} bootstrap samples are asked for; give 1 or more.")
    first, *others = runs
    strange = {other.name: unlike(first, other) for other in others}
    if not anyway and (name := next((name for name, words in strange.items() if words), None)):
        raise InputError(f"{name} was not measured like {first.name}: they differ in the "
                         f"{' and the '.join(strange[name])}; evaluate them alike, or compare "
                         "them with 'kgc compare --anyway'.")
    return {
        "runs": [{"run": run.name, "system": run.result["protocol"].get("system"),
                  **{side: run.result[side] for side in SIDES}} for run in runs],
        "unlike": strange,
        "differences": {other.name: _differences(first, other, resamples, seed)
                        for other in others},
        "bootstrap": {"over": "queries", "resamples": resamples, "seed": seed,
                      "coverage": COVERAGE},
    }


def _differences(
    first: Measured, other: Measured, resamples: int, seed: int
) -> dict[str, Any] | None:
    keys = [*TRIPLE, "direction"]
    if not first.table.select(keys).equals(other.table.select(keys)):
        return None
    is_tail = first.table["direction"].to_numpy() == "tail"
    one, two, query = ranks_of(first.table), ranks_of(other.table), _queries(first.table)
    masks: dict[str, Bools] = {"both": is_tail | ~is_tail, "tail": is_tail, "head": ~is_tail}
    return {side: paired_differences(one[chosen], two[chosen], query[chosen], resamples, seed)
            for side, chosen in masks.items()}


def _queries(table: pa.Table) -> Longs:
    """The query of each rank, numbered: the given entity, the relation and the direction."""
    given = pc.if_else(pc.equal(table["direction"], "tail"), table["head"], table["tail"])
    columns = [column.combine_chunks().dictionary_encode().indices.to_numpy()
               for column in (given, table["relation"], table["direction"])]
    found: Longs = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)[1].ravel()
    return found


def paired_differences(
    first: Ranks, other: Ranks, query: Longs, resamples: int, seed: int
) -> dict[str, dict[str, float]]:
    """How much better other ranks of the same answers are, with percentile bootstrap intervals.

    Queries are drawn, each with all its answers (a cluster bootstrap): one that is read well is so
    for every answer, and drawing these one by one would make intervals much too narrow. Of
    bracketed ranks the worst and the best case are drawn alike, and the interval reaches from
    the worst's lower end to the best's upper end.

    Args:
        first: Ranks of G answers.
        other: Of the same answers.
        query: The query of each, by a number, int64 [G].
        resamples: How many times all Q queries are drawn, Q with replacement.
        seed: Of the draws.

    Returns:
        By metric of `ranks.gains`: ``difference`` (of the means; the middle of a bracket),
        ``low`` and ``high``.
    """
    worst = _gap(_worst(other), first.realistic)
    best = _gap(other.realistic, _worst(first))
    number, answers = np.unique(query, return_inverse=True, return_counts=True)[1:]
    columns = [*(np.bincount(number, gap) for gap in (*worst.T, *best.T)), answers]
    sums = np.stack(columns, axis=1).astype(np.float64)
    means = bootstrap_means(sums, resamples, seed)
    drawn = means[:, :-1] / means[:, -1:]  # the mean over the answers of those queries
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    middle = (worst.mean(axis=0) + best.mean(axis=0)) / 2
    count = worst.shape[1]
    return {name: {"difference": float(middle[place]), "low": float(low[place]),
                   "high": float(high[count + place])}
            for place, name in enumerate(gains(first.realistic))}


def bootstrap_means(values: Floats, resamples: int, seed: int) -> Floats:
    """Means of the rows under resampling with replacement.

    Rows that are equal are drawn together: how often each distinct row comes is multinomial,
    which is the same distribution, and ranks leave few distinct rows.

    Args:
        values: float64 [G, M].
        resamples: B.
        seed: Of the draws.

    Returns:
        float64 [B, M].
    """
    rows, counts = np.unique(values, axis=0, return_counts=True)
    random = np.random.default_rng(seed)
    at_once = max(1, _CELLS_AT_ONCE // len(rows))
    return np.concatenate([
        random.multinomial(len(values), counts / len(values), min(at_once, resamples - start))
        @ rows / len(values) for start in range(0, resamples, at_once)])


def _worst(ranks: Ranks) -> Floats:
    return ranks.realistic if ranks.open is None else ranks.realistic + ranks.open


def _gap(other: Floats, first: Floats) -> Floats:
    one, two = gains(first), gains(other)
    return np.stack([two[name] - one[name] for name in one], axis=1)
