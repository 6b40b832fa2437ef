"""An ensemble: the mean of probabilities, every part's own normalised over all entities."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from caption_cache.progress import tracked
from kgc_seq2seq.arrays import Floats, Ints, Longs
from kgc_seq2seq.evaluation.dense import rank_on_processes
from kgc_seq2seq.evaluation.kept import Found, Kept, once
from kgc_seq2seq.evaluation.ranking import QUERIES_AT_ONCE, Ranker, encode_queries
from kgc_seq2seq.evaluation.ranks import Ranks
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.scorers.prior import Voice
from kgc_seq2seq.systems.combined import Combined
from kgc_seq2seq.systems.dense import refuse_ranker
from kgc_seq2seq.systems.generator import Generator
from kgc_seq2seq.systems.system import Best, as_tensors

_TOLERANCE = 1e-7
"""A mixture is fitted once a step raises the mean log-likelihood of the answers by less."""


@dataclass(frozen=True, eq=False)
class Ensemble(Combined):
    """A `System`: ``Σ_p w_p · softmax_p(e)`` over the generator and the scorers.

    The names of the whole catalogue are scored for every query: exact, and slow where it is large.
    """

    weights: Tensor
    """w of the generator, then of the scorers, float32 [1 + S], at least 0 and together 1."""

    def rank(
        self, triples: Ints, accelerator: Accelerator, ranker: Ranker | None = None,
        kept: Kept | None = None,
    ) -> Ranks:
        """As `System.rank`."""
        refuse_ranker(ranker)
        return rank_on_processes(self.graph, triples, self._mixed, accelerator, kept)

    def best(self, queries: Ints, k: int) -> Best:
        """As `System.best`."""
        return Best.of_table(self._mixed(queries), k)

    def contributions(self, queries: Ints, entities: Longs) -> dict[str, Floats]:
        """The terms of the mean: probabilities, not logarithms."""
        chosen = torch.from_numpy(entities).to(self.generator.device)
        labels = ["generator", *(voice.label for voice in self.voices)]
        return {label: (weight * part.exp().gather(1, chosen)).double().cpu().numpy()
                for label, weight, part in zip(
                    labels, self.weights, log_softmaxes(self.generator, self.voices, queries),
                    strict=True)}

    def _mixed(self, queries: Ints) -> Tensor:
        parts = log_softmaxes(self.generator, self.voices, queries)
        return (parts + self.weights.log()[:, None, None]).logsumexp(0)


def log_softmaxes(generator: Generator, voices: tuple[Voice, ...], queries: Ints) -> Tensor:
    """Log-probabilities of all entities by the generator and by each scorer, [1 + S, Q, N]."""
    names = generator.search.all_scores(
        encode_queries(generator.search, generator.verbalizer, queries))
    heads, relations = as_tensors(queries, generator.device)
    return torch.stack([torch.from_numpy(names).to(heads.device).log_softmax(1),
                        *(voice.log_softmax(heads, relations) for voice in voices)])


def gather_answers(
    graph: KnowledgeGraph, generator: Generator, voices: tuple[Voice, ...], triples: Ints,
    kept: Kept | None = None,
) -> Tensor:
    """Log-probabilities of the answers of both questions of triples by every part.

    Args:
        graph: Of the triples.
        generator: The first part.
        voices: S scorers.
        triples: int32 [n, 3].
        kept: What has been found already, and where to keep what will be.

    Returns:
        float32 [1 + S, 2n], the questions in no certain order.
    """
    def find(part: Ints) -> Found:
        queries, shared = np.unique(part[:, :2], axis=0, return_inverse=True)
        query, gold = (torch.from_numpy(column.astype(np.int64)).to(generator.device)
                       for column in (shared, part[:, 2]))
        return log_softmaxes(generator, voices, queries)[:, query, gold].cpu().numpy()

    questions = graph.queries(triples)
    questions = questions[np.lexsort(questions.T[::-1])]  # equal queries side by side
    parts = [questions[start : start + QUERIES_AT_ONCE]
             for start in range(0, len(questions), QUERIES_AT_ONCE)]
    return torch.from_numpy(np.concatenate(
        [once(kept, part, partial(find, part))
         for part in tracked(parts, f"scoring answers, {QUERIES_AT_ONCE} queries at once")], 1))


def fit_mixture(answers: Tensor) -> Tensor:
    """The weights of the parts under which answers are most likely, by expectation maximisation.

    Args:
        answers: Log-probabilities of Q answers by P parts, [P, Q].

    Returns:
        float32 [P], together 1.
    """
    parts = answers.double()
    weights = torch.full((len(parts), 1), 1 / len(parts), dtype=torch.float64,
                         device=parts.device)
    before = -torch.inf
    while True:
        mixed = (weights.log() + parts).logsumexp(0)
        likelihood = float(mixed.mean())
        if not likelihood - before > _TOLERANCE:
            return weights[:, 0].float()
        before = likelihood
        weights = (weights.log() + parts - mixed).exp().mean(1, keepdim=True)
