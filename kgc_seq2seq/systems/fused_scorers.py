"""A fusion of scorers alone: ``Σ_s λ_sr · log softmax(scorer_s)(e)`` of every entity at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from kgc_seq2seq.arrays import Floats, Ints, Longs
from kgc_seq2seq.evaluation.dense import rank_on_processes
from kgc_seq2seq.evaluation.kept import Kept
from kgc_seq2seq.evaluation.ranking import Ranker
from kgc_seq2seq.evaluation.ranks import Ranks
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.scorers.prior import Voice, prior, terms
from kgc_seq2seq.systems.dense import refuse_ranker
from kgc_seq2seq.systems.system import Best, as_tensors


@dataclass(frozen=True, eq=False)
class FusedScorers:
    """A `System`: the probability of an entity is the softmax of the sum."""

    graph: KnowledgeGraph
    """The graph."""
    voices: tuple[Voice, ...]
    """S scorers."""
    weights: Tensor
    """λ, float32 [S, 2R]."""

    def rank(
        self, triples: Ints, accelerator: Accelerator, ranker: Ranker | None = None,
        kept: Kept | None = None,
    ) -> Ranks:
        """As `System.rank`, always exactly."""
        refuse_ranker(ranker)
        return rank_on_processes(self.graph, triples, self._values, accelerator, kept)

    def best(self, queries: Ints, k: int) -> Best:
        """As `System.best`."""
        return Best.of_table(self._values(queries), k)

    def contributions(self, queries: Ints, entities: Longs) -> dict[str, Floats]:
        """The terms of the sum."""
        return terms(self.voices, self.weights, *as_tensors(queries, self.weights.device),
                     torch.from_numpy(entities).to(self.weights.device))

    def _values(self, queries: Ints) -> Tensor:
        return prior(self.voices, self.weights, *as_tensors(queries, self.weights.device))
