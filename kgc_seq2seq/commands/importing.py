"""``kgc import``: a graph in a public format, as a data-set folder."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from caption_cache.command_line import Answer, Parser
from kgc_seq2seq.commands.arguments import shares


def add_import(parser: Parser) -> None:
    """Add ``kgc import``."""
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
    shares(command, " (where the source is one set of triples)")


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
