"""Which facts of train are told beside a query, and that none of them is the one asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from kgc_seq2seq.arrays import Bools, Floats, Ints, Longs
from kgc_seq2seq.graph.csr import Csr, distinct_rows, expand_spans
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.graph.relation_rules import RelationRules
from kgc_seq2seq.text.input_config import InputConfig

Lots = npt.NDArray[np.uint64]

_CANDIDATES = 256
"""Of an entity with more facts, so many (or four times those read) are considered, spread evenly
over its relations: a hub of a million facts must not cost a million lots."""
_SPARE = 2
"""A train fact and its mirror: so many examples of a relation can be the fact asked for."""
_JOINED_AT_ONCE = 2**22
_BITS = np.uint64(44)


@dataclass(frozen=True, eq=False)
class Told:
    """Facts beside a batch of queries, those of a query side by side, in the order told."""

    owner: Longs
    """The query of each, int64 [K], ascending."""
    head: Longs
    """Its entity: the query's, or another."""
    relation: Longs
    """In ``0 … 2R - 1``."""
    tail: Longs
    """Its other entity."""

    def __getitem__(self, chosen: Bools | Longs) -> Told:
        return Told(self.owner[chosen], self.head[chosen], self.relation[chosen],
                    self.tail[chosen])


class Context:
    """Chooses facts of the train split by the seed, the epoch and the query.

    The fact that is asked for is never chosen and, unless ``implying``, no other that states it: by
    the same relation the other way round, or by one that implies it (`RelationRules`, found on
    train). That holds for the answer of a query, and for every one that valid or test has, so that
    it makes no difference in evaluation that the answer is not given: of a data set that leaks,
    less is told, never more. In training, some queries may read the very fact (``revealed``).
    """

    def __init__(self, graph: KnowledgeGraph, config: InputConfig, seed: int) -> None:
        self.graph = graph
        self.config = config
        self.seed = seed

    def answers(self, queries: Ints) -> Longs:
        """How many facts of train answer each query (folded, int32 [B, 3]), int64 [B]."""
        keys = self.graph.query_keys(queries[:, 0], queries[:, 1])
        found: Longs = (np.searchsorted(self._query_keys, keys, side="right")
                        - np.searchsorted(self._query_keys, keys))
        return found

    def _is_asked(self, queries: Ints, owner: Longs, other: Longs) -> Bools:
        """Whether (the query's entity, the asked relation, ``other``) is what is asked for.

        Args:
            queries: As in `facts`.
            owner: The query of each entity, int64 [K].
            other: int64 [K].
        """
        entity, relation, answer = queries[owner].T
        keys = self.graph.query_keys(entity, relation) * self.graph.num_entities + other
        place = np.searchsorted(self._held_out, keys)
        asked: Bools = (other == answer) | (self._held_out[place] == keys)
        return asked

    def facts(self, queries: Ints, epoch: int) -> Told:
        """Facts about the query's entity.

        Args:
            queries: Folded, int32 [B, 3]: entity, relation in ``0 … 2R - 1``, answer or -1.
            epoch: From 1 in training; 0 in evaluation.
        """
        graph, config = self.graph, self.config
        state = mix(self.seed, epoch, queries[:, 0], queries[:, 1])
        owner, index = _spread(*self._candidates(queries),
                               max(_CANDIDATES, 4 * config.neighbours), state)
        said, other = graph.neighbours.values[index].astype(np.int64).T
        asked = queries[:, 1].astype(np.int64)[owner]
        keep = np.ones(len(owner), bool)
        if config.implying:
            # The fact itself; of one that links its entity to itself, the mirror image too.
            loop = other == queries[:, 0][owner]
            turned = np.abs(said - asked) == graph.num_relations
            same = np.flatnonzero((said == asked) | loop & turned)
        else:
            same = np.flatnonzero(self._states[asked, said])
        keep[same] = ~self._is_asked(queries, owner[same], other[same])
        if epoch and config.revealed:
            shown = in_share(mix(queries[:, 2], 1, state=state), config.revealed)
            keep |= shown[owner] & (said == asked) & (other == queries[:, 2][owner])
        if config.context_mode == "released_bug":
            keep &= other >= graph.num_relations
        if not keep.all():
            owner, asked, said, other = owner[keep], asked[keep], said[keep], other[keep]
        # The choice must not depend on the answer, so only query and fact draw the lots.
        lot = mix(said, other, state=state[owner])
        if config.ordering == "random":
            # Their upper bits tell them apart; one key sorts much faster than two.
            order = np.argsort(owner.astype(np.uint64) << _BITS | lot >> (np.uint64(64) - _BITS))
        else:
            if config.ordering == "diverse":
                rank = _place_in(owner * 2 * graph.num_relations + said, lot)
            elif config.ordering == "relevant":
                rank = -self._relevance[asked, said]
            else:
                rank = -self._confidence[asked, said]
            order = np.lexsort([lot, rank, owner])
        most: int | Longs = config.neighbours
        if epoch and config.vary_neighbours:
            lots = mix(queries[:, 2], state=state)
            most = (lots % np.uint64(config.neighbours + 1)).astype(np.int64)[owner]
        order = order[_place(owner, len(queries)) < most]
        owner = owner[order]
        return Told(owner, queries[:, 0].astype(np.int64)[owner], said[order], other[order])

    def two_hops(self, queries: Ints, facts: Told, epoch: int) -> Told:
        """Facts about the neighbours in ``facts``; none leads back to the query's entity."""
        neighbours, most = self.graph.neighbours, self.config.two_hop
        starts, lengths = neighbours.spans(facts.tail)
        fact, turn = expand_spans(np.zeros_like(starts), np.minimum(lengths, most))
        owner, via = facts.owner[fact], facts.tail[fact]
        state = mix(self.seed, epoch, 2, queries[:, 0], queries[:, 1])
        lot = mix(via, turn, state=state[owner])
        index = starts[fact] + (lot % lengths[fact].astype(np.uint64)).astype(np.int64)
        said, tail = neighbours.values[index].astype(np.int64).T
        entity = queries[:, 0][owner]
        once = np.zeros(len(owner), bool)
        once[np.unique(owner * len(neighbours.values) + index, return_index=True)[1]] = True
        told = Told(owner, via, said, tail)
        keep = np.flatnonzero(once & (via != entity) & (tail != entity))
        order = keep[np.lexsort([lot[keep], owner[keep]])]
        return _first(told[order], most, len(queries))

    def examples(self, queries: Ints, epoch: int) -> Told:
        """Train facts of the asked relation, in its direction."""
        count = self.graph.num_relations
        asked = queries[:, 1].astype(np.int64)
        starts, lengths = self._shuffled.spans(asked % count)
        first = mix(self.seed, epoch, 1, *queries[:, :2].T) % np.maximum(lengths, 1).astype(
            np.uint64)
        owner, turn = expand_spans(first.astype(np.int64), np.minimum(
            lengths, self.config.relation_examples + _SPARE))
        rows = self._shuffled.values[starts[owner] + turn % lengths[owner]].astype(np.int64)
        turned = (asked >= count)[owner]
        head, tail = (np.where(turned, rows[:, one], rows[:, other])
                      for one, other in ((1, 0), (0, 1)))
        entity = queries[:, 0][owner]
        other = np.where(head == entity, tail, head)
        keep = np.ones(len(owner), bool)
        about = np.flatnonzero((head == entity) | (tail == entity))
        keep[about] = ~self._is_asked(queries, owner[about], other[about])
        return _first(Told(owner, head, asked[owner], tail)[keep],
                      self.config.relation_examples, len(queries))

    def _candidates(self, queries: Ints) -> tuple[Longs, Longs]:
        """Where the facts that may be told lie among the rows of `KnowledgeGraph.neighbours`."""
        mode = self.config.context_mode
        if mode == "same_relation":
            keys = self.graph.query_keys(queries[:, 0], queries[:, 1])
            return np.searchsorted(self._query_keys, keys), self.answers(queries)
        starts, lengths = self.graph.neighbours.spans(queries[:, 0].astype(np.int64))
        if mode == "released_bug":
            lengths = np.where(queries[:, 1] < self.graph.num_relations / 2, 0, lengths)
        return starts, lengths

    @cached_property
    def _query_keys(self) -> Longs:
        """The query that each row of `KnowledgeGraph.neighbours` answers, ascending."""
        facts = self.graph.training_queries
        return self.graph.query_keys(facts[:, 0], facts[:, 1])

    @cached_property
    def _held_out(self) -> Longs:
        """Facts of valid and test as numbers, both ways, ascending; the last is none."""
        graph = self.graph
        facts = graph.fold(graph.queries(np.concatenate([graph.valid, graph.test])))
        keys = graph.query_keys(facts[:, 0], facts[:, 1]) * graph.num_entities + facts[:, 2]
        return np.append(np.sort(keys), np.iinfo(np.int64).max)

    @cached_property
    def _states(self) -> Bools:
        """Whether a fact of the second relation states one of the first, bool [2R, 2R]."""
        graph, count = self.graph, self.graph.num_relations
        rules = RelationRules.find(graph.train, graph.num_entities, count, graph.symmetric)
        states = np.tile(np.eye(count, dtype=bool), (2, 2))
        body, head = np.divmod(rules.same, count)
        states[head, body] = states[head + count, body + count] = True
        body, head = np.divmod(rules.inverse, count)
        states[head + count, body] = states[head, body + count] = True
        return states

    @cached_property
    def _relevance(self) -> Floats:
        """Of two relations, the entities of train with both among those with either, [2R, 2R]."""
        entity, relation = distinct_rows(self.graph.training_queries[:, :2]).T.astype(np.int64)
        both = self._joined(entity, relation)
        either = np.diag(both)[:, None] + np.diag(both) - both
        relevance: Floats = both / np.maximum(either, 1)
        return relevance

    @cached_property
    def _confidence(self) -> Floats:
        """Of the pairs of train linked by the second relation, those by the first too, [2R, 2R].

        0 where both are the same: a fact of the asked relation has another answer.
        """
        head, relation, tail = self.graph.training_queries.T.astype(np.int64)
        both = self._joined(head * self.graph.num_entities + tail, relation)
        confidence: Floats = both / np.maximum(np.diag(both), 1)
        np.fill_diagonal(confidence, 0)
        return confidence

    def _joined(self, key: Longs, relation: Longs) -> Longs:
        """How many keys have both of two relations, [2R, 2R], of distinct keys and relations."""
        size = 2 * self.graph.num_relations
        own = Csr.group(key, relation.astype(np.int32))
        both = np.zeros(size * size, np.int64)
        lengths = own.spans(key)[1]
        cuts = np.searchsorted(np.cumsum(lengths), np.arange(0, lengths.sum(), _JOINED_AT_ONCE))
        for start, end in pairwise(np.unique([*cuts, len(key)]).tolist()):
            owner, others = own.rows(key[start:end])
            both += np.bincount(relation[start:end][owner] * size + others,
                                minlength=size * size)
        return both.reshape(size, size)

    @cached_property
    def _shuffled(self) -> Csr:
        """The train facts of each relation, heads and tails, in an order drawn by the seed."""
        rows = distinct_rows(self.graph.train)
        rows = np.random.default_rng([self.seed, 1]).permutation(rows)
        return Csr.group(rows[:, 1].astype(np.int64), rows[:, [0, 2]])


