"""Three tab-separated columns: files of triples with any names, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from caption_cache.columns import (
    Columns,
    ends_with_newline,
    first_true,
    read_columns,
    read_header,
)
from caption_cache.errors import InputError
from kgc_seq2seq.arrays import Ints
from kgc_seq2seq.graph.importers.raw import Order, RawGraph, find_file, in_order

_ENDINGS = (".tsv", ".txt")
_HEADER = {
    **dict.fromkeys(("head", "subject", "source", "from", "h"), "h"),
    **dict.fromkeys(("relation", "predicate", "property", "r"), "r"),
    **dict.fromkeys(("tail", "object", "target", "to", "value", "t"), "t")}


def read_tsv(source: Path, order: Order | None) -> RawGraph:
    """Read ``{train,valid,test}.tsv`` of a folder (or ``.txt``, or ``dev``), or one file.

    A first line that says ``head relation tail``, or ``head tail relation``, tells the order.
    Entities and relations are numbered as they first appear, heads before tails.

    Raises:
        InputError: A file is missing or malformed, its first line names another order than
            ``order`` or the files before, or the middle column cannot be the relation.
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
        header = [_HEADER.get(cell.strip().lower(), "") for cell in read_header(path)]
        named = sorted(header) == ["h", "r", "t"]
        if named:
            order = _named_order(path, "".join(header), order)
        elif any(header):
            notes.append(f"line 1 of {path.name}, {' | '.join(read_header(path))}, was taken for a "
                         "fact; if it tells what the columns are, delete it and import again")
        tables[split] = read_columns(path, 3, skip=int(named))
        ends = pc.ends_with(tables[split].cells[2], " .")
        if len(ends) and pc.all(ends).as_py():
            raise InputError(f"{path} is N-Triples: a dot ends each of its lines, and would belong "
                             "to the tail; delete these dots, and import again.")
        if not ends_with_newline(path):
            notes.append(f"{path.name} does not end with a newline; make sure that it is not cut "
                         "off")
    return number_tables(tables, order, notes)


def _named_order(path: Path, named: str, order: Order | None) -> Order:
    for known in get_args(Order):
        if named == known and order in (None, known):
            return cast(Order, known)
    raise InputError(f"{path}, line 1: the columns are called {', '.join(named)}, which "
                     + (f"is not the order {', '.join(order)} of --order or of the files before"
                        if order else "must be head, relation, tail or head, tail, relation")
                     + "; put them in that order, or correct the line.")


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
    parts = [in_order(table.cells, order or "hrt") for table in tables.values()]
    entity_ids, ends = _number([*(heads for heads, _, _ in parts), *(tails for *_, tails in parts)])
    relation_ids, relations = _number([column for _, column, _ in parts])
    heads, tails = np.split(ends, 2)
    if order is None:
        _refuse_other_order(next(iter(tables.values())).path, entity_ids, relation_ids, heads,
                            tails)
    triples = np.stack([heads, relations, tails], axis=1)
    bounds = np.cumsum([len(table) for table in tables.values()])[:-1]
    return RawGraph(entity_ids, relation_ids, dict(zip(tables, np.split(triples, bounds),
                                                       strict=True)), notes=notes)


def _number(columns: Sequence[pa.ChunkedArray]) -> tuple[pa.Array, Ints]:
    """The distinct texts of columns as they first appear, and the number of each cell's."""
    coded = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string()
                             ).dictionary_encode()
    # All chunks of the result share one dictionary.
    numbers = np.concatenate([chunk.indices.to_numpy() for chunk in coded.chunks])
    return coded.chunk(0).dictionary, numbers


def _refuse_other_order(
    path: Path, entity_ids: pa.Array, relation_ids: pa.Array, heads: Ints, tails: Ints
) -> None:
    """Heads and tails have things in common; a relation column has few values and none of them."""
    is_head, is_tail = (np.bincount(end, minlength=len(entity_ids)) > 0 for end in (heads, tails))
    head_ids = entity_ids.take(pa.array(np.flatnonzero(is_head)))
    shared_relations = pc.sum(pc.is_in(relation_ids, value_set=head_ids)).as_py()
    num_tails = int(is_tail.sum())
    if num_tails < len(relation_ids) and shared_relations and not (is_head & is_tail).any():
        raise InputError(
            f"{path}: the second column shares {shared_relations:,} values with the first and the "
            f"third, with {num_tails:,} values, none, so the columns look like head, tail, "
            "relation; state it with --order htr (or --order hrt if it is not so).")
