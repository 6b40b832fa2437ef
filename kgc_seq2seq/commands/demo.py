"""``kgc demo`` and ``kgc nations``: the graph that comes with this package."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from caption_cache.command_line import Answer, Parser, whole_number
from kgc_seq2seq.commands.predict import answers_text


def add_demo(parser: Parser) -> None:
    """Add ``kgc demo`` and ``kgc nations``."""
    demo = parser.add_command("demo", _demo, (
        "caption, train, evaluate and query the nations graph; about four minutes"))
    demo.add_argument("--out", type=Path, default=Path("runs/nations"), help="the run folder")
    demo.add_argument("--steps", type=whole_number(1), metavar="N",
                      help="train only so many steps: quicker, and worse")
    demo.add_argument("--seed", type=whole_number(0), default=0, help="of the training")
    nations = parser.add_command("nations", _nations, (
        "write the nations graph, which comes with this package, as a data-set folder"))
    nations.add_argument("dataset", type=Path, help="the folder to write")


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
        trained.text, *map(answers_text, queries, answers),
        f"The report is {report}. Ask more: kgc predict {options.out} --head France "
        "--relation currency -k 5"])
    return Answer({"result": trained.data, "report": str(report)}, text)


def _nations(options: Namespace) -> Answer:
    from kgc_seq2seq.graph.nations import write_nations

    write_nations(options.dataset)
    return Answer({"dataset": str(options.dataset)}, (
        f"The nations graph is in {options.dataset}; caption its flags with 'caption-cache build "
        f"{options.dataset}'."))
