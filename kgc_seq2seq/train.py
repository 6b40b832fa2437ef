"""Trains the generator: ``python -m kgc_seq2seq.train --config FILE``, or by accelerate launch."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from errno import EACCES
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from jsonargparse import ArgumentParser

from caption_cache.build import build
from caption_cache.captioners import load_captioner
from caption_cache.command_line import Answer, answering
from caption_cache.disk import cannot_write, replacing
from caption_cache.errors import InputError
from kgc_seq2seq.arrays import Ints
from kgc_seq2seq.config import AnyRunConfig, RunConfig, config_parser, parse_config, read_yaml
from kgc_seq2seq.decoding.exact import ExactSearch
from kgc_seq2seq.decoding.tree_decoder import TreeDecoder
from kgc_seq2seq.decoding.trie import EntityTrie
from kgc_seq2seq.evaluate import conclude
from kgc_seq2seq.evaluation.ranking import CertifiedRanks, rank_triples, ranker_of
from kgc_seq2seq.evaluation.ranks import metrics, middle
from kgc_seq2seq.evaluation.results import write_result
from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.graph.nations import write_nations
from kgc_seq2seq.reading import load_captions, make_tokenizer, make_verbalizer, texts_hash
from kgc_seq2seq.runs import relative, save_relations
from kgc_seq2seq.systems.generator import Generator
from kgc_seq2seq.training.compiling import compile_model
from kgc_seq2seq.training.denormals import no_denormals
from kgc_seq2seq.training.kernels import keep_kernels
from kgc_seq2seq.training.logs import read_metrics
from kgc_seq2seq.training.loop import Task, has_ended, train
from kgc_seq2seq.training.model import (
    count_parameters,
    load_model,
    load_tokenizer,
    make_model,
    recompute_layers,
)
from kgc_seq2seq.training.seq2seq import Seq2Seq

NATIONS = "nations"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code."""
    keep_kernels()
    with no_denormals():
        return answering("kgc_seq2seq.train", lambda: _command(
            sys.argv[1:] if arguments is None else arguments))


def _command(arguments: Sequence[str]) -> tuple[Answer | None, bool]:
    parser = config_parser("python -m kgc_seq2seq.train", (
        "Train a generator, validate it, and evaluate its best state once on test. A stopped run "
        "goes on where it was. Exit codes: 0 done, 2 bad input, 3 stopped by a signal."), RunConfig)
    add_training_options(parser)
    config, options = parse_config(parser, arguments, RunConfig)
    return run_training(config, restart=options.restart), options.json


def validation_facts(graph: KnowledgeGraph, config: AnyRunConfig) -> Ints:
    """The facts of valid, int32 [n, 3], that a state is chosen by."""
    some = config.training.validate_facts
    if some is None:
        return graph.valid
    drawn: Ints = np.random.default_rng(config.seed).permutation(graph.valid)[:some]
    return drawn


def selection(count: int, of: int, ranker: CertifiedRanks | None = None) -> dict[str, str]:
    """What the best state was chosen by, where it was not all of valid, exactly."""
    if count == of and ranker is None:
        return {}
    how = "" if ranker is None else ", the middle of its certified bracket,"
    return {"selected_on": f"filtered MRR{how} on {count} facts of valid"}


def add_training_options(parser: ArgumentParser) -> None:
    """Add ``--restart`` and ``--json``, which are no part of a run's configuration."""
    parser.add_argument("--restart", action="store_true",
                        help="forget what the run folder holds of an earlier training")
    parser.add_argument("--json", action="store_true",
                        help="print the result on test as one JSON document")


