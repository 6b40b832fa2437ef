"""``kgc predict``: a run's answers to queries."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from caption_cache.command_line import Answer, Parser, whole_number
from caption_cache.errors import InputError
from kgc_seq2seq.commands.arguments import run_folder

if TYPE_CHECKING:
    from kgc_seq2seq.completer import Prediction, Query


def add_predict(parser: Parser) -> None:
    """Add ``kgc predict``."""
    predict = parser.add_command("predict", _predict, "answer queries with a trained run")
    run_folder(predict)
    predict.add_argument("--head", metavar="NAME", help="name or id of the given entity, to ask "
                                                        "for the tail")
    predict.add_argument("--tail", metavar="NAME", help="name or id of the given entity, to ask "
                                                        "for the head")
    predict.add_argument("--relation", metavar="NAME", help="name or id of the relation")
    predict.add_argument("--direction", choices=["tail", "head"],
                         help="the end that is asked for; by default the one not given")
    predict.add_argument("-k", type=whole_number(1), default=10, help="how many answers")
    predict.add_argument("--queries", type=Path, metavar="FILE", help=(
        'instead of one query, a file with one a line: {"head" or "tail": NAME, "relation": NAME}; '
        'an entity that the graph lacks is an object {"name", "facts": [[RELATION, NEIGHBOUR], …], '
        '"caption" or "image", "description"}; "candidates" lists new names that may answer'
    ))
    predict.add_argument("--explain", action="store_true", help=(
        "say what each part of a fusion has in an answer's score, what structure, image and text "
        "weigh in a scorer, and what the first answer's log-probability would be without each "
        "part of the generator's input"))


def _predict(options: Namespace) -> Answer:
    from kgc_seq2seq.completer import Completer
    from kgc_seq2seq.leave_one_out import effects_text, leave_one_out
    from kgc_seq2seq.queries import answers_data

    queries = _queries(options)
    completer = Completer.from_pretrained(options.run)
    if options.queries:
        for line, query in enumerate(queries, start=1):
            try:
                completer.check(query)
            except InputError as error:
                raise InputError(f"{options.queries}, line {line}: {error}") from None
    if not options.explain:
        answers = completer.complete_many(queries, options.k)
        data = [answers_data(query, found) for query, found in zip(queries, answers, strict=True)]
        texts = list(map(answers_text, queries, answers))
    else:
        from kgc_seq2seq.explain import explain_parts

        data, texts = [], []
        for query in queries:
            told, plain = completer.telling(query), query.plain
            found = told.complete(plain, options.k)
            parts = explain_parts(told, plain, found)
            data.append(answers_data(query, found) | parts.data)
            texts.append(answers_text(query, found) + "\n" + parts.text)
            if told.writes:
                effects = leave_one_out(told.generator.search, told.generator.verbalizer,
                                        told.resolve(plain), told.resolve_entity(found[0].name))
                data[-1]["context"] = [asdict(effect) for effect in effects]
                texts[-1] += "\n" + effects_text(found[0].name, effects)
    return Answer(data if options.queries else data[0], "\n\n".join(texts))


def _queries(options: Namespace) -> list[Query]:
    from kgc_seq2seq.queries import KEYS, parse_queries, parse_query

    given = {key: getattr(options, key) for key in KEYS}
    if options.queries is None:
        return [parse_query(given, dashes="--")]
    if any(given.values()):
        raise InputError("--queries takes the place of --head, --tail, --relation and "
                         "--direction; give one or the other.")
    try:
        text = options.queries.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{options.queries} cannot be read ({error}); give a file with one JSON "
                         "object a line.") from None
    return parse_queries(text, str(options.queries))


def answers_text(query: Query, found: Sequence[Prediction]) -> str:
    """The answers to a query, one a line."""
    ends = (query.name, "?") if query.direction == "tail" else ("?", query.name)
    width = max(len(answer.name) for answer in found)
    lines = [f"{place:3}  {answer.name:{width}}  {answer.probability:6.1%}"
             + ("  known" if answer.known else "")
             for place, answer in enumerate(found, start=1)]
    return "\n".join([f"({ends[0]}, {query.relation}, {ends[1]})", *lines])
