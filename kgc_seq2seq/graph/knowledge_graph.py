"""The graph itself: entities, relations, three splits, and fast look-ups over them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kgc_seq2seq.arrays import Bools, Ints, Longs
from kgc_seq2seq.graph.csr import Csr, distinct_rows

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class KnowledgeGraph:
    """Entities, relations and triples (head, relation, tail).

    A head query ``(?, r, t)`` is the tail query ``(t, r + R, ?)`` of the inverse relation:
    relations are numbered ``0 … 2R - 1`` wherever a query is meant.
    """

    name: str
    """Name of the data set."""
    entity_ids: Sequence[str]
    """Identifier of each entity, as in ``entities.tsv``."""
    entity_names: Sequence[str]
    """What each entity is called; distinct."""
    entity_descriptions: Sequence[str]
    """A sentence on each entity, or an empty string."""
    relation_ids: tuple[str, ...]
    """Identifier of each of the R relations, as in ``relations.tsv``."""
    relation_names: tuple[str, ...]
    """What each of the 2R relations is called: the R relations, then their inverses."""
    train: Ints
    """int32 [n, 3]: head, relation, tail."""
    valid: Ints
    """int32 [n, 3]."""
    test: Ints
    """int32 [n, 3]."""

    @property
    def num_entities(self) -> int:
        """N, the number of entities."""
        return len(self.entity_ids)

    @property
    def num_relations(self) -> int:
        """R, the number of relations; inverses not counted."""
        return len(self.relation_ids)

    def split(self, name: str) -> Ints:
        """The triples of ``"train"``, ``"valid"`` or ``"test"``, int32 [n, 3]."""
        return {"train": self.train, "valid": self.valid, "test": self.test}[name]

    @cached_property
    def symmetric(self) -> Bools:
        """Which relations read the same both ways (their inverse has the same name), bool [R]."""
        names, count = self.relation_names, self.num_relations
        return np.array([names[r] == names[r + count] for r in range(count)], bool)

    def inverse(self, relations: Ints) -> Ints:
        """The inverse of each relation: ``r`` ↔ ``r + R``."""
        return np.where(relations < self.num_relations, relations + self.num_relations,
                        relations - self.num_relations).astype(np.int32)

    def queries(self, triples: Ints) -> Ints:
        """Both queries of every triple.

        Returns:
            int32 [2n, 3] with columns query entity, relation in ``0 … 2R - 1``, answer: first
            all tail queries in the order of ``triples``, then all head queries.
        """
        head, relation, tail = triples.T
        backward = np.stack([tail, relation + self.num_relations, head], axis=1)
        return np.concatenate([triples, backward]).astype(np.int32, copy=False)

    def query_keys(self, entities: Ints, relations: Ints) -> Longs:
        """One int64 for each (entity, relation in ``0 … 2R - 1``): the key of `known_answers`."""
        return entities.astype(np.int64) * (2 * self.num_relations) + relations

    @cached_property
    def known_answers(self) -> Csr:
        """Answers of every query over all splits, keyed by `query_keys`; the filtered setting's.

        A fact of a symmetric relation answers both of its queries both ways.
        """
        facts = self.queries(np.concatenate([self.train, self.valid, self.test]))
        turned = facts[self.symmetric[facts[:, 1] % self.num_relations]]
        turned[:, 1] = self.inverse(turned[:, 1])
        facts = distinct_rows(np.concatenate([facts, turned]))
        return Csr.group(self.query_keys(facts[:, 0], facts[:, 1]), facts[:, 2].copy())

    def fold(self, queries: Ints) -> Ints:
        """Turn the inverse of a symmetric relation into the relation: they read the same.

        Args:
            queries: int32 [n, 2 or more]; column 1 holds relations in ``0 … 2R - 1``.
        """
        relation = queries[:, 1]
        plain = relation % self.num_relations
        folded = queries.copy()
        folded[:, 1] = np.where(self.symmetric[plain], plain, relation)
        return folded

    @cached_property
    def training_queries(self) -> Ints:
        """Distinct queries of the train split, folded, with one answer each, int32 [m, 3]."""
        return distinct_rows(self.fold(self.queries(self.train)))

    @cached_property
    def neighbours(self) -> Csr:
        """What train says of each entity: rows (relation in ``0 … 2R - 1``, neighbour)."""
        facts = self.training_queries
        return Csr.group(facts[:, 0].astype(np.int64), facts[:, 1:].copy())

    @cached_property
    def train_degree(self) -> Longs:
        """Number of distinct train triples each entity takes part in, int64 [N]."""
        head, _, tail = distinct_rows(self.train).T
        # A triple of an entity with itself is one.
        return np.bincount(np.concatenate([head, tail[tail != head]]), minlength=self.num_entities)

    def linked_in_train(self, triples: Ints) -> Bools:
        """Whether some train triple, by any relation and either way round, links both ends.

        Args:
            triples: int32 [n, 3].

        Returns:
            bool [n].
        """
        pairs, known = (self.pair_keys(rows[:, 0], rows[:, 2]) for rows in (triples, self.train))
        return np.isin(pairs, known)

    def pair_keys(self, one: Ints | Longs, other: Ints | Longs) -> Longs:
        """One int64 for each pair of entities, whichever way round."""
        low, high = np.minimum(one, other), np.maximum(one, other)
        return low.astype(np.int64) * self.num_entities + high

    @cached_property
    def train_hash(self) -> str:
        """SHA-256 over the distinct facts of train, by number, in hex."""
        return hashlib.sha256(
            np.ascontiguousarray(distinct_rows(self.train), "<i4").tobytes()).hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over ids, names and triples: equal graphs, equal fingerprints."""
        digest = hashlib.sha256()
        columns: Sequence[Sequence[str]] = (self.entity_ids, self.entity_names, self.relation_ids,
                                            self.relation_names)
        for column in columns:
            digest.update("\n".join(column).encode())
            digest.update(b"\0")
        for split in SPLITS:
            digest.update(np.ascontiguousarray(self.split(split), "<i4").tobytes())
            digest.update(b"\0")
        return digest.hexdigest()
