"""``kgc evaluate``: how well a run ranks the facts of a split."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from caption_cache.command_line import Answer, Parser, whole_number
from caption_cache.errors import InputError
from kgc_seq2seq.commands.arguments import run_folder


def add_evaluate(parser: Parser) -> None:
    """Add ``kgc evaluate``."""
    evaluate = parser.add_command("evaluate", _evaluate, "rank every fact of a split exactly")
    run_folder(evaluate)
    evaluate.add_argument("--split", choices=["valid", "test"], default="test",
                          help="the facts to rank")
    evaluate.add_argument("--ranks", choices=["exact", "certified", "sampled"], default="exact",
                          help="exact; brackets that hold the exact rank; or KGT5's sampling, to "
                               "compare with figures published under it")
    evaluate.add_argument("--tolerance", type=float, metavar="X", help=(
        "certified: the width of a reciprocal rank that is good enough; by default 0.002"))
    evaluate.add_argument("--budget", type=whole_number(1), metavar="N",
                          help="certified: stop at a query after about N decoder positions")
    evaluate.add_argument("--samples", type=whole_number(1), metavar="N",
                          help="sampled: names drawn for each query; by default 500")
    evaluate.add_argument("--seed", type=whole_number(0), metavar="N",
                          help="sampled: of the draws; by default 0")


def _evaluate(options: Namespace) -> Answer:
    from kgc_seq2seq.evaluate import evaluate_run
    from kgc_seq2seq.evaluation.ranking import CertifiedRanks
    from kgc_seq2seq.evaluation.sampled import SampledRanks

    ranker: CertifiedRanks | SampledRanks | None = None
    for kind, ranks, names in (
            ("certified", CertifiedRanks, {"budget": "budget", "tolerance": "tolerance"}),
            ("sampled", SampledRanks, {"samples": "samples", "seed": "draws_seed"})):
        given = {field: getattr(options, name) for name, field in names.items()
                 if getattr(options, name) is not None}
        if kind == options.ranks:
            ranker = ranks(**given)
        elif given:
            words = ", ".join(f"--{name}" for name, field in names.items() if field in given)
            raise InputError(f"{words}: only of --ranks {kind}; give that too, or leave "
                             "it out.")
    result = evaluate_run(options.run, options.split, ranker)
    return Answer(result, _metrics_text(result))


def _metrics_text(result: dict[str, Any]) -> str:
    from kgc_seq2seq.evaluation.ranks import number_text

    names = list(result["both"])
    rows = [[side, *map(number_text, result[side].values())] for side in ("tail", "head", "both")]
    rows.insert(0, ["", *(name.replace("_", " ") for name in names)])
    width = max(len(cell) for row in rows for cell in row) + 2
    return "\n".join("".join(f"{cell:>{width}}" for cell in row) for row in rows)
