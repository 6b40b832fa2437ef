"""Relations that say the same as another, forwards or backwards: how a test fact leaks.

After Akrami et al., "Realistic Re-evaluation of Knowledge Graph Completion Methods" (2020): a
relation follows from another when most pairs linked by the one are linked by the other too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kgc_seq2seq.arrays import Bools, Ints, Longs
from kgc_seq2seq.graph.csr import Csr, distinct_rows

CONFIDENCE = 0.8
"""Share of the pairs of a relation that must be linked by the other for a rule to hold."""
SUPPORT = 10
"""Number of pairs that must be linked by both."""
Kinds = dict[str, Bools]


@dataclass(frozen=True, eq=False)
class RelationRules:
    """Rules ``(x, body, y) -> (x, head, y)`` and ``(x, body, y) -> (y, head, x)``."""

    num_entities: int
    """N."""
    num_relations: int
    """R."""
    same: Longs
    """Rules that keep the direction, ascending int64 [K]: ``body * R + head``."""
    inverse: Longs
    """Rules that turn it, likewise; with ``body = head`` the relation is symmetric, or said to
    be."""

    @classmethod
    def find(
        cls, triples: Ints, num_entities: int, num_relations: int, symmetric: Bools
    ) -> RelationRules:
        """Find the rules that hold on triples; repeats and self-loops do not count.

        Args:
            triples: int32 [n, 3].
            num_entities: N.
            num_relations: R.
            symmetric: Which relations are said to be symmetric, bool [R]: their facts count both
                ways, and say the same as another that has them in either direction.
        """
        triples = triples[triples[:, 0] != triples[:, 2]]
        said = symmetric[triples[:, 1]]
        swapped = np.flatnonzero(said & (triples[:, 0] > triples[:, 2]))
        triples[swapped] = triples[swapped, ::-1]
        triples = distinct_rows(triples)
        said = symmetric[triples[:, 1]]
        pairs = _by_pair(np.concatenate([triples, triples[said, ::-1]]), num_entities)
        sizes = np.bincount(triples[:, 1], minlength=num_relations)
        # Each triple with each relation that links its pair, forwards and backwards.
        linked = []
        for backwards in (False, True):
            owner, others = pairs.rows(_pair_keys(triples, num_entities, backwards))
            linked.append(owner * num_relations + others)
        either = np.unique(np.concatenate([codes[said[codes // num_relations]]
                                           for codes in linked]))
        found = []
        for backwards, codes in zip((False, True), linked, strict=True):
            codes = np.concatenate([codes[~said[codes // num_relations]], either])
            owner, others = np.divmod(codes, num_relations)
            rules, both = np.unique(triples[owner, 1] * np.int64(num_relations) + others,
                                    return_counts=True)
            body, head = np.divmod(rules, num_relations)
            holds = (both >= SUPPORT) & (both >= CONFIDENCE * sizes[body])
            found.append(rules[holds & ((body != head) | backwards)])
        same, inverse = found
        return cls(num_entities, num_relations, same, np.union1d(
            inverse, np.flatnonzero(symmetric) * (num_relations + 1)))

    def leaks(self, triples: Ints, train: Ints) -> Kinds:
        """Which facts follow from a train fact by a rule.

        Args:
            triples: int32 [n, 3].
            train: Distinct triples, int32 [m, 3].

        Returns:
            bool [n] for each of ``near-duplicate``, ``inverse`` and ``symmetric``.
        """
        pairs = _by_pair(train, self.num_entities)
        leaks = {}
        for backwards, rules in ((False, self.same), (True, self.inverse)):
            owner, body = pairs.rows(_pair_keys(triples, self.num_entities, backwards))
            head = triples[owner, 1]
            followed = np.isin(body.astype(np.int64) * self.num_relations + head, rules)
            for name, chosen in ((("near-duplicate", followed),) if not backwards else
                                 (("inverse", followed & (body != head)),
                                  ("symmetric", followed & (body == head)))):
                leaks[name] = np.bincount(owner[chosen], minlength=len(triples)) > 0
        return leaks

    def clusters(self) -> Longs:
        """Relations joined by rules, as the least number among each one's kin, int64 [R]."""
        kin = np.arange(self.num_relations)
        body, head = np.divmod(np.concatenate([self.same, self.inverse]), self.num_relations)
        while True:
            least = kin.copy()
            np.minimum.at(least, body, kin[head])
            np.minimum.at(least, head, kin[body])
            least = least[least]
            if np.array_equal(least, kin):
                return kin
            kin = least


def _pair_keys(triples: Ints, num_entities: int, backwards: bool) -> Longs:
    first, second = (2, 0) if backwards else (0, 2)
    return triples[:, first].astype(np.int64) * num_entities + triples[:, second]


def _by_pair(triples: Ints, num_entities: int) -> Csr:
    return Csr.group(_pair_keys(triples, num_entities, False), triples[:, 1])
