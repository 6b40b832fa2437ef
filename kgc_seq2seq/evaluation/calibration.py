"""Whether probabilities mean what they say: of answers given 70 %, are 70 % right?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from kgc_seq2seq.completer import OPEN_MASS, Completer
from kgc_seq2seq.decoding.best_first import top_k
from kgc_seq2seq.decoding.nodes import Allowed
from kgc_seq2seq.evaluation.ranking import QUERIES_AT_ONCE, encode_queries
from kgc_seq2seq.evaluation.ranks import Floats
from kgc_seq2seq.evaluation.slices import Mask
from kgc_seq2seq.graph.csr import Ints

BINS = 10


def best_answers(completer: Completer, triples: Ints) -> tuple[Floats, Mask]:
    """The probability of the best answer to both queries of every triple, and if it is right.

    As in filtered ranks, other known answers are no candidates; the rest share the probability 1.
    So the share of right answers is the filtered Hits@1, ties aside.

    Args:
        completer: A trained generator.
        triples: int32 [n, 3].

    Returns:
        Of the tail queries, then of the head queries: the probability, within about the share
        `completer.OPEN_MASS` of itself, float64 [2n], and whether the answer is the triple's,
        bool [2n].
    """
    graph, search = completer.graph, completer.search
    queries = graph.queries(triples)
    confidence, right = np.zeros(len(queries)), np.zeros(len(queries), bool)
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        part, gold = queries[rows, :2], queries[rows, 2]
        owner, known = graph.known_answers.rows(graph.query_keys(part[:, 0], part[:, 1]))
        other = known != gold[owner]
        allowed = Allowed.without(search.nodes, *(
            torch.from_numpy(column[other].astype(np.int64)).to(search.decoder.device)
            for column in (owner, known)))
        best = top_k(search, encode_queries(search, completer.verbalizer, part), 1,
                     allowed=allowed, open_mass=OPEN_MASS)
        share = best.scores[:, 0].double().exp()
        low, high = share / (best.found_mass + best.open_mass), share / best.found_mass
        confidence[rows] = ((low + high) / 2).cpu().numpy()
        right[rows] = best.entities[:, 0].cpu().numpy() == gold
    return confidence, right


def reliability(confidence: Floats, right: Mask, bins: int = BINS) -> dict[str, Any]:
    """A reliability diagram and the expected calibration error (Guo et al. 2017, eq. 3).

    Args:
        confidence: Probabilities of answers, 0 … 1, float64 [G], G > 0.
        right: Whether each is right, bool [G].
        bins: Number of bins of equal width; a bin holds its upper end.

    Returns:
        JSON values: ``ece``, the mean of |accuracy - confidence| of the bins weighted by their
        counts; ``confidence`` and ``accuracy``, the means over all; ``count``; and ``bins`` that
        are not empty, from low to high, with ``low``, ``high``, ``confidence``, ``accuracy`` and
        ``count``.
    """
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    sure = np.bincount(place, confidence, bins) / np.maximum(count, 1)
    accuracy = np.bincount(place, right, bins) / np.maximum(count, 1)
    return {
        "ece": float((count * np.abs(accuracy - sure)).sum() / len(confidence)),
        "confidence": float(confidence.mean()),
        "accuracy": float(right.mean()),
        "count": len(confidence),
        "bins": [{"low": b / bins, "high": (b + 1) / bins, "confidence": float(sure[b]),
                  "accuracy": float(accuracy[b]), "count": int(count[b])}
                 for b in np.flatnonzero(count).tolist()],
    }
