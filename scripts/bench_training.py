"""The training loop against transformers' Seq2SeqTrainer: examples a second at equal batch tokens.

The same model on the same inputs, those of the nations graph, with AdamW. The trainer gets inputs
that were verbalized and tokenized before; ours verbalizes each batch, as it does in training. It
runs with its defaults, and once more with examples grouped by length. Batch sizes are chosen so
that a step of each side has the same number of tokens, padding included, in the mean. A window is
an epoch over the same examples, since a sampler that groups by length may begin with the longest;
the windows of the sides take turns, and the first step of each is not timed.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from bench_common import bench_parser, finish
from datasets import Dataset
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

from caption_cache.build import build
from caption_cache.captioners import load_captioner
from caption_cache.captions import read_captions
from kgc_seq2seq.arrays import Ints, Longs
from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.graph.nations import write_nations
from kgc_seq2seq.text.input_config import InputConfig
from kgc_seq2seq.text.tokenizer import TokenizerConfig, graph_texts, train_tokenizer
from kgc_seq2seq.text.verbalizer import Verbalizer
from kgc_seq2seq.training.batches import Examples
from kgc_seq2seq.training.loop import TrainingConfig, train
from kgc_seq2seq.training.model import ModelConfig, make_model
from kgc_seq2seq.training.optimizer import OptimizerConfig
from kgc_seq2seq.training.seq2seq import IGNORED, Seq2Seq

BATCH = 64
MODELS = {
    "nations (0.4 M weights)": ModelConfig(),
    "4 + 4 layers of width 256": ModelConfig(d_model=256, d_ff=512, num_layers=4,
                                            num_decoder_layers=4),
}


@dataclass
class Clock:
    """When the first and the last step of a window ended, and what it trained on."""

    steps: int
    ended: list[float] = field(default_factory=list)
    examples: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def note(self, batch: Mapping[str, torch.Tensor]) -> None:
        """Take in a batch as it is made, which may be some steps early."""
        self.examples.append(len(batch["labels"]))
        self.tokens.append(batch["input_ids"].numel() + batch["labels"].numel())

    @contextmanager
    def running(self) -> Iterator[None]:
        """Look at the time as soon as the weights have had their first and their last step."""
        done = count(1)

        def after_step(*_: object) -> None:
            if next(done) in (1, self.steps):
                if torch.accelerator.is_available():
                    torch.accelerator.synchronize()
                self.ended.append(time.perf_counter())

        handle = register_optimizer_step_post_hook(after_step)
        try:
            yield
        finally:
            handle.remove()

    def speed(self) -> float:
        """Examples a second, without the first step."""
        first, last = self.ended
        return sum(self.examples[1:]) / (last - first)

    def tokens_a_step(self) -> float:
        """Mean number of tokens in a batch, padding included."""
        return statistics.mean(self.tokens)


Side = Callable[[int], Clock]
"""Trains for an epoch in batches of so many examples."""


def main() -> None:
    parser = bench_parser("training", __doc__)
    parser.add_argument("--repeats", type=int, default=5, help="windows of each side")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS),
                        help="which sizes to train")
    options = parser.parse_args()
    repeats = 3 if options.quick else options.repeats
    chosen = {name: MODELS[name] for name in options.models[: 1 if options.quick else None]}
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    results, ratios = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        verbalizer, tokenizer = nations(Path(folder) / "nations")
        for name, config in chosen.items():
            queries = np.random.default_rng(0).permutation(verbalizer.graph.training_queries)
            sides = make_sides(verbalizer, tokenizer, config, Path(folder),
                               queries[:1500] if options.quick else queries)
            found = results[name] = compare(sides, repeats)
            for other, label in (("trainer", "Seq2SeqTrainer"),
                                 ("trainer, grouped", "Seq2SeqTrainer grouped by length")):
                ratios[f"ours to {label}, {name}"] = statistics.median(
                    np.divide(found["ours"]["windows"], found[other]["windows"]))
    finish({"setting": {"repeats": repeats, "threads": torch.get_num_threads()},
            "examples_per_second": results},
           ratios, ["transformers", "accelerate", "datasets"], options.out)


def nations(folder: Path) -> tuple[Verbalizer, PreTrainedTokenizerBase]:
    """The nations graph as the demo says it."""
    write_nations(folder)
    build(folder, load_captioner("palette"), show_progress=False)
    graph, captions = read_graph(folder), read_captions(folder).texts
    tokenizer = train_tokenizer(graph_texts(graph, captions), TokenizerConfig())
    return Verbalizer(graph, captions, tokenizer, InputConfig(), 0), tokenizer


def make_sides(
    verbalizer: Verbalizer, tokenizer: PreTrainedTokenizerBase, config: ModelConfig, scratch: Path,
    queries: Ints,
) -> dict[str, Side]:
    """Ours, the trainer with its defaults, and the trainer with groups of like length."""
    inputs = verbalizer.inputs(queries, epoch=1)
    targets = verbalizer.targets(queries[:, 2])
    rows = Dataset.from_dict({
        "input_ids": [row[row != verbalizer.pad].tolist() for row in inputs],
        "labels": [row[row != IGNORED].tolist() for row in targets]})

    def ours(batch_size: int) -> Clock:
        clock = Clock(steps=len(queries) // batch_size)
        model = make_model(config, tokenizer, seed=0)

        def make(numbers: Longs, epoch: int) -> Examples:
            examples = verbalizer.examples(queries[numbers], epoch)

            def noted(rows: Longs, step: int) -> Mapping[str, torch.Tensor]:
                batch = examples.batch(rows, step)
                clock.note(batch)
                return batch

            return replace(examples, batch=noted)

        task = Seq2Seq(model, len(queries), make, lambda: 0.0, 0.0)
        with tempfile.TemporaryDirectory(dir=scratch) as run, clock.running():
            train(task, Accelerator(cpu=not torch.accelerator.is_available()), TrainingConfig(
                steps=clock.steps, batch_size=batch_size, validate_every=10**6,
                checkpoint_every=10**6), OptimizerConfig(
                    name="adamw", learning_rate=1e-3), run=Path(run), seed=0, identity={})
        return clock

    def trainer(batch_size: int, **options: Any) -> Clock:
        clock = Clock(steps=len(queries) // batch_size)
        model = make_model(config, tokenizer, seed=0)
        collate = DataCollatorForSeq2Seq(tokenizer, model)

        def make_batch(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            batch = dict(collate(features))
            clock.note(batch)
            return batch

        with tempfile.TemporaryDirectory(dir=scratch) as run:
            training = Seq2SeqTrainer(model, Seq2SeqTrainingArguments(
                run, per_device_train_batch_size=batch_size, num_train_epochs=1,
                dataloader_drop_last=True, learning_rate=1e-3, save_strategy="no",
                report_to="none", disable_tqdm=True,
                use_cpu=not torch.accelerator.is_available(), **options),
                data_collator=make_batch, train_dataset=rows,
                processing_class=tokenizer)
            training.remove_callback(PrinterCallback)  # standard output is for the result
            with clock.running():
                training.train()
        return clock

    return {"ours": ours, "trainer": trainer,
            "trainer, grouped": lambda batch_size: trainer(
                batch_size, train_sampling_strategy="group_by_length")}


def compare(sides: dict[str, Side], repeats: int) -> dict[str, Any]:
    """Let the sides take turns, in batches of equally many tokens."""
    sizes = dict.fromkeys(sides, BATCH)
    wanted = sides["trainer"](BATCH).tokens_a_step()
    for _ in range(2):  # smaller batches have a little less padding for each example
        for name in [name for name in sides if name != "trainer"]:
            sizes[name] = round(sizes[name] * wanted / sides[name](sizes[name]).tokens_a_step())
    windows: dict[str, list[Clock]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            windows[name].append(side(sizes[name]))
    return {name: {
        "median": round(statistics.median(clock.speed() for clock in clocks), 1),
        "windows": [round(clock.speed(), 1) for clock in clocks],
        "examples_a_step": sizes[name],
        "tokens_a_step": round(statistics.mean(clock.tokens_a_step() for clock in clocks), 1),
    } for name, clocks in windows.items()}


if __name__ == "__main__":
    main()
