"""Trains the generator: ``python -m kgc_seq2seq.train --config FILE``, or by accelerate launch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from caption_cache.command_line import Answer, answering
from caption_cache.disk import replacing
from kgc_seq2seq.config import RunConfig, config_parser, parse_config
from kgc_seq2seq.decoding.exact import ExactSearch
from kgc_seq2seq.decoding.tree_decoder import TreeDecoder
from kgc_seq2seq.decoding.trie import EntityTrie
from kgc_seq2seq.evaluate import conclude
from kgc_seq2seq.evaluation.ranking import rank_triples, ranker_of
from kgc_seq2seq.evaluation.ranks import metrics, middle
from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.reading import load_captions, make_tokenizer, make_verbalizer, texts_hash
from kgc_seq2seq.runs import relative, save_relations
from kgc_seq2seq.systems.generator import Generator
from kgc_seq2seq.training.compiling import compile_model
from kgc_seq2seq.training.denormals import no_denormals
from kgc_seq2seq.training.kernels import keep_kernels
from kgc_seq2seq.training.model import load_model, load_tokenizer, make_model, recompute_layers
from kgc_seq2seq.training.seq2seq import Seq2Seq
from kgc_seq2seq.training_run import (
    add_training_options,
    begin,
    is_new,
    selection,
    train_task,
    validation_facts,
)


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


def run_training(config: RunConfig, *, restart: bool = False) -> Answer | None:
    """Train by ``config``, or go on; then evaluate the best model on valid and on test.

    Args:
        config: The configuration.
        restart: Whether to forget an earlier training in the run folder.

    Returns:
        The result on test, or how to go on after a signal (code 3); on all processes but the first
        None, or nothing but the code.

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


if __name__ == "__main__":
    sys.exit(main())
