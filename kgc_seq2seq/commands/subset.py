"""``kgc subset``: the densest part of a data set, as one of its own."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from caption_cache.command_line import Answer, Parser, whole_number
from kgc_seq2seq.commands.arguments import dataset_folder


def add_subset(parser: Parser) -> None:
    """Add the command to ``kgc``."""
    command = parser.add_command("subset", _subset, (
        "write the entities of highest train degree and the facts between them as a data set"))
    dataset_folder(command)
    command.add_argument("out", type=Path, help="the data-set folder to write")
    command.add_argument("--entities", type=int, default=2000, metavar="N", help="how many")
    command.add_argument("--seed", type=whole_number(0), default=0,
                         help="decides which entities of equal degree come along")


def _subset(options: Namespace) -> Answer:
    from kgc_seq2seq.graph.subset import subset_dataset

    report = subset_dataset(options.dataset, options.out, options.entities, options.seed)
    return Answer(asdict(report), (
        f"{report.dataset}: {report.entities:,} entities, {report.relations:,} relations, "
        + ", ".join(f"{count:,} {split}" for split, count in report.triples.items()) + "."))
