"""What was generated for entities that had no image or no description, and how it is marked.

It lies apart from what people gave, so that nothing takes it for theirs::

    generated/images.tsv      entity  path  model  seed  settings  prompt
    generated/images/*.png
    generated/texts.tsv       entity  text  source
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from caption_cache.columns import Columns, read_table
from caption_cache.disk import replacing
from caption_cache.errors import InputError
from caption_cache.images import ImageFile, find_images, has_images


class GeneratedImage(NamedTuple):
    """An image that a model painted of an entity."""

    entity: str
    """The id of the entity."""
    path: str
    """Relative to the data-set folder; empty where the model's own filter kept the image back."""
    model: str
    """What painted it."""
    seed: str
    """What its noise follows from, together with the entity's id."""
    settings: str
    """What else determines the pixels, as JSON."""
    prompt: str
    """What it shows, hopefully."""


class GeneratedText(NamedTuple):
    """A text that stands for the description of an entity."""

    entity: str
    """The id of the entity."""
    text: str
    """The text."""
    source: str
    """Who wrote it: `caption_cache.source.Source.label`."""


def images_table(dataset: Path) -> Path:
    """Where a data set keeps the list of its generated images."""
    return dataset / "generated" / "images.tsv"


def texts_table(dataset: Path) -> Path:
    """Where a data set keeps its generated texts."""
    return dataset / "generated" / "texts.tsv"


def read_generated_images(dataset: Path) -> list[GeneratedImage]:
    """Read the list of generated images; empty where there is none.

    Raises:
        InputError: The table is malformed.
    """
    return [GeneratedImage(*row) for row in _rows(images_table(dataset), GeneratedImage._fields)]


def read_generated_texts(dataset: Path) -> list[GeneratedText]:
    """Read the generated texts; empty where there are none.

    Raises:
        InputError: The table is malformed.
    """
    return [GeneratedText(*row) for row in _rows(texts_table(dataset), GeneratedText._fields)]


def write_rows(path: Path, rows: Sequence[GeneratedImage] | Sequence[GeneratedText],
               fields: Sequence[str]) -> None:
    """Write one of the tables; no cell may hold a tab or a line break."""
    with replacing(path) as aside:
        aside.write_text("".join("\t".join(row) + "\n" for row in [fields, *rows]), "utf-8")


def images_to_read(dataset: Path, entities: Columns, *, generated: bool
                   ) -> tuple[list[ImageFile], set[str]]:
    """The images of a data set, and the entities whose image was generated.

    A generated image counts only while an entity has no other.

    Args:
        dataset: The data-set folder.
        entities: Its entities, from `caption_cache.images.read_entities`.
        generated: Whether generated ones count at all.

    Raises:
        InputError: As `caption_cache.images.find_images`; or a generated image is missing or of
            an unknown entity.
    """
    painted = [row for row in read_generated_images(dataset) if row.path] if generated else []
    images = find_images(dataset, entities) if has_images(dataset) or not painted else []
    own, known = {image.entity for image in images}, set(entities.texts("id"))
    more = [ImageFile(row.entity, row.path) for row in painted if row.entity not in own]
    for image in more:
        if image.entity not in known or not (dataset / image.path).is_file():
            what = ("is missing" if image.entity in known
                    else f"is of {image.entity!r}, which is no id of entities.tsv")
            raise InputError(f"{dataset / image.path} {what}; run 'kgc complete-modalities "
                             f"{dataset}' again, or delete its line in {images_table(dataset)}.")
    return images + more, {image.entity for image in more}


def _rows(path: Path, fields: Sequence[str]) -> Iterable[tuple[str, ...]]:
    if not path.is_file():
        return []
    return zip(*map(read_table(path, fields).texts, fields), strict=True)