def mix(*parts: int | Ints | Longs | Lots, state: Lots | None = None) -> Lots:
    """Hash columns of integers, elementwise (SplitMix64's finalizer, chained).

    ``mix(a, b)`` is ``mix(b, state=mix(a))``.
    """
    state = np.zeros(1, np.uint64) if state is None else state
    with np.errstate(over="ignore"):
        for part in parts:
            state = (state ^ np.asarray(part).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


def in_share(lots: Lots, share: float) -> Bools:
    """Which of the lots that `mix` draws fall into a share of all, from 0 to below 1."""
    fall: Bools = lots < np.uint64(share * 2**64)
    return fall


def _spread(starts: Longs, lengths: Longs, limit: int, state: Lots) -> tuple[Longs, Longs]:
    """As `expand_spans`, but at most ``limit`` elements of a span, at even distances."""
    if lengths.max(initial=0) <= limit:
        return expand_spans(starts, lengths)
    owner, turn = expand_spans(np.zeros_like(starts), np.minimum(lengths, limit))
    offset = (state % np.maximum(lengths, 1).astype(np.uint64)).astype(np.int64)
    step = (turn * lengths[owner] + offset[owner]) // limit
    return owner, starts[owner] + np.where(lengths[owner] > limit, step, turn)


def _first(told: Told, most: int, queries: int) -> Told:
    """The first ``most`` facts of each query."""
    return told[_place(told.owner, queries) < most]


def _place(owner: Longs, queries: int) -> Longs:
    """The place of each element among those of its owner; ``owner`` ascends."""
    counts = np.bincount(owner, minlength=queries)
    place: Longs = np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]
    return place


def _place_in(group: Longs, lot: Lots) -> Longs:
    """The place of each element among those of its group, by lot."""
    order = np.lexsort([lot, group])
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    place = np.empty(len(group), np.int64)
    place[order] = np.arange(len(group)) - np.repeat(starts, np.diff(starts, append=len(group)))
    return place
