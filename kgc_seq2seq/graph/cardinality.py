"""How many answers the queries of a relation have: 1-1, 1-N, N-1 or N-N."""

from __future__ import annotations

import numpy as np

from kgc_seq2seq.arrays import Floats, Ints
from kgc_seq2seq.graph.csr import distinct_rows
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph

MANY = 1.5
"""From so many tails a head on, on average, a relation is 1-N (Bordes et al. 2013)."""
CARDINALITIES = ("1-1", "1-N", "N-1", "N-N", "unseen")
"""The last: train has no fact of the relation."""


def answers_per_query(graph: KnowledgeGraph) -> tuple[Floats, Floats]:
    """Tails per head and heads per tail of every relation in train.

    Returns:
        Two float64 [R]; 0 for a relation without a train fact.
    """
    train = distinct_rows(graph.train)
    count = np.bincount(train[:, 1], minlength=graph.num_relations)
    per_end = []
    for end in (0, 2):
        ends = distinct_rows(np.ascontiguousarray(train[:, [1, end]]))
        distinct = np.bincount(ends[:, 0], minlength=graph.num_relations)
        per_end.append(count / np.maximum(distinct, 1))
    return per_end[0], per_end[1]


def cardinalities(graph: KnowledgeGraph) -> Ints:
    """The place in `CARDINALITIES` of every relation, int32 [R]."""
    tails_per_head, heads_per_tail = answers_per_query(graph)
    kind = (heads_per_tail >= MANY) * 2 + (tails_per_head >= MANY)
    return np.where(tails_per_head > 0, kind, len(CARDINALITIES) - 1).astype(np.int32)
