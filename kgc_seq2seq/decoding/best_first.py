"""Best-first search: the most probable entities, and certified brackets of ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from caption_cache.errors import InputError
from kgc_seq2seq.decoding.exact import ExactSearch
from kgc_seq2seq.decoding.nodes import Allowed, Prior, Tempering
from kgc_seq2seq.decoding.ragged import best_of_each, merge_best, pairs
from kgc_seq2seq.decoding.tree_decoder import Encoded, Past, TreeDecoder

_SLACK = 1e-3
"""Relative; what float32 may lose in a sum of probabilities."""
_FIRST_ROWS = 16
"""So many nodes of each search are expanded in its first steps."""
_OPEN_BYTES = 256
"""What an open node takes, with what is computed for it in every round."""
_PAIRS_AT_ONCE = 2**20
"""Open nodes and golds that are held against each other in one step."""


@dataclass(frozen=True)
class TopK:
    """The k best entities of each query, best first."""

    entities: Tensor
    """int64 [Q, k]."""
    scores: Tensor
    """Log-probabilities of their names, and their priors if there are any, float32 [Q, k]."""
    masses: Tensor
    """``exp(β · score)``, what each has of the catalogue's mass, float64 [Q, k]; β is 1 where there
    is no `Tempering`."""
    found_mass: Tensor
    """The sum of that over all entities that were met, float64 [Q]: without prior and tempering,
    the probability of their names. At most the catalogue's."""
    open_mass: Tensor
    """A bound of the same for all that was left unexplored, float64 [Q]: the catalogue's is at
    most the sum of both."""


@dataclass(frozen=True)
class Bracket:
    """What is certain about the filtered ranks of G gold answers."""

    better: Tensor
    """Candidates that certainly score more than the gold, int64 [G]."""
    tied: Tensor
    """Candidates that certainly score the same within the margin, int64 [G]."""
    open: Tensor
    """At most so many more might score as much, int64 [G]; 0: the rank is exact."""


def top_k(
    search: ExactSearch, encoded: Encoded, k: int, *, allowed: Allowed | None = None,
    prior: Prior | None = None, open_mass: float | None = None, tempering: Tempering | None = None,
) -> TopK:
    """The ``k`` best entities of each query, exactly.

    Args:
        search: Model and trie.
        encoded: Q queries.
        k: How many.
        allowed: Which entities may answer; None: all.
        prior: What is added to the scores.
        open_mass: Search on until the unexplored prefixes hold at most this share of the
            catalogue's mass (`TopK.found_mass`); None: stop when the answers are certain.
        tempering: What the mass of an entity is, if not ``exp(score)``; of the same ``prior``.

    Raises:
        InputError: A query has fewer than ``k`` allowed entities, or k is below 1.
    """
    count = len(encoded)
    device = search.decoder.device
    queries = torch.arange(count, device=device)
    _check_k(search, k, queries, allowed)
    frontier = _Frontier(search, encoded, queries, allowed, prior, tempering)
    power = torch.ones(count, device=device) if tempering is None else tempering.power
    entities = torch.full((count, k), -1, device=device)
    scores = torch.full((count, k), -torch.inf, device=device)
    mass = torch.zeros(count, dtype=torch.float64, device=device)
    while True:
        # An equal bound may hide an equal score, but not a better one. What is not wanted now
        # never will be.
        wanted = (frontier.bound > scores[frontier.item, -1]) | (entities[frontier.item, -1] < 0)
        if open_mass is not None:
            left = frontier.mass()
            wanted |= (left > open_mass * (mass + left))[frontier.item]
        frontier.keep(wanted)
        if not len(frontier):
            return TopK(entities, scores, (power[:, None] * scores).double().exp(), mass,
                        frontier.mass())
        item, entity, score = frontier.expand()
        mass.scatter_add_(0, item, (power[item] * score).double().exp())
        entities, scores = merge_best(entities, scores, item, entity, score)


