"""The baseline that knows nothing of the query's entity: answers by how often train has them."""

from __future__ import annotations

import numpy as np

from kgc_seq2seq.arrays import Ints, Longs
from kgc_seq2seq.evaluation.ranks import Ranks
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph


def frequency_ranks(graph: KnowledgeGraph, triples: Ints) -> Ranks:
    """Exact filtered ranks when entities are ordered by their train facts at the asked end.

    Counted without a table of all entities, so that a graph of any size has its baseline.

    Args:
        graph: The graph.
        triples: int32 [n, 3].

    Returns:
        2n ranks: of all tail queries in the order of ``triples``, then of all head queries.
    """
    size = graph.num_entities
    entity, relation, gold = graph.queries(triples).T.astype(np.int64)
    seen = graph.queries(graph.train).astype(np.int64)
    pairs, counts = np.unique(seen[:, 1] * size + seen[:, 2], return_counts=True)

    def frequency(relations: Longs, entities: Longs) -> Longs:
        key = relations * size + entities
        place = np.minimum(np.searchsorted(pairs, key), len(pairs) - 1)
        found: Longs = np.where(pairs[place] == key, counts[place], 0)
        return found

    # Within a relation by frequency: one search says how many are above, one how many are equal.
    most = int(counts.max()) + 1
    ladder = np.sort(pairs // size * most + counts)
    own = frequency(relation, gold)
    begin, low, high, end = (np.searchsorted(ladder, relation * most + rung) for rung in (
        0, own, own + 1, most))
    better = end - high
    # Those that train has not at this end are not on the ladder.
    tied = np.where(own > 0, high - low, size - (end - begin)) - 1
    owner, known = graph.known_answers.rows(entity * (2 * graph.num_relations) + relation)
    other = known != gold[owner]
    owner, gap = owner[other], (frequency(relation[owner], known.astype(np.int64)) - own[owner]
                         )[other]
    better -= np.bincount(owner[gap > 0], minlength=len(gold))
    tied -= np.bincount(owner[gap == 0], minlength=len(gold))
    return Ranks(better, tied)
