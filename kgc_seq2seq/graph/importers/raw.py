"""What the reader of a format gives, and what all readers share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from caption_cache.columns import (
    Columns,
    read_columns,
    read_lines,
    separator_of,
    shown,
)
from caption_cache.errors import InputError
from kgc_seq2seq.arrays import Ints, Longs
from kgc_seq2seq.graph.knowledge_graph import SPLITS

Order = Literal["hrt", "htr"]
"""Head, relation, tail; or head, tail, relation."""


@dataclass(frozen=True)
class RawGraph:
    """A graph as its source tells it."""

    entity_ids: pa.Array
    """What the source calls the entities, strings [N]."""
    relation_ids: pa.Array
    """Likewise the relations, strings [R]."""
    splits: dict[str, Ints]
    """int32 [n, 3] (head, relation, tail) by split; one alone is called ``all``."""
    entity_names: pa.Array | None = None
    """Names that the format itself brings, strings [N], missing where it has none."""
    relation_names: pa.Array | None = None
    """Likewise, strings [R]."""
    descriptions: pa.Array | None = None
    """Likewise, strings [N]."""
    notes: list[str] = field(default_factory=list)
    """What was decided on the way, for the report."""


def find_file(folder: Path, *names: str) -> Path:
    """The first of ``names`` that is in ``folder``.

    Raises:
        InputError: None is.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder that holds {names[0]}.")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder} has no {' and no '.join(names)}; check the folder and the format.")


def split_files(folder: Path, ending: str, valid: Sequence[str] = ("valid",)) -> dict[str, Path]:
    """The files of train, valid and test.

    Raises:
        InputError: One is missing.
    """
    stems = {"train": ["train"], "valid": valid, "test": ["test"]}
    return {split: find_file(folder, *(stem + ending for stem in stems[split]))
            for split in SPLITS}


def read_id_table(path: Path, *, counted: bool) -> tuple[pa.Array, list[str]]:
    """Read a file that numbers things: a text and its number a line, numbers 0 … n - 1.

    Args:
        path: The file, such as ``entity2id.txt``.
        counted: Whether the first line holds n. A file that holds nothing else gives the numbers
            themselves as texts.

    Returns:
        The texts by number, and what is worth a note.

    Raises:
        InputError: The file is malformed, or the numbers are not just 0 … n - 1; with the line.
    """
    count = _read_count(path) if counted else None
    if count is not None and _is_one_line(path):
        return (pa.array(np.arange(count)).cast(pa.string()),
                [f"{path.name} holds only a count, so the {count:,} ids are numbers without "
                 "names; give --names"])
    skip = int(counted)
    table = read_columns(path, 2, separator=separator_of(path, skip), skip=skip,
                         trim=True)
    if count is not None and len(table) != count:
        raise InputError(f"{path}, line 1: the count is {count:,}, but {len(table):,} lines "
                         "follow; the file is cut off or the count is wrong.")
    numbers = table.whole_numbers(1, "number of an id")
    _refuse_outside(table, numbers, len(table), "number")
    seen = np.bincount(numbers, minlength=len(table))
    if (seen != 1).any():
        first = np.full(len(table), -1)
        first[numbers[::-1]] = np.arange(len(table))[::-1]
        row = int(np.flatnonzero(first[numbers] != np.arange(len(table)))[0])
        raise InputError(f"{table.where(row)}: the number {numbers[row]} stood at line "
                         f"{first[numbers[row]] + table.first_line} already; each of 0 to "
                         f"{len(table) - 1} must be there once.")
    texts = table.cells[0].combine_chunks().take(pa.array(np.argsort(numbers)))
    check_ids(texts, path)
    return texts, []


def read_id_lines(path: Path) -> pa.Array:
    """Read a file of one id a line, in order.

    Raises:
        InputError: It is malformed, or an id stands there twice.
    """
    texts = read_lines(path).cells[0].combine_chunks()
    check_ids(texts, path)
    return texts


def check_ids(ids: pa.Array, path: Path) -> None:
    """Check that there are ids, and each once.

    Raises:
        InputError: There is none, or one is there twice.
    """
    if not len(ids):
        raise InputError(f"{path} holds no id; it must have one a line.")
    if pc.count_distinct(ids).as_py() < len(ids):
        counts = pc.value_counts(ids)
        twice = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"].as_py()
        raise InputError(f"{path}: {shown(twice)} stands there twice; each must be there once.")


