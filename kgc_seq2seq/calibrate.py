"""Compares the probabilities of a generator's answers with how often they are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from caption_cache.errors import InputError
from caption_cache.progress import tracked
from kgc_seq2seq.arrays import Bools, Floats, Ints
from kgc_seq2seq.completer import Completer
from kgc_seq2seq.decoding.nodes import Allowed
from kgc_seq2seq.evaluate import refuse_other_train, refuse_unfinished, training_facts
from kgc_seq2seq.evaluation.calibration import reliability
from kgc_seq2seq.evaluation.ranking import QUERIES_AT_ONCE
from kgc_seq2seq.evaluation.results import protocol, write_result
from kgc_seq2seq.runs import open_run
from kgc_seq2seq.systems.fused import OPEN_MASS as FUSED_OPEN_MASS
from kgc_seq2seq.systems.fused import Fused
from kgc_seq2seq.systems.generator import OPEN_MASS, Generator
from kgc_seq2seq.systems.system import Best


def calibrate_run(run: Path, split: str) -> dict[str, Any]:
    """Compare the probabilities of a run's best answers with how often they are right.

    Args:
        run: The run folder.
        split: ``valid`` or ``test``.

    Returns:
        What was written to ``results/SPLIT-calibration.json``: `calibration.reliability` of both
        directions and of each, and the protocol.

    Raises:
        InputError: It is no run folder, or its training has not ended.
    """
    refuse_unfinished(run)
    completer = Completer(open_run(run))
    refuse_other_train(run)
    graph = completer.graph
    confidence, right = best_answers(completer, graph.split(split))
    # The search stopped where it was sure of them within half of what it left open.
    error = (FUSED_OPEN_MASS if isinstance(completer.system, Fused) else OPEN_MASS) / 2
    tail, head = np.split(np.arange(len(right)), 2)
    result = {
        **{side: reliability(confidence[part], right[part])
           for side, part in (("both", slice(None)), ("tail", tail), ("head", head))},
        "protocol": protocol(graph, split, **training_facts(run), probability_of="best answer",
                             probability_error=error)}
    write_result(run / "results" / f"{split}-calibration.json", result)
    return result


def best_answers(completer: Completer, triples: Ints) -> tuple[Floats, Bools]:
    """The probability of the best answer to both queries of every triple, and if it is right.

    As in filtered ranks, other known answers are no candidates; the rest share the probability 1.
    So the share of right answers is the filtered Hits@1, ties aside.

    Args:
        completer: A trained generator, or one fused with scorers.
        triples: int32 [n, 3].

    Returns:
        Of the tail queries, then of the head queries: the probability, as near as
        `Prediction.probability`, float64 [2n], and whether the answer is the triple's, bool [2n].

    Raises:
        InputError: It is another kind of run.
    """
    graph, system = completer.graph, completer.system
    if not isinstance(system, Generator | Fused):
        raise InputError("Only generators and their fusions by method fused are calibrated; give "
                         "the run of one.")
    search = completer.generator.search
    queries = graph.queries(triples)
    confidence, right = np.zeros(len(queries)), np.zeros(len(queries), bool)
    for start in tracked(range(0, len(queries), QUERIES_AT_ONCE), "calibrating"):
        rows = slice(start, start + QUERIES_AT_ONCE)
        part, gold = queries[rows, :2], queries[rows, 2]
        owner, known = graph.known_answers.rows(graph.query_keys(part[:, 0], part[:, 1]))
        other = known != gold[owner]
        allowed = Allowed.without(search.nodes, *(
            torch.from_numpy(column[other].astype(np.int64)).to(search.decoder.device)
            for column in (owner, known)))
        found = Best.of_search(
            system.most_probable(part, 1, allowed)[0] if isinstance(system, Fused) else
            system.most_probable(part, 1, allowed=allowed))
        confidence[rows], right[rows] = found.probabilities[:, 0], found.entities[:, 0] == gold
    return confidence, right
