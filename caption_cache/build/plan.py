"""What is to be captioned: items, and what the store has of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from caption_cache.images import Flaw


class Item(NamedTuple):
    """A text to be had about one subject."""

    key: str
    """`Source.key`; items of several subjects share it when image and question are the same."""
    entity: str
    """The id of the entity."""
    neighbour: str | None
    """The id of the other entity, of a pair."""
    relation: str | None
    """The id of the relation that the question names; of an inverse, after `links.INVERSE`."""
    images: tuple[str, ...]
    """The images to show, as paths relative to the data-set folder."""
    image_hashes: tuple[str, ...]
    """The `Fingerprint.hash` of each."""
    prompt: str | None
    """The question; None when the captioner takes none."""
    flaw: Flaw | None
    """Why an image cannot even be read, if so."""
    size: int
    """Of the image files together, in bytes."""


class Outcome(NamedTuple):
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
    """By key, what the store has already that answers items to be done."""


def compare(items: Sequence[Item], scope: str, rows: pa.Table, known: pa.Table) -> Standing:
    """Look every item up in rows of the store.

    Args:
        items: What is to be had.
        scope: Of the items.
        rows: Those that count (`captions.last_asked`); an item that is not there is to be done.
        known: Those that answer such an item, about whatever subject and however old.
    """
    rows, known = (table.filter(pc.equal(table["scope"], scope)) for table in (rows, known))
    keys = pa.array([item.key for item in items], pa.string())
    subjects = _join(keys, *(pa.array([item[place] for item in items], pa.string())
                             for place in (1, 2, 3)))
    own = pc.index_in(subjects, value_set=_join(
        *(rows[name] for name in ("key", "entity", "neighbour", "relation"))))
    last = known.num_rows - 1
    newest_first = known["key"].take(pa.array(np.arange(last, -1, -1)))
    anyone = pc.subtract(last, pc.index_in(keys, value_set=newest_first))
    new = pc.and_(pc.is_null(own), pc.is_valid(anyone))
    answers = known.select(["text", "status", "reason"]).take(anyone.filter(new)).to_pylist()
    found = rows.select(["status", "reason"]).take(own)
    return Standing(
        done=found["status"].to_pylist(),
        reasons=found["reason"].to_pylist(),
        known={key: Outcome(**columns)
               for key, columns in zip(keys.filter(new).to_pylist(), answers, strict=True)},
    )


def pending(items: Sequence[Item], standing: Standing) -> tuple[list[Item], list[list[Item]]]:
    """Divide what is to be done.

    Returns:
        The items that need no captioner, since their outcome is known or their file cannot be
        read; and the others, those of one key together, to be captioned once. Large ones come
        first, those of about one size together: so batches are even, and what does not fit into
        the memory shows at once.
    """
    at_once: list[Item] = []
    groups: dict[str, list[Item]] = {}
    for item, status in zip(items, standing.done, strict=True):
        if status is None:
            if item.flaw is not None or item.key in standing.known:
                at_once.append(item)
            else:
                groups.setdefault(item.key, []).append(item)
    return at_once, sorted(groups.values(), key=lambda group: _bulk(group[0]), reverse=True)


def _bulk(item: Item) -> tuple[int, int]:
    return len(item.images), item.size.bit_length()


def _join(*columns: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(
        *columns, "\n", null_handling="replace", null_replacement="\n")
