"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path

from caption_cache.command_line import Parser, whole_number


def run_folder(parser: Parser) -> None:
    """The folder of a run, as ``run``."""
    parser.add_argument("run", type=Path, help="the folder that training wrote")


def dataset_folder(parser: Parser) -> None:
    """The folder of a data set, as ``dataset``."""
    parser.add_argument("dataset", type=Path, help="the folder of a data set")


def shares(parser: Parser, when: str = "") -> None:
    """The sizes of valid and test, and the seed that they are drawn by."""
    parser.add_argument("--valid", type=float, default=0.1, metavar="SHARE",
                        help=f"share of the triples for valid{when}")
    parser.add_argument("--test", type=float, default=0.1, metavar="SHARE",
                        help=f"share of the triples for test{when}")
    parser.add_argument("--seed", type=whole_number(0), default=0, help=f"of the splits{when}")
