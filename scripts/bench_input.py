"""What the model reads, and how fast: the pipeline against strings that are tokenized batch by
batch, the share of padding, and the share of a step's time that the model waits for its data.

The strings are built and tokenized as KGT5-context's collator does it: facts shuffled in Python,
one text an example, the same (Rust) tokenizer called on the batch. Both sides have the same
setting, number of facts and batches, and one core. MKG-W is measured too where --mkg-w names its
folder.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_common import bench_parser, finish

from caption_cache.build import build
from caption_cache.captioners import load_captioner
from caption_cache.prefetch import prefetch
from kgc_seq2seq.arrays import Ints, Longs
from kgc_seq2seq.config import RunConfig
from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.graph.importers import ImportConfig, import_dataset
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.graph.nations import write_nations
from kgc_seq2seq.reading import load_captions, make_tokenizer, make_verbalizer
from kgc_seq2seq.text.input_config import InputConfig
from kgc_seq2seq.text.verbalizer import Verbalizer
from kgc_seq2seq.training.batches import Batch, Batches, Examples
from kgc_seq2seq.training.loop import MADE_AHEAD
from kgc_seq2seq.training.model import ModelConfig, make_model
from kgc_seq2seq.training.optimizer import OptimizerConfig, make_optimizer
from kgc_seq2seq.training.seq2seq import Seq2Seq

NEIGHBOURS = 10
BATCH = 64
T5_SMALL = ModelConfig(d_model=512, d_ff=1024, num_heads=8, num_layers=6, num_decoder_layers=6,
                       dropout=0.1)


def main() -> None:
    parser = bench_parser("input", __doc__)
    parser.add_argument("--mkg-w", type=Path, metavar="FOLDER", help="MKG-W as MoMoK holds it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    results = {}
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        nations = Path(scratch) / "nations"
        write_nations(nations)
        build(nations, load_captioner("palette"), show_progress=False)
        runs = {"nations": (RunConfig(str(nations), ""), 60 if options.quick else 600)}
        if options.mkg_w:
            folder = Path(scratch) / "mkg-w"
            import_dataset(ImportConfig("momok", options.mkg_w, folder))
            runs["MKG-W"] = RunConfig(
                str(folder), "", input=InputConfig(captions=False, neighbours=NEIGHBOURS),
                model=T5_SMALL), 3 if options.quick else 30
        for name, (config, steps) in runs.items():
            found = measure(config, 1 if options.quick else 6, steps)
            results[name] = found
            ratios |= {
                f"{name}: examples a second, pipeline to strings":
                    found["speed"]["pipeline"] / found["speed"]["strings"],
                f"{name}: share of padding": found["padding"]["by length"]["both"],
                f"{name}: share of padding under a token budget":
                    found["padding"]["under a token budget"]["both"],
                f"{name}: share of a step's time waiting": found["waiting"]["share"]}
    finish({"neighbours": NEIGHBOURS, "batch": BATCH, "data": results}, ratios,
           ["transformers", "tokenizers", "numpy"], options.out)


def measure(config: RunConfig, windows: int, steps: int) -> dict[str, Any]:
    """All figures of one data set; ``config`` is that of a training run."""
    graph = read_graph(Path(config.dataset))
    return {"speed": speed(graph, replace(config, input=InputConfig(
                setting="kgt5-context", neighbours=NEIGHBOURS, vary_neighbours=False,
                max_tokens=512)), windows),
            "padding": padding(graph, config),
            "waiting": waiting(graph, config, steps)}


def speed(graph: KnowledgeGraph, config: RunConfig, windows: int) -> dict[str, float]:
    """Examples a second of a core, medians over rounds; and tokens an example, which must agree."""
    captions = load_captions(Path(config.dataset), config)
    tokenizer = make_tokenizer(graph, captions, config)
    verbalizer = make_verbalizer(graph, captions, tokenizer, config)
    strings = Strings(graph, tokenizer)
    queries = graph.training_queries
    numbers: list[Longs] = []

    def read(examples: Longs, epoch: int) -> Examples:
        numbers.append(examples)
        return verbalizer.examples(queries[examples], epoch)

    def take(read: Callable[[Longs, int], Examples]) -> Iterator[Batch]:
        return Batches(read, len(queries), BATCH, config.seed).after(0)

    chosen = [queries[numbers[batch.window][batch.rows]]
              for batch in takewhile(lambda batch: batch.window < windows, take(read))]
    count = len(chosen)
    # Windows are read and batches are planned in the time that is measured.
    sides: dict[str, Callable[[], list[torch.Tensor]]] = {
        "pipeline": lambda: [batch.examples.batch(batch.rows, batch.step)["input_ids"]
                             for batch in islice(take(partial(read_examples, verbalizer)), count)],
        "strings": lambda: [strings(part)[0] for part in chosen]}
    rounds: dict[str, list[float]] = {side: [] for side in sides}
    sizes = {}
    for _ in range(3):
        for side, make in sides.items():
            start = time.process_time()
            made = make()
            rounds[side].append(count * BATCH / (time.process_time() - start))
            sizes[side] = sum(int((inputs != verbalizer.pad).sum()) for inputs in made)
    return {**{side: round(statistics.median(speeds), 1) for side, speeds in rounds.items()},
            **{f"tokens an example, {side}": round(size / count / BATCH, 2)
               for side, size in sizes.items()}}


def read_examples(verbalizer: Verbalizer, examples: Longs, epoch: int) -> Examples:
    """Examples by their numbers, as a training reads them."""
    return verbalizer.examples(verbalizer.graph.training_queries[examples], epoch)


class Strings:
    """A collator that writes a string for each example and tokenizes the batch."""

    def __init__(self, graph: KnowledgeGraph, tokenizer: Any) -> None:
        self.graph = graph
        self.tokenizer = tokenizer
        self.lists = {int(key): graph.neighbours[int(key)].tolist()
                      for key in graph.neighbours.keys}

    def __call__(self, queries: Ints) -> tuple[torch.Tensor, torch.Tensor]:
        names, relations = self.graph.entity_names, self.graph.relation_names
        count = self.graph.num_relations
        inputs, targets = [], []
        for entity, relation, answer in queries.tolist():
            facts = [(said, other) for said, other in self.lists[entity]
                     if other != answer or said % count != relation % count]
            random.shuffle(facts)
            text = f"query: {names[entity]} | {relations[relation]}\ncontext:"
            for said, other in facts[:NEIGHBOURS]:
                text += f" <extra_id_98> {relations[said]} | {names[other]}"
            inputs.append(text)
            targets.append(names[answer])
        read, written = (self.tokenizer(texts, padding=True, return_tensors="pt")["input_ids"]
                         for texts in (inputs, targets))
        return read, written


def padding(graph: KnowledgeGraph, config: RunConfig) -> dict[str, dict[str, float]]:
    """Share of padding among all tokens of an epoch: of inputs, of targets, and of both."""
    captions = load_captions(Path(config.dataset), config)
    verbalizer = make_verbalizer(graph, captions, make_tokenizer(graph, captions, config), config)
    read = partial(read_examples, verbalizer)
    count = len(graph.training_queries)

    def share(plan: Batches) -> dict[str, float]:
        held, laid = np.zeros((2, 2), np.int64)
        for batch in takewhile(lambda batch: batch.epoch == 1, plan.after(0)):
            made = batch.examples.batch(batch.rows, batch.step)
            held += int(made["attention_mask"].sum()), int((made["labels"] >= 0).sum())
            laid += made["input_ids"].numel(), made["labels"].numel()
        inputs, targets = 1 - held / laid
        return {"inputs": round(inputs, 4), "targets": round(targets, 4),
                "both": round(1 - held.sum() / laid.sum(), 4)}

    def all_alike(examples: Longs, epoch: int) -> Examples:
        return replace(read(examples, epoch), lengths=np.ones((len(examples), 2), np.int64))

    lengths = read(np.arange(count), 1).lengths
    tokens = int(BATCH * lengths.sum(axis=1).mean())
    plans = {"by length": Batches(read, count, BATCH, config.seed),
             "under a token budget": Batches(read, count, BATCH, config.seed, tokens),
             "at random": Batches(all_alike, count, BATCH, config.seed)}
    return {name: share(plan) for name, plan in plans.items()}


def waiting(graph: KnowledgeGraph, config: RunConfig, steps: int) -> dict[str, float]:
    """Seconds a step of training takes, and how long of it the model has no batch."""
    captions = load_captions(Path(config.dataset), config)
    tokenizer = make_tokenizer(graph, captions, config)
    verbalizer = make_verbalizer(graph, captions, tokenizer, config)
    model = make_model(config.model, tokenizer, config.seed).train()
    model.to(DEVICE)
    optimizer = make_optimizer(model.parameters(), OptimizerConfig())
    task = Seq2Seq(model, len(graph.training_queries), partial(read_examples, verbalizer),
                   lambda: 0.0, 0.0)
    plan = Batches(task.read, task.count, BATCH, config.seed).after(0)
    making = (batch.examples.batch(batch.rows, batch.step) for batch in plan)
    made = making if DEVICE.type == "cpu" else prefetch(
        lambda _: next(making), range(steps), MADE_AHEAD, threads=1)
    next(made)  # the first window, before any step
    waits, start = [], time.perf_counter()
    for _ in range(steps - 1):
        before = time.perf_counter()
        batch = {name: value.to(DEVICE) for name, value in next(made).items()}
        waits.append(time.perf_counter() - before)
        task.loss(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronize()
    seconds = time.perf_counter() - start
    return {"share": round(sum(waits) / seconds, 5), "seconds a step": round(
        seconds / (steps - 1), 5), "longest wait": round(max(waits), 5)}


DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
