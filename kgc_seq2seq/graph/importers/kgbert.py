"""KG-BERT: tab-separated triples; ``entity2text.txt`` and ``relation2text.txt`` hold the texts."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from caption_cache.columns import read_columns
from kgc_seq2seq.graph.importers.raw import (
    Order,
    RawGraph,
    check_ids,
    find_file,
    number_triples,
    read_id_lines,
    split_files,
)

_MOSTLY = 0.9


def read_kgbert(folder: Path, order: Order | None) -> RawGraph:
    """Read ``{train,dev,test}.tsv`` and the texts; WN18RR and FB15k-237 come so.

    The order is that of ``entities.txt`` and ``relations.txt``, or else of the texts. With
    ``entity2textlong.txt`` (FB15k-237) that holds the descriptions and ``entity2text.txt`` the
    names; without it (WN18RR) ``entity2text.txt`` holds both, parted by the first comma.

    Raises:
        InputError: A file is missing or malformed, or a triple names an unknown id.
    """
    path = find_file(folder, "entity2text.txt")
    texts = _read_texts(path)
    entities = _read_order(folder, "entities.txt", texts[0])
    text = _aligned(entities, *texts)
    relation_texts = _read_texts(find_file(folder, "relation2text.txt"))
    relations = _read_order(folder, "relations.txt", relation_texts[0])
    names, descriptions, notes = text, None, []
    if (folder / "entity2textlong.txt").is_file():
        descriptions = _aligned(entities, *_read_texts(folder / "entity2textlong.txt"))
    elif (pc.sum(pc.match_substring(text, ", ")).as_py() or 0) >= _MOSTLY * len(text):
        names = pc.replace_substring_regex(text, r"(?s)^(.*?), .*$", r"\1")
        descriptions = pc.if_else(pc.match_substring(text, ", "),
                                  pc.replace_substring_regex(text, r"(?s)^.*?, (.*)$", r"\1"), "")
        notes.append(f"{path.name} was parted at the first comma into name and description")
    splits = {}
    for split, file in split_files(folder, ".tsv", valid=("dev", "valid")).items():
        table = read_columns(file, 3)
        splits[split], more = number_triples(table, entities, relations,
                                             "the files of the texts", order)
        notes += more
    return RawGraph(entities, relations, splits, names, _aligned(relations, *relation_texts),
                    descriptions, notes)


def _read_texts(path: Path) -> tuple[pa.Array, pa.Array]:
    table = read_columns(path, 2)
    ids, texts = (column.combine_chunks() for column in table.cells)
    check_ids(ids, path)
    return ids, texts


def _read_order(folder: Path, name: str, ids: pa.Array) -> pa.Array:
    return read_id_lines(folder / name) if (folder / name).is_file() else ids


def _aligned(ids: pa.Array, keys: pa.Array, texts: pa.Array) -> pa.Array:
    return texts.take(pc.index_in(ids, value_set=keys))
