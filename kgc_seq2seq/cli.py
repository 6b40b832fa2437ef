"""The command line ``kgc``.

Every command imports what it needs by itself, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caption_cache.command_line import Answer, Parser, run
from caption_cache.errors import InputError

if TYPE_CHECKING:
    from kgc_seq2seq.completer import Prediction, Query


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code."""
    return run(_parser(), arguments)


def _parser() -> Parser:
    parser = Parser(prog="kgc", description=(
        "Completes knowledge graphs whose entities have images. Exit codes: 0 done, 2 bad input, "
        "3 stopped by a signal."))
    demo = parser.add_command("demo", _demo, (
        "caption, train, evaluate and query the nations graph; about four minutes"))
    demo.add_argument("--out", type=Path, default=Path("runs/nations"), help="the run folder")
    demo.add_argument("--steps", type=_count, metavar="N",
                      help="train only so many steps: quicker, and worse")
    demo.add_argument("--seed", type=int, default=0, help="of the training")
    nations = parser.add_command("nations", _nations, (
        "write the nations graph, which comes with this package, as a data-set folder"))
    nations.add_argument("dataset", type=Path, help="the folder to write")
    evaluate = parser.add_command("evaluate", _evaluate, "rank every fact of a split exactly")
    _run_folder(evaluate)
    evaluate.add_argument("--split", choices=["valid", "test"], default="test",
                          help="the facts to rank")
    evaluate.add_argument("--ranks", choices=["exact", "certified", "sampled"], default="exact",
                          help="exact; brackets that hold the exact rank; or KGT5's sampling, to "
                               "compare with figures published under it")
    evaluate.add_argument("--tolerance", type=float, default=0.002,
                          help="certified: the width of a reciprocal rank that is good enough")
    evaluate.add_argument("--budget", type=_count, metavar="N",
                          help="certified: give up a rank after about N decoder positions")
    evaluate.add_argument("--samples", type=_count, default=500, metavar="N",
                          help="sampled: names drawn for each query")
    evaluate.add_argument("--seed", type=int, default=0, help="sampled: of the draws")
    predict = parser.add_command("predict", _predict, "answer queries with a trained run")
    _run_folder(predict)
    predict.add_argument("--head", metavar="NAME", help="name or id of the given entity, to ask "
                                                        "for the tail")
    predict.add_argument("--tail", metavar="NAME", help="name or id of the given entity, to ask "
                                                        "for the head")
    predict.add_argument("--relation", metavar="NAME", help="name or id of the relation")
    predict.add_argument("--direction", choices=["tail", "head"],
                         help="the end that is asked for; by default the one not given")
    predict.add_argument("-k", type=_count, default=10, help="how many answers")
    predict.add_argument("--queries", type=Path, metavar="FILE", help=(
        'instead of one query, a file with one a line: {"head" or "tail": NAME, "relation": NAME}'
    ))
    report = parser.add_command("report", _report, "write report.html into a run folder")
    _run_folder(report)
    return parser


def _run_folder(parser: Parser) -> None:
    parser.add_argument("run", type=Path, help="the folder that training wrote")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _demo(options: Namespace) -> Answer:
    from dataclasses import replace

    from kgc_seq2seq.completer import Completer, Query
    from kgc_seq2seq.config import RunConfig
    from kgc_seq2seq.gallery import report_run
    from kgc_seq2seq.train import run_training

    config = RunConfig(dataset="nations", out=str(options.out), seed=options.seed)
    if options.steps:
        config = replace(config, training=replace(
            config.training, steps=options.steps,
            validate_every=min(options.steps, config.training.validate_every)))
    trained = run_training(config)
    assert trained is not None  # one process
    if trained.code:
        return trained
    report = report_run(options.out)
    completer = Completer.from_pretrained(options.out)
    queries = [Query("Mozambique", "currency"), Query("Norway", "flag layout"),
               Query("Danube", "river", "head")]
    answers = completer.complete_many(queries, k=5)
    text = "\n\n".join([
        trained.text, *map(_answers_text, queries, answers),
        f"The report is {report}. Ask more: kgc predict {options.out} --head France "
        "--relation currency -k 5"])
    return Answer({"result": trained.data, "report": str(report)}, text)


def _nations(options: Namespace) -> Answer:
    from kgc_seq2seq.graph.nations import write_nations

    write_nations(options.dataset)
    return Answer({"dataset": str(options.dataset)}, (
        f"The nations graph is in {options.dataset}; caption its flags with 'caption-cache build "
        f"{options.dataset}'."))


