"""What tables beside the triples say of entities and relations: names, texts, image paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from caption_cache.columns import Columns, read_columns, read_header, read_lines, shown
from caption_cache.errors import InputError
from kgc_seq2seq.arrays import Longs
from kgc_seq2seq.graph.names import clean, names_of_entities, short_ids

_KEYS = ("id", "key", "entity", "relation", "uri")


@dataclass(frozen=True)
class Joined:
    """The rows of a table that belong to known ids."""

    table: Columns
    """The table."""
    key: int
    """The column that holds the ids."""
    rows: pa.Array
    """The first row of each id, int64 [ids], missing where there is none."""
    owners: pa.ChunkedArray
    """The id each row belongs to, as a number, int32 [rows], missing where it is unknown."""

    def notes(self, kinds: str) -> list[str]:
        """What is worth saying about rows without an id and ids without a row."""
        strangers, without = self.owners.null_count, self.rows.null_count
        name = self.table.path.name
        return [*([f"{strangers:,} lines of {name} belong to none of the {kinds}"]
                  if strangers else []),
                *([f"{without:,} of the {kinds} are not in {name}"] if without else [])]


def join(
    path: Path, ids: pa.Array, values: Sequence[str], kinds: str = "entities", *,
    several: bool = False,
) -> Joined:
    """Find the rows of a table that belong to ``ids``.

    The table names its columns in the first line, an id under id, key, entity, relation or uri;
    or it has two columns without names, of which one holds the ids. Ids may be written in full
    or without their namespace.

    Args:
        path: The table.
        ids: What the source calls the entities or relations, strings [N].
        values: Names of columns, one of which a header must have.
        kinds: What ``ids`` are, for error messages.
        several: Whether several rows may belong to one id.

    Raises:
        InputError: The table is malformed, no column holds the ids, or two rows say different
            things of one; with the line.
    """
    header = [cell.strip().lower() for cell in read_header(path)]
    if any(value in header for value in values):
        table = read_columns(path, len(header), skip=1)
        table = Columns(path, 2, table.cells, tuple(header))
        candidates = [header.index(name) for name in _KEYS if name in header]
    else:
        table = read_columns(path, 2, trim=True)
        candidates = [0, 1]
    owners = [pc.coalesce(*(pc.index_in(table.cells[key], value_set=variant)
                            for variant in variants(ids))) for key in candidates]
    known = [len(table) - owner.null_count for owner in owners]
    if not any(known):
        raise InputError(f"{path}: no column holds the ids of the {kinds}, such as "
                         f"{shown(ids[0].as_py())}; it must have a header with id and "
                         f"{' or '.join(values)}, or two columns of which one holds the ids.")
    best = known.index(max(known))
    owner = owners[best].fill_null(-1).to_numpy()
    first = np.full(len(ids) + 1, -1)
    first[owner[::-1]] = np.arange(len(owner))[::-1]
    if not several:
        _refuse_contradiction(table, candidates[best], owner, first)
    rows = pa.array(first[:-1], mask=first[:-1] < 0)
    return Joined(table, candidates[best], rows, owners[best])


def join_names(path: Path, ids: pa.Array, kinds: str = "entities") -> tuple[pa.Array, list[str]]:
    """Names from a table; those of relations also from a file with one a line, by number.

    Returns:
        The names, strings [N], missing where there is none, and what is worth a note.

    Raises:
        InputError: As `join`; or the lines are not as many as the ids.
    """
    if kinds == "relations" and len(read_header(path)) == 1:
        lines = read_lines(path)
        if len(lines) != len(ids):
            raise InputError(f"{path} holds {len(lines):,} names for {len(ids):,} {kinds}; one "
                             "name a line must stand there, or a table of two columns.")
        return clean(lines.cells[0].combine_chunks(), str(path)), []
    joined = join(path, ids, ["name", "label"], kinds)
    table = joined.table
    column = next((table.header.index(name) for name in ("name", "label") if name in table.header),
                  1 - joined.key if len(table.cells) == 2 else 1)
    values = table.cells[column].combine_chunks()
    if pc.all(pc.match_substring_regex(values, "^<?[a-z]+://")).as_py():
        values = names_of_entities(values)
    return clean(values.take(joined.rows), str(path)), joined.notes(kinds)


def variants(ids: pa.Array) -> list[pa.Array]:
    """The ways in which tables may write ids: as they are, without brackets, without namespace."""
    bare = pc.replace_substring_regex(ids, r"^<(.*)>$", r"\1")
    return [ids, bare, short_ids(ids)]


def _refuse_contradiction(table: Columns, key: int, owner: Longs, first: Longs) -> None:
    again = np.flatnonzero((owner >= 0) & (first[owner] != np.arange(len(owner))))
    for row in again.tolist():
        earlier = int(first[owner[row]])
        if any(cells[row].as_py() != cells[earlier].as_py() for cells in table.cells):
            raise InputError(f"{table.where(row)}: {shown(table.cells[key][row].as_py())} stood "
                             f"at line {earlier + table.first_line} already and with other "
                             "values; keep one of the two lines.")