def bracket(
    search: ExactSearch, encoded: Encoded, queries: Tensor, gold: Tensor, margin: Tensor, *,
    gold_scores: Tensor, allowed: Allowed | None = None, prior: Prior | None = None,
    budget: int | None = None, tolerance: float = 0.0,
) -> Bracket:
    """Certified brackets of the ranks of gold answers.

    Under an unexplored prefix with probability P stand at most P / p names that are as probable
    as p: often far fewer than there are names, and often none besides the gold itself. Golds of the
    same query share one search.

    Args:
        search: Model and trie.
        encoded: Q queries.
        queries: The query of each gold, int64 [G], ascending.
        gold: The gold entities, int64 [G].
        margin: Scores closer to the gold's than this are ties, float32 [G].
        gold_scores: What `ExactSearch.gold_scores` gives, and the gold's prior, float32 [G].
        allowed: The candidates; whether the gold is one of them does not matter.
        prior: What is added to the scores.
        budget: Decoder positions to spend on each query, at least; None: no limit.
        tolerance: Stop at a gold when its reciprocal rank is certain within this.

    Raises:
        InputError: The budget is below 1.
    """
    if budget is not None and budget < 1:
        raise InputError(f"The budget is {budget} decoder positions; give 1 or more, or none.")
    asked, owner = torch.unique_consecutive(queries, return_inverse=True)
    frontier = _Frontier(search, encoded, asked, allowed, prior)
    position = search.nodes.position(gold)
    low = gold_scores - margin
    better, tied, left = torch.zeros(3, len(gold), dtype=torch.long, device=gold.device)
    unsure = torch.arange(len(gold), device=gold.device)
    while True:
        first, last = search.nodes.span(frontier.node)
        # A count takes the gold in only where it is allowed, so it may be one too high: safe.
        most = frontier.count(frontier.node).double()
        left[unsure] = 0
        wanted = torch.zeros_like(frontier.item, dtype=torch.bool)
        for node, place in pairs(frontier.item, owner[unsure], _PAIRS_AT_ONCE):
            item, bound = unsure[place], frontier.bound[node]
            # The gold itself lies under the nodes on its path.
            mine = (first[node] <= position[item]) & (position[item] < last[node])
            rivals = (bound - low[item]).double().exp() * (1 + _SLACK)
            rivals = torch.where(mine, rivals - (-margin[item].double()).exp() + _SLACK, rivals)
            possible = torch.minimum(most[node], rivals.floor()).long()
            possible.clamp_(min=0)[bound < low[item]] = 0
            left.scatter_add_(0, item, possible)
            wanted[node[possible > 0]] = True
        certain = (better.double() + tied.double() / 2 + 1)[unsure]
        width = 1 / certain - 1 / (certain + left[unsure])
        go_on = (width > tolerance) & (left[unsure] > 0)
        if budget is not None:
            go_on &= frontier.expanded[owner[unsure]] < budget
        # A rank that is good enough stays as it is.
        unsure = unsure[go_on]
        frontier.keep(wanted & torch.isin(frontier.item, owner[unsure]))
        if not len(frontier):
            return Bracket(better, tied, left)
        found, entity, score = frontier.expand()
        for answer, place in pairs(found, owner[unsure], _PAIRS_AT_ONCE):
            item = unsure[place]
            gap = score[answer] - gold_scores[item]
            rival = entity[answer] != gold[item]
            better.scatter_add_(0, item, (rival & (gap > margin[item])).long())
            tied.scatter_add_(0, item, (rival & (gap.abs() <= margin[item])).long())


