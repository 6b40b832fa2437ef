"""MyGO: ``head relation tail`` as ids or numbers; the ids, one a line, give the order."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from caption_cache.columns import read_columns, separator_of
from kgc_seq2seq.graph.importers.raw import (
    Order,
    RawGraph,
    find_file,
    number_triples,
    read_id_lines,
    read_id_table,
    read_number_triples,
    split_files,
)


def read_mygo(folder: Path, order: Order | None) -> RawGraph:
    """Read ``entities.txt``, ``relations.txt`` and ``{train,valid,test}.txt``.

    In place of the first two, ``entity2id.txt`` and ``relation2id.txt`` will do: an id and its
    number a line, without a count. Triples hold the ids, or else the numbers.

    Raises:
        InputError: A file is missing or malformed, or the order of the columns is impossible.
    """
    entities, home = _read_ids(folder, "entities.txt", "entity2id.txt")
    relations, _ = _read_ids(folder, "relations.txt", "relation2id.txt")
    splits, notes = {}, []
    for split, path in split_files(folder, ".txt").items():
        table = read_columns(path, 3, separator=separator_of(path), trim=True)
        if pc.any(pc.is_in(table.cells[0], value_set=entities)).as_py():
            splits[split], more = number_triples(table, entities, relations, home, order)
        else:
            splits[split], more = read_number_triples(
                path, len(entities), len(relations), "hrt", counted=False, option=order)
        notes += more
    return RawGraph(entities, relations, splits, notes=notes)


def _read_ids(folder: Path, lines: str, table: str) -> tuple[pa.Array, str]:
    path = find_file(folder, lines, table)
    ids = read_id_lines(path) if path.name == lines else read_id_table(path, counted=False)[0]
    return ids, path.name
