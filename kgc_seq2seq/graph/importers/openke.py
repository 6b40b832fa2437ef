"""OpenKE: a count, then ``head tail relation`` as numbers; a table numbers the names."""

from __future__ import annotations

from pathlib import Path

from kgc_seq2seq.graph.importers.raw import (
    Order,
    RawGraph,
    find_file,
    read_id_table,
    read_number_triples,
    split_files,
)


def read_openke(folder: Path, order: Order | None) -> RawGraph:
    """Read ``entity2id.txt``, ``relation2id.txt`` and ``{train,valid,test}2id.txt``.

    The tables may hold the count alone; then the numbers are the ids.

    Raises:
        InputError: A file is missing or malformed, or the order of the columns is impossible.
    """
    entities, notes = read_id_table(find_file(folder, "entity2id.txt"), counted=True)
    relations, more = read_id_table(find_file(folder, "relation2id.txt"), counted=True)
    notes += more
    splits = {}
    for split, path in split_files(folder, "2id.txt").items():
        splits[split], more = read_number_triples(
            path, len(entities), len(relations), "htr", counted=True, option=order)
        notes += more
    return RawGraph(entities, relations, splits, notes=notes)
