"""A generator as a system: names are found by the exact search."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import Accelerator

from kgc_seq2seq.arrays import Floats, Ints, Longs
from kgc_seq2seq.decoding.best_first import TopK, top_k
from kgc_seq2seq.decoding.exact import ExactSearch
from kgc_seq2seq.decoding.nodes import Allowed, Prior, Tempering
from kgc_seq2seq.evaluation.kept import Kept
from kgc_seq2seq.evaluation.ranking import Ranker, encode_queries, rank_triples
from kgc_seq2seq.evaluation.ranks import Ranks
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.scorers.prior import Voice
from kgc_seq2seq.systems.system import Best
from kgc_seq2seq.text.verbalizer import Verbalizer

OPEN_MASS = 0.001
"""Probabilities are given within about half of this share of themselves."""
NAME = "log p(name)"
"""What explanations call the generator's part."""


@dataclass(frozen=True, eq=False)
class Generator:
    """A `System`: the score of an entity is the log-probability of its name."""

    verbalizer: Verbalizer
    """Says what the model reads."""
    search: ExactSearch
    """The model, and the trie over all names."""

    @property
    def graph(self) -> KnowledgeGraph:
        """The graph."""
        return self.verbalizer.graph

    @property
    def voices(self) -> tuple[Voice, ...]:
        """None."""
        return ()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.search.decoder.device

    def rank(
        self, triples: Ints, accelerator: Accelerator, ranker: Ranker | None = None,
        kept: Kept | None = None,
    ) -> Ranks:
        """As `System.rank`."""
        return rank_triples(self.search, self.verbalizer, triples, accelerator, ranker, kept=kept)

    def best(self, queries: Ints, k: int) -> Best:
        """As `System.best`."""
        return Best.of_search(self.most_probable(queries, k))

    def contributions(self, queries: Ints, entities: Longs) -> dict[str, Floats]:
        """The log-probability of the name is all."""
        encoded = encode_queries(self.search, self.verbalizer, queries)
        count, k = entities.shape
        rows = torch.arange(count, device=self.device).repeat_interleave(k)
        flat = torch.from_numpy(entities.ravel()).to(self.device)
        scores = self.search.gold_scores(encoded, rows, flat)
        return {NAME: scores.double().view(count, k).cpu().numpy()}

    def most_probable(
        self, queries: Ints, k: int, prior: Prior | None = None,
        open_mass: float | None = OPEN_MASS, allowed: Allowed | None = None,
        tempering: Tempering | None = None,
    ) -> TopK:
        """The ``k`` best entities, as `best_first.top_k` gives them."""
        return top_k(self.search, encode_queries(self.search, self.verbalizer, queries), k,
                     allowed=allowed, prior=prior, open_mass=open_mass, tempering=tempering)
