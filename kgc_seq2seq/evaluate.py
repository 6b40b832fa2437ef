"""Evaluates a run on a split, and writes the result with its protocol."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from caption_cache.command_line import Answer
from caption_cache.disk import cannot_write
from caption_cache.errors import InputError
from caption_cache.images import has_images, paths_by_entity
from kgc_seq2seq.arrays import Bools
from kgc_seq2seq.config import read_yaml
from kgc_seq2seq.evaluation.kept import Kept
from kgc_seq2seq.evaluation.ranking import CertifiedRanks
from kgc_seq2seq.evaluation.ranks import Ranks, number_text
from kgc_seq2seq.evaluation.results import (
    protocol,
    read_result,
    result_name,
    summarize,
    write_ranks,
    write_result,
)
from kgc_seq2seq.evaluation.sampled import SampledRanks
from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.runs import open_run, read_fusion, run_kind
from kgc_seq2seq.systems.system import System

_log = logging.getLogger(__name__)


def evaluate_run(
    run: Path, split: str, ranker: CertifiedRanks | SampledRanks | None = None
) -> dict[str, Any]:
    """Rank every fact of a split with a run of any kind, and write the result.

    Args:
        run: The run folder.
        split: ``valid`` or ``test``.
        ranker: How; None: exactly.

    Returns:
        What was written.

    Raises:
        InputError: It is no run folder, its training has not ended, or its data set is not what it
            was; or the result cannot be written.
    """
    refuse_unfinished(run)
    # First, since it chooses the device of each process.
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    opened = open_run(run)
    refuse_other_train(run)
    texts = opened.texts()
    learnt = read_fusion(run).fitted if opened.kind == "fusion" else training_facts(run)
    if accelerator.is_main_process and learnt.get("texts", texts) != texts:
        _log.warning("%s reads other captions or descriptions than it has learnt from: this is "
                     "what it makes of those; train again if that is not meant.", run)
    try:
        return evaluate_split(run, split, opened.system, accelerator, ranker, texts)
    except OSError as error:
        raise cannot_write(run / "results", error) from None


def refuse_unfinished(run: Path) -> None:
    """Check that the training of a run has ended.

    Raises:
        InputError: It has not.
    """
    if not (run / "training.json").is_file() and (run / "config.yaml").is_file():
        raise InputError(f"The training of {run} has not ended; start it again to go on.")


def refuse_other_train(run: Path) -> None:
    """Check that train still is what a run, or each part of a fusion, has learnt.

    Raises:
        InputError: It is not, and valid or test may hold facts that were learnt.
    """
    if run_kind(run) == "fusion":
        for part in read_fusion(run).parts:
            # An exported fusion has one data set, and config.yaml only of the part that has it.
            if (run / part.run / "config.yaml").is_file():
                refuse_other_train(run / part.run)
        return
    learnt = training_facts(run).get("train")  # earlier versions did not note it
    if learnt is not None and learnt != read_graph(_dataset(run)).train_hash:
        raise InputError(f"train.tsv of {_dataset(run)} is not what {run} was trained on, and "
                         "valid or test may hold what it has learnt; put it back, or train again.")


def evaluate_split(
    run: Path, split: str, system: System, accelerator: Accelerator,
    ranker: CertifiedRanks | SampledRanks | None = None, texts: str | None = None,
) -> dict[str, Any]:
    """Rank every fact of a split, and write the result into the run folder.

    Exact ranks go to ``results/SPLIT.json``, others to ``results/SPLIT-certified.json`` or
    ``results/SPLIT-sampled.json``. What is done is kept beside it until then, so that a killed
    evaluation goes on.

    Args:
        run: The run folder, with the ``training.json`` that training wrote; its entries become
            part of the protocol.
        split: ``valid`` or ``test``.
        system: The run's best model, or the fusion.
        accelerator: Knows the processes; all must call this.
        ranker: How; None: exactly.
        texts: What `Run.texts` gives: of others, what is kept counts for nothing.

    Returns:
        What was written.
    """
    graph = system.graph
    how: dict[str, Any] = {} if ranker is None else {"ranks": ranker.kind, **asdict(ranker)}
    if texts is not None:
        how["texts"] = texts  # what was read now; training.json says what was learnt from
    name = _result_name(split, ranker)
    # Of a run that was trained or fitted anew, training.json says other things.
    kept = Kept(run / "results" / f"{name}.parts",
                protocol(graph, split, **training_facts(run) | how), accelerator)
    ranks = system.rank(graph.split(split), accelerator, ranker, kept)
    result = record(run, name, graph, split, ranks, accelerator, how)
    if accelerator.is_main_process:
        kept.forget()
    return result


def conclude(
    run: Path, system: System, accelerator: Accelerator, ranker: CertifiedRanks | None = None,
    splits: Sequence[str] = ("valid", "test"), texts: str | None = None,
) -> Answer | None:
    """Evaluate a new run, once a split: what has a result is left as it is.

    Args:
        run: The run folder.
        system: The run's best model, or the fusion.
        accelerator: All its processes must call this.
        ranker: How; None: exactly.
        splits: On which; the last is ``test``.
        texts: As in `evaluate_split`.

    Returns:
        The result on test; None on all processes but the first.
    """
    for split in splits:
        path = run / "results" / f"{_result_name(split, ranker)}.json"
        if not path.exists():
            evaluate_split(run, split, system, accelerator, ranker, texts)
    if not accelerator.is_main_process:
        return None
    result = read_result(path)
    both, tail, head = (number_text(result[side]["mrr"]) for side in ("both", "tail", "head"))
    return Answer(result, f"Test: filtered MRR {both} (tail {tail}, head {head}), "
                          f"Hits@10 {number_text(result['both']['hits@10'])}; the run is in {run}.")


def record(
    run: Path, name: str, graph: KnowledgeGraph, split: str, ranks: Ranks,
    accelerator: Accelerator, how: Mapping[str, Any],
) -> dict[str, Any]:
    """Write ``results/NAME.json``: metrics, and a protocol that repeats ``training.json``.

    The rank of every query goes to ``results/NAME-ranks.parquet``.

    Args:
        run: The run folder.
        name: Of the file.
        graph: The graph.
        split: The split that was ranked.
        ranks: Of both queries of its triples, as `ranking.rank_triples` gives them.
        accelerator: Its first process writes.
        how: What the protocol says of the ranks besides.

    Returns:
        What was written.
    """
    triples = graph.split(split)
    result = {**summarize(graph, triples, ranks, _pictured(run, graph)),
              "protocol": protocol(graph, split, **{**training_facts(run), **how})}
    if accelerator.is_main_process:
        write_ranks(run / "results" / f"{name}-ranks.parquet", graph, triples, ranks)
        write_result(run / "results" / f"{name}.json", result)
    return result


def _result_name(split: str, ranker: CertifiedRanks | SampledRanks | None) -> str:
    return result_name(split, "exact" if ranker is None else ranker.kind)


def training_facts(run: Path) -> dict[str, Any]:
    """What ``training.json`` says of a run: a part of every protocol."""
    facts: dict[str, Any] = json.loads((run / "training.json").read_text("utf-8"))
    return facts


def _pictured(run: Path, graph: KnowledgeGraph) -> Bools | None:
    """Which entities have an image, bool [N]; None where the data set has no images folder."""
    dataset = _dataset(run)
    if not has_images(dataset):
        return None
    try:
        found = paths_by_entity(dataset)
    except InputError as error:
        # A flawed folder of images is the audit's business: ranks need none.
        _log.warning("Results are not sliced by image: %s", error)
        return None
    return np.fromiter((key in found for key in graph.entity_ids), bool, graph.num_entities)


def _dataset(run: Path) -> Path:
    """The data set of a run; that of a fusion is its first part's."""
    if run_kind(run) == "fusion":
        return _dataset(run / read_fusion(run).parts[0].run)
    return run / str(read_yaml(run / "config.yaml")["dataset"])
