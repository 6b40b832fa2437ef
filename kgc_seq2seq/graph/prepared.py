"""A graph as arrays on the disk, mapped into memory instead of read: opened at once at any size."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa

from caption_cache.disk import replacing
from kgc_seq2seq.graph.csr import Csr
from kgc_seq2seq.graph.knowledge_graph import SPLITS, KnowledgeGraph

FOLDER = ".prepared"
"""Where the arrays lie in a data-set folder; safe to delete."""
_VERSION = 2
_SOURCES = ("entities.tsv", "relations.tsv", "train.tsv", "valid.tsv", "test.tsv", "dataset.json")
_GROUPS = ("known_answers", "neighbours")
_CSR = ("keys", "offsets", "values")
_AT_ONCE = 2**16
Stamps = dict[str, list[int]]


class Texts(Sequence[str]):
    """Texts in an Arrow array: a tuple of strings that takes no memory where it is mapped."""

    def __init__(self, array: pa.Array) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Texts: ...
    def __getitem__(self, place: int | slice) -> str | Texts:
        if isinstance(place, slice):
            return Texts(self._array[place])
        text: str = self._array[int(place)].as_py()
        return text

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _AT_ONCE):
            part = self._array.slice(start, _AT_ONCE)
            yield from part.to_numpy(zero_copy_only=False).tolist()


def write_prepared(folder: Path, graph: KnowledgeGraph, stamps: Stamps) -> None:
    """Write the arrays of a graph beside its tables, with neighbours and known answers grouped.

    Args:
        folder: The data-set folder.
        graph: What its tables hold.
        stamps: `stamps_of` the folder, from before they were read.

    Raises:
        OSError: The folder cannot be written.
    """
    with replacing(folder / FOLDER) as aside:
        aside.mkdir()
        texts = pa.table({
            "id": pa.array(graph.entity_ids, pa.large_string()),
            "name": pa.array(graph.entity_names, pa.large_string()),
            "description": pa.array(graph.entity_descriptions, pa.large_string())})
        with pa.OSFile(str(aside / "entities.arrow"), "wb") as sink, pa.ipc.new_file(
                sink, texts.schema) as writer:
            writer.write_table(texts)
        for split in SPLITS:
            np.save(aside / f"{split}.npy", graph.split(split))
        for group in _GROUPS:
            csr: Csr = getattr(graph, group)
            for part in _CSR:
                np.save(aside / f"{group}-{part}.npy", getattr(csr, part))
        (aside / "graph.json").write_text(json.dumps({
            "version": _VERSION, "sources": stamps, "name": graph.name,
            "relation_ids": list(graph.relation_ids),
            "relation_names": list(graph.relation_names)}), "utf-8")


def open_prepared(folder: Path) -> KnowledgeGraph | None:
    """Open what `write_prepared` wrote.

    Returns:
        The graph, its arrays mapped into memory; None when there is none, or when the tables
        have changed since (by size or time).
    """
    prepared = folder / FOLDER
    try:
        about = json.loads((prepared / "graph.json").read_text("utf-8"))
        if about["version"] != _VERSION or about["sources"] != stamps_of(folder):
            return None
        arrays = {path.stem: np.load(path, mmap_mode="r") for path in prepared.glob("*.npy")}
        texts = pa.ipc.open_file(pa.memory_map(str(prepared / "entities.arrow"))).read_all()
        ids, names, descriptions = (Texts(texts[column].combine_chunks())
                                    for column in ("id", "name", "description"))
        graph = KnowledgeGraph(
            name=about["name"], entity_ids=ids, entity_names=names,
            entity_descriptions=descriptions, relation_ids=tuple(about["relation_ids"]),
            relation_names=tuple(about["relation_names"]),
            **{split: arrays[split] for split in SPLITS})
        for group in _GROUPS:
            # Set what the graph would otherwise compute when first asked.
            vars(graph)[group] = Csr(*(arrays[f"{group}-{part}"] for part in _CSR))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None  # absent, or damaged: the tables are the truth
    return graph


def stamps_of(folder: Path) -> Stamps:
    """Size and time of change of each table."""
    found = {name: (folder / name).stat() for name in _SOURCES if (folder / name).exists()}
    return {name: [state.st_size, state.st_mtime_ns] for name, state in found.items()}
