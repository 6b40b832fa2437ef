"""Fills gaps as LBMKGC does: an image for entities that have none, and a text likewise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from caption_cache.captions import read_captions
from caption_cache.columns import Columns
from caption_cache.disk import cannot_write, locked, replacing
from caption_cache.images import find_images, has_images, read_entities
from caption_cache.progress import progress_bar
from kgc_seq2seq.scorers.features.generated import (
    GeneratedImage,
    GeneratedText,
    images_table,
    read_generated_images,
    read_generated_texts,
    texts_table,
    write_rows,
)
from kgc_seq2seq.scorers.features.text_to_image import PaintConfig, Painter


@dataclass(frozen=True)
class Completed:
    """What was done about one modality."""

    modality: str
    """``image`` or ``text``."""
    path: str
    """The table that lists what was generated."""
    entities: int
    """The entities of the data set."""
    lacking: int
    """Those that have no image, or no description."""
    made: int
    """Those of them that got one now."""
    kept: int
    """Those that had got one before, made in the same way."""


def complete_images(dataset: Path, config: PaintConfig) -> Completed:
    """Paint an image for each entity that has none, from its name and description.

    What an earlier call painted by the same prompt, model, seed and settings stays; anything
    else is painted anew, and what entities need no longer is deleted. A killed process loses at
    most the batch in hand.

    Args:
        dataset: The data-set folder.
        config: How.

    Raises:
        InputError: The data set is malformed or cannot be written, or the pipeline cannot be
            loaded or used.
    """
    entities = read_entities(dataset)
    own = ({image.entity for image in find_images(dataset, entities)} if has_images(dataset)
           else set())
    wanted = {entity: GeneratedImage(entity, _place(entity), config.model, str(config.seed),
                                     config.settings, config.words(name, description))
              for entity, name, description in _described(entities) if entity not in own}
    table = images_table(dataset)
    try:
        table.parent.mkdir(exist_ok=True)
        with locked(table.parent / ".lock", exclusive=True, wait=True):
            before = {row.entity: row for row in read_generated_images(dataset)}
            done = {entity: before[entity] for entity, row in wanted.items()
                    if entity in before and _is_done(dataset, before[entity], row)}
            kept = sum(bool(row.path) for row in done.values())
            missing = [row for entity, row in wanted.items() if entity not in done]
            if missing:
                _paint(dataset, missing, done, config)
            found = [done[entity] for entity in wanted]
            write_rows(table, found, GeneratedImage._fields)
            for path in {row.path for row in before.values()} - {row.path for row in found}:
                if path:
                    (dataset / path).unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(table, error) from None
    return Completed("image", str(table), len(entities), len(wanted),
                     sum(bool(row.path) for row in found) - kept, kept)


def _paint(
    dataset: Path, missing: Sequence[GeneratedImage], done: dict[str, GeneratedImage],
    config: PaintConfig,
) -> None:
    """Paint what is missing batch by batch under a bar, each put down among what is done."""
    painter = Painter(config)
    with progress_bar(visible=True) as bar:
        task = bar.add_task("images", total=len(done) + len(missing), completed=len(done))
        for start in range(0, len(missing), config.batch_size):
            rows = missing[start : start + config.batch_size]
            images = painter.paint([row.prompt for row in rows],
                                   [config.noise(row.entity) for row in rows])
            for row, image in zip(rows, images, strict=True):
                if image is not None:
                    with replacing(dataset / row.path) as aside:
                        image.save(aside, "PNG")
                done[row.entity] = row if image else row._replace(path="")
            write_rows(images_table(dataset), list(done.values()), GeneratedImage._fields)
            bar.advance(task, len(rows))


def complete_texts(dataset: Path, captions: str | None = None) -> Completed:
    """Let the captions of its images stand for the description of each entity without one.

    Args:
        dataset: The data-set folder.
        captions: Whose captions, as in `caption_cache.captions.read_captions`.

    Raises:
        InputError: The data set is malformed or cannot be written, or the captions are not
            there.
    """
    entities = read_entities(dataset)
    said = read_captions(dataset, captions)
    source = ", ".join(source.label for source in said.sources)
    lacking = [entity for entity, _, description in _described(entities) if not description.strip()]
    rows = [GeneratedText(entity, " ".join(said.texts[entity].split()), source)
            for entity in lacking if entity in said.texts]
    table = texts_table(dataset)
    before = set(read_generated_texts(dataset))
    try:
        write_rows(table, rows, GeneratedText._fields)
    except OSError as error:
        raise cannot_write(table, error) from None
    kept = sum(row in before for row in rows)
    return Completed("text", str(table), len(entities), len(lacking), len(rows) - kept, kept)


def _described(entities: Columns) -> Iterator[tuple[str, str, str]]:
    """Id, name and description of each entity."""
    return zip(*map(entities.texts, ("id", "name", "description")), strict=True)


def _place(entity: str) -> str:
    """Where the image of an entity lies: an id may hold what no file name can."""
    return f"generated/images/{quote(entity, safe='')}.png"


def _is_done(dataset: Path, row: GeneratedImage, wanted: GeneratedImage) -> bool:
    """Whether a row is as it should be, and its image there or kept back."""
    return row._replace(path=wanted.path) == wanted and (
        not row.path or (dataset / row.path).is_file())