def read_number_triples(
    path: Path, num_entities: int, num_relations: int, order: Order, *, counted: bool,
    option: Order | None,
) -> tuple[Ints, list[str]]:
    """Read triples of numbers.

    Args:
        path: The file.
        num_entities: N; an entity is a number below.
        num_relations: R; a relation is a number below.
        order: The order of the columns by the convention of the format.
        counted: Whether the first line holds the number of triples.
        option: The order that the user has stated, which goes before the convention.

    Returns:
        int32 [n, 3] (head, relation, tail), and what is worth a note.

    Raises:
        InputError: The file is malformed, its count is wrong, a number is out of range, or only
            the other order of the columns is possible.
    """
    count = _read_count(path) if counted else None
    skip = int(counted)
    table = read_columns(path, 3, separator=separator_of(path, skip), skip=skip,
                         trim=True)
    if count is not None and len(table) != count:
        raise InputError(f"{path}, line 1: the count is {count:,}, but {len(table):,} triples "
                         "follow; the file is cut off or the count is wrong.")
    numbers = [table.whole_numbers(column, "number of an entity or relation")
               for column in range(3)]
    most = [int(column.max(initial=-1)) for column in numbers]
    fits = {"htr": most[1] < num_entities and most[2] < num_relations,
            "hrt": most[1] < num_relations and most[2] < num_entities}
    chosen = option or order
    other: Order = "hrt" if chosen == "htr" else "htr"
    if not fits[chosen] and fits[other] and most[0] < num_entities:
        raise InputError(f"{path}: with {num_entities:,} entities and {num_relations:,} relations "
                         f"the columns cannot be {_spelt(chosen)}, only {_spelt(other)}; give "
                         f"--order {other} if that is meant.")
    columns = numbers if chosen == "hrt" else [numbers[0], numbers[2], numbers[1]]
    for column, limit, what in ((columns[0], num_entities, "entity"),
                                (columns[1], num_relations, "relation"),
                                (columns[2], num_entities, "entity")):
        _refuse_outside(table, column, limit, what)
    notes = []
    if fits[other] and not option:
        notes.append(_either(path, chosen, other))
    return np.stack(columns, axis=1).astype(np.int32), notes


def number_triples(
    table: Columns, entity_ids: pa.Array, relation_ids: pa.Array, home: str,
    option: Order | None,
) -> tuple[Ints, list[str]]:
    """Turn triples of ids into triples of numbers; by convention the relation stands second.

    Args:
        table: The triples in its first three columns.
        entity_ids: The known entities.
        relation_ids: The known relations.
        home: What lists the known ones, for the error message.
        option: The order that the user has stated, which goes before the convention.

    Returns:
        int32 [n, 3] (head, relation, tail), and what is worth a note.

    Raises:
        InputError: An id is unknown; with the line. Or only the other order is possible.
    """
    chosen: Order = option or "hrt"
    other: Order = "hrt" if chosen == "htr" else "htr"
    found = _look_up(table, chosen, entity_ids, relation_ids)
    if any(index.null_count for index in found):
        swapped = _look_up(table, other, entity_ids, relation_ids)
        if not any(index.null_count for index in swapped):
            raise InputError(f"{table.path}: the columns cannot be {_spelt(chosen)}, only "
                             f"{_spelt(other)}; give --order {other} if that is meant.")
        row, place = min((pc.index(pc.is_null(index), True).as_py(), place)
                         for place, index in enumerate(found) if index.null_count)
        text = in_order(table.cells[:3], chosen)[place][row].as_py()
        raise InputError(f"{table.where(row)}: the {('head', 'relation', 'tail')[place]} "
                         f"{shown(text)} is not in {home}; add it there or mend the line.")
    notes = []
    if not option and pc.any(pc.is_in(relation_ids, value_set=entity_ids)).as_py() and not any(
            index.null_count for index in _look_up(table, other, entity_ids, relation_ids)):
        notes.append(_either(table.path, chosen, other))
    return np.stack([index.to_numpy() for index in found], axis=1).astype(np.int32), notes


def _look_up(
    table: Columns, order: Order, entity_ids: pa.Array, relation_ids: pa.Array
) -> list[pa.ChunkedArray]:
    return [pc.index_in(column, value_set=known) for column, known in zip(
        in_order(table.cells[:3], order), (entity_ids, relation_ids, entity_ids), strict=True)]


def in_order(columns: Sequence[pa.ChunkedArray], order: Order) -> list[pa.ChunkedArray]:
    """Heads, relations and tails of columns that stand in ``order``."""
    head, second, third = columns
    return [head, second, third] if order == "hrt" else [head, third, second]


def _either(path: Path, chosen: Order, other: Order) -> str:
    return (f"what {path.name} holds would also fit the order {_spelt(other)}; it was read as "
            f"{_spelt(chosen)}, the convention of the format")


def _spelt(order: Order) -> str:
    return " ".join(order)


def _read_count(path: Path) -> int:
    text = first_line(path)
    if not text.isdecimal() or len(text) > 12:
        raise InputError(f"{path}, line 1: {shown(text)} is no count; the first line of an "
                         "OpenKE file holds the number of the lines that follow.")
    return int(text)


def first_line(path: Path) -> str:
    """The first line, without white space at its ends."""
    try:
        with path.open("rb") as file:
            return file.readline(4096).decode("utf-8-sig").strip()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check its "
                         "permissions.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}, line 1: not valid UTF-8; save the file as UTF-8.") from None


def _is_one_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.readline()
        return not file.read(4096).strip()


def _refuse_outside(table: Columns, numbers: Longs, limit: int, what: str) -> None:
    outside = np.flatnonzero(numbers >= limit)
    if len(outside):
        row = int(outside[0])
        raise InputError(f"{table.where(row)}: the {what} {numbers[row]} is out of range; there "
                         f"are {limit:,}, numbered from 0.")
