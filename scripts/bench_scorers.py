"""LBMKGC as it is trained and evaluated here, against the formulation as published.

One training step (loss, gradients, Adam) at the size of MKG-W: here the modalities are projected
once for the entity table; as published, every row of the batch that negatives have expanded is
projected by itself; and here once more, compiled by inductor. All sides have the same weights and
negatives, each runs in a process of its own, and their gradients are compared. Then the exact
filtered evaluation of a test split of MKG-W's size. The graph is random: neither time nor memory
depends on what is true.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from bench_common import bench_parser, finish, peak_bytes
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from kgc_seq2seq.evaluation.dense import rank_with_scorer
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.scorers.lbmkgc import Lbmkgc, LbmkgcConfig
from kgc_seq2seq.scorers.scorer import Vocabulary
from kgc_seq2seq.scorers.vectors import Vectors
from kgc_seq2seq.scorers.weighting import SamplingConfig
from kgc_seq2seq.training.compiling import compile_model
from kgc_seq2seq.training.denormals import no_denormals

ENTITIES, RELATIONS, TRAIN, TEST = 15_000, 169, 34_196, 4_274
DIM, BATCH, NEGATIVES, WIDTH = 500, 512, 128, 512
SIDES = ("ours", "compiled", "published")


def main() -> None:
    parser = bench_parser("scorers", __doc__)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each side")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--gradients", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        with no_denormals():  # as in training
            sys.stdout.write(json.dumps(side(options)))
        return
    sides, gradients = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in SIDES:
            file = Path(folder) / name
            done = subprocess.run(
                [sys.executable, __file__, "--side", name, "--gradients", str(file), "--steps",
                 str(options.steps), *["--quick"] * options.quick],
                check=True, stdout=subprocess.PIPE)
            sides[name] = json.loads(done.stdout)
            gradients[name] = load_file(file)
    difference = max(
        float((one - gradients["published"][key]).norm() / (one.norm() + 1e-30))
        for name in ("ours", "compiled") for key, one in gradients[name].items())
    ours, compiled, published = (sides[name] for name in SIDES)
    finish(
        {"setting": {"entities": ENTITIES, "dim": DIM, "batch": batch_size(quick=options.quick),
                     "negatives": NEGATIVES, "threads": torch.get_num_threads()},
         "sides": sides, "largest_relative_difference_of_a_gradient": difference,
         "evaluation": evaluation(quick=options.quick)},
        {"step time, published to ours": published["seconds"] / ours["seconds"],
         "step time, ours to compiled": ours["seconds"] / compiled["seconds"],
         "peak memory, published to ours":
             published["peak_memory_mb"] / ours["peak_memory_mb"]},
        ["accelerate"], options.out)


def batch_size(*, quick: bool) -> int:
    """Facts in a step."""
    return 16 if quick else BATCH


def graph() -> KnowledgeGraph:
    """A random graph of MKG-W's size."""
    random = np.random.default_rng(0)

    def triples(count: int) -> Any:
        return np.stack([random.integers(0, size, count) for size in (
            ENTITIES, RELATIONS, ENTITIES)], axis=1).astype(np.int32)

    relations = [f"r{r}" for r in range(RELATIONS)]
    return KnowledgeGraph(
        name="random", entity_ids=tuple(f"e{e}" for e in range(ENTITIES)),
        entity_names=tuple(f"e{e}" for e in range(ENTITIES)),
        entity_descriptions=("",) * ENTITIES, relation_ids=tuple(relations),
        relation_names=(*relations, *(f"inverse {r}" for r in relations)),
        train=triples(TRAIN), valid=triples(TEST), test=triples(TEST))


