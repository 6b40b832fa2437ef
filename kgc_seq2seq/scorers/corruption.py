"""Negatives: train triples with one end replaced, drawn without a state."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kgc_seq2seq.arrays import Floats, Longs
from kgc_seq2seq.graph.csr import Csr, distinct_rows
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.scorers.scorer import as_long

Unsigned = npt.NDArray[np.uint64]


class Corruptions:
    """A `scorer.Feed`: train triples, each with K entities that would make it false.

    A wrong end is drawn uniformly from the entities that train does not know as an answer; where
    it knows them all, from all. Which end is replaced is a coin of ½, or one that falls on the
    tail with ``#heads / (#heads + #tails)`` of the relation (Wang et al. 2014: the end with more
    right answers is kept more often).
    """

    def __init__(self, graph: KnowledgeGraph, count: int, seed: int, *, bernoulli: bool) -> None:
        """Sort what train knows.

        Args:
            graph: The graph.
            count: K.
            seed: Same seed, same negatives.
            bernoulli: Which of the two coins.
        """
        self.triples = graph.train
        self.count = count
        self.seed = seed
        self._size = graph.num_entities
        self._tails = _tail_share(graph) if bernoulli else np.full(graph.num_relations, 0.5)
        queries = graph.queries(graph.train)
        facts = distinct_rows(queries)
        known = Csr.group(graph.query_keys(facts[:, 0], facts[:, 1]), facts[:, 2].copy())
        self._starts, sizes = known.offsets[:-1], np.diff(known.offsets)
        self._free = np.where(sizes < self._size, self._size - sizes, self._size)
        # Of the tail query and of the head query of each triple, int64 [n, 2].
        self._group = np.searchsorted(known.keys, graph.query_keys(
            queries[:, 0], queries[:, 1])).reshape(2, -1).T
        # How many unknown answers lie before each known one, made ascending over all groups.
        group = np.repeat(np.arange(len(known.keys)), sizes)
        before = known.values - (np.arange(len(known.values)) - self._starts[group])
        before[sizes[group] == self._size] = self._size  # never counted: all are drawn from
        self._before = group * (self._size + 1) + before

    def __len__(self) -> int:
        return len(self.triples)

    def __call__(self, examples: Longs, epoch: int) -> dict[str, Tensor]:
        """Triples and negatives.

        Returns:
            ``triples`` int64 [B, 3]; ``negatives`` int64 [B, K], entities; ``replaces_tail``
            bool [B, K], which end each of them takes.
        """
        triples = self.triples[examples]
        coin, draw = np.split(_uniform(self.seed, epoch, examples, 2 * self.count), 2, axis=1)
        tail = coin < self._tails[triples[:, 1], None]
        group = np.where(tail, self._group[examples, :1], self._group[examples, 1:])
        place = (draw * self._free[group]).astype(np.int64)
        # The place-th unknown answer stands behind all known ones with at most so many before.
        known = np.searchsorted(self._before, group * (self._size + 1) + place, side="right")
        return {"triples": as_long(triples),
                "negatives": torch.from_numpy(place + known - self._starts[group]),
                "replaces_tail": torch.from_numpy(tail)}


def _tail_share(graph: KnowledgeGraph) -> Floats:
    """How often the tail is replaced, by relation: float64 [R]."""
    heads, tails = (np.bincount(distinct_rows(graph.train[:, [1, end]])[:, 0],
                                minlength=graph.num_relations) for end in (0, 2))
    share: Floats = heads / np.maximum(1, heads + tails)
    return share


def _uniform(seed: int, epoch: int, examples: Longs, count: int) -> Floats:
    """Numbers in [0, 1) that follow from seed, epoch and example: float64 [B, count].

    SplitMix64 (Steele et al. 2014) with the example as the start of its stream, so that an
    example's numbers do not depend on its batch.
    """
    state = _mix(np.full(1, seed % 2**63, np.uint64) + np.uint64(0x9E3779B97F4A7C15))
    for part in (np.full(1, epoch, np.uint64), examples.astype(np.uint64)):
        state = _mix(state ^ _mix(part + np.uint64(1)))
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (_mix(state[:, None] + steps) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: Unsigned) -> Unsigned:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
