"""The command line ``kgc``.

Every command imports what it needs by itself, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from caption_cache.command_line import Parser, run
from kgc_seq2seq.commands.audit import add_audit
from kgc_seq2seq.commands.calibrate import add_calibrate
from kgc_seq2seq.commands.compare import add_compare
from kgc_seq2seq.commands.complete_modalities import add_complete_modalities
from kgc_seq2seq.commands.configuration import add_config
from kgc_seq2seq.commands.demo import add_demo
from kgc_seq2seq.commands.describe import add_describe
from kgc_seq2seq.commands.doctor import add_doctor
from kgc_seq2seq.commands.evaluate import add_evaluate
from kgc_seq2seq.commands.explore import add_explore
from kgc_seq2seq.commands.features import add_features
from kgc_seq2seq.commands.fuse import add_fuse
from kgc_seq2seq.commands.importing import add_import
from kgc_seq2seq.commands.predict import add_predict
from kgc_seq2seq.commands.publish import add_publish
from kgc_seq2seq.commands.report import add_report
from kgc_seq2seq.commands.show_input import add_show_input
from kgc_seq2seq.commands.split import add_split
from kgc_seq2seq.commands.subset import add_subset


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code."""
    return run(_parser(), arguments)


def _parser() -> Parser:
    parser = Parser(prog="kgc", description=(
        "Completes knowledge graphs whose entities have images. Exit codes: 0 done, 1 a check "
        "found something, 2 bad input, 3 stopped by a signal."), epilog=(
        "Models are trained by 'python -m kgc_seq2seq.train' (the generator) and 'python -m "
        "kgc_seq2seq.train_scorer', or by 'accelerate launch -m' and the same names; images are "
        "captioned by 'caption-cache build'."))
    parser.add_version()
    add_demo(parser)
    add_import(parser)
    add_audit(parser)
    add_split(parser)
    add_subset(parser)
    add_describe(parser)
    add_config(parser)
    add_evaluate(parser)
    add_calibrate(parser)
    add_compare(parser)
    add_predict(parser)
    add_complete_modalities(parser)
    add_features(parser)
    add_fuse(parser)
    add_show_input(parser)
    add_publish(parser)
    add_explore(parser)
    add_report(parser)
    add_doctor(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