def scorer(known: KnowledgeGraph) -> Lbmkgc:
    """LBMKGC as released, with random vectors for everyone."""
    torch.manual_seed(0)
    everyone = torch.ones(ENTITIES, dtype=torch.bool)
    vectors = {modality: Vectors(torch.randn(ENTITIES, WIDTH), everyone)
               for modality in ("image", "text")}
    config = LbmkgcConfig(dim=DIM, sampling=SamplingConfig(negatives=NEGATIVES, temperature=4.0))
    return Lbmkgc(config, Vocabulary.of(known), vectors)


def side(options: argparse.Namespace) -> dict[str, Any]:
    """Time one formulation's steps, and write the gradients of the first."""
    known = graph()
    model = scorer(known)
    feed = model.feed(known, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0)
    size = batch_size(quick=options.quick)
    if options.side == "compiled":
        compile_model(model, "inductor")
    seconds = []
    for step in range(1 + options.steps):  # the first warms up
        batch = {**feed(np.arange(step * size, (step + 1) * size), 1), "done": torch.tensor(0.0)}
        start = time.perf_counter()
        loss = (published_loss(model, batch) if options.side == "published"
                else model(batch) / size)
        loss.backward()
        seconds.append(time.perf_counter() - start)
        if step == 0:
            save_file({name: weights.grad for name, weights in model.named_parameters()
                       if weights.grad is not None}, options.gradients)
        start = time.perf_counter()
        optimizer.step()
        optimizer.zero_grad()
        seconds[-1] += time.perf_counter() - start
    return {"seconds": statistics.median(seconds[1:]), "all_seconds": seconds[1:],
            "peak_memory_mb": peak_bytes() / 2**20}


def published_loss(model: Lbmkgc, batch: dict[str, Tensor]) -> Tensor:
    """The loss as the released code computes it: row by row of the expanded batch."""
    config = model.config
    head, relation, tail = (column[:, None] for column in batch["triples"].unbind(1))
    wrong, replaced = batch["negatives"], batch["replaces_tail"]
    heads = torch.cat([head, torch.where(replaced, head, wrong)], 1).flatten()
    tails = torch.cat([tail, torch.where(replaced, wrong, tail)], 1).flatten()
    relations = relation.expand(-1, 1 + wrong.shape[1]).flatten()
    gate = model.gate(relations).sigmoid()

    def joint(rows: Tensor) -> tuple[Tensor, Tensor]:
        structure = model.entities(rows)
        projected = torch.stack([model.project(m, rows) for m in config.modalities])
        weight = model.attention(projected.tanh()).softmax(0)
        return structure, gate * structure + (1 - gate) * (weight * projected).sum(0)

    (head_structure, h), (tail_structure, t) = joint(heads), joint(tails)
    embedded = model.relations(relations)
    phase = embedded / (model.phase_range / math.pi)
    (re_h, im_h), (re_t, im_t) = h.chunk(2, 1), t.chunk(2, 1)
    re_r, im_r = phase.cos(), phase.sin()
    gap = torch.stack([re_h * re_r - im_h * im_r - re_t, re_h * im_r + im_h * re_r - im_t])
    scores = (config.gamma - gap.norm(dim=0).sum(1)).view(len(wrong), -1)
    positive, negative = scores[:, 0], scores[:, 1:]
    weights = (config.sampling.temperature * negative).softmax(1).detach()
    loss = -(functional.logsigmoid(positive).mean()
             + (weights * functional.logsigmoid(-negative)).sum(1).mean()) / 2
    squares = (head_structure.square().mean() + tail_structure.square().mean()
               + embedded.square().mean()) / 3
    total: Tensor = loss + config.regularization * squares
    return total


def evaluation(*, quick: bool) -> dict[str, Any]:
    """Time the exact filtered ranking of the test split."""
    known = graph()
    model = scorer(known).eval()
    triples = known.test[:64] if quick else known.test
    start = time.perf_counter()
    ranks = rank_with_scorer(model, known, triples, Accelerator(cpu=True))
    return {"queries": len(ranks.better), "seconds": time.perf_counter() - start}


if __name__ == "__main__":
    main()
