"""Whether the cache is sound: parts readable, keys right, images still those captioned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from caption_cache.captions import find_places
from caption_cache.errors import InputError
from caption_cache.images import has_images
from caption_cache.source import Source
from caption_cache.store import SCHEMA, Store, read_part


@dataclass(frozen=True)
class Finding:
    """Something wrong with the cache."""

    where: str
    """The part, or the image, relative to the data-set folder."""
    problem: str
    """What is wrong, and the mend."""


def verify(dataset: Path) -> tuple[int, list[Finding]]:
    """Check every row; every image is read again, whatever is remembered of it.

    Returns:
        The number of rows that could be read, and what is wrong.

    Raises:
        InputError: The data set is malformed, or has no captions.
    """
    store = Store(dataset)
    store.refuse_if_empty()
    findings = []
    tables = [SCHEMA.empty_table()]
    for part in store.parts:
        try:
            tables.append(read_part(part))
        except InputError as error:
            findings.append(Finding(f"captions/{part.name}", str(error)))
            continue
        if wrong := _wrong_keys(tables[-1]):
            findings.append(Finding(f"captions/{part.name}", (
                f"{wrong} of its rows were changed after they were written; delete it and build "
                "again")))
    rows = pa.concat_tables(tables)
    if has_images(dataset):
        findings += _lost_images(dataset, rows)
    return rows.num_rows, findings


def _wrong_keys(rows: pa.Table) -> int:
    columns = rows.select([*Source.COLUMNS, "key", "prompt", "image_hashes"]).to_pylist()
    known: dict[tuple[str | None, ...], Source] = {}
    wrong = 0
    for row in columns:
        words = tuple(row[name] for name in Source.COLUMNS)
        source = known.get(words) or known.setdefault(words, Source.from_columns(row))
        wrong += source.key(row["prompt"], row["image_hashes"]) != row["key"]
    return wrong


def _lost_images(dataset: Path, rows: pa.Table) -> list[Finding]:
    rows = rows.filter(pc.not_equal(rows["status"], "failed"))
    places = find_places(dataset, rows, {}, show_progress=True)
    lost = pa.array(places.each < 0)
    owner = pc.list_parent_indices(rows["images"])
    imported = pc.equal(rows["captioner"], "imported").take(owner)
    paths = pc.list_flatten(rows["images"])
    return [
        Finding(path, f"changed or gone since it was captioned; {mend}, 'caption-cache compact "
                      "--prune' drops the old text")
        for whose, mend in ((imported, "import its caption again"),
                            (pc.invert(imported), "'caption-cache build' captions it anew"))
        for path in pc.unique(paths.filter(pc.and_(lost, whose))).sort().to_pylist()
    ]
