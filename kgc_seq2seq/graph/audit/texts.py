"""Whether captions and descriptions give the answers away."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from caption_cache.captions import of_source, sources
from caption_cache.store import Store
from kgc_seq2seq.graph.audit.findings import Finding, Severity, tell_triples
from kgc_seq2seq.graph.audit.modalities import coverage
from kgc_seq2seq.graph.csr import Ints, Longs
from kgc_seq2seq.graph.importers.modalities import CAPTIONER
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph

ASKED = 20_000
"""At most so many test triples are looked up in the texts, drawn at random."""
DRAWS = 4
"""Random answers for each, to compare with."""
_SEPARATORS = re.compile(r"[\W_]+")
_SUFFIX = re.compile(r" \([^()]*\)$")
Bools = npt.NDArray[np.bool_]


def audit_texts(dataset: Path, graph: KnowledgeGraph) -> Iterator[Finding]:
    """Check descriptions and captions against the test triples, and whose pairs are captioned."""
    if any(graph.entity_descriptions):
        yield coverage("descriptions", sum(map(bool, graph.entity_descriptions)),
                       graph.num_entities)
        yield from _recall(graph, graph.entity_descriptions, "descriptions", Severity.WARNING)
    rows = Store(dataset).read()
    rows = rows.filter(pc.equal(rows["status"], "ok"))
    yield from _pairs(graph, rows.filter(pc.is_valid(rows["neighbour"])))
    rows = rows.filter(pc.equal(rows["scope"], "entity"))
    for source in sources(rows):
        said = of_source(rows, source)
        texts: dict[str, list[str]] = {}
        for entity, text in zip(said["entity"].to_pylist(), said["text"].to_pylist(), strict=True):
            texts.setdefault(entity, []).append(text)
        by_entity = [" ".join(texts.get(key, ())) for key in graph.entity_ids]
        yield coverage("captions", sum(map(bool, by_entity)), graph.num_entities,
                       f" by {source.label}")
        # A captioner that is asked nothing knows no name: what it says, it has seen.
        blind = source.prompt_id is None and source.identity.captioner != CAPTIONER
        yield from _recall(graph, by_entity, f"captions by {source.label}",
                           Severity.INFO if blind else Severity.WARNING)


def _pairs(graph: KnowledgeGraph, rows: pa.Table) -> Iterator[Finding]:
    """Captions made for pairs that only valid or test links."""
    if not rows.num_rows:
        return
    ids = pa.array(graph.entity_ids, pa.string())
    ends = [pc.index_in(rows[column], value_set=ids).fill_null(-1).to_numpy().astype(np.int64)
            for column in ("entity", "neighbour")]
    captioned = np.unique(_pair_keys(graph, *ends)[(ends[0] >= 0) & (ends[1] >= 0)])
    known = _pair_keys(graph, graph.train[:, 0], graph.train[:, 2])
    for split in ("valid", "test"):
        triples = graph.split(split)
        pairs = _pair_keys(graph, triples[:, 0], triples[:, 2])
        told = np.isin(pairs, captioned) & ~np.isin(pairs, known)
        if count := int(told.sum()):
            yield Finding(
                f"{split}-pair-captions", Severity.ERROR, count,
                f"Captions were made for the pairs of {count:,} triples of {split} "
                f"({count / len(triples):.1%}): that a pair has one gives the answer away.",
                "delete these captions; caption pairs that train links, and no others",
                tell_triples(graph, triples, told), {"share": count / len(triples)})


def _pair_keys(graph: KnowledgeGraph, one: Ints | Longs, other: Ints | Longs) -> Longs:
    """One int64 for each pair, whichever way round."""
    low, high = np.minimum(one, other), np.maximum(one, other)
    return low.astype(np.int64) * graph.num_entities + high


def _recall(
    graph: KnowledgeGraph, texts: Sequence[str], what: str, severity: Severity
) -> Iterator[Finding]:
    """How often the answer's name stands in the text of the query's entity."""
    words = [_words(text) for text in texts]
    for end, other, given, asked in (("tail", "head", 0, 2), ("head", "tail", 2, 0)):
        random = np.random.default_rng(0)
        triples = graph.test[np.array([bool(words[e]) for e in graph.test[:, given].tolist()],
                                      bool)]
        if not len(triples):
            continue
        if len(triples) > ASKED:
            triples = triples[np.sort(random.choice(len(triples), ASKED, replace=False))]
        gold = _named(graph, words, triples[:, given], triples[:, asked])
        drawn = np.stack([_named(graph, words, triples[:, given],
                                 _random_answers(random, triples[:, 1], triples[:, asked]))
                          for _ in range(DRAWS)])
        excess = gold - drawn.mean(axis=0)
        half = 1.96 * float(excess.std()) / len(triples) ** 0.5
        low, high = float(excess.mean()) - half, float(excess.mean()) + half
        if low <= 0:
            continue
        yield Finding(
            f"{end}-in-{what.split()[0]}", severity, int(gold.sum()),
            f"The {end}'s name stands in the {other}'s {what} in {gold.mean():.1%} of test, that "
            f"of a random {end} of the same relation in {drawn.mean():.1%} (excess "
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
    graph: KnowledgeGraph, words: Sequence[str], given: Ints, asked: Ints
) -> npt.NDArray[np.float64]:
    """Whether the name of each answer, what is in brackets left out, stands in the text."""
    wanted = {entity: _words(_SUFFIX.sub("", graph.entity_names[entity]))
              for entity in np.unique(asked).tolist()}
    return np.array([bool(wanted[answer]) and wanted[answer] in words[entity]
                     for entity, answer in zip(given.tolist(), asked.tolist(), strict=True)],
                    np.float64)


def _random_answers(random: np.random.Generator, relations: Ints, answers: Ints) -> Ints:
    """For each query the answer of a random query of the same relation."""
    order = np.argsort(relations, kind="stable")
    shuffled = np.lexsort((random.random(len(relations)), relations))
    drawn: Ints = np.empty_like(answers)
    drawn[order] = answers[shuffled]
    return drawn
