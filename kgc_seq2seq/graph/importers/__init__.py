"""One file per format that public repositories hold graphs in; here, the way to a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from caption_cache.columns import first_true, shown
from caption_cache.disk import cannot_write, replacing
from caption_cache.errors import InputError
from kgc_seq2seq.graph.csr import distinct_rows
from kgc_seq2seq.graph.folder import refuse_taken, write_about, write_table, write_triples
from kgc_seq2seq.graph.importers.hub import read_hub
from kgc_seq2seq.graph.importers.joins import join, join_names
from kgc_seq2seq.graph.importers.kgbert import read_kgbert
from kgc_seq2seq.graph.importers.modalities import import_captions, import_images
from kgc_seq2seq.graph.importers.momok import read_momok
from kgc_seq2seq.graph.importers.mygo import read_mygo
from kgc_seq2seq.graph.importers.openke import read_openke
from kgc_seq2seq.graph.importers.raw import Order, RawGraph
from kgc_seq2seq.graph.importers.tsv import read_tsv
from kgc_seq2seq.graph.knowledge_graph import SPLITS, KnowledgeGraph
from kgc_seq2seq.graph.names import (
    CONTROL,
    Collision,
    Key,
    Policy,
    clean,
    collision_groups,
    names_of_entities,
    names_of_relations,
    resolve_collisions,
    short_ids,
)
from kgc_seq2seq.graph.relation_rules import RelationRules
from kgc_seq2seq.graph.splits import carve, check_shares

FORMATS: dict[str, Callable[[Path, Order | None], RawGraph]] = {
    "openke": read_openke, "momok": read_momok, "mygo": read_mygo, "kgbert": read_kgbert,
    "tsv": read_tsv, "datasets": read_hub,
}
"""The reader of every format, by its name on the command line."""


@dataclass(frozen=True)
class ImportConfig:
    """What to import, and how."""

    format: str
    """A key of `FORMATS`."""
    source: Path
    """The folder or file (for ``datasets`` also a name on the hub)."""
    out: Path
    """The data-set folder to write; it must not be there yet, or be empty."""
    names: Path | None = None
    """A table with the names of the entities; it goes before what the format has."""
    relation_names: Path | None = None
    """A table with the names of the relations, or a file with one a line."""
    texts: Path | None = None
    """A table with descriptions, captions or both."""
    images: Path | None = None
    """A folder with a folder or a file for each entity, or a table of paths."""
    order: Order | None = None
    """The order of the columns, where it is not the convention of the format."""
    on_collision: Policy = Policy.ERROR
    """What becomes of entities that share a name."""
    valid: float = 0.1
    """Share of valid, where the source is one set of triples."""
    test: float = 0.1
    """Share of test, likewise."""
    seed: int = 0
    """Of the splits, likewise."""

    def __post_init__(self) -> None:
        check_shares(self.valid, self.test)


@dataclass(frozen=True)
class ImportReport:
    """What an import did."""

    dataset: str
    """The data-set folder."""
    entities: int
    """Number of entities."""
    relations: int
    """Number of relations."""
    triples: dict[str, int]
    """Number of triples by split."""
    images: int
    """Number of images."""
    captions: int
    """Number of captions."""
    collisions: list[Collision]
    """Entities that shared a name, and what became of them."""
    notes: list[str]
    """What was decided on the way."""


def import_dataset(config: ImportConfig, key: Key | None = None) -> ImportReport:
    """Read a graph in a public format and write it as a data-set folder, whole or not at all.

    Args:
        config: What to import, and how.
        key: When two names are the same, as in `resolve_collisions`.

    Raises:
        InputError: The source is malformed, names collide and the policy is ``error``, or the
            folder is there already or cannot be written.
    """
    refuse_taken(config.out)
    raw = FORMATS[config.format](config.source, config.order)
    notes = list(raw.notes)
    ids = _checked_ids(short_ids(raw.entity_ids), config.source)
    relation_ids = _checked_ids(short_ids(raw.relation_ids), config.source)
    if cut := np.flatnonzero(pc.not_equal(ids, raw.entity_ids)).tolist():
        notes.append(f"of URIs, the ids are what follows the namespace, such as "
                     f"{ids[cut[0]].as_py()} for {raw.entity_ids[cut[0]].as_py()}; queries may use "
                     "either")
    joined = None if config.texts is None else join(
        config.texts, raw.entity_ids, ["description", "caption"])
    descriptions = pa.nulls(len(ids), pa.string()) if raw.descriptions is None else clean(
        raw.descriptions, str(config.source))
    if joined is not None:
        if not {"description", "caption"} & set(joined.table.header):
            raise InputError(f"{config.texts}, line 1: no column is called description or caption; "
                             "name the columns there, such as id and caption.")
        notes += joined.notes("entities")
        if "description" in joined.table.header:
            given = joined.table["description"].combine_chunks().take(joined.rows)
            descriptions = pc.coalesce(clean(given, str(config.texts)), descriptions)
    names = _entity_names(config, raw, notes)
    relation_names = _relation_names(config, raw, relation_ids, notes)
    splits, how = raw.splits, "those of the source"
    if "all" in splits:
        facts = distinct_rows(splits["all"])
        if repeated := len(splits["all"]) - len(facts):
            notes.append(f"{repeated} lines say what another says, too, and were left out")
        said = np.zeros(len(relation_ids), bool)  # their inverses have names of their own
        kin = RelationRules.find(facts, len(ids), len(relation_ids), said).clusters()
        parts = carve(facts, config.valid, config.test, config.seed, kin)
        splits = dict(zip(SPLITS, parts, strict=True))
        how = (f"the source is one set of triples, so valid ({config.valid:.0%}) and test "
               f"({config.test:.0%}) were drawn from it with seed {config.seed}")
        notes.append(how)
    for split in SPLITS:
        if not len(splits[split]):
            raise InputError(f"{config.source} has too few triples: {split} would be empty, and "
                             "every split needs at least one.")
    graph = KnowledgeGraph(
        name=config.out.name, entity_ids=_texts(ids), entity_names=_texts(names),
        entity_descriptions=_texts(descriptions.fill_null("")), relation_ids=_texts(relation_ids),
        relation_names=(*relation_names, *(f"inverse of {name}" for name in relation_names)),
        **splits)
    unique, collisions = resolve_collisions(graph, config.on_collision, key)
    columns = {"id": ids, "name": pa.array(unique, pa.string())}
    if descriptions.null_count < len(descriptions):
        columns["description"] = descriptions.fill_null("")
    try:
        with replacing(config.out) as aside:
            aside.mkdir()
            write_table(aside / "entities.tsv", columns)
            write_table(aside / "relations.tsv", {
                "id": relation_ids, "name": pa.array(relation_names, pa.string())})
            for split in SPLITS:
                write_triples(aside / f"{split}.tsv", splits[split], ids, relation_ids)
            if collisions:
                _write_collisions(aside / "collisions.tsv", collisions)
            images: dict[str, list[str]] = {}
            if config.images is not None:
                images, more = import_images(config.images, raw.entity_ids,
                                             list(graph.entity_ids), aside)
                notes += more
            captions = 0
            if joined is not None and "caption" in joined.table.header:
                captions = import_captions(joined, list(graph.entity_ids), images, aside)
            write_about(aside, {
                "name": config.out.name,
                "source": f"{config.format} files of {config.source.name}",
                "licence": "that of the source",
                "splits": how,
                "names": (f"collisions resolved by {config.on_collision}" if collisions
                          else "without collisions"), "notes": notes})
    except OSError as error:
        raise cannot_write(config.out, error) from None
    return ImportReport(
        str(config.out), len(ids), len(relation_ids),
        {split: len(splits[split]) for split in SPLITS},
        sum(map(len, images.values())), captions, collisions, notes)


def _checked_ids(ids: pa.Array, source: Path) -> pa.Array:
    bad = pc.or_(pc.equal(pc.utf8_trim_whitespace(ids), ""),
                 pc.match_substring_regex(ids, CONTROL))
    if (row := first_true(bad)) is not None:
        raise InputError(f"{source}: the id {shown(ids[row].as_py())} is empty or holds a control "
                         "character; mend it in every file.")
    return ids


def _entity_names(config: ImportConfig, raw: RawGraph, notes: list[str]) -> pa.Array:
    """Names from the table, else from the format, else from the ids."""
    fallback = names_of_entities(raw.entity_ids)
    fallback = clean(pc.if_else(pc.equal(fallback, ""), raw.entity_ids, fallback),
                     str(config.source))
    given = raw.entity_names
    if config.names is not None:
        table, more = join_names(config.names, raw.entity_ids)
        given = table if given is None else pc.coalesce(table, given)
        notes += more
    if given is None:
        return fallback
    given = clean(given, str(config.source))
    if given.null_count:
        notes.append(f"{given.null_count:,} entities without a name are called by their ids")
    return pc.coalesce(given, fallback)


def _relation_names(
    config: ImportConfig, raw: RawGraph, ids: pa.Array, notes: list[str]
) -> list[str]:
    """Names from the table, else from the format, else from the ids; told apart by the ids."""
    given = raw.relation_names
    if config.relation_names is not None:
        table, more = join_names(config.relation_names, raw.relation_ids, "relations")
        given = table if given is None else pc.coalesce(table, given)
        notes += more
    names = names_of_relations(raw.relation_ids.to_pylist())
    if given is not None:
        stated = clean(given, str(config.source)).to_pylist()
        names = [text or name for text, name in zip(stated, names, strict=True)]
    names = list(clean(pa.array(names, pa.string()), str(config.source)).to_pylist())
    again = collision_groups(names)[0].tolist()
    for place in again:
        names[place] = f"{names[place]} ({ids[place].as_py()})"
    if again:
        notes.append(f"{len(again):,} relations that shared a name are told apart by their ids, "
                     f"such as {names[again[0]]!r}")
    if len(still := collision_groups(names)[0]):
        raise InputError(f"The relation names {names[still[0]]!r} and {names[still[1]]!r} cannot "
                         "be told apart; change one by --relation-names.")
    return names


def _texts(array: pa.Array) -> tuple[str, ...]:
    return tuple(array.to_numpy(zero_copy_only=False).tolist())


def _write_collisions(path: Path, collisions: list[Collision]) -> None:
    rows = [(group.name, entity, name) for group in collisions
            for entity, name in zip(group.ids, group.became, strict=True)]
    names, ids, became = (pa.array(column, pa.string()) for column in zip(*rows, strict=True))
    write_table(path, {"name": names, "id": ids, "became": became})