def run_training(config: RunConfig, *, restart: bool = False) -> Answer | None:
    """Train by ``config``, or go on; then evaluate the best model on valid and on test.

    Args:
        config: The configuration.
        restart: Whether to forget an earlier training in the run folder.

    Returns:
        The result on test, or how to go on after a signal (code 3); None on all processes but
        the first.

    Raises:
        InputError: The data set, the configuration or an earlier run does not fit.
    """
    accelerator, run, dataset = begin(
        config, restart=restart, captions=config.input.reads("entity"))
    main_process = accelerator.is_main_process
    graph = read_graph(dataset)
    captions = load_captions(dataset, config)

    stored = replace(config, out=".", dataset=relative(dataset, run))
    with accelerator.main_process_first():
        new = main_process and is_new(run)
        if new:
            with replacing(run / "tokenizer") as aside:
                make_tokenizer(graph, captions, config).save_pretrained(aside)
        tokenizer = load_tokenizer(run / "tokenizer")
        verbalizer = make_verbalizer(graph, captions, tokenizer, config)
        trie = EntityTrie.build(*verbalizer.names())
        if new:
            trie.save(run / "trie.safetensors")
            save_relations(run, graph)
            with replacing(run / "config.yaml") as aside:
                stored.save(aside)
    model = make_model(config.model, tokenizer, config.seed).to(accelerator.device)
    if config.training.gradient_checkpointing:
        recompute_layers(model)
    if config.training.compile != "no" and accelerator.device.type == "cpu":
        # Compiled, this is quicker there than the fused kernel, whose gradient is slow where the
        # few tokens of a target look at the many of an input.
        model.set_attn_implementation("eager")
    compile_model(model, config.training.compile)
    search = ExactSearch(TreeDecoder(model), trie)
    queries = graph.training_queries

    facts = validation_facts(graph, config)
    ranker = ranker_of(config.training.ranks)

    def validate() -> float:
        return middle(metrics(rank_triples(search, verbalizer, facts, accelerator,
                                           ranker))["mrr"])

    texts = texts_hash(graph, captions, config)
    task = Seq2Seq(model, len(queries),
                   lambda examples, epoch: verbalizer.examples(
                       queries[examples], epoch, config.training.denoising),
                   validate, config.training.label_smoothing, config.training.batch_tokens)
    stopped = train_task(task, accelerator, config, {
        **stored.as_dict(), "data": {"graph": graph.fingerprint, "texts": texts}}, {
        "system": "generator", "setting": config.input.setting,
        "neighbours": config.input.neighbours, "implying": config.input.implying,
        "captions": config.input.reads_captions, "train": graph.train_hash,
        "texts": texts, **selection(len(facts), len(graph.valid), ranker)})
    if stopped is not None:
        return stopped
    best = ExactSearch(TreeDecoder(load_model(run / "model").to(accelerator.device).eval()), trie)
    # Where a part of valid has to be enough to choose by, all of it takes too long as well.
    splits = ("valid", "test") if len(facts) == len(graph.valid) else ("test",)
    return conclude(run, Generator(verbalizer, best), accelerator, ranker, splits, texts)


def begin(
    config: AnyRunConfig, *, restart: bool, captions: bool
) -> tuple[Accelerator, Path, Path]:
    """Open what every training needs.

    Args:
        config: Of the run.
        restart: Whether to forget an earlier training in the run folder.
        captions: Whether the nations graph, where that is meant, is to be captioned.

    Returns:
        What knows the processes, the run folder, and the data-set folder.

    Raises:
        InputError: The run folder cannot be written.
    """
    accelerator, run = make_accelerator(config), Path(config.out)
    if accelerator.is_main_process:
        open_run(run, restart=restart)
    return accelerator, run, open_dataset(config.dataset, run, accelerator, captions=captions)


def make_accelerator(config: AnyRunConfig) -> Accelerator:
    """What knows processes, devices and precision.

    Raises:
        InputError: The device cannot compute in the precision, or the launcher asks for another.
    """
    # Said outright, or processes on CPUs would each wait for a GPU of their own.
    on_cpu = not torch.accelerator.is_available()
    precision = config.training.mixed_precision
    if on_cpu and precision == "fp16":
        raise InputError("training.mixed_precision: fp16 needs a GPU; choose bf16 or no.")
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", precision):
        raise InputError(f"The launcher asks for {launched}, and training.mixed_precision is "
                         f"{precision}; give --training.mixed_precision {launched}, or launch "
                         "with --mixed_precision no.")
    return Accelerator(cpu=on_cpu, mixed_precision=precision)


