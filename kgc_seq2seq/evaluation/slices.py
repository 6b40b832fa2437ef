"""Parts of a split by what makes its queries easy or hard."""

from __future__ import annotations

import numpy as np

from kgc_seq2seq.arrays import Bools, Ints, Longs
from kgc_seq2seq.graph.cardinality import CARDINALITIES, cardinalities
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph

DEGREES = (0, 1, 3, 10, 30, 100, 1000)
"""Where the buckets of degrees begin."""


def slices(
    graph: KnowledgeGraph, triples: Ints, pictured: Bools | None = None
) -> dict[str, dict[str, Bools]]:
    """Divide the queries of triples in several ways.

    - ``cardinality``: of the relation, by its train facts (Bordes et al. 2013)
    - ``entities``: whether train says anything of both ends of the triple
    - ``linked``: whether a fact of train, by any relation and either way round, links both ends
    - ``given_degree``, ``answer_degree``: train facts of the entity that is given, of the answer
    - ``given_image``, ``answer_image``: whether it has an image
    - ``given_text``: whether it has a description

    Args:
        graph: The graph.
        triples: int32 [n, 3].
        pictured: Which entities have an image, bool [N]; None: that is not known.

    Returns:
        For every way that divides them, disjoint masks by label, none empty, bool [2n]: of the
        tail queries, then of the head queries.
    """
    queries = graph.queries(triples)
    given, answer = queries[:, 0], queries[:, 2]
    degree = graph.train_degree
    kind = cardinalities(graph)[queries[:, 1] % graph.num_relations]
    unseen = (degree[given] == 0) | (degree[answer] == 0)
    linked = np.tile(graph.linked_in_train(triples), 2)
    found = {
        "cardinality": {label: kind == place for place, label in enumerate(CARDINALITIES)},
        "entities": {"both seen in train": ~unseen, "one unseen": unseen},
        "linked": {"linked in train": linked, "not linked": ~linked},
        "given_degree": _buckets(degree[given]),
        "answer_degree": _buckets(degree[answer]),
        "given_text": _with(_described(graph, given)),
    }
    if pictured is not None:
        found |= {"given_image": _with(pictured[given]), "answer_image": _with(pictured[answer])}
    kept = {name: {label: chosen for label, chosen in parts.items() if chosen.any()}
            for name, parts in found.items()}
    return {name: parts for name, parts in kept.items() if len(parts) > 1}


def _buckets(degree: Longs) -> dict[str, Bools]:
    place = np.searchsorted(DEGREES, degree, side="right") - 1
    return {_label(number): place == number for number in range(len(DEGREES))}


def _label(number: int) -> str:
    low = DEGREES[number]
    if number + 1 == len(DEGREES):
        return f"{low}+"
    high = DEGREES[number + 1] - 1
    return str(low) if low == high else f"{low}–{high}"


def _with(there: Bools) -> dict[str, Bools]:
    return {"with": there, "without": ~there}


def _described(graph: KnowledgeGraph, entities: Ints) -> Bools:
    distinct, place = np.unique(entities, return_inverse=True)
    return np.array([bool(graph.entity_descriptions[e]) for e in distinct.tolist()], bool)[place]
