"""Whether captions and descriptions give the answers away."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from caption_cache.captions import PROFILE, last_asked, of_source, sources
from caption_cache.links import INVERSE
from caption_cache.store import Store
from kgc_seq2seq.arrays import Floats, Ints, Longs
from kgc_seq2seq.graph.audit.findings import Finding, Severity, tell_triples
from kgc_seq2seq.graph.audit.modalities import coverage
from kgc_seq2seq.graph.importers.modalities import CAPTIONER
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph

ASKED = 20_000
"""At most so many test triples are looked up in the texts, drawn at random."""
DRAWS = 4
"""Random answers for each, to compare with."""
_SEPARATORS = re.compile(r"[\W_]+")
_SUFFIX = re.compile(r" \([^()]*\)$")


def audit_texts(dataset: Path, graph: KnowledgeGraph) -> Iterator[Finding]:
    """Check descriptions and captions against the test triples, and whose pairs are captioned."""
    described = {entity: text for entity, text in enumerate(graph.entity_descriptions) if text}
    if described:
        yield coverage("descriptions", len(described), graph.num_entities)
        yield from _recall(graph, described, "descriptions", "", Severity.WARNING)
    rows = Store(dataset).read()
    ok = rows.filter(pc.equal(rows["status"], "ok"))
    yield from _pairs(graph, ok.filter(pc.is_valid(ok["neighbour"])))
    # A profile is asked for again when its entity gets more images.
    rows = last_asked(rows)
    rows = rows.filter(pc.equal(rows["status"], "ok"))
    for scope in ("entity", *PROFILE, "relation", "pair", "summary"):
        what = "captions" if scope == "entity" else f"{scope}-captions"
        of_scope = rows.filter(pc.equal(rows["scope"], scope))
        for source in sources(of_scope):
            entities, subjects, said = _subjects(graph, of_source(of_scope, source))
            texts: dict[int, list[str]] = {}
            for subject, text in zip(subjects.tolist(), said, strict=True):
                texts.setdefault(subject, []).append(text)
            yield coverage(what, len(np.unique(entities)), graph.num_entities,
                           f" by {source.label}")
            # A captioner that is asked nothing knows no name: what it says, it has seen.
            blind = source.prompt_id is None and source.identity.captioner != CAPTIONER
            yield from _recall(graph, {key: " ".join(each) for key, each in texts.items()}, what,
                               f" by {source.label}",
                               Severity.INFO if blind else Severity.WARNING,
                               by_question=scope == "relation",
                               by_pair=scope in ("pair", "summary"))


def _subjects(graph: KnowledgeGraph, rows: pa.Table) -> tuple[Longs, Longs, list[str]]:
    """Of the texts about what the graph has: the entity, the subject, and the text.

    The subject is the entity or, where the text is about a relation of it, that question. A text
    about a pair stands there for each of the two.
    """
    ids = pa.array(graph.entity_ids, pa.string())
    relations = pa.array([*graph.relation_ids, *(INVERSE + key for key in graph.relation_ids)],
                         pa.string())
    rows = rows.filter(pc.and_(
        pc.is_in(rows["entity"], value_set=ids),
        pc.or_(pc.is_null(rows["relation"]), pc.is_in(rows["relation"], value_set=relations))))
    pairs = rows.filter(pc.is_in(rows["neighbour"], value_set=ids))
    rows = pa.concat_tables([rows, pairs.set_column(
        pairs.column_names.index("entity"), "entity", pairs["neighbour"])])
    entities = pc.index_in(rows["entity"], value_set=ids).to_numpy()
    asked = pc.index_in(rows["relation"], value_set=relations)
    subjects = entities if asked.null_count else _questions(graph, entities, asked.to_numpy())
    return entities, subjects, rows["text"].to_pylist()


def _questions(graph: KnowledgeGraph, entities: Ints, relations: Ints) -> Longs:
    """One int64 for each question, the same where two read the same."""
    folded = graph.fold(np.stack([entities, relations], axis=1))
    return graph.query_keys(folded[:, 0], folded[:, 1])


def _pairs(graph: KnowledgeGraph, rows: pa.Table) -> Iterator[Finding]:
    """Captions made for pairs that only valid or test links."""
    if not rows.num_rows:
        return
    ids = pa.array(graph.entity_ids, pa.string())
    ends = [pc.index_in(rows[column], value_set=ids).fill_null(-1).to_numpy().astype(np.int64)
            for column in ("entity", "neighbour")]
    captioned = np.unique(graph.pair_keys(*ends)[(ends[0] >= 0) & (ends[1] >= 0)])
    known = graph.pair_keys(graph.train[:, 0], graph.train[:, 2])
    for split in ("valid", "test"):
        triples = graph.split(split)
        pairs = graph.pair_keys(triples[:, 0], triples[:, 2])
        told = np.isin(pairs, captioned) & ~np.isin(pairs, known)
        if count := int(told.sum()):
            yield Finding(
                f"{split}-pair-captions", Severity.ERROR, count,
                f"Captions were made for the pairs of {count:,} triples of {split} "
                f"({count / len(triples):.1%}): that a pair has one gives the answer away.",
                "delete these captions; caption pairs that train links, and no others",
                tell_triples(graph, triples, told), {"share": count / len(triples)})


def _recall(
    graph: KnowledgeGraph, texts: Mapping[int, str], what: str, by: str, severity: Severity, *,
    by_question: bool = False, by_pair: bool = False,
) -> Iterator[Finding]:
    """How often the answer's name stands in the text of the query's entity, or of the question.

    Texts about pairs name both, and train has told of these: there only others are asked for.
    """
    asked_for = graph.test[~graph.linked_in_train(graph.test)] if by_pair else graph.test
    of = "the facts of test whose ends train does not link" if by_pair else "test"
    words = {subject: found for subject, text in texts.items() if (found := _words(text))}
    for end, other, given, asked in (("tail", "head", 0, 2), ("head", "tail", 2, 0)):
        random = np.random.default_rng(0)
        triples = asked_for
        subjects: Ints | Longs = triples[:, given]
        if by_question:
            relations = triples[:, 1] if end == "tail" else graph.inverse(triples[:, 1])
            subjects = _questions(graph, triples[:, given], relations)
        chosen = np.flatnonzero([subject in words for subject in subjects.tolist()])
        if not len(chosen):
            continue
        if len(chosen) > ASKED:
            chosen = chosen[np.sort(random.choice(len(chosen), ASKED, replace=False))]
        triples, said = triples[chosen], [words[s] for s in subjects[chosen].tolist()]
        gold = _named(graph, said, triples[:, asked])
        drawn = np.stack([_named(graph, said,
                                 _random_answers(random, triples[:, 1], triples[:, asked]))
                          for _ in range(DRAWS)])
        excess = gold - drawn.mean(axis=0)
        half = 1.96 * float(excess.std()) / len(triples) ** 0.5
        low, high = float(excess.mean()) - half, float(excess.mean()) + half
        if low <= 0:
            continue
        yield Finding(
            f"{end}-in-{what}", severity, int(gold.sum()),
            f"The {end}'s name stands in the {other}'s {what}{by} in {gold.mean():.1%} of {of}, "
            f"that of a random {end} of the same relation in {drawn.mean():.1%} (excess "
            f"{low:.1%} to {high:.1%}, 95 % confidence).",
            "report a names-only arm beside every result with these texts; a gain from them is "
            "no visual gain",
            tell_triples(graph, triples, gold > 0),
            {"answer": float(gold.mean()), "random": float(drawn.mean()),
             "excess": {"low": low, "high": high}, "triples": len(triples)})


def _words(text: str) -> str:
    """Case-folded words between single spaces, with one at each end; empty without a word."""
    words = _SEPARATORS.sub(" ", text.casefold()).strip()
    return f" {words} " if words else ""


def _named(
    graph: KnowledgeGraph, said: Sequence[str], asked: Ints
) -> Floats:
    """Whether the name of each answer, what is in brackets left out, stands in the text."""
    wanted = {entity: _words(_SUFFIX.sub("", graph.entity_names[entity]))
              for entity in np.unique(asked).tolist()}
    return np.array([bool(wanted[answer]) and wanted[answer] in text
                     for text, answer in zip(said, asked.tolist(), strict=True)], np.float64)


def _random_answers(random: np.random.Generator, relations: Ints, answers: Ints) -> Ints:
    """For each query the answer of a random query of the same relation."""
    order = np.argsort(relations, kind="stable")
    shuffled = np.lexsort((random.random(len(relations)), relations))
    drawn: Ints = np.empty_like(answers)
    drawn[order] = answers[shuffled]
    return drawn
