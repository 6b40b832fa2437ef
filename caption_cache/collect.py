"""Dropping the texts of prompts and models that nobody wants any longer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from caption_cache.captions import fitting, of_source, sources
from caption_cache.errors import InputError
from caption_cache.source import Source
from caption_cache.store import Store


@dataclass(frozen=True)
class Collected:
    """The texts of one source, dropped or kept."""

    label: str
    """`Source.label`."""
    rows: int
    """How many there are."""
    dropped: bool
    """Whether they are gone, or would be."""


def collect(
    dataset: Path, *, drop: Sequence[str] = (), keep: Sequence[str] = (), dry_run: bool = False
) -> list[Collected]:
    """Drop the rows of some sources for good.

    Args:
        dataset: The data-set folder.
        drop: The sources to drop: captioners, models, prompts (``entity-1``) or the digits of
            `Source.label`; a name that fits several means them all.
        keep: Instead, the sources to keep, named likewise; all others are dropped.
        dry_run: Only say what would be dropped.

    Returns:
        Every source of the store.

    Raises:
        InputError: Not exactly one of ``drop`` and ``keep`` is given, a name fits no source,
            there are no captions, or a build runs.
    """
    if bool(drop) == bool(keep):
        raise InputError("Name the sources to drop with --drop, or those to keep with --keep.")
    store = Store(dataset)
    store.refuse_if_empty()
    rows = store.read()
    known = sources(rows)
    named = {source.id for name in (*drop, *keep) for source in fitting(known, name, dataset)}
    gone = [source for source in known if (source.id in named) == bool(drop)]
    if gone and not dry_run:
        store.compact(lambda rows: pc.invert(_of_any(rows, gone)))
    return [Collected(source.label, of_source(rows, source).num_rows, source in gone)
            for source in known]


def _of_any(rows: pa.Table, wanted: Sequence[Source]) -> pa.Array:
    """For each row, whether one of the sources wrote it."""
    names = list(Source.COLUMNS)
    ids = {tuple(source.columns[name] for name in names) for source in wanted}
    columns = zip(*(rows[name].to_pylist() for name in names), strict=True)
    return pa.array([words in ids for words in columns], pa.bool_())
