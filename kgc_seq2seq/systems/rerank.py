"""Reranking: scorers put the generator's best answers into another order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from kgc_seq2seq.arrays import Floats, Ints, Longs
from kgc_seq2seq.decoding.best_first import top_k
from kgc_seq2seq.evaluation.kept import Kept
from kgc_seq2seq.evaluation.ranking import (
    QUERIES_AT_ONCE,
    TOLERANCE,
    Ranker,
    encode_queries,
    filtered_candidates,
)
from kgc_seq2seq.evaluation.ranks import Ranks
from kgc_seq2seq.scorers.prior import prior
from kgc_seq2seq.scorers.scorer import as_long
from kgc_seq2seq.systems.combined import Combined
from kgc_seq2seq.systems.dense import refuse_ranker
from kgc_seq2seq.systems.system import Best, as_tensors


@dataclass(frozen=True, eq=False)
class Rerank(Combined):
    """A `System`: the generator's exact ``depth`` best, ordered by ``Σ_s log softmax(scorer_s)``.

    The scorers have equal weight. What lies deeper keeps the generator's order. The generator's
    probability of the best together is shared out among them by the softmax of the sum.
    """

    depth: int
    """How many are put into order."""

    def rank(
        self, triples: Ints, accelerator: Accelerator, ranker: Ranker | None = None,
        kept: Kept | None = None,
    ) -> Ranks:
        """As `System.rank`: an answer that is not among the best keeps the generator's rank.

        Known answers are no candidates: they take no place among the best.
        """
        refuse_ranker(ranker)
        alone = self.generator.rank(triples, accelerator, kept=kept)
        questions = self.graph.queries(triples)
        better, tied = alone.better.copy(), alone.tied.copy()
        inside = np.flatnonzero(better < self.depth)
        keys = self.graph.query_keys(questions[:, 0], questions[:, 1])
        others = self.graph.num_entities - self.graph.known_answers.spans(keys)[1]
        rivals = np.minimum(self.depth - 1, others)
        moved = np.zeros((2, len(questions)), np.int64)
        mine = inside[accelerator.process_index :: accelerator.num_processes]
        for count in np.unique(rivals[mine][rivals[mine] > 0]).tolist():
            alike = mine[rivals[mine] == count]
            for start in range(0, len(alike), QUERIES_AT_ONCE):
                rows = alike[start : start + QUERIES_AT_ONCE]
                moved[:, rows] = self._among(questions[rows], count)
        counts = accelerator.reduce(torch.from_numpy(moved).to(accelerator.device)).cpu().numpy()
        better[inside], tied[inside] = counts[:, inside]
        return Ranks(better, tied)

    def best(self, queries: Ints, k: int) -> Best:
        """As `System.best`."""
        depth = min(self.depth, self.graph.num_entities)
        found = Best.of_search(self.generator.most_probable(queries, max(k, depth)))
        entities, shares, errors = found.entities, found.probabilities, found.errors
        scores = found.scores + np.log(shares[:, :1]) - found.scores[:, :1]  # log probabilities
        chosen = torch.from_numpy(entities[:, :depth]).to(self.generator.device)
        order = torch.sort(self._sums(queries).gather(1, chosen).double().log_softmax(1), dim=1,
                           descending=True, stable=True)
        place, share = order.indices.cpu().numpy(), order.values.cpu().numpy()
        entities[:, :depth] = np.take_along_axis(entities[:, :depth], place, 1)
        together = shares[:, :depth].sum(1, keepdims=True)
        scores[:, :depth] = np.log(together) + share
        shares[:, :depth] = together * np.exp(share)
        errors[:, :depth] = errors[:, :depth].sum(1, keepdims=True) * np.exp(share)
        return Best(entities[:, :k], scores[:, :k], shares[:, :k], errors[:, :k])

    def contributions(self, queries: Ints, entities: Longs) -> dict[str, Floats]:
        """The generator's log-probability, and each scorer's."""
        chosen = torch.from_numpy(entities).to(self.generator.device)
        return self.generator.contributions(queries, entities) | {
            voice.label: voice.log_softmax(*as_tensors(queries, chosen.device)).gather(1, chosen)
            .double().cpu().numpy() for voice in self.voices}

    def _among(self, questions: Ints, count: int) -> tuple[Longs, Longs]:
        """Better and tied of an answer's ``count`` best rivals, for questions, int32 [G, 3]."""
        search, queries = self.generator.search, questions[:, :2]
        sums = self._sums(queries)
        own = sums.gather(1, as_long(questions[:, 2:]).to(sums.device))
        rivals = top_k(search, encode_queries(search, self.generator.verbalizer, queries), count,
                       allowed=filtered_candidates(search, self.graph, queries)).entities
        gap = sums.gather(1, rivals) - own
        margin = TOLERANCE * own.abs().clamp(min=1)
        return ((gap > margin).sum(1).cpu().numpy(), (gap.abs() <= margin).sum(1).cpu().numpy())

    def _sums(self, queries: Ints) -> Tensor:
        heads, relations = as_tensors(queries, self.generator.device)
        ones = torch.ones(len(self.voices), 2 * self.graph.num_relations, device=heads.device)
        return prior(self.voices, ones, heads, relations)
