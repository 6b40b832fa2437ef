"""``kgc show-input``: what the model reads."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from caption_cache.command_line import Answer, Parser


def add_show_input(parser: Parser) -> None:
    """Add ``kgc show-input``."""
    command = parser.add_command("show-input", _show_input, (
        "print what a model reads for a query, and how many tokens each source takes"))
    command.add_argument("folder", type=Path, metavar="DATASET|RUN",
                         help="the folder of a data set, or of a run")
    command.add_argument("--head", required=True, metavar="NAME", help=(
        "name or id of the entity that is given"))
    command.add_argument("--relation", required=True, metavar="NAME",
                         help="name or id of the relation")
    command.add_argument("--direction", choices=["tail", "head"], default="tail", help=(
        "which end is asked for; head: the entity that is given is the tail"))
    command.add_argument("--answer", metavar="NAME", help=(
        "leave out the fact with this answer, as in training"))
    command.add_argument("--setting", choices=["compact", "kgt5", "kgt5-context", "mmkg-t5"],
                         help="by default that of the run or of --config, else compact")
    command.add_argument("--config", type=Path, metavar="FILE",
                         help="the configuration of a run, such as configs/nations-mmkg-t5.yaml")
    command.add_argument("--no-captions", action="store_true", help="read no captions")
    command.add_argument("--epoch", type=int, default=0, metavar="N", help=(
        "which facts are drawn: those of epoch N of a training; 0: those of evaluation"))


def _show_input(options: Namespace) -> Answer:
    from kgc_seq2seq.completer import Query
    from kgc_seq2seq.show_input import show_input

    shown = show_input(
        options.folder, Query(options.head, options.relation, options.direction),
        config=options.config, setting=options.setting, captions=not options.no_captions,
        answer=options.answer, epoch=options.epoch)
    return Answer(shown.as_dict(), shown.as_text(colours=sys.stdout.isatty()))
