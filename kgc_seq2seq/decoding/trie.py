"""A prefix trie over all entity names, in flat arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from caption_cache.disk import replacing

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]


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

    @property
    def num_nodes(self) -> int:
        """M, the number of nodes, root and leaves included."""
        return len(self.tokens)

    @cached_property
    def is_leaf(self) -> npt.NDArray[np.bool_]:
        """Which nodes end a name, bool [M]."""
        leaf: npt.NDArray[np.bool_] = self.children[1:] == self.children[:-1]
        return leaf

    def save(self, path: Path) -> None:
        """Write the arrays to a safetensors file."""
        with replacing(path) as aside:
            save_file({name: getattr(self, name) for name in self.__dataclass_fields__}, aside)

    @classmethod
    def load(cls, path: Path) -> EntityTrie:
        """Read what `save` wrote."""
        return cls(**load_file(path))
