"""What is to be captioned: the items of a data set, and what the store has of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from caption_cache.fingerprints import Fingerprints
from caption_cache.images import Flaw, ImageFile
from caption_cache.prompts import Prompt
from caption_cache.source import Source


@dataclass(frozen=True, slots=True)
class Item:
    """A text to be had about one entity."""

    key: str
    """`Source.key`; items of several entities share it when they show the same image."""
    entity: str
    """The id of the entity."""
    images: tuple[str, ...]
    """The images to show, as paths relative to the data-set folder."""
    image_hashes: tuple[str, ...]
    """The `Fingerprint.hash` of each."""
    prompt: str | None
    """The question; None when the captioner takes none."""
    flaw: Flaw | None
    """Why an image cannot even be read, if so."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an item."""

    text: str | None
    """What the captioner said; None when it failed."""
    status: str
    """``ok``, ``rejected`` or ``failed``."""
    reason: str | None
    """Why it is not ``ok``, if so."""


@dataclass(frozen=True)
class Standing:
    """How far a list of items is."""

    done: list[str | None]
    """For every item its status in the store; None when it is to be done."""
    reasons: list[str | None]
    """For every item, why its status is not ``ok``, if so."""
    known: dict[str, Outcome]
    """By key, what the store has about other entities that answers items to be done."""


def plan_entities(
    images: Sequence[ImageFile],
    fingerprints: Fingerprints,
    names: Mapping[str, str],
    source: Source,
    prompt: Prompt | None,
) -> list[Item]:
    """Plan the scope ``entity``: one item for each different image of each entity.

    Args:
        images: From `images.find_images`.
        fingerprints: That of every image.
        names: The name of every entity, by id.
        source: Who captions.
        prompt: What it is asked, if anything.
    """
    items: dict[tuple[str, str], Item] = {}
    for image in images:
        fingerprint = fingerprints[image.path]
        hashes = (fingerprint.hash,)
        question = None if prompt is None else prompt.about(names[image.entity])
        key = source.key(question, hashes)
        items.setdefault((image.entity, key), Item(
            key, image.entity, (image.path,), hashes, question, fingerprint.flaw))
    return list(items.values())


def compare(items: Sequence[Item], rows: pa.Table) -> Standing:
    """Look every item up in the rows of the store (`Store.read`)."""
    rows = rows.filter(pc.equal(rows["scope"], "entity"))
    keys = pa.array([item.key for item in items], pa.string())
    entities = pa.array([item.entity for item in items], pa.string())
    own = pc.index_in(_join(keys, entities), value_set=_join(rows["key"], rows["entity"]))
    anyone = pc.index_in(keys, value_set=rows["key"])
    new = pc.and_(pc.is_null(own), pc.is_valid(anyone))
    known = rows.select(["text", "status", "reason"]).take(anyone.filter(new)).to_pylist()
    found = rows.select(["status", "reason"]).take(own)
    return Standing(
        done=found["status"].to_pylist(),
        reasons=found["reason"].to_pylist(),
        known={key: Outcome(**columns)
               for key, columns in zip(keys.filter(new).to_pylist(), known, strict=True)},
    )


def pending(items: Sequence[Item], standing: Standing) -> tuple[list[Item], list[list[Item]]]:
    """Divide what is to be done.

    Returns:
        The items that need no captioner, since their outcome is known or their file cannot be
        read; and the others, those of one key together, to be captioned once.
    """
    at_once: list[Item] = []
    groups: dict[str, list[Item]] = {}
    for item, status in zip(items, standing.done, strict=True):
        if status is None:
            if item.flaw is not None or item.key in standing.known:
                at_once.append(item)
            else:
                groups.setdefault(item.key, []).append(item)
    return at_once, list(groups.values())


def _join(keys: pa.Array, entities: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(keys, entities, "\n")
