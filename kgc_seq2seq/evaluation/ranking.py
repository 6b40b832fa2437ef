"""Exact filtered ranks of a generator's answers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator

from kgc_seq2seq.decoding.exact import Answers, ExactSearch
from kgc_seq2seq.decoding.tree_decoder import Encoded
from kgc_seq2seq.evaluation.ranks import Ranks
from kgc_seq2seq.graph.csr import Ints
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.text.verbalizer import Verbalizer

Longs = npt.NDArray[np.int64]

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


def rank_triples(
    search: ExactSearch, verbalizer: Verbalizer, triples: Ints, accelerator: Accelerator
) -> Ranks:
    """Rank the gold answers of both queries of every triple among all entities.

    Other known answers of a query, of whatever split, are no candidates (the filtered setting of
    Bordes et al. 2013). Every process must call this; each does its share of the queries.

    Args:
        search: The model and the trie over all names.
        verbalizer: Of the same graph.
        triples: int32 [n, 3].
        accelerator: Knows the processes.

    Returns:
        2n ranks: of all tail queries in the order of ``triples``, then of all head queries.
    """
    graph = verbalizer.graph
    questions = graph.queries(triples)
    # Triples that share a query share its search.
    distinct, query = np.unique(questions[:, :2], axis=0, return_inverse=True)
    by_query = np.argsort(query, kind="stable")
    better, tied = np.zeros((2, len(questions)), np.int64)
    chunks = range(0, len(distinct), QUERIES_AT_ONCE)
    for start in chunks[accelerator.process_index :: accelerator.num_processes]:
        part = distinct[start : start + QUERIES_AT_ONCE]
        low, high = np.searchsorted(query[by_query], [start, start + len(part)])
        rows = by_query[low:high]
        better[rows], tied[rows] = _rank(search, verbalizer, part, query[rows] - start,
                                         questions[rows, 2])
    counts = accelerator.reduce(torch.from_numpy(np.stack([better, tied])).to(accelerator.device))
    return Ranks(*counts.cpu().numpy())


def _rank(
    search: ExactSearch, verbalizer: Verbalizer, queries: Ints, owner: Longs, gold: Ints
) -> tuple[Longs, Longs]:
    """How many candidates beat, and how many tie with, the gold answers ``gold`` of ``owner``."""
    encoded = encode_queries(search, verbalizer, queries)
    device = search.decoder.device
    scores = search.gold_scores(encoded, torch.from_numpy(owner).to(device),
                                torch.from_numpy(gold.astype(np.int64)).to(device)).cpu().numpy()
    margin = TOLERANCE * np.maximum(1, np.abs(scores))
    threshold = np.full(len(queries), np.inf, np.float32)
    np.minimum.at(threshold, owner, scores - margin)
    found = search.sweep(encoded, torch.from_numpy(threshold).to(device))
    found = without_known(found, verbalizer.graph, queries)
    # Compare every gold with every answer found for its query.
    order = np.argsort(found.queries, kind="stable")
    starts = np.searchsorted(found.queries[order], np.arange(len(queries) + 1))
    lengths = np.diff(starts)[owner]
    which = np.repeat(np.arange(len(gold)), lengths)
    place = np.arange(len(which)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    gap = found.scores[order[starts[owner][which] + place]] - scores[which]
    better = np.bincount(which[gap > margin[which]], minlength=len(gold))
    tied = np.bincount(which[np.abs(gap) <= margin[which]], minlength=len(gold))
    return better, tied


def without_known(found: Answers, graph: KnowledgeGraph, queries: Ints) -> Answers:
    """Drop the answers that are facts of any split."""
    owner, known = graph.known_answers.rows(graph.query_keys(queries[:, 0], queries[:, 1]))
    size = graph.num_entities
    new = ~np.isin(found.queries * size + found.entities, owner * size + known)
    return Answers(found.queries[new], found.entities[new], found.scores[new])
