"""The densest part of a graph as a data set of its own, for trying things out in minutes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from caption_cache.columns import read_table
from caption_cache.disk import cannot_write, link_or_copy, replacing
from caption_cache.errors import InputError
from caption_cache.images import find_images, has_images, read_entities
from caption_cache.links import INVERSE
from caption_cache.store import Store
from kgc_seq2seq.arrays import Bools, Ints
from kgc_seq2seq.graph.folder import (
    read_about,
    read_graph,
    refuse_taken,
    write_about,
    write_table,
    write_triples,
)
from kgc_seq2seq.graph.knowledge_graph import SPLITS, KnowledgeGraph


@dataclass(frozen=True)
class SubsetReport:
    """What is in a subset."""

    dataset: str
    """The new data-set folder."""
    entities: int
    """Number of entities."""
    relations: int
    """Number of relations: those with a fact in the new train."""
    triples: dict[str, int]
    """Number of triples by split."""


def subset_dataset(source: Path, out: Path, entities: int, seed: int = 0) -> SubsetReport:
    """Write the entities of highest train degree, and the facts between them, as a data set.

    Every fact stays in its split; valid and test lose those whose relation has no fact left in
    train. Captions and images of the kept entities come along, images as links where the disk
    can; vectors and what was generated do not (``kgc features`` and ``kgc complete-modalities``
    make them anew).

    Args:
        source: The data-set folder.
        out: The folder to write.
        entities: How many.
        seed: Of the choice among entities of equal degree.

    Raises:
        InputError: The data set is malformed, ``out`` is there already or cannot be written, or
            a split would be empty.
    """
    refuse_taken(out)
    graph = read_graph(source)
    if not 2 <= entities <= graph.num_entities:
        raise InputError(f"{source} has {graph.num_entities:,} entities; ask for 2 to as many, "
                         f"not {entities:,}.")
    kept = densest_entities(graph, entities, seed)
    splits = {split: triples[kept[triples[:, 0]] & kept[triples[:, 2]]]
              for split, triples in ((split, graph.split(split)) for split in SPLITS)}
    relations = np.isin(np.arange(graph.num_relations), splits["train"][:, 1])
    splits = {split: triples[relations[triples[:, 1]]] for split, triples in splits.items()}
    for split, triples in splits.items():
        if not len(triples):
            raise InputError(f"{entities:,} entities of {source} leave {split} empty; ask for "
                             "more.")
    try:
        with replacing(out) as aside:
            aside.mkdir()
            _write(source, aside, out.name, graph, kept, relations, splits, seed)
    except OSError as error:
        raise cannot_write(out, error) from None
    return SubsetReport(str(out), entities, int(relations.sum()),
                        {split: len(triples) for split, triples in splits.items()})


def densest_entities(graph: KnowledgeGraph, count: int, seed: int) -> Bools:
    """Mark the ``count`` entities of highest train degree, bool [N]; ``seed`` decides ties."""
    lots = np.random.default_rng(seed).permutation(graph.num_entities)
    kept = np.zeros(graph.num_entities, bool)
    kept[np.lexsort([lots, -graph.train_degree])[:count]] = True
    return kept


def _write(
    source: Path, target: Path, name: str, graph: KnowledgeGraph, kept: Bools, relations: Bools,
    splits: dict[str, Ints], seed: int,
) -> None:
    for file, mask in (("entities.tsv", kept), ("relations.tsv", relations)):
        table = read_table(source / file, ["id", "name"], ["description", "inverse_name"])
        chosen = pa.array(mask)
        write_table(target / file, {column: table[column].filter(chosen)
                                    for column in table.header})
    entity_ids, relation_ids = (pa.array(ids, pa.string())
                                for ids in (graph.entity_ids, graph.relation_ids))
    for split, triples in splits.items():
        write_triples(target / f"{split}.tsv", triples, entity_ids, relation_ids)
    ids = entity_ids.filter(pa.array(kept))
    _copy_captions(source, target, ids, relation_ids.filter(pa.array(relations)))
    _copy_images(source, target, ids)
    write_about(target, {
        **read_about(source), "name": name, "subset": (
            f"the {len(ids):,} entities of highest train degree, ties drawn with seed {seed}, "
            "and the facts between them")})


def _copy_captions(source: Path, target: Path, entities: pa.Array, relations: pa.Array) -> None:
    relations = pa.chunked_array([relations, pc.binary_join_element_wise(
        INVERSE, relations, "")])
    rows = Store(source).read()
    rows = rows.filter(pc.is_in(rows["entity"], value_set=entities))
    for column, ids in (("neighbour", entities), ("relation", relations)):
        rows = rows.filter(pc.or_(pc.is_null(rows[column]),
                                  pc.is_in(rows[column], value_set=ids)))
    Store(target).add_table(rows)


def _copy_images(source: Path, target: Path, entities: pa.Array) -> None:
    if not has_images(source):
        return
    kept = set(entities.to_pylist())
    images = [image for image in find_images(source, read_entities(source))
              if image.entity in kept]
    for path in {image.path for image in images}:  # entities may share one
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(source / path, target / path)
    if images and (source / "images.tsv").exists():
        write_table(target / "images.tsv", {
            "entity": pa.array([image.entity for image in images], pa.string()),
            "path": pa.array([image.path for image in images], pa.string())})
