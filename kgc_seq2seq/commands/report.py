"""``kgc report``: a page about a run."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from caption_cache.command_line import Answer, Parser
from kgc_seq2seq.commands.arguments import run_folder


def add_report(parser: Parser) -> None:
    """Add ``kgc report``."""
    report = parser.add_command("report", _report, (
        "write report.html into a run folder: how good it is, on what, compared with what"))
    run_folder(report)
    report.add_argument("--against", type=Path, nargs="+", default=[], metavar="RUN",
                        help="run folders to compare it with")


def _report(options: Namespace) -> Answer:
    from kgc_seq2seq.report import report_run

    path = report_run(options.run, options.against)
    return Answer({"report": str(path)}, f"The report is {path}.")