class _Frontier:
    """Open nodes of many searches, and the decoder's past of what was expanded.

    While they fit into ``search.memory`` the most promising are expanded first; beyond it the
    deepest of the first search, as a depth-first sweep would, which frees more than it takes.
    """

    def __init__(
        self, search: ExactSearch, encoded: Encoded, queries: Tensor, allowed: Allowed | None,
        prior: Prior | None, tempering: Tempering | None = None,
    ) -> None:
        self._search, self._encoded, self._queries = search, encoded, queries
        self._allowed, self._prior, self._tempering = allowed, prior, tempering
        device = queries.device
        self.item = torch.arange(len(queries), device=device)
        """The search each open node belongs to, int64 [O]."""
        self.node = torch.zeros_like(self.item)
        """The node, int64 [O]."""
        self._slot = torch.full_like(self.item, -1)
        self._log_p = torch.zeros(len(queries), device=device)
        self.bound = self._log_p if prior is None else prior.under[0, queries]
        """No entity under the node scores more, float32 [O]."""
        self.expanded = torch.zeros_like(self.item)
        """Decoder positions spent on each search, int64 [G]."""
        self._spent = 0
        self._dropped = torch.zeros(len(queries), dtype=torch.float64, device=device)
        self._pool = _Pool(search.decoder, len(search.trie.levels) - 2)

    def __len__(self) -> int:
        return len(self.item)

    @property
    def num_bytes(self) -> int:
        """About what all this takes."""
        return self._pool.num_bytes + _OPEN_BYTES * len(self)

    def count(self, nodes: Tensor) -> Tensor:
        """Entities that may answer under each open node, int64 [O]."""
        first, last = self._search.nodes.span(nodes)
        if self._allowed is None:
            return last - first
        return self._allowed.count(self._queries[self.item], first, last)

    def mass(self) -> Tensor:
        """What lies under all that was not explored has at most this mass, float64 [G]."""
        return self._dropped.scatter_add(0, self.item, self._log_mass().double().exp())

    def _log_mass(self) -> Tensor:
        """No more than the exponential of it lies under each open node, float32 [O].

        A prefix is at least as probable as all names that begin so together, and no prior under
        it is larger than the one in its bound.
        """
        if self._tempering is None:
            return self.bound
        query = self._queries[self.item]
        return self._tempering.power[query] * self._log_p + self._tempering.under[self.node, query]

    def keep(self, chosen: Tensor) -> None:
        """Leave all other open nodes unexplored, bool [O]."""
        rest = ~chosen
        self._dropped.scatter_add_(0, self.item[rest], self._log_mass()[rest].double().exp())
        self._select(chosen)

    def _select(self, chosen: Tensor) -> None:
        index = chosen.nonzero().flatten()
        self.item, self.node, self._slot = self.item[index], self.node[index], self._slot[index]
        self._log_p, self.bound = self._log_p[index], self.bound[index]

    @torch.inference_mode()
    def expand(self) -> tuple[Tensor, Tensor, Tensor]:
        """Expand some nodes: few at first, then more and more at once.

        Returns:
            The entities met: search, entity and score of each.
        """
        # A long search cannot waste more than a share of what it has spent, and to look through
        # the open nodes, of which there may be millions, takes little beside expanding them.
        rows = max(_FIRST_ROWS * len(self._queries), self._spent // 8)
        if self.num_bytes > self._search.memory:
            rows = min(rows, self._search.rows_at_once)
            chosen = best_of_each(self.item, self._pool.depths(self._slot).float(), rows)[:rows]
        else:
            active = len(torch.unique(self.item))
            chosen = best_of_each(self.item, self._log_mass(), max(1, rows // active))[:rows]
        self._spent += len(chosen)
        closed = torch.ones(len(self.item), dtype=torch.bool, device=self.item.device)
        closed[chosen] = False
        if not self._pool.has_room(len(chosen)):
            self._slot = self._pool.collect(self._slot, len(chosen))
        parts = [self._step(*(column[part] for column in (
            self.item, self.node, self._slot, self._log_p)))
            for part in torch.split(chosen, self._search.rows_at_once)]
        self._select(closed)
        item, child, slot, log_p, bound = map(torch.cat, zip(*parts, strict=True))
        leaf = self._search.nodes.is_leaf(child)
        inner, ends = (~leaf).nonzero().flatten(), leaf.nonzero().flatten()
        self.item = torch.cat([self.item, item[inner]])
        self.node = torch.cat([self.node, child[inner]])
        self._slot = torch.cat([self._slot, slot[inner]])
        self._log_p = torch.cat([self._log_p, log_p[inner]])
        self.bound = torch.cat([self.bound, bound[inner]])
        entity = self._search.nodes.entity(child[ends])
        return item[ends], entity, bound[ends]

    def _step(
        self, item: Tensor, node: Tensor, slot: Tensor, log_p: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The children of nodes, as new columns: search, node, slot, log-probability, bound."""
        nodes = self._search.nodes
        past, depths = self._pool.past(slot)
        row, child, more, past = self._search.step(self._encoded, self._queries[item], node, past,
                                                   depths)
        slots = self._pool.add(past, slot)
        self.expanded.scatter_add_(0, item, torch.ones_like(item))
        if self._allowed is not None:
            some = self._allowed.count(self._queries[item[row]],
                                       *nodes.span(child)).nonzero().flatten()
            row, child, more = row[some], child[some], more[some]
        log_p, item = log_p[row] + more, item[row]
        bound = log_p if self._prior is None else log_p + self._prior.under[
            child, self._queries[item]]
        return item, child, slots[row], log_p, bound


class _Pool:
    """Self-attention keys and values of expanded nodes, each stored once."""

    def __init__(self, decoder: TreeDecoder, depth: int) -> None:
        empty = decoder.start(0)
        self._size = 0
        self._slot_bytes = decoder.position_bytes + 8 * (depth + 1)
        device = decoder.device
        shape = (0, *empty.keys[0].shape[1::2])
        self._keys = [keys.new_empty(shape) for keys in empty.keys]
        self._values = [values.new_empty(shape) for values in empty.values]
        # The slots of a node and its ancestors, the newest last.
        self._paths = torch.zeros((0, depth), dtype=torch.long, device=device)
        self._depths = torch.zeros(0, dtype=torch.long, device=device)

    @property
    def num_bytes(self) -> int:
        """What the stored positions take."""
        return self._size * self._slot_bytes

    def depths(self, slots: Tensor) -> Tensor:
        """How many positions stand before a child of each slot (-1: none)."""
        if not self._size:
            return torch.zeros_like(slots)
        return torch.where(slots < 0, 0, self._depths[slots])

    def past(self, slots: Tensor) -> tuple[Past, Tensor]:
        """The past of rows whose parents are in ``slots`` (-1: none), and its depth in each."""
        depths = self.depths(slots)
        longest = int(depths.max())
        # No parent, no ancestors: what stands there then is not looked at.
        paths = self._paths[slots, -longest:] if longest else slots.new_zeros(len(slots), 0)
        return Past([keys[paths].transpose(1, 2) for keys in self._keys],
                    [values[paths].transpose(1, 2) for values in self._values]), depths

    def add(self, past: Past, parents: Tensor) -> Tensor:
        """Store the newest position of rows, for which there is room; gives their slots."""
        count, end = len(parents), self._size + len(parents)
        slots = torch.arange(self._size, end, device=parents.device)
        for store, new in ((self._keys, past.keys), (self._values, past.values)):
            for layer, tensor in enumerate(new):
                store[layer][self._size : end] = tensor[:, :, -1]
        depths = self.depths(parents)
        above = self._paths[parents] if self._size else self._paths.new_zeros(
            count, self._paths.shape[1])
        self._paths[self._size : end] = torch.cat([above[:, 1:], slots[:, None]], dim=1)
        self._depths[self._size : end] = depths + 1
        self._size = end
        return slots

    def has_room(self, rows: int) -> bool:
        """Whether so many more positions can be stored."""
        return self._size + rows <= len(self._paths)

    def collect(self, slots: Tensor, rows: int) -> Tensor:
        """Forget what is no ancestor's of ``slots``, and make room for ``rows`` more.

        Returns:
            The new number of each slot.
        """
        live = torch.zeros(self._size + 1, dtype=torch.bool, device=slots.device)
        live[slots] = True  # the last place is for "none"
        for column in self._paths[live[:-1].nonzero().flatten()].T:
            live[column] = True
        kept = live[:-1].nonzero().flatten()
        number = live.cumsum(0) - 1
        number[-1] = -1
        # As much again as is kept, so that not every step has to do this.
        size = len(kept) + max(rows, len(kept))

        def moved(tensor: Tensor) -> Tensor:
            new = tensor.new_zeros((size, *tensor.shape[1:]))
            new[: len(kept)] = tensor[kept]
            return new

        self._keys, self._values = ([moved(tensor) for tensor in tensors]
                                    for tensors in (self._keys, self._values))
        self._paths, self._depths = moved(number[self._paths].clamp(min=0)), moved(self._depths)
        self._size = len(kept)
        return number[slots]


def _check_k(search: ExactSearch, k: int, queries: Tensor, allowed: Allowed | None) -> None:
    size = len(search.trie.order)
    if k < 1:
        raise InputError(f"k is {k}; ask for 1 answer or more.")
    counts = torch.full_like(queries, size)
    if allowed is not None:
        counts = allowed.count(queries, torch.zeros_like(queries), counts)
    if len(counts) and int(counts.min()) < k:
        raise InputError(f"{k} answers are asked for where only {int(counts.min())} entities may "
                         "answer; ask for fewer.")
