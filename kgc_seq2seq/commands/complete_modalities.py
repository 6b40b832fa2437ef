"""``kgc complete-modalities``: images and texts for entities that have none."""

from __future__ import annotations

from argparse import Namespace

from caption_cache.command_line import Answer, Parser, whole_number
from kgc_seq2seq.commands.arguments import dataset_folder

_PLURALS = {"image": "images", "text": "descriptions"}


def add_complete_modalities(parser: Parser) -> None:
    """Add ``kgc complete-modalities``."""
    command = parser.add_command("complete-modalities", _complete, (
        "paint an image for each entity without one, and let captions stand for missing "
        "descriptions; marked as generated, and read by 'kgc features' alone"))
    dataset_folder(command)
    command.add_argument("--modality", choices=["image", "text"], action="append", help=(
        "only this one; by default images and, where there are captions, texts"))
    command.add_argument("--captions", metavar="SOURCE",
                         help="texts: whose captions, where there are several")
    command.add_argument("--model", metavar="PIPELINE", help=(
        "images: a text-to-image pipeline of diffusers, from a folder or a hub, instead of SDXL"))
    command.add_argument("--revision", default="main",
                         help="images: branch, tag or commit of the pipeline on the hub")
    command.add_argument("--prompt", default="{name}. {description}", metavar="TEMPLATE",
                         help="images: what is painted")
    command.add_argument("--steps", type=int, metavar="N",
                         help="images: steps of denoising; by default the pipeline's own number")
    command.add_argument("--size", type=int, metavar="PIXELS",
                         help="images: height and width; by default the pipeline's own")
    command.add_argument("--guidance", type=float, metavar="X", help=(
        "images: how closely the prompt is followed; by default the pipeline's own scale"))
    command.add_argument("--scheduler", choices=["ddim", "own"], default="ddim", help=(
        "images: what denoises: DDIM, as in LBMKGC, or what comes with the pipeline"))
    command.add_argument("--seed", type=whole_number(0), default=0,
                         help="images: the noise follows from it and the entity's id")
    command.add_argument("--dtype", choices=["auto", "float32", "bfloat16", "float16"],
                         default="auto", help="images: auto is float32 on a CPU, else float16")
    command.add_argument("--device", help=(
        "images: where the pipeline runs, such as cuda:1; by default an accelerator, if any"))
    command.add_argument("--batch-size", type=int, default=4, metavar="N",
                         help="images: how many are painted at once")


def _complete(options: Namespace) -> Answer:
    from dataclasses import asdict

    from caption_cache.store import Store
    from kgc_seq2seq.scorers.features.complete import complete_images, complete_texts
    from kgc_seq2seq.scorers.features.text_to_image import SDXL, PaintConfig

    config = PaintConfig(
        model=options.model or SDXL, revision=options.revision, prompt=options.prompt,
        steps=options.steps, size=options.size, guidance=options.guidance,
        scheduler=options.scheduler, seed=options.seed, dtype=options.dtype,
        device=options.device, batch_size=options.batch_size)
    wanted = options.modality or ["image", *(["text"] if Store(options.dataset).parts else [])]
    done = []
    if "text" in wanted:
        done.append(complete_texts(options.dataset, options.captions))
    if "image" in wanted:
        done.append(complete_images(options.dataset, config))
    return Answer([asdict(entry) for entry in done], "\n".join(
        f"{entry.path}: {entry.lacking} of {entry.entities} entities have no "
        f"{_PLURALS[entry.modality]} of their own; {entry.made} got them now, {entry.kept} before."
        for entry in done))
