"""The training loop against transformers' Seq2SeqTrainer: examples a second at equal batch tokens.

The same model on the same inputs, those of the nations graph, with AdamW. The trainer gets inputs
that were verbalized and tokenized before; ours verbalizes each batch, as it does in training. It
runs with its defaults, and once more with examples grouped by length. Batch sizes are chosen so
that a step of each side has the same number of tokens, padding included, in the mean. Short
windows of the sides take turns, and the first steps of each are not timed.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from bench_common import bench_parser, finish
from datasets import Dataset
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
from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.graph.nations import write_nations
from kgc_seq2seq.text.tokenizer import TokenizerConfig, graph_texts, train_tokenizer
from kgc_seq2seq.text.verbalizer import InputConfig, Verbalizer
from kgc_seq2seq.training.loop import TrainingConfig, train
from kgc_seq2seq.training.model import ModelConfig, make_model
from kgc_seq2seq.training.optimizer import OptimizerConfig
from kgc_seq2seq.training.seq2seq import IGNORED, Seq2Seq

BATCH = 64
UNTIMED = 5
CALIBRATION = 40
MODELS = {
    "nations (0.5 M weights)": ModelConfig(),
    "4 + 4 layers of width 256": ModelConfig(d_model=256, d_ff=512, num_layers=4,
                                            num_decoder_layers=4),
}


@dataclass
class Clock:
    """When each step of a window began, and what it trained on."""

    begun: list[float] = field(default_factory=list)
    examples: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def note(self, batch: dict[str, torch.Tensor]) -> None:
        """Take in a batch as it is made, just before its step."""
        self.begun.append(time.perf_counter())
        self.examples.append(len(batch["labels"]))
        self.tokens.append(batch["input_ids"].numel() + batch["labels"].numel())

    def speed(self, steps: int) -> float:
        """Examples a second, without the first steps; the last batch only ends the time."""
        taken = slice(UNTIMED, UNTIMED + steps)
        return sum(self.examples[taken]) / (self.begun[UNTIMED + steps] - self.begun[UNTIMED])

    def tokens_per_step(self) -> float:
        """Mean number of tokens in a batch, padding included."""
        return statistics.mean(self.tokens)


Side = Callable[[int, int], Clock]
"""Trains in batches of so many examples for so many steps."""


def main() -> None:
    parser = bench_parser("training", __doc__)
    parser.add_argument("--steps", type=int, default=60, help="timed steps of a window")
    parser.add_argument("--repeats", type=int, default=9, help="windows of each side")
    options = parser.parse_args()
    steps, repeats = (10, 3) if options.quick else (options.steps, options.repeats)
    chosen = dict(list(MODELS.items())[:1]) if options.quick else MODELS
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    results, ratios = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        verbalizer, tokenizer = nations(Path(folder) / "nations")
        for name, config in chosen.items():
            sides = make_sides(verbalizer, tokenizer, config, Path(folder))
            found = results[name] = compare(sides, steps, repeats)
            for other, label in (("trainer", "Seq2SeqTrainer"),
                                 ("trainer, grouped", "Seq2SeqTrainer grouped by length")):
                ratios[f"ours to {label}, {name}"] = statistics.median(
                    np.divide(found["ours"]["windows"], found[other]["windows"]))
    finish({"setting": {"examples_of_the_trainer": BATCH, "timed_steps": steps,
                        "repeats": repeats, "threads": torch.get_num_threads()},
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
    verbalizer: Verbalizer, tokenizer: PreTrainedTokenizerBase, config: ModelConfig, scratch: Path
) -> dict[str, Side]:
    """Ours, the trainer with its defaults, and the trainer with groups of like length."""
    queries = verbalizer.graph.training_queries
    inputs = verbalizer.inputs(queries, epoch=1)
    targets = verbalizer.targets(queries[:, 2])
    rows = Dataset.from_dict({
        "input_ids": [row[row != verbalizer.pad].tolist() for row in inputs],
        "labels": [row[row != IGNORED].tolist() for row in targets]})

    def ours(batch_size: int, steps: int) -> Clock:
        clock, model = Clock(), make_model(config, tokenizer, seed=0)

        def make_batch(examples: Any, epoch: int) -> dict[str, torch.Tensor]:
            chosen = queries[examples]
            read = torch.from_numpy(verbalizer.inputs(chosen, epoch))
            batch = {"input_ids": read, "attention_mask": (read != verbalizer.pad).long(),
                     "labels": torch.from_numpy(verbalizer.targets(chosen[:, 2]))}
            clock.note(batch)
            return batch

        task = Seq2Seq(model, verbalizer.input_lengths(queries), make_batch, lambda: 0.0, 0.0)
        with tempfile.TemporaryDirectory(dir=scratch) as run:
            train(task, Accelerator(cpu=not torch.accelerator.is_available()), TrainingConfig(
                steps=steps, batch_size=batch_size), OptimizerConfig(
                    name="adamw", learning_rate=1e-3), run=Path(run), seed=0, identity={})
        return clock

    def trainer(batch_size: int, steps: int, **options: Any) -> Clock:
        clock, model = Clock(), make_model(config, tokenizer, seed=0)
        collate = DataCollatorForSeq2Seq(tokenizer, model)

        def make_batch(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            batch = dict(collate(features))
            clock.note(batch)
            return batch

        with tempfile.TemporaryDirectory(dir=scratch) as run:
            training = Seq2SeqTrainer(model, Seq2SeqTrainingArguments(
                run, per_device_train_batch_size=batch_size, max_steps=steps, learning_rate=1e-3,
                save_strategy="no", report_to="none", disable_tqdm=True,
                use_cpu=not torch.accelerator.is_available(), **options),
                data_collator=make_batch, train_dataset=rows,
                processing_class=tokenizer)
            training.remove_callback(PrinterCallback)  # standard output is for the result
            training.train()
        return clock

    return {"ours": ours, "trainer": trainer,
            "trainer, grouped": lambda batch_size, steps: trainer(
                batch_size, steps, train_sampling_strategy="group_by_length")}


def compare(sides: dict[str, Side], steps: int, repeats: int) -> dict[str, Any]:
    """Let the sides take turns, in batches of equally many tokens."""
    sizes = dict.fromkeys(sides, BATCH)
    per_step = {name: side(BATCH, CALIBRATION).tokens_per_step() for name, side in sides.items()}
    wanted = per_step["trainer"]
    for name in sides:
        sizes[name] = round(BATCH * wanted / per_step[name])
    windows: dict[str, list[Clock]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            windows[name].append(side(sizes[name], UNTIMED + steps + 1))
    speeds = {name: [clock.speed(steps) for clock in clocks] for name, clocks in windows.items()}
    return {name: {
        "median": round(statistics.median(speeds[name]), 1),
        "windows": [round(speed, 1) for speed in speeds[name]],
        "examples_a_step": sizes[name],
        "tokens_a_step": round(statistics.mean(
            clock.tokens_per_step() for clock in windows[name]), 1),
    } for name in sides}


if __name__ == "__main__":
    main()
