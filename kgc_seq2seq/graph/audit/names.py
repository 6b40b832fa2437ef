"""What is wrong with the names of entities: a model answers by name, so each must be one's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kgc_seq2seq.arrays import Longs
from kgc_seq2seq.graph.audit.findings import NUM_EXAMPLES, Finding, Severity, tell_names
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.graph.names import CONTROL, collision_groups, normalized

LONG_NAME = 200
"""A name of more characters is told of."""
_APART = ("tell them apart: import again with --on-collision description, relation-hint or id, or "
          "rename them in entities.tsv")


def audit_names(graph: KnowledgeGraph) -> Iterator[Finding]:
    """Check the names of the entities, and of the relations, as strings."""
    names = pa.array(graph.entity_names, pa.string())
    places, groups = collision_groups(names)
    yield from _collisions(graph, "name-collisions", places, groups,
                           "share their name with another")
    folded, folded_groups = collision_groups(normalized(names))
    if len(folded) > len(places):
        # Whole groups, since an equal name may have become equal to a third.
        new = ~np.isin(folded, places)
        wanted = np.isin(folded_groups, folded_groups[new])
        yield from _collisions(
            graph, "normalized-name-collisions", folded[wanted], folded_groups[wanted],
            "have a name that is another's once normalised (NFKC, white space) as T5's "
            "vocabularies do")
    yield from _chosen(graph, "empty-names", Severity.ERROR,
                       pc.equal(pc.utf8_trim_whitespace(names), ""), "have no name",
                       "fill the names in")
    yield from _chosen(graph, "control-characters", Severity.ERROR,
                       pc.match_substring_regex(names, CONTROL),
                       "have a control character in their name", "take it out of entities.tsv")
    yield from _chosen(graph, "long-names", Severity.INFO,
                       pc.greater(pc.utf8_length(names), LONG_NAME),
                       f"have a name of more than {LONG_NAME} characters",
                       "shorten it if the search over names gets slow")
    # A symmetric relation is called like its own inverse.
    apart = np.append(np.ones(graph.num_relations, bool), ~graph.symmetric)
    relation_names = [graph.relation_names[place] for place in np.flatnonzero(apart).tolist()]
    places, _ = collision_groups(relation_names)
    if len(places):
        yield Finding("relation-name-collisions", Severity.ERROR, len(places),
                      f"{len(places):,} relations or inverses share their name with another.",
                      "rename them in relations.tsv", tell_names(relation_names, places.tolist()))


def audit_tokens(graph: KnowledgeGraph, keys: pa.Array, unspeakable: Sequence[int]
                 ) -> Iterator[Finding]:
    """Check the names as a tokenizer spells them.

    Args:
        graph: The graph.
        keys: A key for every name, equal exactly when the tokens are, [N].
        unspeakable: The names with unknown tokens or none.
    """
    yield from _collisions(graph, "token-collisions", *collision_groups(keys),
                           "have a name with the same tokens as another's")
    if unspeakable:
        yield Finding("unknown-tokens", Severity.ERROR, len(unspeakable),
                      f"{len(unspeakable):,} names have no tokens, or hold marks of the "
                      "tokenizer's own.", "rename them in entities.tsv",
                      tell_names(graph.entity_names, unspeakable))


def _collisions(
    graph: KnowledgeGraph, check: str, places: Longs, groups: Longs, what: str
) -> Iterator[Finding]:
    """A finding for entities that cannot be told apart, if there are any."""
    if not len(places):
        return
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    examples = []
    for start in starts[:NUM_EXAMPLES].tolist():
        one, other = places[start], places[start + 1]
        examples.append(f"{graph.entity_names[one]!r} ({graph.entity_ids[one]}, "
                        f"{graph.entity_ids[other]})")
    yield Finding(check, Severity.ERROR, len(places),
                  f"{len(places):,} entities in {len(starts):,} groups {what}.", _APART,
                  tuple(examples), {"groups": len(starts)})


def _chosen(
    graph: KnowledgeGraph, check: str, severity: Severity, mask: pa.Array, what: str, mend: str
) -> Iterator[Finding]:
    places = np.flatnonzero(mask).tolist()
    if places:
        yield Finding(check, severity, len(places), f"{len(places):,} entities {what}.", mend,
                      tuple(f"{graph.entity_ids[place]}: {graph.entity_names[place][:60]!r}"
                            for place in places[:NUM_EXAMPLES]))
