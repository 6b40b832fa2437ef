"""Trains a scorer: ``python -m kgc_seq2seq.train_scorer --config FILE``, or accelerate launch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from caption_cache.command_line import Answer, answering
from caption_cache.disk import replacing
from kgc_seq2seq.arrays import Ints, Longs
from kgc_seq2seq.config import AnyRunConfig, config_parser, parse_config, read_yaml, spelled_out
from kgc_seq2seq.evaluate import conclude
from kgc_seq2seq.evaluation.dense import rank_with_scorer
from kgc_seq2seq.evaluation.ranks import metrics
from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.runs import relative
from kgc_seq2seq.scorers.features.choose import FeatureChoice, make_vectors
from kgc_seq2seq.scorers.known import known_hash, read_known
from kgc_seq2seq.scorers.scorer import EntityScorer, Feed, Vocabulary, scorer_class
from kgc_seq2seq.systems.dense import Dense
from kgc_seq2seq.training.batches import Examples
from kgc_seq2seq.training.compiling import compile_model
from kgc_seq2seq.training.denormals import no_denormals
from kgc_seq2seq.training_run import (
    add_training_options,
    begin,
    is_new,
    selection,
    train_task,
    validation_facts,
)


@dataclass(frozen=True)
class ScorerRunConfig(AnyRunConfig):
    """Everything that determines a run of a scorer, but what the scorer itself is made of.

    The class of a run, from `config_class`, has that under ``model``.
    """

    scorer: str = "complex"
    """Which one: complex, distmult, lbmkgc, mentions, mocme, rotate, or another that is
    installed."""


def config_class(scorer: str) -> type[ScorerRunConfig]:
    """`ScorerRunConfig` with the scorer's own configuration under ``model``.

    Raises:
        InputError: There is no such scorer.
    """
    model = scorer_class(scorer).Config
    made: type[ScorerRunConfig] = make_dataclass(
        "ScorerRunConfig", [("model", model, field(default_factory=model))],
        bases=(ScorerRunConfig,), frozen=True)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code."""
    with no_denormals():
        return answering("kgc_seq2seq.train_scorer", lambda: _command(
            sys.argv[1:] if arguments is None else arguments))


def _command(arguments: Sequence[str]) -> tuple[Answer | None, bool]:
    name = scorer_name(arguments)
    kind = config_class(ScorerRunConfig.scorer if name is None else name)
    parser = config_parser("python -m kgc_seq2seq.train_scorer", (
        "Train a scorer, validate it, and evaluate its best state once on test. A stopped run "
        "goes on where it was. The keys under 'model' are those of the scorer: see --scorer NAME "
        "--help. "
        "Exit codes: 0 done, 2 bad input, 3 stopped by a signal."), kind)
    add_training_options(parser)
    config, options = parse_config(parser, arguments, kind)
    return train_scorer(config, restart=options.restart), options.json


def scorer_name(arguments: Sequence[str]) -> str | None:
    """The scorer that a command line or its file names: it determines the other keys."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--scorer")
    first.add_argument("--config", type=Path, action="append", default=[])
    try:
        found, _ = first.parse_known_args(spelled_out(arguments))
    except argparse.ArgumentError:
        return None  # the parser proper says what is wrong
    named = [read_yaml(path).get("scorer") for path in found.config] + [found.scorer]
    return next((str(name) for name in reversed(named) if name is not None), None)


def train_scorer(config: ScorerRunConfig, *, restart: bool = False) -> Answer | None:
    """Train by ``config``, or go on; then evaluate the best state on valid and on test.

    Args:
        config: Of a class from `config_class`.
        restart: Whether to forget an earlier training in the run folder.

    Returns:
        The result on test, or how to go on after a signal (code 3); on all processes but the first
        None, or nothing but the code.

    Raises:
        InputError: The data set, the configuration or an earlier run does not fit.
    """
    accelerator, run, dataset = begin(config, restart=restart, captions=False)
    main_process = accelerator.is_main_process
    kind, model_config = scorer_class(config.scorer), config.model  # type: ignore[attr-defined]
    graph = read_graph(dataset)
    reads = kind.reads(model_config)
    if main_process and dataset == run / "dataset" and reads:  # ours
        make_vectors(dataset, FeatureChoice(reads))
    accelerator.wait_for_everyone()
    known = {what: read_known(dataset, what, graph.entity_ids) for what in reads}
    stored = replace(config, out=".", dataset=relative(dataset, run))
    if main_process and is_new(run):
        with replacing(run / "config.yaml") as aside:
            stored.save(aside)
    torch.manual_seed(config.seed)
    model = kind(model_config, Vocabulary.of(graph), known).to(accelerator.device)
    compile_model(model, config.training.compile)
    facts = validation_facts(graph, config)
    task = _Fit(model, model.feed(graph, config.seed), graph, facts, config.training.steps,
                accelerator)
    stopped = train_task(task, accelerator, config, {
        **stored.as_dict(), "data": {"graph": graph.fingerprint, "vectors": known_hash(known)}},
        {"system": kind.title, "train": graph.train_hash,
         **selection(len(facts), len(graph.valid))})
    if stopped is not None:
        return stopped
    best = Dense.of(EntityScorer.from_pretrained(run / "model", graph), graph, accelerator.device)
    # As with a generator: where a part of valid has to do, all of it takes too long.
    splits = ("valid", "test") if len(facts) == len(graph.valid) else ("test",)
    return conclude(run, best, accelerator, splits=splits)


@dataclass(frozen=True)
class _Fit:
    """A `training.loop.Task`: a scorer and its examples."""

    model: EntityScorer
    feed: Feed
    graph: KnowledgeGraph
    facts: Ints
    steps: int
    accelerator: Accelerator
    batch_tokens: None = None
    unit: str = "examples"

    @property
    def count(self) -> int:
        return len(self.feed)

    def read(self, examples: Longs, epoch: int) -> Examples:
        def batch(rows: Longs, step: int) -> Mapping[str, Tensor]:
            return {**self.feed(examples[rows], epoch), "done": torch.tensor(step / self.steps)}

        return Examples(np.ones((len(examples), 2), np.int64), batch)

    def units(self, batch: Mapping[str, Tensor]) -> int:
        return next(len(value) for value in batch.values() if value.ndim)

    def size(self, batch: Mapping[str, Tensor]) -> int:
        return self.units(batch)

    def loss(self, wrapped: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        total: Tensor = wrapped(batch)
        return total

    def validate(self) -> float:
        ranks = rank_with_scorer(self.model, self.graph, self.facts, self.accelerator)
        return float(metrics(ranks)["mrr"])

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main())
