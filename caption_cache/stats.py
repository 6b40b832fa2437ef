"""How much of a data set is captioned, and what the captions are like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from caption_cache.captions import current_rows, of_source, sources
from caption_cache.images import find_images, has_images, read_entities
from caption_cache.source import Source
from caption_cache.store import Store


@dataclass(frozen=True)
class SourceStats:
    """The captions by one source of the images that are there now."""

    label: str
    """`Source.label`."""
    entities: int
    """Entities with a text."""
    ok: int
    rejected: int
    failed: int
    """Items by status."""
    reasons: dict[str, int]
    """Items that are not ``ok``, by reason, the most frequent first."""
    distinct_texts: int
    """Different ``ok`` texts."""
    characters: tuple[int, int, int] | None
    """The shortest, the median and the longest ``ok`` text; None when there is none."""
    seconds: float
    """The time the captioner took for all of them."""


@dataclass(frozen=True)
class Stats:
    """The coverage of a data set."""

    entities: int
    """Entities of the data set."""
    entities_with_images: int
    images: int
    """Image files."""
    outdated: int
    """Rows about images or entities that changed or are gone; nobody reads them."""
    sources: list[SourceStats]


def stats(dataset: Path) -> Stats:
    """Count what the data set has and what the cache says of it.

    Raises:
        InputError: The data set is malformed, or a part cannot be read.
    """
    entities = read_entities(dataset)
    images = find_images(dataset, entities) if has_images(dataset) else []
    rows = current_rows(dataset)
    return Stats(
        entities=len(entities),
        entities_with_images=len({image.entity for image in images}),
        images=len(images),
        outdated=Store(dataset).read().num_rows - rows.num_rows,
        sources=[_of_source(source, of_source(rows, source)) for source in sources(rows)],
    )


def _of_source(source: Source, rows: pa.Table) -> SourceStats:
    status = _frequencies(rows["status"])
    said = rows.filter(pc.equal(rows["status"], "ok"))
    lengths = pc.utf8_length(said["text"]).sort().to_pylist()
    return SourceStats(
        label=source.label,
        entities=len(pc.unique(said["entity"])),
        ok=status.get("ok", 0),
        rejected=status.get("rejected", 0),
        failed=status.get("failed", 0),
        reasons=_frequencies(rows["reason"].drop_null()),
        distinct_texts=len(pc.unique(said["text"])),
        characters=(lengths[0], lengths[len(lengths) // 2], lengths[-1]) if lengths else None,
        seconds=round(float(pc.sum(rows["seconds"]).as_py() or 0), 3),
    )


def _frequencies(column: pa.ChunkedArray) -> dict[str, int]:
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(column).to_pylist()}
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))
