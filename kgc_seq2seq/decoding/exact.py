"""Exact scores: a sweep over the trie that leaves out only what provably cannot matter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kgc_seq2seq.decoding.tree_decoder import Encoded, Past, TreeDecoder
from kgc_seq2seq.decoding.trie import EntityTrie

Floats = npt.NDArray[np.float32]
Longs = npt.NDArray[np.int64]

ROWS_AT_ONCE = 4096
"""Decoder positions in one step; bounds memory whatever the size of the catalogue."""


@dataclass(frozen=True)
class Answers:
    """Entities found for a batch of queries, in no particular order."""

    queries: Longs
    """Which query each answer belongs to, int64 [A]."""
    entities: Longs
    """The entity, int64 [A]."""
    scores: Floats
    """Sum of the log-probabilities of its name's tokens, EOS included, float32 [A]."""


class ExactSearch:
    """Scores every entity whose probability reaches a threshold, and no other.

    The score of an entity is ``sum log p(token)`` over its name under the full vocabulary, so a
    prefix's score bounds everything beneath it from above: a node below the threshold is left
    out with all its entities, and no entity that reaches the threshold is ever missed.
    """

    def __init__(self, decoder: TreeDecoder, trie: EntityTrie) -> None:
        self.decoder = decoder
        self.trie = trie
        start = decoder.model.config.decoder_start_token_id
        self._tokens = self._on_device(np.where(trie.parents < 0, start, trie.tokens))
        self._children = self._on_device(trie.children)
        self._entity = self._on_device(trie.order[trie.first])
        self._is_leaf = torch.from_numpy(trie.is_leaf).to(decoder.device)
        self.positions = 0
        """Decoder positions evaluated so far: what a search costs."""

    @torch.inference_mode()
    def sweep(self, encoded: Encoded, thresholds: Tensor) -> Answers:
        """Find every entity whose score is at least its query's threshold.

        Args:
            encoded: Q queries.
            thresholds: float32 [Q]; ``-inf`` scores the whole catalogue.
        """
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        queries = torch.arange(len(encoded), device=self.decoder.device)
        root = torch.zeros_like(queries)
        work = [(queries, root, torch.zeros_like(thresholds), self.decoder.start(len(queries)))]
        # Depth first over chunks of a level: the stack stays a few chunks deep.
        while work:
            queries, nodes, scores, past = work.pop()
            logs, past = self.decoder.step(encoded, queries, self._tokens[nodes], past)
            self.positions += len(nodes)
            row, node = self._edges(nodes)
            score = scores[row] + logs[row, self._tokens[node]]
            query = queries[row]
            keep = score >= thresholds[query]
            leaf = self._is_leaf[node]
            ends = keep & leaf
            found.append((query[ends], self._entity[node[ends]], score[ends]))
            inner = torch.nonzero(keep & ~leaf).flatten()
            work.extend((query[part], node[part], score[part], past[row[part]])
                        for part in torch.split(inner, ROWS_AT_ONCE) if len(part))
        parts = [torch.cat(column).cpu().numpy() for column in zip(*found, strict=True)]
        return Answers(*parts)

    def all_scores(self, encoded: Encoded) -> Floats:
        """The score of every entity for every query, float32 [Q, N]: brute force."""
        answers = self.sweep(encoded, torch.full((len(encoded),), -torch.inf,
                                                 device=self.decoder.device))
        table = np.empty((len(encoded), len(self.trie.order)), np.float32)
        table[answers.queries, answers.entities] = answers.scores
        return table

    @torch.inference_mode()
    def gold_scores(self, encoded: Encoded, queries: Tensor, entities: Tensor) -> Tensor:
        """The scores of given entities for given queries.

        Args:
            encoded: Q queries.
            queries: int64 [G], ascending.
            entities: int64 [G].

        Returns:
            float32 [G].
        """
        paths = self._paths(entities)
        scores = torch.zeros(len(entities), device=self.decoder.device)
        past: Past = self.decoder.start(len(entities))
        rows = torch.arange(len(entities), device=self.decoder.device)
        nodes = torch.zeros_like(entities)
        for nexts in paths.T:
            logs, past = self.decoder.step(encoded, queries[rows], self._tokens[nodes], past)
            self.positions += len(rows)
            nodes = nexts[rows]
            scores[rows] += logs.gather(1, self._tokens[nodes][:, None]).squeeze(1)
            inner = torch.nonzero(~self._is_leaf[nodes]).flatten()
            if not len(inner):
                break
            rows, nodes, past = rows[inner], nodes[inner], past[inner]
        return scores

    def _on_device(self, array: npt.NDArray[np.integer]) -> Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(self.decoder.device)

    def _edges(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """All edges out of ``nodes`` [n]: the row each leaves from, and the child it leads to."""
        starts = self._children[nodes]
        degrees = self._children[nodes + 1] - starts
        row = torch.repeat_interleave(torch.arange(len(nodes), device=nodes.device), degrees)
        first = degrees.cumsum(0) - degrees
        child = torch.arange(len(row), device=nodes.device) - (first - starts)[row]
        return row, child

    def _paths(self, entities: Tensor) -> Tensor:
        """Nodes on the way to each entity, root left out, [G, D]; -1 past the leaf."""
        trie = self.trie
        leaves = np.empty(len(trie.order), np.int64)
        leaf_nodes = np.flatnonzero(trie.is_leaf)
        leaves[trie.order[trie.first[leaf_nodes]]] = leaf_nodes
        node = leaves[entities.cpu().numpy()]
        up: list[Longs] = []
        while (node > 0).any():
            up.append(node)
            node = np.where(node > 0, trie.parents[node], 0)
        path = np.stack(up[::-1], axis=1)
        # Short names meet the root early: move their zeros from the front to the back.
        shift = (path == 0).sum(axis=1)
        column = np.arange(path.shape[1]) + shift[:, None]
        path = np.where(column < path.shape[1],
                        np.take_along_axis(path, np.minimum(column, path.shape[1] - 1), 1), -1)
        return torch.tensor(path, device=entities.device)
