"""A data set as a folder that a person can make by hand (docs/dataset-format.md says how)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from caption_cache.columns import Columns, first_true, read_table, shown
from caption_cache.disk import cannot_write
from caption_cache.errors import InputError
from kgc_seq2seq.arrays import Ints
from kgc_seq2seq.graph.knowledge_graph import SPLITS, KnowledgeGraph
from kgc_seq2seq.graph.prepared import FOLDER, open_prepared, stamps_of, write_prepared

_ROWS_AT_ONCE = 2**20


def read_graph(folder: Path, *, flawed: bool = False) -> KnowledgeGraph:
    """Read the data-set folder ``folder``, or open its arrays if `prepare_graph` has written them.

    Args:
        folder: The folder.
        flawed: Also take what no model can be trained on: names that are empty or stand twice,
            and splits without a triple. The audit asks for it, to say all that is wrong at once.

    Raises:
        InputError: A file is missing or malformed, an id or a name stands twice, a triple names
            an unknown id, or a split is empty; with file and line.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder of a data set, which holds "
                         "entities.tsv, relations.tsv, train.tsv, valid.tsv and test.tsv.")
    if not flawed and (graph := open_prepared(folder)):
        return graph
    entities = read_table(folder / "entities.tsv", ["id", "name"], ["description"])
    relations = read_table(folder / "relations.tsv", ["id", "name"], ["inverse_name"])
    for table in (entities, relations):
        _refuse_repeats(table, "id")
        if not flawed:
            _refuse_repeats(table, "name")
            _refuse_empty(table, "name")
    relation_names = relations.texts("name")
    inverse_names = [inverse or f"inverse of {name}" for name, inverse in zip(
        relation_names, relations.texts("inverse_name"), strict=True)]
    if not flawed:
        _refuse_equal_questions(relations.path, relation_names, inverse_names)
    splits = {split: _read_triples(folder / f"{split}.tsv", entities["id"], relations["id"],
                                   may_be_empty=flawed) for split in SPLITS}
    return KnowledgeGraph(
        name=str(read_about(folder).get("name", folder.name)),
        entity_ids=tuple(entities.texts("id")),
        entity_names=tuple(entities.texts("name")),
        entity_descriptions=tuple(entities.texts("description")),
        relation_ids=tuple(relations.texts("id")),
        relation_names=(*relation_names, *inverse_names),
        **splits,
    )


def prepare_graph(folder: Path) -> KnowledgeGraph:
    """Write the arrays of a data set beside its tables, so that `read_graph` opens them at once.

    Returns:
        The graph, its arrays mapped into memory.

    Raises:
        InputError: As `read_graph`; or the folder cannot be written.
    """
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    stamps = stamps_of(folder)
    graph = read_graph(folder)
    try:
        write_prepared(folder, graph, stamps)
    except OSError as error:
        raise cannot_write(folder / FOLDER, error) from None
    return open_prepared(folder) or graph


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
        about = json.loads(path.read_text("utf-8-sig"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}); mend or delete it.") from None
    if not isinstance(about, dict):
        raise InputError(f"{path}: must hold a JSON object with name, source and licence.")
    return about


def refuse_taken(out: Path) -> None:
    """Check that a folder can be written anew.

    Raises:
        InputError: It is there and not empty.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise InputError(f"{out} is there already; choose a new folder, or take it away.")


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Write ``dataset.json``."""
    text = json.dumps(about, indent=1, ensure_ascii=False)
    (folder / "dataset.json").write_text(text + "\n", "utf-8")


def write_table(path: Path, columns: Mapping[str, pa.Array]) -> None:
    """Write a table of a data set.

    Args:
        path: The file.
        columns: String arrays of one length, by name, without tabs and newlines.
    """
    count = len(next(iter(columns.values())))
    with path.open("wb") as file:
        file.write("\t".join(columns).encode() + b"\n")
        for start in range(0, count, _ROWS_AT_ONCE):
            cells = [column.slice(start, _ROWS_AT_ONCE) for column in columns.values()]
            lines = pc.binary_join_element_wise(
                pc.binary_join_element_wise(*cells, "\t"), "\n", "").cast(pa.large_string())
            # One string after the other, an array's text is the text of the file.
            for chunk in lines.chunks if isinstance(lines, pa.ChunkedArray) else [lines]:
                offsets = np.frombuffer(chunk.buffers()[1], np.int64)
                first, last = offsets[chunk.offset], offsets[chunk.offset + len(chunk)]
                file.write(memoryview(chunk.buffers()[2])[first:last])


def write_triples(path: Path, triples: Ints, entity_ids: pa.Array, relation_ids: pa.Array) -> None:
    """Write a split.

    Args:
        path: The file.
        triples: int32 [n, 3].
        entity_ids: The ids to write for the entities, strings [N].
        relation_ids: Likewise for the relations, strings [R].
    """
    head, relation, tail = (pa.array(np.ascontiguousarray(column)) for column in triples.T)
    write_table(path, {"head": entity_ids.take(head), "relation": relation_ids.take(relation),
                       "tail": entity_ids.take(tail)})


def _refuse_repeats(table: Columns, column: str) -> None:
    if pc.count_distinct(table[column]).as_py() == len(table):
        return
    first: dict[str, int] = {}
    for line, value in enumerate(table.texts(column), start=2):
        if first.setdefault(value, line) != line:
            raise InputError(f"{table.path}, line {line}: the {column} {value!r} stands at line "
                             f"{first[value]} already; each must be there once.")


def _refuse_equal_questions(path: Path, names: Sequence[str], inverses: Sequence[str]) -> None:
    """No relation may be called like another's inverse: who reads a query could not tell which."""
    known = {name: place for place, name in enumerate(names)}
    for place, inverse in enumerate(inverses):
        if known.setdefault(inverse, place) != place:
            raise InputError(f"{path}, line {place + 2}: the inverse of {names[place]!r} is called "
                             f"{inverse!r}, like line {known[inverse] + 2} or its inverse, so that "
                             "both ask the same; rename one, or leave its inverse_name empty.")


def _refuse_empty(table: Columns, column: str) -> None:
    if (row := first_true(pc.equal(pc.utf8_trim_whitespace(table[column]), ""))) is not None:
        raise InputError(f"{table.where(row)}: the {column} is empty; fill it in.")


def _read_triples(
    path: Path, entities: pa.ChunkedArray, relations: pa.ChunkedArray, *, may_be_empty: bool
) -> Ints:
    table = read_table(path, ["head", "relation", "tail"])
    if not len(table) and not may_be_empty:
        raise InputError(f"{path} holds no triple; every split needs at least one.")
    triples = np.empty((len(table), 3), np.int32)
    for place, (column, ids, kind) in enumerate((("head", entities, "entities"),
                                                 ("relation", relations, "relations"),
                                                 ("tail", entities, "entities"))):
        index = pc.index_in(table[column], value_set=ids)
        if (row := first_true(pc.is_null(index))) is not None:
            raise InputError(f"{table.where(row)}: the {column} "
                             f"{shown(table[column][row].as_py())} is not in {kind}.tsv; add "
                             "it there or mend the triple.")
        triples[:, place] = index.to_numpy()
    return triples