def _evaluate(options: Namespace) -> Answer:
    from kgc_seq2seq.evaluate import evaluate_run
    from kgc_seq2seq.evaluation.ranking import CertifiedRanks
    from kgc_seq2seq.evaluation.sampled import SampledRanks

    ranker = None if options.ranks == "exact" else (
        CertifiedRanks(options.budget, options.tolerance) if options.ranks == "certified" else
        SampledRanks(options.samples, seed=options.seed))
    result = evaluate_run(options.run, options.split, ranker)
    return Answer(result, _metrics_text(result))


def _predict(options: Namespace) -> Answer:
    from kgc_seq2seq.completer import Completer

    queries = _queries(options)
    answers = Completer.from_pretrained(options.run).complete_many(queries, options.k)
    data = [_answers_data(query, found) for query, found in zip(queries, answers, strict=True)]
    text = "\n\n".join(map(_answers_text, queries, answers))
    return Answer(data if options.queries else data[0], text)


def _queries(options: Namespace) -> list[Query]:
    import json

    given = {"head": options.head, "tail": options.tail, "relation": options.relation,
             "direction": options.direction}
    if options.queries is None:
        return [_query(given, "", "--")]
    if any(given.values()):
        raise InputError("--queries takes the place of --head, --tail, --relation and "
                         "--direction; give one or the other.")
    try:
        lines = options.queries.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{options.queries} cannot be read ({error}); give a file with one JSON "
                         "object a line.") from None
    queries = []
    for number, line in enumerate(lines, start=1):
        where = f"{options.queries}, line {number}: "
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where}not JSON ({error}); write one object a line.") from None
        if not isinstance(entry, dict) or not all(
                key in given and isinstance(value, str) for key, value in entry.items()):
            raise InputError(f"{where}a query is an object with texts under head or tail, "
                             "relation, and perhaps direction; mend it.")
        queries.append(_query(entry, where, ""))
    if not queries:
        raise InputError(f"{options.queries} holds no query; write one object a line.")
    return queries


def _query(given: dict[str, Any], where: str, dashes: str) -> Query:
    """The query of ``--head``, ``--tail``, ``--relation`` and ``--direction``, or a line."""
    from kgc_seq2seq.completer import Query

    head: Any = given.get("head")
    tail: Any = given.get("tail")
    if (head is None) == (tail is None) or given.get("relation") is None:
        raise InputError(f"{where}a query needs {dashes}relation and either {dashes}head or "
                         f"{dashes}tail; give both.")
    entity: str = head if tail is None else tail
    direction: Any = given.get("direction") or ("tail" if tail is None else "head")
    if direction not in ("tail", "head"):
        raise InputError(f"{where}direction is {direction!r}; it must be 'tail' or 'head'.")
    return Query(entity, given["relation"], direction)


def _report(options: Namespace) -> Answer:
    from kgc_seq2seq.gallery import report_run

    path = report_run(options.run)
    return Answer({"report": str(path)}, f"The report is {path}.")


def _answers_data(query: Query, found: Sequence[Prediction]) -> dict[str, Any]:
    from dataclasses import asdict

    return {"query": asdict(query), "answers": [asdict(answer) for answer in found]}


def _answers_text(query: Query, found: Sequence[Prediction]) -> str:
    ends = (query.entity, "?") if query.direction == "tail" else ("?", query.entity)
    width = max(len(answer.name) for answer in found)
    lines = [f"{place:3}  {answer.name:{width}}  {answer.probability:7.2%}"
             + ("  known" if answer.known else "")
             for place, answer in enumerate(found, start=1)]
    return "\n".join([f"({ends[0]}, {query.relation}, {ends[1]})", *lines])


def _metrics_text(result: dict[str, Any]) -> str:
    names = list(result["both"])
    rows = [[side, *map(_number, result[side].values())] for side in ("tail", "head", "both")]
    width = max(len(cell) for row in rows for cell in row) + 2
    return "\n".join("".join(f"{cell:>{width}}" for cell in row)
                     for row in [["", *names], *rows])


def _number(value: int | float | dict[str, float]) -> str:
    if isinstance(value, dict):
        return f"{value['low']:.4f}–{value['high']:.4f}"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


if __name__ == "__main__":
    sys.exit(main())
