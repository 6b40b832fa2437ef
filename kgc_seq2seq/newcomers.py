"""Entities that the graph lacks: told in a query, and gone after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from caption_cache.errors import InputError
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.graph.names import folded


@dataclass(frozen=True)
class Newcomer:
    """An entity that a query is about though the graph lacks it."""

    name: str
    """What it is called; no entity of the graph may be, in whatever case."""
    facts: tuple[tuple[str, str], ...] = ()
    """What is known of it: relation (or the inverse of one) and neighbour, by name or id."""
    description: str = ""
    """A sentence on it."""
    caption: str | None = None
    """What its image shows."""
    image: str | None = None
    """Its image file, instead of a caption: it is captioned as those of the data set were."""

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise InputError("A new entity has no name; give one under 'name'.")
        if self.caption is not None and self.image is not None:
            raise InputError(f"The new entity {self.name!r} has a caption and an image; give one "
                             "of them.")

    @classmethod
    def read(cls, given: dict[str, Any]) -> Newcomer:
        """From JSON values, by the names of the fields.

        Raises:
            InputError: A key is unknown, or a value is not what it must be.
        """
        known = [entry.name for entry in fields(cls)]
        for key, value in given.items():
            if key not in known:
                raise InputError(f"a new entity has no {key!r}, only {', '.join(known)}; mend "
                                 "it.")
            if key != "facts" and not isinstance(value, str):
                raise InputError(f"the {key} of a new entity must be a text; mend it.")
        facts = given.get("facts", [])
        if not isinstance(facts, list) or not all(
                isinstance(fact, list) and len(fact) == 2
                and all(isinstance(part, str) for part in fact) for fact in facts):
            raise InputError("the facts of a new entity must be a list of [relation, neighbour]; "
                             "mend it.")
        return cls(**{"name": "", **given, "facts": tuple(map(tuple, facts))})


def with_newcomers(
    graph: KnowledgeGraph, newcomers: Sequence[Newcomer], relation: Callable[[str], int],
    entity: Callable[[str], int],
) -> KnowledgeGraph:
    """The graph with more entities, behind those it has, and their facts in train.

    Args:
        graph: The graph.
        newcomers: Each becomes an entity whose id is its name.
        relation: The number of a relation in ``0 … 2R - 1`` by name or id.
        entity: The number of an entity of ``graph`` by name or id.

    Raises:
        InputError: A name is taken, or given twice; or a look-up raises it.
    """
    names = [newcomer.name for newcomer in newcomers]
    taken = {folded(known) for known in (*graph.entity_names, *graph.entity_ids)}
    for name in names:
        if folded(name) in taken:
            raise InputError(f"The new entity {name!r} is called as one that is there; give that "
                             "by its name alone, or give another name.")
        taken.add(folded(name))
    facts = [(graph.num_entities + number, relation(said), entity(neighbour))
             for number, newcomer in enumerate(newcomers) for said, neighbour in newcomer.facts]
    rows = np.array(facts, np.int32).reshape(-1, 3)
    inverse = rows[:, 1] >= graph.num_relations
    rows[inverse] = rows[inverse][:, ::-1] - [0, graph.num_relations, 0]
    return replace(
        graph, entity_ids=(*graph.entity_ids, *names), entity_names=(*graph.entity_names, *names),
        entity_descriptions=(*graph.entity_descriptions,
                             *(newcomer.description for newcomer in newcomers)),
        train=np.concatenate([graph.train, rows]))
