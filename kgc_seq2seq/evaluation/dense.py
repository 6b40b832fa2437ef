"""Exact filtered ranks of a system that scores every entity at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from caption_cache.progress import tracked
from kgc_seq2seq.arrays import Ints, Longs, Singles
from kgc_seq2seq.evaluation.kept import Kept, once
from kgc_seq2seq.evaluation.ranking import TOLERANCE
from kgc_seq2seq.evaluation.ranks import Ranks
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.scorers.scorer import EntityScorer, as_long

QUERIES_AT_ONCE = 256


def rank_by_scores(
    graph: KnowledgeGraph, triples: Ints, score: Callable[[Ints], Singles], *,
    kept: Kept | None = None, show_progress: bool = False
) -> Ranks:
    """Rank the gold answers of both queries of every triple among all N entities.

    The setting is that of `ranking.rank_triples`: other known answers are no candidates, and
    scores within the tolerance are ties.

    Args:
        graph: The graph.
        triples: int32 [n, 3].
        score: Gets int32 [Q, 2] (entity, relation in ``0 … 2R - 1``), gives float32 [Q, N];
            higher is better.
        kept: As in `ranking.rank_triples`.
        show_progress: Show a bar on standard error.

    Returns:
        2n ranks: of all tail queries in the order of ``triples``, then of all head queries.

    Raises:
        FloatingPointError: A score is not finite, and no rank could be true.
    """
    questions = graph.queries(triples)
    columns = np.zeros((2, len(questions)), np.int64)
    for start in tracked(range(0, len(questions), QUERIES_AT_ONCE),
                         f"ranking, {QUERIES_AT_ONCE} queries at once", visible=show_progress):
        part = questions[start : start + QUERIES_AT_ONCE]
        columns[:, start : start + len(part)] = once(
            kept, part, partial(_rank, graph, part, score))
    return Ranks(*columns)


def _rank(graph: KnowledgeGraph, questions: Ints, score: Callable[[Ints], Singles]) -> Longs:
    """Better and tied of questions, int64 [2, G]."""
    keys = graph.query_keys(questions[:, 0], questions[:, 1])
    _, first, shared = np.unique(keys, return_index=True, return_inverse=True)
    found = np.asarray(score(questions[first, :2]), np.float32)
    if not np.isfinite(found).all():
        raise FloatingPointError("Scores are not finite, so nothing can be ranked by them; "
                                 "train again with a lower optimizer.learning_rate.")
    scores = found[shared]
    gold = scores[np.arange(len(questions)), questions[:, 2]]
    owner, known = graph.known_answers.rows(keys)
    scores[owner, known] = -np.inf  # the gold is one of them
    margin = (TOLERANCE * np.maximum(1, np.abs(gold)))[:, None]
    return np.stack([(scores > gold[:, None] + margin).sum(axis=1),
                     (np.abs(scores - gold[:, None]) <= margin).sum(axis=1)])


def rank_with_scorer(
    scorer: EntityScorer, graph: KnowledgeGraph, triples: Ints, accelerator: Accelerator,
    kept: Kept | None = None,
) -> Ranks:
    """Exact filtered ranks, as `rank_on_processes`."""
    device = next(scorer.parameters()).device

    def score(queries: Ints) -> Tensor:
        entity, relation = as_long(queries).to(device).unbind(1)
        with torch.inference_mode():
            return scorer.score(entity, relation)

    return rank_on_processes(graph, triples, score, accelerator, kept)


def rank_on_processes(
    graph: KnowledgeGraph, triples: Ints, score: Callable[[Ints], Tensor],
    accelerator: Accelerator, kept: Kept | None = None,
) -> Ranks:
    """As `rank_by_scores`, by a tensor on any device; every process does its share and has all."""
    def numbers(queries: Ints) -> Singles:
        found: Singles = score(queries).float().cpu().numpy()
        return found

    # By relation, since some scorers prepare their entities for one relation after another.
    order = np.lexsort([triples[:, 0], triples[:, 1]])
    mine = order[accelerator.process_index :: accelerator.num_processes]
    rows = np.concatenate([mine, mine + len(triples)])
    counts = np.zeros((2, 2 * len(triples)), np.int64)
    if len(mine):
        ranks = rank_by_scores(graph, triples[mine], numbers, kept=kept,
                               show_progress=accelerator.is_main_process)
        counts[:, rows] = ranks.better, ranks.tied
    found = accelerator.reduce(torch.from_numpy(counts).to(accelerator.device))
    return Ranks(*found.cpu().numpy())
