"""Which facts a model is told: how often the answer stands among them where train links the two.

Of the queries of valid whose two entities some fact of train links, the share whose answer is among
the facts read, by their order (``input.ordering``) and number (``input.neighbours``). No model
takes part: it is the most that copying can give.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
from bench_common import bench_parser, finish

from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.text.context import Context
from kgc_seq2seq.text.input_config import InputConfig, Ordering

NEIGHBOURS = (3, 5, 10)


def main() -> None:
    parser = bench_parser("orderings", __doc__)
    parser.add_argument("data", nargs="+", type=Path, metavar="DATA", help="folder of a data set")
    parser.add_argument("--implying", action="store_true", help=(
        "read facts that state the asked one too, by another relation (input.implying)"))
    options = parser.parse_args()
    data = {folder.name: measure(read_graph(folder), implying=options.implying, quick=options.quick)
            for folder in options.data}
    ratios = {f"{name}: answers read, linking to random, {n} facts":
              found["linking"][n]["answer read"] / found["random"][n]["answer read"]
              for name, found in data.items() for n in map(str, NEIGHBOURS)}
    finish({"implying": options.implying, "data": data}, ratios, ["numpy"], options.out)


def measure(graph: KnowledgeGraph, *, implying: bool, quick: bool) -> dict[str, Any]:
    """By ordering and number of facts: those read in the mean, and the share of answers read."""
    triples = graph.valid[graph.linked_in_train(graph.valid)][: 100 if quick else None]
    if not len(triples):
        raise SystemExit(f"{graph.name}: train links the two entities of no fact of valid, so "
                         "there is nothing to copy; give another data set.")
    queries = graph.fold(graph.queries(triples))
    found: dict[str, Any] = {"queries": len(queries)}
    for ordering in get_args(Ordering):
        found[ordering] = {}
        for neighbours in NEIGHBOURS:
            config = InputConfig(implying=implying, ordering=ordering, neighbours=neighbours)
            told = Context(graph, config, seed=0).facts(queries, epoch=0)
            answered = told.owner[told.tail == queries[told.owner, 2]]
            found[ordering][str(neighbours)] = {
                "facts": round(len(told.owner) / len(queries), 2),
                "answer read": round(len(np.unique(answered)) / len(queries), 4)}
    return found


if __name__ == "__main__":
    main()
