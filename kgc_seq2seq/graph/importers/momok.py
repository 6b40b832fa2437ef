"""MoMoK: ``head relation tail .`` with URIs or names; ``entity2id.txt`` gives the order."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc

from caption_cache.columns import first_true, read_columns, separator_of, shown
from caption_cache.errors import InputError
from kgc_seq2seq.graph.importers.joins import join_names
from kgc_seq2seq.graph.importers.raw import (
    Order,
    RawGraph,
    find_file,
    first_line,
    number_triples,
    read_id_table,
    split_files,
)


def read_momok(folder: Path, order: Order | None) -> RawGraph:
    """Read ``entity2id.txt``, ``relation2id.txt`` and ``{train,valid,test}.txt``.

    A line of triples ends with a dot, or none does. Names come from ``entity_links.txt`` (two
    columns: a name or a URI that holds it, and the id) and ``relation_links.txt`` (one a line, by
    number) where these are there.

    Raises:
        InputError: A file is missing or malformed, or a triple names an unknown id.
    """
    entities, notes = read_id_table(find_file(folder, "entity2id.txt"), counted=False)
    relations, more = read_id_table(find_file(folder, "relation2id.txt"), counted=False)
    notes += more
    names, relation_names = None, None
    if (folder / "entity_links.txt").is_file():
        names, more = join_names(folder / "entity_links.txt", entities)
        notes += more
    if (folder / "relation_links.txt").is_file():
        relation_names, more = join_names(folder / "relation_links.txt", relations,
                                          "relations")
        notes += more
    splits = {}
    for split, path in split_files(folder, ".txt").items():
        separator = separator_of(path)
        dotted = len(first_line(path).split(separator.decode())) == 4
        table = read_columns(path, 3 + dotted, separator=separator, trim=True)
        if dotted and (row := first_true(pc.not_equal(table.cells[3], "."))) is not None:
            raise InputError(f"{table.where(row)}: {shown(table.cells[3][row].as_py())} "
                             "stands where the dot must be; the line is cut off or has too much.")
        splits[split], more = number_triples(
            table, entities, relations, "entity2id.txt or relation2id.txt", order)
        notes += more
    return RawGraph(entities, relations, splits, names, relation_names, notes=notes)
