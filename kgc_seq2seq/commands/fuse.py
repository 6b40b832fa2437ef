"""``kgc fuse``: a generator and scorers, or scorers alone, as one run."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from caption_cache.command_line import Answer, Parser


def add_fuse(parser: Parser) -> None:
    """Add ``kgc fuse``."""
    fuse = parser.add_command("fuse", _fuse, (
        "make one run of a generator and scorers, or of scorers alone, weighted on valid, and "
        "evaluate it; the same command goes on where it was stopped"))
    fuse.add_argument("run", type=Path, help="the folder of a generator's run, or of a scorer's")
    fuse.add_argument("scorers", type=Path, nargs="+", metavar="scorer",
                      help="the folder of a scorer's run")
    fuse.add_argument("--out", type=Path, required=True, metavar="RUN",
                      help="the run folder to write; it refers to the others, so keep them")
    fuse.add_argument("--method", choices=["fused", "rerank", "ensemble"], default="fused", help=(
        "fused: log-probabilities, weighted by relation; rerank: the scorers order the "
        "generator's best; ensemble: the weighted mean of probabilities"))
    fuse.add_argument("--shrinkage", type=float, metavar="X", help=(
        "fused: how strongly relations' weights are drawn to a common one; by default chosen by "
        "cross-validation within valid"))
    fuse.add_argument("--folds", type=int, default=5, help="fused: of the cross-validation")
    fuse.add_argument("--floor", type=float, default=0.0, metavar="P", help=(
        "fused: the fit counts no answer as less probable than about P, so that a few hopeless "
        "ones do not decide; 0: maximum likelihood"))
    fuse.add_argument("--candidates", type=int, default=32, metavar="N", help=(
        "fused: in a large catalogue, weights are fitted to each part's N best answers and as many "
        "others"))
    fuse.add_argument("--depth", type=int, default=10, metavar="K",
                      help="rerank: how many of the generator's answers are ordered")
    fuse.add_argument("--ranks", choices=["exact", "certified"], default="exact", help=(
        "fused: how test is ranked, and with exact ranks valid too; brackets that hold the exact "
        "rank are cheaper in a large catalogue"))
    fuse.add_argument("--budget", type=int, metavar="N", help=(
        "certified: stop at a query after about N decoder positions"))


def _fuse(options: Namespace) -> Answer | None:
    from kgc_seq2seq.fuse import FuseConfig, fuse_runs

    return fuse_runs([options.run, *options.scorers], options.out, FuseConfig(
        options.method, options.shrinkage, options.folds, options.floor, options.candidates,
        options.depth, options.ranks, options.budget))
