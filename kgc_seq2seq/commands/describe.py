"""``kgc describe`` and ``kgc prepare``: what a data set holds, and its arrays."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from caption_cache.command_line import Answer, Parser
from kgc_seq2seq.commands.arguments import dataset_folder


def add_describe(parser: Parser) -> None:
    """Add ``kgc describe`` and ``kgc prepare``."""
    describe = parser.add_command("describe", _describe, (
        "sizes, degrees and relation cardinalities of a data set"))
    dataset_folder(describe)
    describe.add_argument("--plot", type=Path, metavar="FILE",
                          help="also draw them (.png, .svg or .pdf)")
    prepare = parser.add_command("prepare", _prepare, (
        "write a data set's arrays beside its tables, so that a large one opens at once"))
    dataset_folder(prepare)


def _describe(options: Namespace) -> Answer:
    from kgc_seq2seq.graph.describe import describe_graph, description_text, plot_graph
    from kgc_seq2seq.graph.folder import read_graph

    graph = read_graph(options.dataset)
    description = describe_graph(graph)
    text = description_text(description)
    if options.plot:
        plot_graph(graph, description, options.plot)
        text += f"\nThe plot is {options.plot}."
    return Answer(description, text)


def _prepare(options: Namespace) -> Answer:
    from kgc_seq2seq.graph.folder import prepare_graph

    graph = prepare_graph(options.dataset)
    return Answer({"dataset": str(options.dataset), "entities": graph.num_entities},
                  f"The arrays of {options.dataset} are beside its tables and are used while these "
                  "stay as they are.")
