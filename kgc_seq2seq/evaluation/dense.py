"""Exact filtered ranks of a system that scores every entity at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from kgc_seq2seq.evaluation.ranking import TOLERANCE
from kgc_seq2seq.evaluation.ranks import Ranks
from kgc_seq2seq.graph.csr import Ints
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph

Scores = npt.NDArray[np.float32]

QUERIES_AT_ONCE = 256


def rank_by_scores(
    graph: KnowledgeGraph, triples: Ints, score: Callable[[Ints], Scores]
) -> Ranks:
    """Rank the gold answers of both queries of every triple among all N entities.

    The setting is that of `ranking.rank_triples`: other known answers are no candidates, and
    scores within the tolerance are ties.

    Args:
        graph: The graph.
        triples: int32 [n, 3].
        score: Gets int32 [Q, 2] (entity, relation in ``0 … 2R - 1``), gives float32 [Q, N];
            higher is better.

    Returns:
        2n ranks: of all tail queries in the order of ``triples``, then of all head queries.
    """
    questions = graph.queries(triples)
    better, tied = np.zeros((2, len(questions)), np.int64)
    for start in range(0, len(questions), QUERIES_AT_ONCE):
        part = questions[start : start + QUERIES_AT_ONCE]
        scores = np.array(score(part[:, :2]), np.float32)
        row = np.arange(len(part))
        gold = scores[row, part[:, 2]]
        owner, known = graph.known_answers.rows(graph.query_keys(part[:, 0], part[:, 1]))
        scores[owner, known] = -np.inf  # the gold is one of them
        margin = (TOLERANCE * np.maximum(1, np.abs(gold)))[:, None]
        better[start + row] = (scores > gold[:, None] + margin).sum(axis=1)
        tied[start + row] = (np.abs(scores - gold[:, None]) <= margin).sum(axis=1)
    return Ranks(better, tied)
