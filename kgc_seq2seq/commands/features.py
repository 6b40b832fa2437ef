"""``kgc features``: vectors of images and texts, for the scorers."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from caption_cache.command_line import Answer, Parser, whole_number
from kgc_seq2seq.commands.arguments import dataset_folder


def add_features(parser: Parser) -> None:
    """Add ``kgc features``."""
    features = parser.add_command("features", _features, (
        "write a vector of each entity's images and one of its texts, or whose text names whom, "
        "for the scorers"))
    dataset_folder(features)
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
    features.add_argument("--device", help=(
        "where a model runs, such as cuda:1; by default an accelerator, if any"))


def _features(options: Namespace) -> Answer:
    from kgc_seq2seq.scorers.features.choose import FeatureChoice, make_vectors

    made = make_vectors(options.dataset, FeatureChoice(
        modalities=tuple(options.modality or ()), image_model=options.image_model,
        text_model=options.text_model, image_matrix=options.image_matrix,
        text_matrix=options.text_matrix, rows=options.rows, dim=options.dim,
        captions=options.captions, generated=not options.without_generated,
        batch_size=options.batch_size, device=options.device))
    return Answer([asdict(entry) for entry in made], "\n".join(map(str, made)))
