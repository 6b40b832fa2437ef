"""Beam search over the trie: quick, and not exact."""

from __future__ import annotations

import torch
from torch import Tensor

from kgc_seq2seq.decoding.exact import ExactSearch
from kgc_seq2seq.decoding.nodes import Allowed, Prior
from kgc_seq2seq.decoding.ragged import best_of_each, merge_best
from kgc_seq2seq.decoding.tree_decoder import Encoded


@torch.inference_mode()
def beam_search(
    search: ExactSearch, encoded: Encoded, width: int, *, allowed: Allowed | None = None,
    prior: Prior | None = None,
) -> tuple[Tensor, Tensor]:
    """The best ``width`` entities that a beam of that width meets; `best_first.top_k` is exact.

    Args:
        search: Model and trie.
        encoded: Q queries.
        width: Prefixes that are kept at every depth.
        allowed: Which entities may answer; None: all.
        prior: What is added to the scores; a prefix is judged by the largest under it.

    Returns:
        Entities int64 [Q, width], -1 where there are no more, and their scores float32
        [Q, width], best first.
    """
    count = len(encoded)
    queries = torch.arange(count, device=search.decoder.device)
    entities = torch.full((count, width), -1, device=queries.device)
    best = torch.full((count, width), -torch.inf, device=queries.device)
    nodes, scores = torch.zeros_like(queries), torch.zeros(count, device=queries.device)
    past = search.decoder.start(count)
    while len(nodes):
        row, child, log_p, past = search.step(encoded, queries, nodes, past)
        score, query = scores[row] + log_p, queries[row]
        bound = score if prior is None else score + prior.under[child, query]
        keep = bound > best[query, -1]
        if allowed is not None:
            keep &= allowed.count(query, *search.nodes.span(child)) > 0
        leaf = search.nodes.is_leaf(child)
        ends, inner = keep & leaf, (keep & ~leaf).nonzero().flatten()
        entities, best = merge_best(entities, best, query[ends],
                                    search.nodes.entity(child[ends]), bound[ends])
        kept = inner[best_of_each(query[inner], bound[inner], width)]
        queries, nodes, scores, past = query[kept], child[kept], score[kept], past[row[kept]]
    return entities, best
