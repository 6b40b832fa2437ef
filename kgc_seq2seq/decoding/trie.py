"""A prefix trie over all entity names, in flat arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from safetensors.torch import load_file

from caption_cache.disk import replacing
from kgc_seq2seq.arrays import Bools, Ints, Longs


@dataclass(frozen=True, eq=False)
class EntityTrie:
    """Names as token sequences, sharing their prefixes.

    Node 0 is the root; nodes stand in breadth-first order, so the children of a node are
    contiguous. Entities are sorted by their names' tokens, so **every node spans a contiguous
    range of the sorted entities**: filters, counts and maxima under a node are range queries.
    Every name ends with EOS, so a name that is a prefix of another has a leaf of its own.
    """

    tokens: Ints
    """Token on the edge into each node, int32 [M]; -1 for the root."""
    parents: Ints
    """Parent of each node, int32 [M]; -1 for the root."""
    children: Ints
    """Node ``n`` has the children ``children[n]`` to ``children[n + 1]``, int32 [M + 1]."""
    first: Ints
    """First position among the sorted entities under each node, int32 [M]."""
    last: Ints
    """One past the last position under each node, int32 [M]."""
    order: Ints
    """Entity at each sorted position, int32 [N]."""
    levels: Longs
    """The nodes of depth ``d`` are ``levels[d]`` to ``levels[d + 1]``, int64 [D + 2]."""

    @classmethod
    def build(cls, tokens: Ints, offsets: Longs) -> EntityTrie:
        """Build the trie of N names.

        Args:
            tokens: The names' tokens one after another, each name ended by EOS, int32 [T].
            offsets: Name ``e`` is ``tokens[offsets[e]:offsets[e + 1]]``, int64 [N + 1].

        Raises:
            ValueError: There is no name, a name is empty, or two names have equal tokens.
        """
        lengths = np.diff(offsets)
        if not len(lengths) or lengths.min() < 1:
            raise ValueError("A trie needs at least one name, and every name at least one token.")
        depth = int(lengths.max())
        # -1 sorts before every token and pads the short names.
        matrix = np.full((len(lengths), depth), -1, np.int32)
        matrix[np.arange(depth) < lengths[:, None]] = tokens
        order = np.lexsort(matrix.T[::-1]).astype(np.int32)
        matrix, lengths = matrix[order], lengths[order]
        differs = matrix[1:] != matrix[:-1]
        if not differs.any(axis=1).all():
            twin = int(np.flatnonzero(~differs.any(axis=1))[0])
            raise ValueError(f"Names {order[twin]} and {order[twin + 1]} have the same tokens.")
        # A name adds a node at every depth from where it leaves its predecessor.
        branch = np.concatenate([[0], differs.argmax(axis=1)])
        is_new = (np.arange(depth) >= branch[:, None]) & (np.arange(depth) < lengths[:, None])
        level, row = np.nonzero(is_new.T)  # by depth, then by sorted name: breadth first
        count = len(row) + 1
        node_at = np.zeros((depth + 1, len(order)), np.int32)
        node_at[level + 1, row] = np.arange(1, count)
        # The node of a name at a depth is the last one opened there: a running maximum.
        node_at = np.maximum.accumulate(node_at, axis=1)
        parents = np.concatenate([[-1], node_at[level, row]]).astype(np.int32)
        first = np.concatenate([[0], row]).astype(np.int32)
        has_children = np.bincount(parents[1:], minlength=count)
        children = np.concatenate([[1], 1 + np.cumsum(has_children)]).astype(np.int32)
        reach = np.arange(depth + 1)[:, None] <= lengths[None, :]
        spans = np.bincount(node_at[reach], minlength=count)
        return cls(
            tokens=np.concatenate([[-1], matrix[row, level]]).astype(np.int32),
            parents=parents, children=children, first=first,
            last=(first + spans).astype(np.int32), order=order,
            levels=np.concatenate([[0, 1], 1 + np.cumsum(np.bincount(level))]).astype(np.int64),
        )

    def extended(self, tokens: Ints, offsets: Longs) -> EntityTrie:
        """The trie with more names; entities keep their numbers, and the new ones follow.

        Two tries are merged level by level: nothing that is there is sorted again, and what the
        nodes of a level are called depends on the level above alone.

        Args:
            tokens: As in `build`, int32 [T].
            offsets: As in `build`, int64 [n + 1].

        Raises:
            ValueError: As in `build`; or a new name has the tokens of one that is there.
        """
        other = EntityTrie.build(tokens, offsets)
        vocabulary = 1 + max(int(self.tokens.max()), int(other.tokens.max()))
        mine, theirs = np.zeros(self.num_nodes, np.int64), np.zeros(other.num_nodes, np.int64)
        levels = [0, 1]
        for depth in range(1, max(len(self.levels), len(other.levels)) - 1):
            here, there = self._level(depth), other._level(depth)
            keys = mine[self.parents[here]] * vocabulary + self.tokens[here]
            more = theirs[other.parents[there]] * vocabulary + other.tokens[there]
            place = np.searchsorted(keys, more)
            is_new = np.append(keys, -1)[place] != more
            new = place[is_new]
            mine[here] = levels[-1] + np.arange(len(keys)) + np.cumsum(
                np.bincount(new, minlength=len(keys))[: len(keys)])
            found = np.empty(len(more), np.int64)
            found[is_new] = levels[-1] + new + np.arange(len(new))
            old = here.start + place[~is_new]
            found[~is_new] = mine[old]
            theirs[there] = found
            twins = np.flatnonzero(self.is_leaf[old])
            if len(twins):
                new_leaf = there.start + np.flatnonzero(~is_new)[twins[0]]
                raise ValueError(f"New name {other.order[other.first[new_leaf]]} has the tokens "
                                 f"of name {self.order[self.first[old[twins[0]]]]}.")
            levels.append(levels[-1] + len(keys) + len(new))
        return _merged([(self, mine), (other, theirs)], np.array(levels, np.int64))

    def _level(self, depth: int) -> slice:
        """The nodes of a depth; none beyond the last."""
        last = len(self.levels) - 1
        return slice(int(self.levels[min(depth, last)]), int(self.levels[min(depth + 1, last)]))

    @property
    def num_nodes(self) -> int:
        """M, the number of nodes, root and leaves included."""
        return len(self.tokens)

    @cached_property
    def is_leaf(self) -> Bools:
        """Which nodes end a name, bool [M]."""
        leaf: Bools = self.children[1:] == self.children[:-1]
        return leaf

    def save(self, path: Path) -> None:
        """Write the arrays to a safetensors file."""
        with replacing(path) as aside:
            save_file({name: getattr(self, name) for name in self.__dataclass_fields__}, aside)

    @classmethod
    def load(cls, path: Path) -> EntityTrie:
        """Read what `save` wrote. The arrays stay in the file until they are looked at."""
        return cls(**{name: array.numpy() for name, array in load_file(path).items()})


def _merged(parts: list[tuple[EntityTrie, Longs]], levels: Longs) -> EntityTrie:
    """One trie of several, whose nodes have been numbered."""
    count = int(levels[-1])
    tokens, parents = np.full((2, count), -1, np.int32)
    size = np.zeros(count, np.int64)
    for trie, number in parts:
        tokens[number] = trie.tokens
        parents[number[1:]] = number[trie.parents[1:]]
        size[number] += trie.last - trie.first
    children = np.concatenate([[1], 1 + np.cumsum(np.bincount(parents[1:], minlength=count))])
    before = np.cumsum(size) - size
    first = np.zeros(count, np.int64)
    for low, high in pairwise(levels[1:]):
        above = parents[low:high]
        # From where the parent's span begins, past all siblings before.
        first[low:high] = first[above] + before[low:high] - before[children[above]]
    order = np.empty(int(size[0]), np.int32)
    known = 0
    for trie, number in parts:
        order[first[number[trie.is_leaf]]] = known + trie.order[trie.first[trie.is_leaf]]
        known += len(trie.order)
    return EntityTrie(tokens, parents, children.astype(np.int32), first.astype(np.int32),
                      (first + size).astype(np.int32), order, levels)
