"""A result file: metrics, and the protocol they were made under."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from caption_cache.disk import replacing
from caption_cache.errors import InputError
from kgc_seq2seq.evaluation.ranking import TOLERANCE
from kgc_seq2seq.evaluation.ranks import Ranks, metrics
from kgc_seq2seq.graph.csr import Ints
from kgc_seq2seq.graph.knowledge_graph import SPLITS, KnowledgeGraph


def summarize(graph: KnowledgeGraph, triples: Ints, ranks: Ranks) -> dict[str, Any]:
    """Metrics over both directions, each of them, and each relation.

    Args:
        graph: For the ids of the relations.
        triples: int32 [n, 3].
        ranks: 2n ranks: of the tail queries, then of the head queries.

    Returns:
        ``{"both": …, "tail": …, "head": …, "by_relation": {id: {"both": …, …}}}`` with the
        metrics of `ranks.metrics`.
    """
    count = len(triples)
    is_tail = np.arange(2 * count) < count
    relation = np.tile(triples[:, 1], 2)

    def sides(chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> dict[str, Any]:
        return {"both": metrics(ranks[chosen]), "tail": metrics(ranks[chosen & is_tail]),
                "head": metrics(ranks[chosen & ~is_tail])}

    return {
        **sides(np.ones(2 * count, bool)),
        "by_relation": {graph.relation_ids[r]: sides(relation == r) for r in np.unique(relation)},
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


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result file."""
    with replacing(path) as aside:
        aside.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")


def read_result(path: Path) -> dict[str, Any]:
    """Read a result file.

    Raises:
        InputError: It is missing or no result file.
    """
    try:
        result = json.loads(path.read_text("utf-8"))
        result["both"]["mrr"], result["protocol"]["split"]
    except FileNotFoundError:
        raise InputError(f"{path} is missing; run 'kgc evaluate {path.parent.parent}' "
                         "first.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no result file ({error!r}); delete it and evaluate "
                         "again.") from None
    return dict(result)
