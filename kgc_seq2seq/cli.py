"""The command line ``kgc``.

Every command imports what it needs by itself, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caption_cache.command_line import Answer, Parser, run, whole_number
from caption_cache.errors import InputError
from kgc_seq2seq.commands.calibrate import add_calibrate
from kgc_seq2seq.commands.compare import add_compare
from kgc_seq2seq.commands.complete_modalities import add_complete_modalities
from kgc_seq2seq.commands.configuration import add_config
from kgc_seq2seq.commands.doctor import add_doctor
from kgc_seq2seq.commands.explore import add_explore
from kgc_seq2seq.commands.fuse import add_fuse
from kgc_seq2seq.commands.publish import add_publish
from kgc_seq2seq.commands.show_input import add_show_input
from kgc_seq2seq.commands.subset import add_subset

if TYPE_CHECKING:
    from kgc_seq2seq.completer import Prediction, Query


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
    demo = parser.add_command("demo", _demo, (
        "caption, train, evaluate and query the nations graph; about four minutes"))
    demo.add_argument("--out", type=Path, default=Path("runs/nations"), help="the run folder")
    demo.add_argument("--steps", type=whole_number(1), metavar="N",
                      help="train only so many steps: quicker, and worse")
    demo.add_argument("--seed", type=whole_number(0), default=0, help="of the training")
    nations = parser.add_command("nations", _nations, (
        "write the nations graph, which comes with this package, as a data-set folder"))
    nations.add_argument("dataset", type=Path, help="the folder to write")
    _add_import(parser)
    audit = parser.add_command("audit", _audit, (
        "check a data set for leaks, repeats, foreign ids, names that collide and bad images"))
    _dataset_folder(audit)
    audit.add_argument("--fail-on", choices=["error", "warning"], metavar="SEVERITY", help=(
        "end with exit code 1 on a finding of this severity or worse: error or warning"))
    audit.add_argument("--tokenizer", metavar="T5", help=(
        "a folder or a name on the hub: also check that names differ as its tokens"))
    split = parser.add_command("split", _split, (
        "write a data set again with new splits, without leaks and with nothing unseen"))
    _dataset_folder(split)
    split.add_argument("out", type=Path, help="the data-set folder to write")
    _shares(split)
    split.add_argument("--keep-test", action="store_true", help=(
        "leave test as it is, with what train tells of it, and draw valid from the rest"))
    add_subset(parser)
    describe = parser.add_command("describe", _describe, (
        "sizes, degrees and relation cardinalities of a data set"))
    _dataset_folder(describe)
    describe.add_argument("--plot", type=Path, metavar="FILE",
                          help="also draw them (.png, .svg or .pdf)")
    prepare = parser.add_command("prepare", _prepare, (
        "write a data set's arrays beside its tables, so that a large one opens at once"))
    _dataset_folder(prepare)
    add_config(parser)
    evaluate = parser.add_command("evaluate", _evaluate, "rank every fact of a split exactly")
    _run_folder(evaluate)
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
    add_calibrate(parser)
    add_compare(parser)
    predict = parser.add_command("predict", _predict, "answer queries with a trained run")
    _run_folder(predict)
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
    add_complete_modalities(parser)
    _add_features(parser)
    add_fuse(parser)
    add_show_input(parser)
    add_publish(parser)
    add_explore(parser)
    report = parser.add_command("report", _report, (
        "write report.html into a run folder: how good it is, on what, compared with what"))
    _run_folder(report)
    report.add_argument("--against", type=Path, nargs="+", default=[], metavar="RUN",
                        help="run folders to compare it with")
    add_doctor(parser)
    return parser


def _add_import(parser: Parser) -> None:
    command = parser.add_command("import", _import, (
        "turn a graph in a public format into a data-set folder"))
    command.add_argument("format", choices=["openke", "momok", "mygo", "kgbert", "tsv", "datasets"],
                         help="how the source is written: openke, momok, mygo, kgbert, tsv, "
                              "datasets", metavar="FORMAT")
    command.add_argument("source", type=Path, help=(
        "its folder; for tsv also one file, for datasets also a name on the hub"))
    command.add_argument("out", type=Path, help="the data-set folder to write")
    command.add_argument("--names", type=Path, metavar="TABLE",
                         help="names of the entities: a table with an id and a name")
    command.add_argument("--relation-names", type=Path, metavar="TABLE",
                         help="likewise of the relations, or a file with one a line, in order")
    command.add_argument("--texts", type=Path, metavar="TABLE",
                         help="a table with an id and a description, a caption, or both")
    command.add_argument("--images", type=Path, metavar="PATH", help=(
        "a folder with a folder or a file called like each entity, or a table with an id and a "
        "path"))
    command.add_argument("--order", choices=["hrt", "htr"], help=(
        "the order of the columns, where it is not the convention of the format"))
    command.add_argument("--on-collision", default="error", metavar="POLICY",
                         choices=["error", "description", "relation-hint", "id"], help=(
                             "what tells entities of one name apart: error (refuse them), "
                             "description, relation-hint (a train fact, of a pair that "
                             "neither valid nor test asks about), id"))
    command.add_argument("--tokenizer", metavar="T5", help=(
        "a folder or a name on the hub: names collide when its tokens are the same"))
    _shares(command, " (where the source is one set of triples)")


def _shares(parser: Parser, when: str = "") -> None:
    parser.add_argument("--valid", type=float, default=0.1, metavar="SHARE",
                        help=f"share of the triples for valid{when}")
    parser.add_argument("--test", type=float, default=0.1, metavar="SHARE",
                        help=f"share of the triples for test{when}")
    parser.add_argument("--seed", type=whole_number(0), default=0, help=f"of the splits{when}")


def _dataset_folder(parser: Parser) -> None:
    parser.add_argument("dataset", type=Path, help="the folder of a data set")


def _add_features(parser: Parser) -> None:
    features = parser.add_command("features", _features, (
        "write a vector of each entity's images and one of its texts, or whose text names whom, "
        "for the scorers"))
    _dataset_folder(features)
    features.add_argument("--modality", choices=["image", "text", "mentions"], action="append",
                          help=("only this; by default images, where there are any, and texts; "
                                "mentions: whose text names whom, for the scorer of that name"))
    features.add_argument("--image-model", metavar="MODEL", help=(
        "a CLIP, from a folder or a hub, instead of statistics of colours and edges"))
    features.add_argument("--text-model", metavar="MODEL", help=(
        "a CLIP or a model of sentence-transformers instead of weighted words"))
    features.add_argument("--image-matrix", type=Path, metavar="FILE", help=(
        "a published .pth matrix instead; needs --rows"))
    features.add_argument("--text-matrix", type=Path, metavar="FILE", help="likewise")
    features.add_argument("--rows", type=Path, metavar="FILE", help=(
        "whose vector each row of a published matrix is: its entity2id.txt"))
    features.add_argument("--dim", type=whole_number(1), default=256,
                          help="width of the vectors of weighted words")
    features.add_argument("--captions", metavar="SOURCE", nargs="?", const="", help=(
        "read the captions too; SOURCE says whose, where there are several"))
    features.add_argument("--without-generated", action="store_true",
                          help="read nothing that 'kgc complete-modalities' generated")
    features.add_argument("--batch-size", type=whole_number(1), default=64,
                          help="texts or images that a model gets at once")
    features.add_argument("--device", default="cpu", help="where a model runs, such as cuda")


def _run_folder(parser: Parser) -> None:
    parser.add_argument("run", type=Path, help="the folder that training wrote")


def _demo(options: Namespace) -> Answer:
    from dataclasses import replace

    from kgc_seq2seq.completer import Completer, Query
    from kgc_seq2seq.config import RunConfig
    from kgc_seq2seq.report import report_run
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


def _import(options: Namespace) -> Answer:
    from kgc_seq2seq.graph.importers import ImportConfig, import_dataset
    from kgc_seq2seq.graph.names import Key, Policy

    key: Key | None = None
    if options.tokenizer:
        from kgc_seq2seq.text.catalogue import token_key
        from kgc_seq2seq.training.model import load_tokenizer

        key = token_key(load_tokenizer(options.tokenizer))
    report = import_dataset(ImportConfig(
        format=options.format, source=options.source, out=options.out, names=options.names,
        relation_names=options.relation_names, texts=options.texts, images=options.images,
        order=options.order, on_collision=Policy(options.on_collision), valid=options.valid,
        test=options.test, seed=options.seed), key)
    triples = ", ".join(f"{count:,} {split}" for split, count in report.triples.items())
    lines = [f"{report.dataset}: {report.entities:,} entities, {report.relations:,} relations, "
             f"{triples}, {report.images:,} images, {report.captions:,} captions."]
    if report.collisions:
        together = sum(len(group.ids) for group in report.collisions)
        lines.append(f"{together:,} entities shared {len(report.collisions):,} names; "
                     "collisions.tsv says what each has become, such as:")
        lines += [f"  {group.name}: {', '.join(group.became[:4])}"
                  for group in report.collisions[:5]]
    lines += [f"Note: {note}." for note in report.notes]
    lines.append(f"Look at it before you train: kgc audit {report.dataset}")
    return Answer(asdict(report), "\n".join(lines))


def _audit(options: Namespace) -> Answer:
    from kgc_seq2seq.graph.audit import Spell, audit_dataset
    from kgc_seq2seq.graph.audit.findings import Severity, findings_text, worst

    spell: Spell | None = None
    if options.tokenizer:
        from functools import partial

        from kgc_seq2seq.text.catalogue import token_keys
        from kgc_seq2seq.training.model import load_tokenizer

        spell = partial(token_keys, load_tokenizer(options.tokenizer))
    findings = audit_dataset(options.dataset, spell)
    counts = {severity.value: sum(finding.severity is severity for finding in findings)
              for severity in Severity}
    failed = options.fail_on is not None and worst(findings).rank <= Severity(options.fail_on).rank
    return Answer(
        {"dataset": str(options.dataset), "counts": counts,
         "findings": [asdict(finding) for finding in findings]},
        findings_text(findings) + "\n" + ", ".join(f"{name}: {count}"
                                                   for name, count in counts.items()),
        code=int(failed))


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


def _describe(options: Namespace) -> Answer:
    from kgc_seq2seq.graph.describe import describe_graph, description_text, plot_graph
    from kgc_seq2seq.graph.folder import read_graph

    graph = read_graph(options.dataset)
    description = describe_graph(graph)
    text = description_text(description)
    if options.plot:
        plot_graph(graph, description, options.plot)
        text += f"\nThe plot is {options.plot}."
    return Answer(description, text)


def _prepare(options: Namespace) -> Answer:
    from kgc_seq2seq.graph.folder import prepare_graph

    graph = prepare_graph(options.dataset)
    return Answer({"dataset": str(options.dataset), "entities": graph.num_entities},
                  f"The arrays of {options.dataset} are beside its tables and are used while these "
                  "stay as they are.")


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
        texts = list(map(_answers_text, queries, answers))
    else:
        from kgc_seq2seq.explain import explain_parts

        data, texts = [], []
        for query in queries:
            told, plain = completer.telling(query), query.plain
            found = told.complete(plain, options.k)
            parts = explain_parts(told, plain, found)
            data.append(answers_data(query, found) | parts.data)
            texts.append(_answers_text(query, found) + "\n" + parts.text)
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


def _features(options: Namespace) -> Answer:
    from kgc_seq2seq.scorers.features.choose import FeatureChoice, make_vectors

    made = make_vectors(options.dataset, FeatureChoice(
        modalities=tuple(options.modality or ()), image_model=options.image_model,
        text_model=options.text_model, image_matrix=options.image_matrix,
        text_matrix=options.text_matrix, rows=options.rows, dim=options.dim,
        captions=options.captions, generated=not options.without_generated,
        batch_size=options.batch_size, device=options.device))
    return Answer([asdict(entry) for entry in made], "\n".join(map(str, made)))


def _report(options: Namespace) -> Answer:
    from kgc_seq2seq.report import report_run

    path = report_run(options.run, options.against)
    return Answer({"report": str(path)}, f"The report is {path}.")


def _answers_text(query: Query, found: Sequence[Prediction]) -> str:
    ends = (query.name, "?") if query.direction == "tail" else ("?", query.name)
    width = max(len(answer.name) for answer in found)
    lines = [f"{place:3}  {answer.name:{width}}  {answer.probability:6.1%}"
             + ("  known" if answer.known else "")
             for place, answer in enumerate(found, start=1)]
    return "\n".join([f"({ends[0]}, {query.relation}, {ends[1]})", *lines])


def _metrics_text(result: dict[str, Any]) -> str:
    from kgc_seq2seq.evaluation.ranks import number_text

    names = list(result["both"])
    rows = [[side, *map(number_text, result[side].values())] for side in ("tail", "head", "both")]
    rows.insert(0, ["", *(name.replace("_", " ") for name in names)])
    width = max(len(cell) for row in rows for cell in row) + 2
    return "\n".join("".join(f"{cell:>{width}}" for cell in row) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
