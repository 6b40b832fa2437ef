"""The fusion: ``log p(name of e) + Σ_s λ_sr · log softmax(scorer_s)(e)``, by the exact search.

The fitted model is ``softmax(w_0r · log p(name) + Σ_s w_sr · log softmax(scorer_s))``. With
``λ_sr = w_sr / w_0r`` the sum orders answers alike, and its ``w_0r``-fold is their probability.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from kgc_seq2seq.arrays import Floats, Ints, Longs
from kgc_seq2seq.decoding.best_first import TopK
from kgc_seq2seq.decoding.nodes import Allowed, Prior, Tempering
from kgc_seq2seq.evaluation.kept import Kept
from kgc_seq2seq.evaluation.ranking import Ranker, rank_triples
from kgc_seq2seq.evaluation.ranks import Ranks
from kgc_seq2seq.scorers.prior import prior, terms
from kgc_seq2seq.systems.combined import Combined
from kgc_seq2seq.systems.system import Best, as_tensors

OPEN_MASS = 0.02
"""Probabilities are given within about half of this share of themselves. A power below 1 leaves
unlikely names more to say, so that closer ones take several times the search."""


@dataclass(frozen=True, eq=False)
class Fused(Combined):
    """A `System`: the scorers are the search's admissible heuristic."""

    weights: Tensor
    """w, float32 [1 + S, 2R]: the generator's, which are positive, then those of the scorers."""

    @property
    def ratios(self) -> Tensor:
        """λ, float32 [S, 2R]."""
        return self.weights[1:] / self.weights[0]

    def rank(
        self, triples: Ints, accelerator: Accelerator, ranker: Ranker | None = None,
        kept: Kept | None = None,
    ) -> Ranks:
        """As `System.rank`."""
        return rank_triples(self.generator.search, self.generator.verbalizer, triples,
                            accelerator, ranker, self.prior, kept)

    def best(self, queries: Ints, k: int) -> Best:
        """As `System.best`."""
        found, largest = self.most_probable(queries, k)
        best = Best.of_search(found)
        return Best(best.entities, best.scores + largest.double().cpu().numpy(),
                    best.probabilities, best.errors)

    def most_probable(
        self, queries: Ints, k: int, allowed: Allowed | None = None
    ) -> tuple[TopK, Tensor]:
        """The ``k`` best entities, and what is to be added to their scores, [Q, 1]."""
        values = self._values(queries)
        # The largest value is taken out, so that what is left lies within float's range.
        largest = values.amax(1, keepdim=True)
        nodes = self.generator.search.nodes
        heuristic = Prior.of(nodes, values - largest)
        _, relations = as_tensors(queries, self.generator.device)
        tempering = Tempering.of(nodes, heuristic, self.weights[0, relations])
        return self.generator.most_probable(queries, k, heuristic, OPEN_MASS, allowed,
                                            tempering), largest

    def contributions(self, queries: Ints, entities: Longs) -> dict[str, Floats]:
        """The terms of the sum."""
        heads, relations = as_tensors(queries, self.generator.device)
        chosen = torch.from_numpy(entities).to(heads.device)
        return self.generator.contributions(queries, entities) | terms(
            self.voices, self.ratios, heads, relations, chosen)

    def prior(self, queries: Ints) -> Prior:
        """What the scorers add, as the search takes it."""
        return Prior.of(self.generator.search.nodes, self._values(queries))

    def _values(self, queries: Ints) -> Tensor:
        return prior(self.voices, self.ratios, *as_tensors(queries, self.generator.device))
