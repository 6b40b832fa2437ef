"""The cache on disk: Parquet parts that are written aside, renamed, and never lose a row."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from caption_cache.disk import cannot_write, locked, replacing
from caption_cache.errors import InputError

SCHEMA_VERSION = 1
_ROWS_PER_PART = 2048
"""A writer adds to its part until it has that many: few parts, each quick to rewrite."""
_ROWS_PER_COMPACT_PART = 100_000


@dataclass(frozen=True, slots=True)
class Row:
    """One item of the cache: what was said of a subject, or why nothing was."""

    key: str
    """`Source.key`. The same text about two subjects stands in two rows with one key."""
    scope: str
    """What the subject is: ``entity``, ``commonsense``, ``visual`` (all images of an entity),
    ``pair``, ``summary`` (of a pair), ``relation`` (of an
    entity), or ``relevance`` (of an image to an entity, answered by yes or no)."""
    entity: str
    """The id of the entity."""
    neighbour: str | None
    """The id of the other entity, when the subject is a pair."""
    relation: str | None
    """The id of the relation, when the question names one; of an inverse, after
    `links.INVERSE`."""
    images: list[str]
    """The images shown, as paths relative to the data-set folder when they were shown."""
    image_hashes: list[str]
    """The `Fingerprint.hash` of each."""
    prompt: str | None
    """The question, word for word; None when the captioner takes none."""
    prompt_id: str | None
    """`Source.prompt_id`; with the next six, the columns of a `Source`."""
    prompt_hash: str | None
    captioner: str
    model: str
    revision: str
    settings: str
    back_end: str
    text: str | None
    """What the captioner said; None when it failed."""
    status: str
    """``ok``, ``rejected`` (a text not worth using) or ``failed`` (no text)."""
    reason: str | None
    """Why it is not ``ok``, as a short name."""
    seconds: float
    """The item's share of the time the captioner took for its batch; 0 when it took none."""
    schema_version: int = SCHEMA_VERSION


SCHEMA = pa.schema([
    ("key", pa.string()),
    ("scope", pa.string()),
    ("entity", pa.string()),
    ("neighbour", pa.string()),
    ("relation", pa.string()),
    ("images", pa.list_(pa.string())),
    ("image_hashes", pa.list_(pa.string())),
    ("prompt", pa.string()),
    ("prompt_id", pa.string()),
    ("prompt_hash", pa.string()),
    ("captioner", pa.string()),
    ("model", pa.string()),
    ("revision", pa.string()),
    ("settings", pa.string()),
    ("back_end", pa.string()),
    ("text", pa.string()),
    ("status", pa.string()),
    ("reason", pa.string()),
    ("seconds", pa.float32()),
    ("schema_version", pa.int16()),
])
"""The columns of every part: the fields of `Row`."""
_ITEM = ["key", "scope", "entity", "neighbour", "relation"]