def train_task(
    task: Task, accelerator: Accelerator, config: AnyRunConfig, identity: dict[str, Any],
    facts: dict[str, Any],
) -> Answer | None:
    """Train, or go on, and write ``training.json`` at the end.

    Args:
        task: What is trained.
        accelerator: From `make_accelerator`.
        config: Of the run.
        identity: The configuration as it is stored in the run folder, and a digest of the data,
            as JSON values.
        facts: What the protocol of the results shall say besides.

    Returns:
        None at the end of the training; how to go on (code 3) when a signal stopped it.
    """
    run = Path(config.out)
    progress = train(task, accelerator, config.training, config.optimizer, run=run,
                     seed=config.seed, identity=identity)
    if not has_ended(progress, config.training):
        return Answer(
            {"stopped_after_step": progress.step},
            f"Stopped after step {progress.step} of {config.training.steps}; the same command "
            "goes on from there.", code=3)
    # That of an earlier call says how it was trained.
    if accelerator.is_main_process and not (run / "training.json").is_file():
        write_result(run / "training.json", {
            "seed": config.seed, "selected_on": "filtered MRR on valid",
            "steps": progress.step, "best_step": progress.best_step,
            "parameters": count_parameters(task.model),
            "training_seconds": round(progress.seconds, 1),
            "processes": accelerator.num_processes, "device": str(accelerator.device),
            "mixed_precision": accelerator.mixed_precision, **facts,
        })
    accelerator.wait_for_everyone()
    return None


def open_dataset(name: str, run: Path, accelerator: Accelerator, *, captions: bool) -> Path:
    """The folder of a data set; the nations graph is written first, and captioned on demand."""
    if name != NATIONS or Path(NATIONS).is_dir():
        return Path(name)
    dataset = run / "dataset"
    if accelerator.is_main_process:
        write_nations(dataset)
    accelerator.wait_for_everyone()
    if captions:
        build(dataset, load_captioner("palette"))
    return dataset


def open_run(run: Path, *, restart: bool) -> None:
    """Make the run folder, or empty it of an earlier training.

    Raises:
        InputError: The folder cannot be written, is the one where one is (as the config.yaml of a
            run says of itself), or is to be emptied and is no run.
    """
    if run.resolve() == Path.cwd():
        raise InputError(f"--out is {run}, the folder you are in; name one in it (and --dataset, "
                         "where the configuration is that of a run).")
    try:
        run.mkdir(parents=True, exist_ok=True)
        if not os.access(run, os.W_OK | os.X_OK):
            raise PermissionError(EACCES, os.strerror(EACCES))
        if restart and any(run.iterdir()):
            if not (run / "config.yaml").is_file():
                raise InputError(f"{run} holds something that is no run; leave --restart out, or "
                                 "choose another --out.")
            for name in ("checkpoints", "model", "results", "tensorboard", "tokenizer"):
                shutil.rmtree(run / name, ignore_errors=True)
            for name in ("training.json", "metrics.jsonl", "report.html"):
                (run / name).unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(run, error) from None


def is_new(run: Path) -> bool:
    """Whether a run folder has still to be filled: training does not go on there.

    A training that was killed before its first checkpoint begins anew, with a model or without.

    Raises:
        InputError: It holds what has ended (a training, a fusion), or the model of a training that
            is unknown or came past its first checkpoint, but nothing to go on from.
    """
    ours = (run / "config.yaml").is_file()
    if ours and any((run / "checkpoints").glob("step-*")):
        return False  # the checkpoints know whether the configurations agree
    if (run / "training.json").is_file() or (
            (run / "model").is_dir() and (not ours or _has_come_far(run))):
        raise InputError(f"{run} holds a model or results but no checkpoints to go on from; choose "
                         "another --out, or --restart.")
    return True


def _has_come_far(run: Path) -> bool:
    """Whether a training came past its first checkpoint."""
    first = read_yaml(run / "config.yaml")["training"]["checkpoint_every"]
    return any(line["step"] > first for line in read_metrics(run))


if __name__ == "__main__":
    sys.exit(main())
