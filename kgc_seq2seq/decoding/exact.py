"""Exact scores: a sweep over the trie that leaves out only what provably cannot matter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from caption_cache.errors import InputError
from kgc_seq2seq.arrays import Longs, Singles
from kgc_seq2seq.decoding.nodes import Allowed, Prior, TrieNodes
from kgc_seq2seq.decoding.tree_decoder import Encoded, Past, TreeDecoder
from kgc_seq2seq.decoding.trie import EntityTrie

ROWS_AT_ONCE = 8192
"""Decoder positions in one step, at most; more make it no faster on a CPU."""
STEP_BYTES = 2**29
"""About what the keys and values that one step reads may take."""
MEMORY = 2**30
"""See `ExactSearch.memory`."""


@dataclass(frozen=True)
class Answers:
    """Entities found for a batch of queries, in no particular order."""

    queries: Longs
    """Which query each answer belongs to, int64 [A]."""
    entities: Longs
    """The entity, int64 [A]."""
    scores: Singles
    """Sum of the log-probabilities of its name's tokens, EOS included, and its prior if there is
    one, float32 [A]."""


class ExactSearch:
    """Scores every entity whose score reaches a threshold, and no other.

    The score of an entity is ``sum log p(token)`` over its name under the full vocabulary, so a
    prefix's score bounds everything beneath it from above: a node below the threshold is left
    out with all its entities, and no entity that reaches the threshold is ever missed. A prior
    adds to the score of every entity; its maximum under a node adds to the bound.
    """

    def __init__(self, decoder: TreeDecoder, trie: EntityTrie) -> None:
        """Put a model and the names it writes together.

        Raises:
            InputError: The names have tokens that the model lacks.
        """
        vocabulary = decoder.model.config.vocab_size
        if int(trie.tokens.max()) >= vocabulary:
            raise InputError(f"The names have tokens up to {int(trie.tokens.max())}, the model "
                             f"only {vocabulary}; build the trie with the model's own tokenizer.")
        self.decoder = decoder
        self.trie = trie
        self.nodes = TrieNodes(trie, decoder.device)
        depth = min(len(trie.levels), 16)  # few names are longer
        self.rows_at_once = min(ROWS_AT_ONCE, max(
            64, STEP_BYTES // (depth * decoder.position_bytes)))
        self.memory = MEMORY
        """About so many bytes of open nodes and their pasts `best_first` keeps."""
        self.positions = 0
        """Decoder positions evaluated so far: what a search costs."""

    @torch.inference_mode()
    def sweep(
        self, encoded: Encoded, thresholds: Tensor, *, allowed: Allowed | None = None,
        prior: Prior | None = None,
    ) -> Answers:
        """Find every entity whose score is at least its query's threshold.

        Memory stays within a few chunks of rows, however many entities there are.

        Args:
            encoded: Q queries.
            thresholds: float32 [Q]; ``-inf`` scores the whole catalogue.
            allowed: Which entities may answer; None: all.
            prior: What is added to the scores.
        """
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        queries = torch.arange(len(encoded), device=self.decoder.device)
        root = torch.zeros_like(queries)
        work = [(queries, root, torch.zeros_like(thresholds), self.decoder.start(len(queries)))]
        # Depth first over chunks of a level: the stack stays a few chunks deep.
        while work:
            queries, nodes, scores, past = work.pop()
            row, node, log_p, past = self.step(encoded, queries, nodes, past)
            score, query = scores[row] + log_p, queries[row]
            bound = score if prior is None else score + prior.under[node, query]
            keep = bound >= thresholds[query]
            if allowed is not None:
                keep &= allowed.count(query, *self.nodes.span(node)) > 0
            leaf = self.nodes.is_leaf(node)
            ends = keep & leaf
            found.append((query[ends], self.nodes.entity(node[ends]), bound[ends]))
            inner = torch.nonzero(keep & ~leaf).flatten()
            work.extend((query[part], node[part], score[part], past[row[part]])
                        for part in torch.split(inner, self.rows_at_once) if len(part))
        parts = [torch.cat(column).cpu().numpy() for column in zip(*found, strict=True)]
        return Answers(*parts)

    def step(
        self, encoded: Encoded, queries: Tensor, nodes: Tensor, past: Past,
        depths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Past]:
        """Expand nodes.

        Args:
            encoded: The encoded queries.
            queries: The query of each row, int64 [rows], ascending.
            nodes: Inner nodes, int64 [rows].
            past: As in `TreeDecoder.step`.
            depths: As in `TreeDecoder.step`.

        Returns:
            For each child its row (int64, ascending), the child (int64) and the log-probability
            of its token (float32); and the past that includes these nodes.

        Raises:
            FloatingPointError: The model gives NaN.
        """
        hidden, past = self._read(encoded, queries, nodes, past, depths)
        row, child = self.nodes.edges(nodes)
        return row, child, self._log_probs(hidden, row, child), past

    def _read(
        self, encoded: Encoded, queries: Tensor, nodes: Tensor, past: Past,
        depths: Tensor | None = None,
    ) -> tuple[Tensor, Past]:
        """`TreeDecoder.step` at nodes of the trie, counted."""
        self.positions += len(nodes)
        # What the decoder reads at a node: its token, and at the root what starts every name.
        tokens = torch.where(nodes > 0, self.nodes.token(nodes),
                             self.decoder.model.config.decoder_start_token_id)
        return self.decoder.step(encoded, queries, tokens, past, depths)

    def _log_probs(self, hidden: Tensor, row: Tensor, nodes: Tensor) -> Tensor:
        """The log-probability of the token into each of ``nodes``."""
        found = self.decoder.log_probs(hidden, row, self.nodes.token(nodes))
        if found.isnan().any():  # a NaN among the logits makes all of its row NaN
            raise FloatingPointError("The model gives NaN; its weights are broken, or it runs in "
                                     "float16, which T5 does not stand.")
        return found

    def all_scores(self, encoded: Encoded) -> Singles:
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
        paths = self.paths(entities)
        scores = torch.zeros(len(entities), device=self.decoder.device)
        past: Past = self.decoder.start(len(entities))
        rows = torch.arange(len(entities), device=self.decoder.device)
        nodes = torch.zeros_like(entities)
        for nexts in paths.T:
            hidden, past = self._read(encoded, queries[rows], nodes, past)
            nodes = nexts[rows]
            scores[rows] += self._log_probs(hidden, torch.arange(len(rows), device=rows.device),
                                            nodes)
            inner = torch.nonzero(~self.nodes.is_leaf(nodes)).flatten()
            if not len(inner):
                break
            rows, nodes, past = rows[inner], nodes[inner], past[inner]
        return scores

    def paths(self, entities: Tensor) -> Tensor:
        """Nodes on the way to each entity, root left out, [G, D]; -1 past the leaf."""
        node = self.nodes.leaf(entities).cpu().numpy()
        up: list[Longs] = []
        while (node > 0).any():
            up.append(node)
            node = np.where(node > 0, self.trie.parents[node], 0)
        if not up:
            return entities.new_zeros((0, 0))
        path = np.stack(up[::-1], axis=1)
        # Short names meet the root early: move their zeros from the front to the back.
        shift = (path == 0).sum(axis=1)
        column = np.arange(path.shape[1]) + shift[:, None]
        path = np.where(column < path.shape[1],
                        np.take_along_axis(path, np.minimum(column, path.shape[1] - 1), 1), -1)
        return torch.tensor(path, device=entities.device)
