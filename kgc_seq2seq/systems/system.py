"""What answers queries: a generator, a scorer, or several of them together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from kgc_seq2seq.arrays import Floats, Ints, Longs
from kgc_seq2seq.decoding.best_first import TopK
from kgc_seq2seq.evaluation.kept import Kept
from kgc_seq2seq.evaluation.ranking import Ranker
from kgc_seq2seq.evaluation.ranks import Ranks
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.scorers.prior import Voice


@dataclass(frozen=True, eq=False)
class Best:
    """The k best entities of each of Q queries, best first."""

    entities: Longs
    """int64 [Q, k]."""
    scores: Floats
    """What orders them, a natural logarithm, [Q, k]."""
    probabilities: Floats
    """All entities of the graph together have 1, [Q, k]."""
    errors: Floats
    """The true probability is at most so far away, [Q, k]: what the search left unexplored."""

    @classmethod
    def of_table(cls, scores: Tensor, k: int) -> Best:
        """From the scores of all entities, [Q, N]: the best by log softmax."""
        best = scores.double().log_softmax(1).topk(k, 1)
        values = best.values.cpu().numpy()
        return cls(best.indices.cpu().numpy(), values, np.exp(values), np.zeros_like(values))

    @classmethod
    def of_search(cls, found: TopK) -> Best:
        """From what a search found and left."""
        low = found.masses / (found.found_mass + found.open_mass)[:, None]
        high = found.masses / found.found_mass[:, None]
        return cls(found.entities.cpu().numpy(), found.scores.double().cpu().numpy(),
                   ((low + high) / 2).cpu().numpy(), ((high - low) / 2).cpu().numpy())


class System(Protocol):
    """Ranks and answers queries over all entities of a graph."""

    @property
    def graph(self) -> KnowledgeGraph:
        """The graph."""

    @property
    def voices(self) -> tuple[Voice, ...]:
        """The scorers that it listens to."""

    def rank(
        self, triples: Ints, accelerator: Accelerator, ranker: Ranker | None = None,
        kept: Kept | None = None,
    ) -> Ranks:
        """Filtered ranks of both queries of triples, as `ranking.rank_triples` gives them.

        Args:
            triples: int32 [n, 3].
            accelerator: Knows the processes; all must call this.
            ranker: How, where there is a search; None: exactly.
            kept: As in `ranking.rank_triples`.

        Raises:
            InputError: The system has no ranks of this kind.
        """

    def best(self, queries: Ints, k: int) -> Best:
        """The ``k`` best of N entities for each query, exactly.

        Args:
            queries: int32 [Q, 2]: entity, relation in ``0 … 2R - 1``.
            k: From 1 to N.
        """

    def contributions(self, queries: Ints, entities: Longs) -> dict[str, Floats]:
        """What each part has in the score of entities, by its label.

        Args:
            queries: int32 [Q, 2].
            entities: int64 [Q, k].

        Returns:
            For each part [Q, k].
        """


def as_tensors(queries: Ints, device: torch.device) -> tuple[Tensor, Tensor]:
    """The columns of queries, int32 [Q, 2], as int64 [Q] each on a device."""
    entity, relation = torch.from_numpy(queries.astype(np.int64)).to(device).unbind(1)
    return entity, relation
