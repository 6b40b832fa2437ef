"""Which encoder makes which modality's vectors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image

from caption_cache.errors import InputError
from caption_cache.images import has_images
from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.scorers.features.generated import images_table
from kgc_seq2seq.scorers.features.make import (
    Encoder,
    Made,
    MadeMentions,
    make_image_vectors,
    make_mentions,
    make_text_vectors,
    put_vectors,
)
from kgc_seq2seq.scorers.features.plain import ImageStatistics, TermWeights
from kgc_seq2seq.scorers.features.published import read_matrix
from kgc_seq2seq.scorers.known import MENTIONS
from kgc_seq2seq.scorers.vectors import MODALITIES


@dataclass(frozen=True)
class FeatureChoice:
    """What makes the vectors of a data set; by default, what needs no weights."""

    modalities: tuple[str, ...] = ()
    """``image``, ``text``, ``mentions``; empty for texts and, where there are any, images."""
    image_model: str | None = None
    """A CLIP, from a folder or a hub, instead of `plain.ImageStatistics`."""
    text_model: str | None = None
    """A CLIP or a model of sentence-transformers instead of `plain.TermWeights`."""
    image_matrix: Path | None = None
    """A published matrix of image vectors instead."""
    text_matrix: Path | None = None
    """A published matrix of text vectors instead."""
    rows: Path | None = None
    """Whose vector each row of a published matrix is."""
    dim: int = 256
    """Width of `plain.TermWeights`."""
    captions: str | None = None
    """As in `make.make_text_vectors`."""
    generated: bool = True
    """Whether to read what ``kgc complete-modalities`` generated."""
    batch_size: int = 64
    """Texts or images that a model gets at once."""
    device: str | None = None
    """Where a model runs; None for an accelerator, if there is any."""

    def __post_init__(self) -> None:
        for modality in MODALITIES:
            if self.matrix(modality) and self.model(modality):
                raise InputError(f"--{modality}-matrix and --{modality}-model both make the "
                                 f"vectors of the modality {modality}; give one.")
        if (self.rows is None) != (self.image_matrix is None and self.text_matrix is None):
            raise InputError("--rows names the entities of --image-matrix and --text-matrix; give "
                             "it exactly with one of them.")

    def model(self, modality: str) -> str | None:
        """The model that makes a modality."""
        return {"image": self.image_model, "text": self.text_model}[modality]

    def matrix(self, modality: str) -> Path | None:
        """The matrix that holds a modality."""
        return {"image": self.image_matrix, "text": self.text_matrix}[modality]


def make_vectors(
    dataset: Path, choice: FeatureChoice, *, show_progress: bool = True
) -> list[Made | MadeMentions]:
    """Write ``features/{image,text,mentions}.safetensors``; what is up to date stays as it is.

    Args:
        dataset: The data-set folder.
        choice: What makes them.
        show_progress: Show bars on standard error.

    Raises:
        InputError: The data set is malformed, a model or a matrix cannot be read, or one is given
            for a modality whose vectors are not made.
    """
    wanted = choice.modalities or tuple(
        modality for modality in MODALITIES
        if modality == "text" or has_images(dataset) or choice.matrix(modality)
        or (choice.generated and images_table(dataset).exists()))
    for modality in MODALITIES:
        given = choice.matrix(modality) or choice.model(modality)
        if given and modality not in wanted:
            raise InputError(f"{given} makes vectors of the modality {modality}, which " + (
                "--modality does not ask for; name it there, or leave the vectors' source out."
                if choice.modalities else f"{dataset} has nothing of; leave it out."))
    return [_make(dataset, modality, choice, show_progress=show_progress) for modality in wanted]


def _make(
    dataset: Path, modality: str, choice: FeatureChoice, *, show_progress: bool
) -> Made | MadeMentions:
    if modality == MENTIONS:
        return make_mentions(dataset, captions=choice.captions, generated=choice.generated,
                             show_progress=show_progress)
    matrix, model = choice.matrix(modality), choice.model(modality)
    if matrix:
        assert choice.rows is not None  # FeatureChoice has seen to it
        graph = read_graph(dataset)
        return put_vectors(dataset, modality, graph.entity_ids,
                           read_matrix(matrix, choice.rows, graph),
                           {"encoder": "published", "file": matrix.name})
    if modality == "image":
        images: Encoder[Image] = ImageStatistics()
        if model is not None:
            from kgc_seq2seq.scorers.features.towers import ClipImages

            images = ClipImages(model, choice.device, choice.batch_size)
        return make_image_vectors(dataset, images, generated=choice.generated,
                                  show_progress=show_progress)
    texts: Encoder[str] = TermWeights(choice.dim)
    if model is not None:
        from kgc_seq2seq.scorers.features.towers import text_tower

        texts = text_tower(model, choice.device, choice.batch_size)
    return make_text_vectors(dataset, texts, captions=choice.captions,
                             generated=choice.generated, show_progress=show_progress)
