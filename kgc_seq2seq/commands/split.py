"""``kgc split``: a data set with new splits."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from caption_cache.command_line import Answer, Parser
from kgc_seq2seq.commands.arguments import dataset_folder, shares


def add_split(parser: Parser) -> None:
    """Add ``kgc split``."""
    split = parser.add_command("split", _split, (
        "write a data set again with new splits, without leaks and with nothing unseen"))
    dataset_folder(split)
    split.add_argument("out", type=Path, help="the data-set folder to write")
    shares(split)
    split.add_argument("--keep-test", action="store_true", help=(
        "leave test as it is, with what train tells of it, and draw valid from the rest; --test "
        "counts nothing then"))


def _split(options: Namespace) -> Answer:
    from kgc_seq2seq.graph.resplit import SplitConfig, split_dataset

    report = split_dataset(options.dataset, options.out, SplitConfig(
        options.valid, options.test, options.seed, options.keep_test))
    lines = [f"{report.dataset}: " + ", ".join(
        f"{split} {count:,} (was {report.before[split]:,})"
        for split, count in report.triples.items()) + "."]
    if report.link_captions:
        lines.append(f"{report.link_captions:,} captions of linked pairs and relations were left "
                     "out: they were made for the old train.")
    return Answer(asdict(report), "\n".join(lines))
