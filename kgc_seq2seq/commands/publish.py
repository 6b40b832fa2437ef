"""``kgc export`` and ``kgc push``: a run for another machine, or for the hub."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from caption_cache.command_line import Answer, Parser


def add_publish(parser: Parser) -> None:
    """Add ``kgc export`` and ``kgc push`` to the commands of ``parser``."""
    export = parser.add_command("export", _export, (
        "write a run with the tables and captions it needs, and a model card, into a folder that "
        "works on another machine"))
    push = parser.add_command("push", _push, (
        "export a run to the Hugging Face hub; kgc predict then takes its name there for its "
        "folder"))
    for command in (export, push):
        command.add_argument("run", type=Path, metavar="RUN", help="the folder that training wrote")
        command.add_argument("--license", metavar="ID", help=(
            "of the weights, for the model card, as the hub spells it, such as apache-2.0"))
    export.add_argument("folder", type=Path, metavar="FOLDER", help="the folder to write")
    push.add_argument("name", metavar="USER/NAME", help="its name on the hub")
    push.add_argument("--private", action="store_true",
                      help="let only its owner see it, when it is new")


def _export(options: Namespace) -> Answer:
    from kgc_seq2seq.export import export_run

    export_run(options.run, options.folder, licence=options.license)
    return Answer({"folder": str(options.folder)}, (
        f"{options.folder} holds the run; ask it: kgc predict {options.folder} …"))


def _push(options: Namespace) -> Answer:
    from kgc_seq2seq.export import push_to_hub

    address = push_to_hub(options.run, options.name, private=options.private,
                          licence=options.license)
    return Answer({"name": options.name, "address": address}, (
        f"{address}\nAsk it: kgc predict {options.name} …"))
