"""A data set as a folder that a person can make by hand (the format is in the README)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from caption_cache.errors import InputError
from caption_cache.tables import Table, read_table
from kgc_seq2seq.graph.csr import Ints
from kgc_seq2seq.graph.knowledge_graph import SPLITS, KnowledgeGraph


def read_graph(folder: Path) -> KnowledgeGraph:
    """Read the data-set folder ``folder``.

    Raises:
        InputError: A file is missing or malformed, an id or a name stands twice, a triple names
            an unknown id, or a split is empty; with file and line.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder of a data set, which holds "
                         "entities.tsv, relations.tsv, train.tsv, valid.tsv and test.tsv.")
    entities = read_table(folder / "entities.tsv", ["id", "name"], ["description"])
    relations = read_table(folder / "relations.tsv", ["id", "name"], ["inverse_name"])
    for table in (entities, relations):
        for column in ("id", "name"):
            _refuse_repeats(table, column)
        _refuse_empty(table, "name")
    relation_names = relations.columns["name"]
    stated = relations.columns.get("inverse_name", [""] * len(relations))
    inverse_names = [inverse or f"inverse of {name}"
                     for name, inverse in zip(relation_names, stated, strict=True)]
    entity_index = {key: index for index, key in enumerate(entities.columns["id"])}
    relation_index = {key: index for index, key in enumerate(relations.columns["id"])}
    splits = {split: _read_triples(folder / f"{split}.tsv", entity_index, relation_index)
              for split in SPLITS}
    return KnowledgeGraph(
        name=str(read_about(folder).get("name", folder.name)),
        entity_ids=tuple(entities.columns["id"]),
        entity_names=tuple(entities.columns["name"]),
        entity_descriptions=tuple(entities.columns.get("description", [""] * len(entities))),
        relation_ids=tuple(relations.columns["id"]),
        relation_names=(*relation_names, *inverse_names),
        **splits,
    )


def read_about(folder: Path) -> dict[str, Any]:
    """The content of ``dataset.json``: name, source, licence, how the splits were made.

    Returns:
        An empty dict when the file is absent: it is for people and optional.

    Raises:
        InputError: The file is no JSON object.
    """
    path = folder / "dataset.json"
    if not path.is_file():
        return {}
    try:
        about = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}); mend or delete it.") from None
    if not isinstance(about, dict):
        raise InputError(f"{path}: must hold a JSON object with name, source and licence.")
    return about


def _refuse_repeats(table: Table, column: str) -> None:
    first: dict[str, int] = {}
    for line, value in enumerate(table.columns[column], start=2):
        if first.setdefault(value, line) != line:
            raise InputError(f"{table.path}, line {line}: the {column} {value!r} stands at line "
                             f"{first[value]} already; each must be there once.")


def _refuse_empty(table: Table, column: str) -> None:
    for line, value in enumerate(table.columns[column], start=2):
        if not value.strip():
            raise InputError(f"{table.path}, line {line}: the {column} is empty; fill it in.")


def _read_triples(path: Path, entities: dict[str, int], relations: dict[str, int]) -> Ints:
    table = read_table(path, ["head", "relation", "tail"])
    if not len(table):
        raise InputError(f"{path} holds no triple; every split needs at least one.")
    columns = []
    for column, index, kind in (("head", entities, "entities"),
                                ("relation", relations, "relations"),
                                ("tail", entities, "entities")):
        ids = [index.get(value, -1) for value in table.columns[column]]
        if -1 in ids:
            row = ids.index(-1)
            raise InputError(f"{path}, line {row + 2}: the {column} {table.columns[column][row]!r} "
                             f"is not in {kind}.tsv; add it there or mend the triple.")
        columns.append(np.array(ids, np.int32))
    return np.stack(columns, axis=1)
