"""A scorer as a system: it scores all entities at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import Accelerator

from caption_cache.errors import InputError
from kgc_seq2seq.arrays import Floats, Ints, Longs
from kgc_seq2seq.evaluation.dense import rank_with_scorer
from kgc_seq2seq.evaluation.kept import Kept
from kgc_seq2seq.evaluation.ranking import Ranker
from kgc_seq2seq.evaluation.ranks import Ranks
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.scorers.prior import Voice
from kgc_seq2seq.scorers.scorer import EntityScorer
from kgc_seq2seq.systems.system import Best, as_tensors


@dataclass(frozen=True, eq=False)
class Dense:
    """A `System`: the probability of an entity is the softmax of the scorer's scores."""

    graph: KnowledgeGraph
    """The graph."""
    voice: Voice
    """The scorer; every entity is in its own row, seen or not."""
    device: torch.device
    """Where the scorer is."""

    @classmethod
    def of(cls, scorer: EntityScorer, graph: KnowledgeGraph, device: torch.device) -> Dense:
        """A scorer that was trained on this graph."""
        places = torch.arange(graph.num_entities, device=device)
        return cls(graph, Voice(scorer.title, scorer.to(device), places), device)

    @property
    def voices(self) -> tuple[Voice, ...]:
        """The scorer."""
        return (self.voice,)

    def rank(
        self, triples: Ints, accelerator: Accelerator, ranker: Ranker | None = None,
        kept: Kept | None = None,
    ) -> Ranks:
        """As `System.rank`, always exactly."""
        refuse_ranker(ranker)
        return rank_with_scorer(self.voice.scorer, self.graph, triples, accelerator, kept)

    def best(self, queries: Ints, k: int) -> Best:
        """As `System.best`."""
        return Best.of_table(self.voice.log_softmax(*as_tensors(queries, self.device)), k)

    def contributions(self, queries: Ints, entities: Longs) -> dict[str, Floats]:
        """The scorer's log-probability is all."""
        table = self.voice.log_softmax(*as_tensors(queries, self.device))
        chosen = table.gather(1, torch.from_numpy(entities).to(self.device))
        return {self.voice.label: chosen.double().cpu().numpy()}


def refuse_ranker(ranker: Ranker | None) -> None:
    """Refuse certified and sampled ranks.

    Raises:
        InputError: Something other than exact ranks is asked for.
    """
    if ranker is not None:
        raise InputError("Only the search of a generator, or of its fusion by --method fused, "
                         "gives certified ranks, and only a generator sampled ones; ask for "
                         "--ranks exact.")
