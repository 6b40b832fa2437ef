"""``kgc compare``: runs side by side, with intervals of their differences."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from caption_cache.command_line import Answer, Parser, whole_number

_SHOWN = ("mrr", "hits@1", "hits@3", "hits@10")


def add_compare(parser: Parser) -> None:
    """Add the command to ``kgc``."""
    command = parser.add_command("compare", _compare, (
        "put runs side by side, with 95 % intervals of their differences to the first"))
    command.add_argument("run", type=Path, help="the folder of a run")
    command.add_argument("others", type=Path, nargs="+", metavar="run",
                         help="the folders of runs to compare it with")
    command.add_argument("--split", choices=["valid", "test"], default="test",
                         help="the facts that were ranked")
    command.add_argument("--ranks", choices=["exact", "certified", "sampled"], help=(
        "how they were ranked; by default exactly, or within certified brackets where only that "
        "was done"))
    command.add_argument("--anyway", action="store_true", help=(
        "also compare what was measured under unlike protocols"))
    command.add_argument("--resamples", type=int, default=10_000, metavar="N",
                         help="bootstrap: how often the queries are drawn anew")
    command.add_argument("--seed", type=whole_number(0), default=0, help="bootstrap: of the draws")


def _compare(options: Namespace) -> Answer:
    from kgc_seq2seq.evaluation.compare import compare, read_measured
    from kgc_seq2seq.evaluation.results import result_name, surest_result

    runs = [read_measured(run, result_name(options.split, options.ranks) if options.ranks
                          else surest_result(run, options.split))
            for run in (options.run, *options.others)]
    found = compare(runs, anyway=options.anyway, resamples=options.resamples, seed=options.seed)
    return Answer(found, _text(found))


def _text(found: dict[str, Any]) -> str:
    from kgc_seq2seq.evaluation.ranks import number_text

    blocks = []
    for side in ("both", "tail", "head"):
        rows = [[f"asked for: {side}", *(name.upper() if name == "mrr" else name.title()
                                         for name in _SHOWN)]]
        for run in found["runs"]:
            rows.append([run["run"], *(number_text(run[side][name]) for name in _SHOWN)])
            if difference := found["differences"].get(run["run"]):
                rows.append(["  - first", *(
                    "{difference:+.4f} [{low:+.4f}, {high:+.4f}]".format_map(difference[side][name])
                    for name in _SHOWN)])
        widths = [max(len(row[place]) for row in rows) + 2 for place in range(len(rows[0]))]
        blocks.append("\n".join(row[0].ljust(widths[0]) + "".join(
            cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
            for row in rows))
    notes = [f"{name} was measured unlike the first: other {', other '.join(words)}."
             for name, words in found["unlike"].items() if words]
    notes += [f"{name} did not rank the same queries as the first, so its differences have no "
              "intervals." for name, difference in found["differences"].items()
              if difference is None]
    bootstrap = found["bootstrap"]
    notes.append(f"In brackets 95 % intervals of the differences to the first, from "
                 f"{bootstrap['resamples']:,} paired bootstrap samples of the queries.")
    return "\n\n".join([*blocks, "\n".join(notes)])
