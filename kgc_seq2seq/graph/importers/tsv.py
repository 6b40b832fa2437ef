"""Three tab-separated columns: files of triples with any names, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from caption_cache.errors import InputError
from kgc_seq2seq.graph.columns import (
    Columns,
    ends_with_newline,
    first_true,
    read_columns,
    read_header,
)
from kgc_seq2seq.graph.importers.raw import Order, RawGraph, find_file, in_order, number_triples

_ENDINGS = (".tsv", ".txt")
_HEADER = {"head", "relation", "tail", "subject", "predicate", "object", "h", "r", "t"}


def read_tsv(source: Path, order: Order | None) -> RawGraph:
    """Read ``{train,valid,test}.tsv`` of a folder (or ``.txt``, or ``dev``), or one file.

    A first line that says ``head relation tail`` is passed over. Entities and relations are
    numbered as they first appear, heads before tails.

    Raises:
        InputError: A file is missing or malformed, or the middle column cannot be the relation.
    """
    if source.is_dir():
        paths = {"train": find_file(source, *(f"train{ending}" for ending in _ENDINGS)),
                 "valid": find_file(source, *(stem + ending for stem in ("valid", "dev")
                                              for ending in _ENDINGS)),
                 "test": find_file(source, *(f"test{ending}" for ending in _ENDINGS))}
    else:
        paths = {"all": source}
    tables, notes = {}, []
    for split, path in paths.items():
        header = [cell.strip().lower() for cell in read_header(path)]
        skip = int(len(set(header)) == 3 and set(header) <= _HEADER)
        tables[split] = read_columns(path, 3, skip=skip)
        if not ends_with_newline(path):
            notes.append(f"{path.name} does not end with a newline; make sure that it is not cut "
                         "off")
    return number_tables(tables, order, notes)


def number_tables(
    tables: Mapping[str, Columns], order: Order | None, notes: list[str]
) -> RawGraph:
    """Number entities and relations as they first appear, heads before tails.

    Raises:
        InputError: A table or a cell is empty; or by what they hold, the columns are head, tail,
            relation, and no order was stated.
    """
    for table in tables.values():
        if not len(table):
            raise InputError(f"{table.path} holds no triple; every split needs at least one.")
        for column in table.cells:
            if (row := first_true(pc.equal(pc.utf8_trim_whitespace(column), ""))) is not None:
                raise InputError(f"{table.where(row)}: a cell is empty; fill it in or delete the "
                                 "line.")
    together = [pa.chunked_array([chunk for table in tables.values()
                                  for chunk in table.cells[place].chunks], pa.string())
                for place in range(3)]
    if order is None:
        _refuse_other_order(next(iter(tables.values())).path, together)
    heads, relations, tails = in_order(together, order or "hrt")
    entity_ids = pc.unique(pa.chunked_array([*heads.chunks, *tails.chunks], pa.string()))
    relation_ids = pc.unique(relations)
    splits = {split: number_triples(table, entity_ids, relation_ids, "the files", order or "hrt")[0]
              for split, table in tables.items()}
    return RawGraph(entity_ids, relation_ids, splits, notes=notes)


def _refuse_other_order(path: Path, columns: list[pa.ChunkedArray]) -> None:
    """Heads and tails have things in common; a relation column has few values and none of them."""
    head, second, third = (pc.unique(column) for column in columns)
    shared_second = pc.sum(pc.is_in(second, value_set=head)).as_py() or 0
    shared_third = pc.sum(pc.is_in(third, value_set=head)).as_py() or 0
    if len(third) < len(second) and shared_second > 0 and shared_third == 0:
        raise InputError(
            f"{path}: the second column shares {shared_second:,} values with the first and the "
            f"third, with {len(third):,} values, none, so the columns look like head, tail, "
            "relation; state it with --order htr (or --order hrt if it is not so).")