class Store:
    """The captions of a data set, in ``<data set>/captions``."""

    def __init__(self, dataset: Path) -> None:
        self.folder = dataset / "captions"
        self.index = self.folder / ".images.parquet"
        """Where `fingerprints.remember` keeps the image hashes; safe to delete."""

    @property
    def parts(self) -> list[Path]:
        """The parts, oldest first."""
        return sorted(self.folder.glob("part-*.parquet"))

    def read(self, besides: Collection[Path] = ()) -> pa.Table:
        """Read every row; where an item was written twice, the last one.

        Args:
            besides: Parts to pass over.

        Returns:
            A table of `SCHEMA`, oldest rows first.

        Raises:
            InputError: A part cannot be read.
        """
        return _last_of_each(pa.concat_tables(
            [SCHEMA.empty_table(),
             *(read_part(part) for part in self.parts if part not in besides)]))

    def refuse_if_empty(self) -> None:
        """Ask for captions to be there.

        Raises:
            InputError: There are none.
        """
        if not self.parts:
            raise InputError(f"{self.folder} holds no captions; run 'caption-cache build "
                             f"{self.folder.parent}' first.")

    @contextmanager
    def writing(self, *, first: bool = True) -> Iterator[PartWriter]:
        """Open the store for adding rows, in one or more processes of one build.

        Two builds at once would do the same work twice, so one waits until the other has ended,
        whatever has become of the program that started it.

        Args:
            first: Whether this is the process of its build that opens the store first; it waits
                for other builds. The others must open it while the first has it open.

        Raises:
            InputError: The folder cannot be written.
        """
        with self._lock(exclusive=first, wait=True) as share:
            share()
            yield PartWriter(self.folder)

    def compact(self, wanted: Callable[[pa.Table], pa.Array] | None = None) -> tuple[int, int]:
        """Write all rows into few parts, without the items that were written twice.

        Args:
            wanted: Gets the rows, gives a boolean for each: which to keep. None keeps all.

        Returns:
            The number of rows before and after, those written twice included.

        Raises:
            InputError: There are no captions, a part cannot be read or written, or a build runs.
        """
        self.refuse_if_empty()
        with self._lock(exclusive=True, wait=False):
            old = self.parts
            table = self.read()
            if wanted is not None:
                table = table.filter(wanted(table))
            before = sum(pq.read_metadata(part).num_rows for part in old)
            self.add_table(table)
            # A kill before the old parts are gone leaves rows twice, which `read` takes once.
            for path in (*old, *self.folder.glob(".part-*.aside")):  # and what kills left aside
                path.unlink()
            return before, table.num_rows

    def add_table(self, rows: pa.Table) -> None:
        """Write rows as few parts; no rows, no folder.

        Args:
            rows: A table of `SCHEMA`.

        Raises:
            InputError: They cannot be written.
        """
        for start in range(0, rows.num_rows, _ROWS_PER_COMPACT_PART):
            _write(rows.slice(start, _ROWS_PER_COMPACT_PART), _new_part(self.folder))

    @contextmanager
    def _lock(self, *, exclusive: bool, wait: bool) -> Iterator[Callable[[], None]]:
        with ExitStack() as stack:
            try:
                self.folder.mkdir(exist_ok=True)
                share = stack.enter_context(
                    locked(self.folder / ".lock", exclusive=exclusive, wait=wait))
            except BlockingIOError:
                raise InputError(f"{self.folder} is in use by a build; wait until it "
                                 "ends.") from None
            except OSError as error:
                raise cannot_write(self.folder, error) from None
            if not os.access(self.folder, os.W_OK | os.X_OK):
                raise InputError(f"{self.folder} cannot be written; check its permissions.")
            yield share


class PartWriter:
    """Adds rows to the store of one process; every `add` is on the disk when it returns."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._part = _new_part(folder)
        self._table = SCHEMA.empty_table()

    def add(self, rows: Sequence[Row]) -> None:
        """Write ``rows``, all or none.

        Raises:
            InputError: They cannot be written; what was written before is safe.
        """
        if not rows:
            return
        table = pa.concat_tables([self._table, as_table(rows)])
        _write(table, self._part)
        self._table = table
        if table.num_rows >= _ROWS_PER_PART:
            self._part = _new_part(self._folder)
            self._table = SCHEMA.empty_table()


def as_table(rows: Sequence[Row]) -> pa.Table:
    """The rows as a table of `SCHEMA`."""
    columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
    return pa.table(columns, schema=SCHEMA)


def read_part(part: Path) -> pa.Table:
    """Read one part, its checksums checked.

    Raises:
        InputError: It cannot be read, or its columns are not those of `SCHEMA`.
    """
    try:
        with pq.ParquetFile(part, page_checksum_verification=True) as file:
            table = file.read()
    except (OSError, pa.ArrowException) as error:
        why = " ".join(str(error).split())
        raise InputError(f"{part} cannot be read ({why}); delete it and build again, which "
                         "captions only what it held.") from None
    if not table.schema.equals(SCHEMA):
        raise InputError(f"{part} has other columns than this version writes; move it away and "
                         "build again.")
    return table


def _new_part(folder: Path) -> Path:
    # Names sort by time, and where a clock is behind another's, after what is there; the random
    # end keeps processes apart.
    there = (path.name.split("-")[1] for path in folder.glob("part-*.parquet"))
    last = max((int(number) for number in there if number.isdecimal()), default=0)
    return folder / f"part-{max(time.time_ns(), last + 1):020d}-{secrets.token_hex(4)}.parquet"


def _write(table: pa.Table, part: Path) -> None:
    try:
        with replacing(part) as aside:
            pq.write_table(table, aside, write_page_checksum=True)
    except OSError as error:
        raise cannot_write(part, error) from None


def _last_of_each(table: pa.Table) -> pa.Table:
    numbered = table.select(_ITEM).append_column("row", pa.array(np.arange(table.num_rows)))
    last = numbered.group_by(_ITEM).aggregate([("row", "max")])["row_max"]
    if len(last) == table.num_rows:
        return table
    return table.take(np.sort(last.to_numpy()))
