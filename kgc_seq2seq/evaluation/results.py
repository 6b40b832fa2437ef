"""A result file: metrics, and the protocol they were made under."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from caption_cache.disk import cannot_write, replacing
from caption_cache.errors import InputError
from kgc_seq2seq.arrays import Bools, Ints
from kgc_seq2seq.evaluation.ranking import TOLERANCE
from kgc_seq2seq.evaluation.ranks import Ranks, metrics
from kgc_seq2seq.evaluation.slices import slices
from kgc_seq2seq.graph.knowledge_graph import SPLITS, KnowledgeGraph

TRIPLE = ("head", "relation", "tail")


def summarize(
    graph: KnowledgeGraph, triples: Ints, ranks: Ranks, pictured: Bools | None = None
) -> dict[str, Any]:
    """Metrics over both directions, each of them, each relation, and each slice of the queries.

    Args:
        graph: The graph.
        triples: int32 [n, 3].
        ranks: 2n ranks: of the tail queries, then of the head queries.
        pictured: Which entities have an image, bool [N]; None: that is not known.

    Returns:
        ``{"both": …, "tail": …, "head": …, "by_relation": {id: {"both": …, …}},
        "slices": {name: {label: {"both": …, …}}}}`` with the metrics of `ranks.metrics`, sides
        without queries left out.
    """
    count = len(triples)
    is_tail = np.arange(2 * count) < count
    relation = np.tile(triples[:, 1], 2)

    def sides(chosen: Bools) -> dict[str, Any]:
        parts = {"both": chosen, "tail": chosen & is_tail, "head": chosen & ~is_tail}
        return {side: metrics(ranks[part]) for side, part in parts.items() if part.any()}

    return {
        **sides(np.ones(2 * count, bool)),
        "by_relation": {graph.relation_ids[r]: sides(relation == r) for r in np.unique(relation)},
        "slices": {name: {label: sides(chosen) for label, chosen in parts.items()}
                   for name, parts in slices(graph, triples, pictured).items()},
    }


def protocol(graph: KnowledgeGraph, split: str, **facts: Any) -> dict[str, Any]:
    """What a reader must know to compare: filter, ties, candidates, exactness, versions.

    Args:
        graph: The graph.
        split: The split whose triples were ranked.
        facts: More of the kind (seed, source of the captions, …).
    """
    candidates = hashlib.sha256("\n".join(graph.entity_ids).encode()).hexdigest()
    return {
        "dataset": graph.name,
        "graph": graph.fingerprint,
        "split": split,
        "ranks": "exact",
        "filtered_by": list(SPLITS),
        "ties": "realistic",
        "tie_tolerance": TOLERANCE,
        "candidates": graph.num_entities,
        "candidate_set": candidates,
        **facts,
        "versions": {"python": platform.python_version(),
                     **{name: version(name) for name in ("kgc-seq2seq", "torch", "transformers")}},
    }


def write_ranks(path: Path, graph: KnowledgeGraph, triples: Ints, ranks: Ranks) -> None:
    """Write the rank of every query as a Parquet table, so that runs can be compared.

    Its columns are head, relation and tail (ids), direction (the end that was asked for), better,
    tied and, for bracketed ranks, open: as in `Ranks`. The file is written whole.

    Args:
        path: The file.
        graph: The graph.
        triples: int32 [n, 3].
        ranks: 2n ranks: of the tail queries, then of the head queries.
    """
    ids = (graph.entity_ids, graph.relation_ids, graph.entity_ids)
    columns = {name: pa.array([known[place] for place in column.tolist()] * 2)
               for name, known, column in zip(TRIPLE, ids, triples.T, strict=True)}
    columns["direction"] = pa.array(["tail"] * len(triples) + ["head"] * len(triples))
    columns |= {"better": pa.array(ranks.better), "tied": pa.array(ranks.tied)}
    if ranks.open is not None:
        columns["open"] = pa.array(ranks.open)
    with replacing(path) as aside:
        pq.write_table(pa.table(columns), aside)


def read_ranks(path: Path) -> pa.Table:
    """Read what `write_ranks` wrote.

    Raises:
        InputError: It is missing or no such table.
    """
    try:
        table = pq.read_table(path)
        table.select([*TRIPLE, "direction", "better", "tied"])
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run '{_evaluating(path)}' to keep the rank of every "
                         "query.") from None
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} is no table of ranks ({error}); delete it and evaluate "
                         "again.") from None
    return table


def ranks_of(table: pa.Table) -> Ranks:
    """The ranks in a table of `read_ranks`."""
    better, tied, *more = (
        table[name].to_numpy() for name in ("better", "tied", "open") if name in table.column_names)
    return Ranks(better, tied, *more)


def result_name(split: str, ranks: str) -> str:
    """What a result is called in the folder ``results``, without its extension.

    Args:
        split: ``valid`` or ``test``.
        ranks: Their kind: ``exact``, ``certified`` or ``sampled``.
    """
    return split if ranks == "exact" else f"{split}-{ranks}"


def surest_result(run: Path, split: str) -> str:
    """What a run's result among all entities is called: exact, or certified where only that is."""
    certified = result_name(split, "certified")
    paths = {name: run / "results" / f"{name}.json" for name in (split, certified)}
    return certified if paths[certified].is_file() and not paths[split].is_file() else split


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result file.

    Raises:
        InputError: It cannot be written.
    """
    try:
        with replacing(path) as aside:
            aside.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    except OSError as error:
        raise cannot_write(path, error) from None


def _evaluating(path: Path) -> str:
    """The command that writes a file of results."""
    split, _, kind = path.stem.removesuffix("-ranks").partition("-")
    ranks = f" --ranks {kind}" if kind else ""
    return f"kgc evaluate {path.parent.parent} --split {split}{ranks}"


def read_result(path: Path) -> dict[str, Any]:
    """Read a result file.

    Raises:
        InputError: It is missing or no result file.
    """
    try:
        result = json.loads(path.read_text("utf-8"))
        result["both"]["mrr"], result["protocol"]["split"]
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run '{_evaluating(path)}' first.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no result file ({error!r}); delete it and evaluate "
                         "again.") from None
    return dict(result)
