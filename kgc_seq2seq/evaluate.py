"""Evaluates a run on a split, and writes the result with its protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from caption_cache.errors import InputError
from kgc_seq2seq.evaluation.ranking import CertifiedRanks
from kgc_seq2seq.evaluation.ranks import Ranks
from kgc_seq2seq.evaluation.results import protocol, summarize, write_result
from kgc_seq2seq.evaluation.sampled import SampledRanks
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.runs import open_run
from kgc_seq2seq.systems.system import System


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
        InputError: It is no run folder, or its training has not ended.
    """
    if not (run / "training.json").is_file() and (run / "config.yaml").is_file():
        raise InputError(f"The training of {run} has not ended; start it again to go on.")
    return evaluate_split(run, split, open_run(run).system,
                          Accelerator(cpu=not torch.accelerator.is_available()), ranker)


def evaluate_split(
    run: Path, split: str, system: System, accelerator: Accelerator,
    ranker: CertifiedRanks | SampledRanks | None = None,
) -> dict[str, Any]:
    """Rank every fact of a split, and write the result into the run folder.

    Exact ranks go to ``results/SPLIT.json``, others to ``results/SPLIT-certified.json`` or
    ``results/SPLIT-sampled.json``.

    Args:
        run: The run folder, with the ``training.json`` that training wrote; its entries become
            part of the protocol.
        split: ``valid`` or ``test``.
        system: The run's best model, or the fusion.
        accelerator: Knows the processes; all must call this.
        ranker: How; None: exactly.

    Returns:
        What was written.
    """
    graph = system.graph
    ranks = system.rank(graph.split(split), accelerator, ranker)
    name, how = split, dict[str, Any]()
    if ranker is not None:
        kind = "certified" if isinstance(ranker, CertifiedRanks) else "sampled"
        name = f"{split}-{kind}"
        how = {"ranks": kind, **asdict(ranker)}
    return record(run, name, graph, split, ranks, accelerator, how)


def record(
    run: Path, name: str, graph: KnowledgeGraph, split: str, ranks: Ranks,
    accelerator: Accelerator, how: Mapping[str, Any],
) -> dict[str, Any]:
    """Write ``results/NAME.json``: metrics, and a protocol that repeats ``training.json``.

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
    facts = json.loads((run / "training.json").read_text("utf-8"))
    result = {**summarize(graph, graph.split(split), ranks),
              "protocol": protocol(graph, split, **facts, **how)}
    if accelerator.is_main_process:
        write_result(run / "results" / f"{name}.json", result)
    return result
