"""What the triples of a data set hide: repeats, leaks, what train never shows, foreign ids."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from kgc_seq2seq.arrays import Bools, Ints, Longs
from kgc_seq2seq.graph.audit.findings import (
    Finding,
    Severity,
    tell_names,
    tell_triples,
)
from kgc_seq2seq.graph.csr import distinct_rows, number_rows
from kgc_seq2seq.graph.knowledge_graph import SPLITS, KnowledgeGraph
from kgc_seq2seq.graph.relation_rules import CONFIDENCE, RelationRules

LEAK_SHARE = 0.05
"""From this share of a split on, facts that follow from train by a rule are a warning."""
LOOP_SHARE = 0.02
"""Above this share self-loops are a warning."""
UNSEEN_SHARE = 0.01
"""From this share on, triples of relations that train never shows are a warning."""
MIN_COSINE = 0.85
"""Below this cosine the relations of a split are another mix than those of train."""
MIN_FIT = 0.5
"""Below this fit the ids of a split are taken for another numbering."""
MIN_CONTRAST = 0.1
"""Own and foreign ids must differ by that much for the fit to mean something."""
MIN_TRIPLES = 50
"""A smaller split is too small for what is judged by shares."""
_REDRAW = "re-draw valid with 'kgc split DATASET OUT --keep-test'"
_MENDS = {
    ("train", "valid"): _REDRAW,
    ("valid", "test"): _REDRAW + ", and never select on this one",
    ("train", "test"): "re-draw the splits with 'kgc split DATASET OUT', or take the facts out of "
                       "train",
}


def audit_triples(graph: KnowledgeGraph) -> Iterator[Finding]:
    """Check the triples of a graph.

    Yields:
        Findings, in no order of severity.
    """
    keys = _keys(graph)
    yield from _empty_splits(graph)
    yield from _repeats(graph, keys)
    yield from _shared(graph, keys)
    yield from _self_loops(graph)
    yield from _unseen(graph)
    if len(graph.train):
        train = distinct_rows(graph.train)
        yield from _relation_leaks(graph, train)
        yield from _linked_pairs(graph, keys)
        for split in ("valid", "test"):
            if len(graph.split(split)) >= MIN_TRIPLES:
                yield from _relation_mix(graph, split)
                yield from _foreign_ids(graph, split, train)


def _keys(graph: KnowledgeGraph) -> dict[str, Longs]:
    """One int64 for each triple of each split; equal for equal triples."""
    parts = [graph.split(split) for split in SPLITS]
    numbers = number_rows(np.concatenate(parts))
    ends = np.cumsum([len(part) for part in parts])[:-1]
    return dict(zip(SPLITS, np.split(numbers, ends), strict=True))


def _empty_splits(graph: KnowledgeGraph) -> Iterator[Finding]:
    for split in SPLITS:
        if not len(graph.split(split)):
            yield Finding(f"{split}-empty", Severity.ERROR, 1, f"{split} holds no triple.",
                          "draw the splits with 'kgc split DATASET OUT'")


def _repeats(graph: KnowledgeGraph, keys: dict[str, Longs]) -> Iterator[Finding]:
    for split in SPLITS:
        again = _again(keys[split])
        if count := int(again.sum()):
            yield Finding(
                f"{split}-repeats", Severity.WARNING, count,
                f"{count:,} of the {len(again):,} triples of {split} stand there before; "
                f"{len(again) - count:,} are distinct.",
                f"keep each line of {split}.tsv once" if split == "train" else _REDRAW,
                tell_triples(graph, graph.split(split), again))


def _again(keys: Longs) -> Bools:
    """Which keys stood there before."""
    order = np.argsort(keys, kind="stable")
    again = np.zeros(len(keys), bool)
    again[order[1:]] = keys[order[1:]] == keys[order[:-1]]
    return again


def _shared(graph: KnowledgeGraph, keys: dict[str, Longs]) -> Iterator[Finding]:
    for first, second in combinations(SPLITS, 2):
        # Told of the split that one evaluates on; of valid where test leaks into it.
        told, other = ("valid", "test") if first == "valid" else (second, first)
        shared = np.isin(keys[told], keys[other]) & ~_again(keys[told])
        if count := int(shared.sum()):
            yield Finding(
                f"{told}-in-{other}", Severity.ERROR, count,
                f"{count:,} distinct triples of {told} are in {other} too.",
                _MENDS[first, second], tell_triples(graph, graph.split(told), shared))


def _self_loops(graph: KnowledgeGraph) -> Iterator[Finding]:
    for split in SPLITS:
        triples = graph.split(split)
        loops = triples[:, 0] == triples[:, 2]
        if count := int(loops.sum()):
            share = count / len(triples)
            yield Finding(
                f"{split}-self-loops",
                Severity.WARNING if share > LOOP_SHARE else Severity.INFO, count,
                f"{count:,} triples of {split} ({share:.1%}) link an entity to itself.",
                "take them out unless the relation means it",
                tell_triples(graph, triples, loops), {"share": share})


def _unseen(graph: KnowledgeGraph) -> Iterator[Finding]:
    relation_seen = np.zeros(graph.num_relations, bool)
    relation_seen[graph.train[:, 1]] = True
    entity_seen = graph.train_degree > 0
    for split in ("valid", "test"):
        triples = graph.split(split)
        if not len(triples):
            continue
        unseen = ~entity_seen[triples[:, [0, 2]]].all(axis=1)
        if count := int(unseen.sum()):
            entities = np.unique(triples[:, [0, 2]][~entity_seen[triples[:, [0, 2]]]])
            yield Finding(
                f"{split}-unseen-entities", Severity.INFO, count,
                f"{count:,} triples of {split} ({count / len(triples):.1%}) touch one of "
                f"{len(entities):,} entities without a train triple.",
                "report them as a slice of their own: structure alone cannot place them",
                tell_names(graph.entity_names, entities.tolist()),
                {"share": count / len(triples), "entities": len(entities)})
        unseen = ~relation_seen[triples[:, 1]]
        if count := int(unseen.sum()):
            relations = np.unique(triples[unseen, 1])
            share = count / len(triples)
            yield Finding(
                f"{split}-unseen-relations",
                Severity.WARNING if share >= UNSEEN_SHARE else Severity.INFO, count,
                f"{count:,} triples of {split} ({share:.1%}) have one of {len(relations):,} "
                "relations that train never shows.",
                "move some of their triples to train, or re-draw the splits with 'kgc split "
                "DATASET OUT'", tell_names(graph.relation_names, relations.tolist()),
                {"share": share, "relations": len(relations)})
    used = np.zeros(graph.num_entities, bool)
    for split in SPLITS:
        used[graph.split(split)[:, [0, 2]].ravel()] = True
    if count := int((~used).sum()):
        yield Finding(
            "entities-without-triples", Severity.INFO, count,
            f"{count:,} entities are in no triple; they count as candidates.",
            "keep them if they may be answers",
            tell_names(graph.entity_names, np.flatnonzero(~used).tolist()))


def _relation_leaks(graph: KnowledgeGraph, train: Ints) -> Iterator[Finding]:
    everything = np.concatenate([train, graph.valid, graph.test])
    rules = RelationRules.find(
        everything, graph.num_entities, graph.num_relations, graph.symmetric)
    for split in ("valid", "test"):
        triples = graph.split(split)
        for kind, leaks in rules.leaks(triples, train).items():
            if count := int(leaks.sum()):
                share = count / len(triples)
                yield Finding(
                    f"{split}-{kind}-leak",
                    Severity.WARNING if share >= LEAK_SHARE else Severity.INFO, count,
                    f"{count:,} triples of {split} ({share:.1%}) follow from a train triple of "
                    f"{_KINDS[kind]}.",
                    "report them as a slice of their own, or re-draw the splits with 'kgc split "
                    "DATASET OUT', which keeps such pairs together",
                    tell_triples(graph, triples, leaks),
                    {"share": share, "confidence": CONFIDENCE})


_KINDS = {"near-duplicate": "a relation that says the same",
          "inverse": "a relation that says the same backwards",
          "symmetric": "the same relation, read backwards"}


def _linked_pairs(graph: KnowledgeGraph, keys: dict[str, Longs]) -> Iterator[Finding]:
    for split in ("valid", "test"):
        triples = graph.split(split)
        linked = graph.linked_in_train(triples) & ~np.isin(keys[split], keys["train"])
        if count := int(linked.sum()):
            yield Finding(
                f"{split}-linked-pairs", Severity.INFO, count,
                f"{count:,} triples of {split} ({count / len(triples):.1%}) link two entities "
                "that train links by another relation or the other way round.",
                "report them as a slice of their own", tell_triples(graph, triples, linked),
                {"share": count / len(triples)})


def _relation_mix(graph: KnowledgeGraph, split: str) -> Iterator[Finding]:
    triples = graph.split(split)
    expected, found = (np.bincount(part[:, 1], minlength=graph.num_relations) / len(part)
                       for part in (graph.train, triples))
    cosine = float(expected @ found / np.linalg.norm(expected) / np.linalg.norm(found))
    distance = np.abs(expected - found).sum() / 2
    # What a fair draw of that size would differ by, about (mean absolute deviation).
    by_chance = np.sqrt(2 * expected * (1 - expected) / np.pi / len(triples)).sum() / 2
    if cosine < MIN_COSINE and distance > 2 * by_chance:
        excess = np.argsort(expected - found)[:3]
        yield Finding(
            f"{split}-relation-mix", Severity.WARNING, len(triples),
            f"The relations of {split} are another mix than those of train: the cosine of their "
            f"counts is {cosine:.2f}.",
            _REDRAW if split == "valid" else "re-draw the splits with 'kgc split DATASET OUT'",
            tuple(f"{graph.relation_names[r]}: {expected[r]:.1%} of train, {found[r]:.1%} of "
                  f"{split}" for r in excess.tolist()), {"cosine": cosine})


def _foreign_ids(graph: KnowledgeGraph, split: str, train: Ints) -> Iterator[Finding]:
    """Compare how often train knows (entity, relation) of a triple with what ids would give.

    Own ids give the share that train triples have among the others, relation by relation;
    another numbering gives the share of entities that have the relation at all.
    """
    triples = graph.split(split)
    degree, relations = graph.train_degree, graph.num_relations
    measures: dict[str, dict[str, float]] = {}
    foreign = False
    for end, column in (("head", 0), ("tail", 2)):
        slot = train[:, column].astype(np.int64) * relations + train[:, 1]
        slots, place, sizes = np.unique(slot, return_inverse=True, return_counts=True)
        # A train triple counts only where its entity would still be known without it.
        kept = degree[train[:, column]] > 1
        asked = np.bincount(train[kept, 1], minlength=relations)
        answered = np.bincount(train[kept, 1], sizes[place[kept]] > 1, minlength=relations)
        own = answered / np.maximum(asked, 1)
        other = np.bincount(slots % relations, minlength=relations) / max(1, (degree > 0).sum())
        known = triples[degree[triples[:, column]] > 0]
        if len(known) < MIN_TRIPLES:
            continue
        found = np.isin(known[:, column].astype(np.int64) * relations + known[:, 1], slots).mean()
        expected, chance = own[known[:, 1]].mean(), other[known[:, 1]].mean()
        measures[end] = {"found": float(found), "own_ids": float(expected),
                         "other_ids": float(chance)}
        if expected - chance >= MIN_CONTRAST:
            measures[end]["fit"] = float((found - chance) / (expected - chance))
            foreign |= measures[end]["fit"] < MIN_FIT
    if foreign:
        told = "; ".join(
            f"train knows the {end} with the relation in {value['found']:.0%} of its triples, "
            f"where ids of train's numbering would give {value['own_ids']:.0%} and ids of another "
            f"{value['other_ids']:.0%}" for end, value in measures.items())
        yield Finding(
            f"{split}-foreign-ids", Severity.ERROR, len(triples),
            f"The ids of {split} look like another numbering than train's: {told}.",
            f"take {split} from the release whose numbering train has, or re-draw it with 'kgc "
            "split'", tell_triples(graph, triples, np.ones(len(triples), bool)), measures)
