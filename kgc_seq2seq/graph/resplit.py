"""A data set with new splits: the repair of one whose splits repeat, leak or are another's."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from caption_cache.captions import PROFILE
from caption_cache.disk import cannot_write, link_or_copy, replacing
from caption_cache.errors import InputError
from caption_cache.store import Store
from kgc_seq2seq.arrays import Ints
from kgc_seq2seq.graph.csr import distinct_rows, number_rows
from kgc_seq2seq.graph.folder import (
    read_about,
    read_graph,
    refuse_taken,
    write_about,
    write_triples,
)
from kgc_seq2seq.graph.knowledge_graph import SPLITS, KnowledgeGraph
from kgc_seq2seq.graph.names import Policy
from kgc_seq2seq.graph.relation_rules import RelationRules
from kgc_seq2seq.graph.splits import carve, check_shares


@dataclass(frozen=True)
class SplitConfig:
    """How to draw splits."""

    valid: float = 0.1
    """Share of all distinct triples that valid shall have."""
    test: float = 0.1
    """Likewise test; without meaning when test is kept."""
    seed: int = 0
    """Same seed, same splits."""
    keep_test: bool = False
    """Leave test as it is and draw valid from the rest."""

    def __post_init__(self) -> None:
        check_shares(*((self.valid,) if self.keep_test else (self.valid, self.test)))


@dataclass(frozen=True)
class SplitReport:
    """What a split did."""

    dataset: str
    """The new data-set folder."""
    triples: dict[str, int]
    """Number of triples by split."""
    before: dict[str, int]
    """Likewise in the old data set."""
    link_captions: int
    """Captions of linked pairs and of relations that were left out, since they were made for the
    old train."""


def split_dataset(source: Path, out: Path, config: SplitConfig) -> SplitReport:
    """Write a data set again with new splits; images and features are linked, not copied.

    Raises:
        InputError: The data set is malformed, ``out`` is there already or cannot be written, the
            triples are too few for the shares, or names tell facts.
    """
    refuse_taken(out)
    if str(read_about(source).get("names", "")).endswith(Policy.RELATION_HINT):
        raise InputError(f"Names of {source} tell facts of its train split, which may be drawn "
                         "into valid or test; import it again with --on-collision description or "
                         "id.")
    graph = read_graph(source, flawed=True)
    splits = draw_splits(graph, config)
    for split in SPLITS:
        if not len(splits[split]):
            raise InputError(f"{source} has too few triples: {split} would be empty while every "
                             "entity and relation keeps one in train; ask for a larger share.")
    how = (f"{'test kept, valid' if config.keep_test else 'valid and test'} drawn with seed "
           f"{config.seed}; every entity and relation of the drawn triples is in train, and what "
           "says the same, forwards or backwards, is in one split"
           f"{', but for what says the same as test' if config.keep_test else ''}")
    entity_ids, relation_ids = (pa.array(ids, pa.string())
                                for ids in (graph.entity_ids, graph.relation_ids))
    written = {f"{split}.tsv" for split in SPLITS} | {"dataset.json", "captions"}
    try:
        with replacing(out) as aside:
            aside.mkdir()
            for path in sorted(source.iterdir()):
                if path.name in written or path.name.startswith("."):
                    continue
                if path.is_dir():
                    shutil.copytree(path, aside / path.name, copy_function=link_or_copy)
                else:
                    shutil.copyfile(path, aside / path.name)
            for split, triples in splits.items():
                write_triples(aside / f"{split}.tsv", triples, entity_ids, relation_ids)
            dropped = _copy_captions(source, aside)
            write_about(aside, {**read_about(source), "name": out.name, "splits": how})
    except OSError as error:
        raise cannot_write(out, error) from None
    return SplitReport(str(out), {split: len(splits[split]) for split in SPLITS},
                       {split: len(graph.split(split)) for split in SPLITS}, dropped)


def draw_splits(graph: KnowledgeGraph, config: SplitConfig) -> dict[str, Ints]:
    """Draw new splits from the distinct triples of a graph, as `splits.carve` does.

    Triples of relations that say the same (`RelationRules`) stay together.

    Returns:
        int32 [n, 3] by split.
    """
    everything = distinct_rows(np.concatenate([graph.train, graph.valid, graph.test]))
    kin = RelationRules.find(
        everything, graph.num_entities, graph.num_relations, graph.symmetric).clusters()
    if not config.keep_test:
        return dict(zip(SPLITS, carve(everything, config.valid, config.test, config.seed, kin),
                        strict=True))
    numbers = number_rows(np.concatenate([everything, graph.test]))
    pool = everything[~np.isin(numbers[: len(everything)], numbers[len(everything):])]
    if not len(pool):
        return {"train": pool, "valid": pool, "test": graph.test}
    share = min(1.0, config.valid * len(everything) / len(pool))
    train, valid, _ = carve(pool, share, 0.0, config.seed, kin)
    return {"train": train, "valid": valid, "test": graph.test}


def _copy_captions(source: Path, target: Path) -> int:
    """Copy the caption cache without captions of links, which tell what the old train was."""
    rows = Store(source).read()
    kept = rows.filter(pc.is_in(rows["scope"], value_set=pa.array(
        ["entity", "relevance", *PROFILE])))
    Store(target).add_table(kept)
    dropped: int = rows.num_rows - kept.num_rows
    return dropped
