"""A trie's arrays on the model's device, and what lies under its nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kgc_seq2seq.decoding.ragged import spread
from kgc_seq2seq.decoding.trie import EntityTrie


class TrieNodes:
    """The trie as tensors. Nodes and entities are int64 outside and 4 bytes inside: on a CPU the
    arrays are the trie's own, so a trie that lies in a file is not copied into memory."""

    def __init__(self, trie: EntityTrie, device: torch.device) -> None:
        self.trie = trie
        self.device = device
        self._tokens, self._children, self._first, self._last, self._order = (
            torch.from_numpy(array).to(device)
            for array in (trie.tokens, trie.children, trie.first, trie.last, trie.order))
        position = np.empty_like(trie.order)
        position[trie.order] = np.arange(len(position), dtype=position.dtype)
        self._position = torch.from_numpy(position).to(device)
        leaves = np.flatnonzero(trie.is_leaf).astype(np.int32)
        leaf = np.empty_like(position)
        leaf[trie.order[trie.first[leaves]]] = leaves
        self._leaf = torch.from_numpy(leaf).to(device)

    def token(self, nodes: Tensor) -> Tensor:
        """Token on the edge into each of ``nodes`` [n]; -1 for the root."""
        return self._tokens[nodes].long()

    def span(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """First sorted position under each of ``nodes`` [n], and one past the last."""
        return self._first[nodes].long(), self._last[nodes].long()

    def is_leaf(self, nodes: Tensor) -> Tensor:
        """Which of ``nodes`` [n] end a name, bool."""
        return self._children[nodes] == self._children[nodes + 1]

    def entity(self, nodes: Tensor) -> Tensor:
        """The entity of each leaf among ``nodes`` [n]; of any other node, the first under it."""
        return self._order[self._first[nodes]].long()

    def leaf(self, entities: Tensor) -> Tensor:
        """The leaf of each of ``entities`` [n]."""
        return self._leaf[entities].long()

    def position(self, entities: Tensor) -> Tensor:
        """Sorted position of each of ``entities`` [n]."""
        return self._position[entities].long()

    def edges(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """All edges out of ``nodes`` [n]: the row each leaves from, and the child it leads to."""
        starts = self._children[nodes].long()
        return spread(starts, self._children[nodes + 1] - starts)


@dataclass(frozen=True)
class Allowed:
    """Which entities may answer each query: all but some, or only some.

    Nothing is rebuilt for it: as every node spans a contiguous range of the sorted entities, a
    sorted list of (query, position) pairs counts what is left under a node by two searches.
    """

    pairs: Tensor
    """``query * N + position``, ascending and distinct, int64 [K]."""
    removed: bool
    """Whether the pairs are those that may not answer; else only they may."""
    size: int
    """N, the number of entities."""

    @classmethod
    def without(cls, nodes: TrieNodes, queries: Tensor, entities: Tensor) -> Allowed:
        """All entities but those of the given (query, entity) pairs, int64 [K] each."""
        return cls._make(nodes, queries, entities, removed=True)

    @classmethod
    def only(cls, nodes: TrieNodes, queries: Tensor, entities: Tensor) -> Allowed:
        """Only the entities of the given (query, entity) pairs, int64 [K] each."""
        return cls._make(nodes, queries, entities, removed=False)

    @classmethod
    def _make(cls, nodes: TrieNodes, queries: Tensor, entities: Tensor, *, removed: bool
              ) -> Allowed:
        size = len(nodes.trie.order)
        return cls(torch.unique(queries * size + nodes.position(entities)), removed, size)

    def count(self, queries: Tensor, first: Tensor, last: Tensor) -> Tensor:
        """How many of the sorted positions ``first`` up to ``last`` may answer, int64 [n]."""
        base = queries * self.size
        low, high = torch.searchsorted(self.pairs, torch.stack([base + first, base + last]))
        listed: Tensor = high - low
        return (last - first) - listed if self.removed else listed


@dataclass(frozen=True)
class Prior:
    """What a scorer adds to every entity's score: an admissible heuristic for the search."""

    under: Tensor
    """The largest value under each node, float32 [M, Q]; at a leaf the entity's own."""

    @classmethod
    def of(cls, nodes: TrieNodes, values: Tensor) -> Prior:
        """From a value for each query and entity, float32 [Q, N], such as ``λ log softmax``.

        Raises:
            ValueError: The values do not fit the entities, or one is NaN or +inf.
        """
        size = len(nodes.trie.order)
        if values.shape[1] != size:
            raise ValueError(f"A prior over {values.shape[1]} entities does not fit a trie of "
                             f"{size} names.")
        if values.isnan().any() or values.isposinf().any():
            raise ValueError("A prior holds NaN or +inf; its scorer is broken.")
        return cls(_upwards(nodes, values, _largest))

    def at(self, nodes: TrieNodes, queries: Tensor, entities: Tensor) -> Tensor:
        """The values of entities for queries, int64 [n] each, float32 [n]."""
        return self.under[nodes.leaf(entities), queries]


@dataclass(frozen=True)
class Tempering:
    """Probabilities in proportion to a power of ``exp(score)``, as a log-linear model has them.

    The score is ``log p(name) + prior``, and of the entities under a node with probability P only
    ``Σ p <= P`` is known. With powers β below 1, by Hölder's inequality,
    ``Σ (p exp(prior))^β <= P^β · (Σ exp(prior)^(β / (1 - β)))^(1 - β)``; the limit of that, the
    largest prior, holds for 1 and more.
    """

    power: Tensor
    """β of each query, positive, float32 [Q]."""
    under: Tensor
    """What follows ``P^β`` above, for each node and as a logarithm, float32 [M, Q]; at a leaf
    ``β · prior``."""

    @classmethod
    def of(cls, nodes: TrieNodes, prior: Prior, power: Tensor) -> Tempering:
        """From what is added to the scores, and a power for each query, float32 [Q]."""
        entities = torch.arange(len(nodes.trie.order), device=power.device)
        rest = (1 - power).clamp(min=torch.finfo(power.dtype).eps)
        sums = _upwards(nodes, prior.under[nodes.leaf(entities)].T * (power / rest)[:, None],
                        _log_sum_exp)
        return cls(power, torch.where(power < 1, rest * sums, power * prior.under))


def _upwards(
    nodes: TrieNodes, values: Tensor, together: Callable[[Tensor, Tensor, int], Tensor]
) -> Tensor:
    """What the entities under every node have together, [M, Q].

    Args:
        nodes: The trie.
        values: Of each entity, [Q, N].
        together: From the values of nodes [n, Q], the place of each one's parent [n, Q] and how
            many nodes stand there: what each of those has, -inf where it is no parent.
    """
    trie = nodes.trie
    table = values.new_full((trie.num_nodes, len(values)), -torch.inf)
    table[nodes.leaf(torch.arange(values.shape[1], device=values.device))] = values.T
    for above, low, high in zip(trie.levels[-3::-1], trie.levels[-2:0:-1], trie.levels[:1:-1],
                                strict=True):
        parents = torch.from_numpy(trie.parents[low:high] - above).to(values.device, torch.int64)
        found = together(table[low:high], parents[:, None].expand(-1, len(values)), low - above)
        table[above:low] = torch.maximum(table[above:low], found)
    return table


def _largest(values: Tensor, parents: Tensor, count: int) -> Tensor:
    return values.new_full((count, values.shape[1]), -torch.inf).scatter_reduce_(
        0, parents, values, "amax")


def _log_sum_exp(values: Tensor, parents: Tensor, count: int) -> Tensor:
    # A finite largest value, so that -inf less it is -inf.
    largest = _largest(values, parents, count).clamp(min=torch.finfo(values.dtype).min)
    sums = torch.zeros_like(largest).scatter_add_(
        0, parents, (values - largest.gather(0, parents)).exp())
    return largest + sums.log()
