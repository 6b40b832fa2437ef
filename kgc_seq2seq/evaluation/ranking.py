"""Filtered ranks of a generator's answers: exact, or within certified brackets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from caption_cache.errors import InputError
from caption_cache.progress import tracked
from kgc_seq2seq.arrays import Ints, Longs
from kgc_seq2seq.decoding.best_first import bracket
from kgc_seq2seq.decoding.exact import ExactSearch
from kgc_seq2seq.decoding.nodes import Allowed, Prior
from kgc_seq2seq.decoding.tree_decoder import Encoded
from kgc_seq2seq.evaluation.kept import Kept, once
from kgc_seq2seq.evaluation.ranks import Ranks
from kgc_seq2seq.graph.csr import expand_spans
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.text.verbalizer import Verbalizer

PriorOf = Callable[[Ints], Prior]
"""What scorers add to the scores of queries, int32 [Q, 2]."""

RankKind = Literal["exact", "certified"]
"""How answers are ranked where a configuration chooses."""

QUERIES_AT_ONCE = 64
TOLERANCE = 1e-5
"""Scores closer than this, relative to their size (at least 1), are ties: float32 sums of
log-probabilities differ by about as much with the size of the batch."""


def encode_queries(search: ExactSearch, verbalizer: Verbalizer, queries: Ints) -> Encoded:
    """Verbalize and encode queries (int32 [Q, 2]: entity, relation in ``0 … 2R - 1``)."""
    unknown = np.full((len(queries), 1), -1, np.int32)
    ids = torch.from_numpy(verbalizer.inputs(np.hstack([queries, unknown]), epoch=0))
    ids = ids.to(search.decoder.device)
    with torch.inference_mode():
        return search.decoder.encode(ids, ids != verbalizer.pad)


class Ranker(Protocol):
    """Ranks the gold answers of a batch of queries."""

    def __call__(
        self, search: ExactSearch, verbalizer: Verbalizer, queries: Ints, owner: Longs, gold: Ints,
        prior: Prior | None = None,
    ) -> tuple[Longs, ...]:
        """The columns of `Ranks` for G gold answers.

        Args:
            search: Model and trie.
            verbalizer: Of the same graph.
            queries: int32 [Q, 2]: entity, relation in ``0 … 2R - 1``.
            owner: The query of each gold, int64 [G], ascending.
            gold: int32 [G].
            prior: What is added to the scores.
        """


def rank_triples(
    search: ExactSearch, verbalizer: Verbalizer, triples: Ints, accelerator: Accelerator,
    ranker: Ranker | None = None, prior_of: PriorOf | None = None, kept: Kept | None = None,
) -> Ranks:
    """Rank the gold answers of both queries of every triple among all entities.

    Other known answers of a query, of whatever split, are no candidates (the filtered setting of
    Bordes et al. 2013). Every process must call this; each does its share of the queries.

    Args:
        search: The model and the trie over all names.
        verbalizer: Of the same graph.
        triples: int32 [n, 3].
        accelerator: Knows the processes.
        ranker: How; None: `exact_ranks`.
        prior_of: What is added to the scores; None: nothing.
        kept: What is done already, and where to keep what will be.

    Returns:
        2n ranks: of all tail queries in the order of ``triples``, then of all head queries.
    """
    ranker = ranker or exact_ranks
    graph = verbalizer.graph
    questions = graph.queries(triples)
    # Triples that share a query share its search.
    distinct, query = np.unique(questions[:, :2], axis=0, return_inverse=True)
    by_query = np.argsort(query, kind="stable")
    columns = np.zeros((3 if isinstance(ranker, CertifiedRanks) else 2, len(questions)), np.int64)
    chunks = range(0, len(distinct), QUERIES_AT_ONCE)
    for start in tracked(chunks[accelerator.process_index :: accelerator.num_processes],
                         f"ranking, {QUERIES_AT_ONCE} queries at once",
                         visible=accelerator.is_main_process):
        part = distinct[start : start + QUERIES_AT_ONCE]
        low, high = np.searchsorted(query[by_query], [start, start + len(part)])
        rows = by_query[low:high]
        rank = partial(_rank, ranker, search, verbalizer, part, query[rows] - start,
                       questions[rows, 2], prior_of)
        columns[:, rows] = once(kept, questions[rows], rank)
    counts = accelerator.reduce(torch.from_numpy(columns).to(accelerator.device))
    return Ranks(*counts.cpu().numpy())


def _rank(
    ranker: Ranker, search: ExactSearch, verbalizer: Verbalizer, queries: Ints, owner: Longs,
    gold: Ints, prior_of: PriorOf | None,
) -> Longs:
    """The columns of a batch, [C, G]."""
    return np.stack(ranker(search, verbalizer, queries, owner, gold,
                           prior_of and prior_of(queries)))


@dataclass(frozen=True)
class CertifiedRanks:
    """Brackets that provably hold the exact rank, at a bounded cost; a `Ranker`."""

    budget: int | None = None
    """Decoder positions to spend on each query, at least; None: no limit."""
    tolerance: float = 0.002
    """A reciprocal rank that is certain within this is left as it is."""
    kind: ClassVar[str] = "certified"
    """What results call them."""

    def __post_init__(self) -> None:
        if self.budget is not None and self.budget < 1:
            raise InputError(f"The budget is {self.budget} decoder positions; give 1 or more.")
        if not 0 <= self.tolerance < 1:
            raise InputError(f"The tolerance is {self.tolerance}; give a number from 0 to below "
                             "1.")

    def __call__(
        self, search: ExactSearch, verbalizer: Verbalizer, queries: Ints, owner: Longs, gold: Ints,
        prior: Prior | None = None,
    ) -> tuple[Longs, ...]:
        """As `Ranker`: better, tied, open."""
        encoded, owners, golds, scores, margin = _score_gold(
            search, verbalizer, queries, owner, gold, prior)
        found = bracket(search, encoded, owners, golds, margin, gold_scores=scores,
                        allowed=filtered_candidates(search, verbalizer.graph, queries), prior=prior,
                        budget=self.budget, tolerance=self.tolerance)
        return tuple(column.cpu().numpy() for column in (found.better, found.tied, found.open))


def ranker_of(kind: RankKind, budget: int | None = None) -> CertifiedRanks | None:
    """How answers are ranked, within a budget where they are certified: None is exactly."""
    return None if kind == "exact" else CertifiedRanks(budget)


def _score_gold(
    search: ExactSearch, verbalizer: Verbalizer, queries: Ints, owner: Longs, gold: Ints,
    prior: Prior | None,
) -> tuple[Encoded, Tensor, Tensor, Tensor, Tensor]:
    """The encoded queries; owners, golds, their scores and their margins on the device."""
    encoded = encode_queries(search, verbalizer, queries)
    owners = torch.from_numpy(owner).to(search.decoder.device)
    golds = torch.from_numpy(gold.astype(np.int64)).to(search.decoder.device)
    scores = search.gold_scores(encoded, owners, golds)
    if prior is not None:
        scores = scores + prior.at(search.nodes, owners, golds)
    return encoded, owners, golds, scores, TOLERANCE * scores.abs().clamp(min=1)


def filtered_candidates(search: ExactSearch, graph: KnowledgeGraph, queries: Ints) -> Allowed:
    """All entities but the known answers of each query, of any split."""
    owner, known = graph.known_answers.rows(graph.query_keys(queries[:, 0], queries[:, 1]))
    return Allowed.without(search.nodes, *(torch.from_numpy(column.astype(np.int64)).to(
        search.decoder.device) for column in (owner, known)))


def exact_ranks(
    search: ExactSearch, verbalizer: Verbalizer, queries: Ints, owner: Longs, gold: Ints,
    prior: Prior | None = None,
) -> tuple[Longs, ...]:
    """As `Ranker`: better and tied, exactly."""
    encoded, owners, _, own, margins = _score_gold(
        search, verbalizer, queries, owner, gold, prior)
    threshold = torch.full((len(queries),), torch.inf, device=own.device)
    threshold.scatter_reduce_(0, owners, own - margins, "amin")
    found = search.sweep(encoded, threshold, prior=prior,
                         allowed=filtered_candidates(search, verbalizer.graph, queries))
    scores, margin = own.cpu().numpy(), margins.cpu().numpy()
    # Compare every gold with every answer found for its query.
    order = np.argsort(found.queries, kind="stable")
    starts = np.searchsorted(found.queries[order], np.arange(len(queries) + 1))
    which, place = expand_spans(starts[owner], np.diff(starts)[owner])
    gap = found.scores[order[place]] - scores[which]
    better = np.bincount(which[gap > margin[which]], minlength=len(gold))
    tied = np.bincount(which[np.abs(gap) <= margin[which]], minlength=len(gold))
    return better, tied
