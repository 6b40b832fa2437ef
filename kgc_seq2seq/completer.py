"""The public face: load a run, complete a query."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa

from caption_cache.again import caption_as
from caption_cache.captions import PROFILE, as_profile, read_captions
from caption_cache.errors import InputError
from kgc_seq2seq.decoding.exact import ExactSearch
from kgc_seq2seq.evaluation.ranking import QUERIES_AT_ONCE
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.graph.names import folded, short_ids
from kgc_seq2seq.hub import fetch_run
from kgc_seq2seq.newcomers import Newcomer, with_newcomers
from kgc_seq2seq.runs import Run, open_run
from kgc_seq2seq.systems.combined import Combined
from kgc_seq2seq.systems.generator import Generator

Direction = Literal["tail", "head"]


@dataclass(frozen=True)
class Query:
    """A question: one end of a triple and its relation."""

    entity: str | Newcomer
    """Name or id of the entity that is given: the head of a tail query, and the other way; or
    one that the graph lacks."""
    relation: str
    """Name or id of the relation."""
    direction: Direction = "tail"
    """Which end is asked for."""
    candidates: tuple[str, ...] = ()
    """Names that may answer too, though the graph lacks them."""

    def __post_init__(self) -> None:
        if self.direction not in get_args(Direction):
            raise InputError(f"direction is {self.direction!r}; it must be 'tail' or 'head'.")

    @property
    def plain(self) -> Query:
        """The same for a completer that knows what this one tells; see `Completer.telling`."""
        return Query(self.name, self.relation, self.direction)

    @property
    def name(self) -> str:
        """Name or id of the entity."""
        return self.entity.name if isinstance(self.entity, Newcomer) else self.entity


@dataclass(frozen=True)
class Prediction:
    """One answer to a query."""

    id: str
    """The entity's id."""
    name: str
    """The entity's name."""
    probability: float
    """p(entity | query, the answer is in the catalogue): all entities together have 1."""
    probability_error: float
    """The true value is at most so far from ``probability``: what the search left unexplored."""
    log_probability: float
    """What orders the answers, a natural logarithm: of a generator, log p(name) under the model,
    EOS included; of a generator fused with scorers, their weighted sum; else the logarithm of the
    probability."""
    known: bool
    """Whether the fact is in the data set, in any split, or was told with the query."""


class Completer:
    """Answers queries with a run of any kind; every answer is an entity of the graph."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.system = run.system
        self.graph = run.system.graph
        self._names = QueryNames(self.graph)

    @classmethod
    def from_pretrained(cls, run: str | Path, *, revision: str | None = None) -> Completer:
        """Load a run of a generator, a scorer or a fusion.

        Args:
            run: The folder, or else the name of a run that `export.push_to_hub` has put on the
                hub, such as ``user/name``.
            revision: On the hub: a branch, tag or commit.

        Raises:
            InputError: It is no run folder, its data set or a part of it has gone or has other
                entities or relations, or the hub has no such run.
        """
        return cls(open_run(fetch_run(run, revision)))

    def complete(self, query: Query, k: int = 10) -> list[Prediction]:
        """The ``k`` most probable answers, best first; see `complete_many`."""
        return self.complete_many([query], k)[0]

    def complete_many(self, queries: Sequence[Query], k: int = 10) -> list[list[Prediction]]:
        """The ``k`` most probable answers to each query, exactly, best first.

        A query about a new entity, or with new candidates, is answered as if they stood in the
        graph; other queries do not see them.

        Raises:
            InputError: ``k`` is below 1, or a name is unknown; the nearest known ones are named.
        """
        if k < 1:
            raise InputError(f"k is {k}; ask for 1 answer or more.")
        if any(map(_is_told, queries)):
            plain = [query for query in queries if not _is_told(query)]
            rest = iter(self.complete_many(plain, k))
            return [
                self.telling(query).complete(query.plain, k)
                if _is_told(query) else next(rest) for query in queries]
        asked = np.array([self.resolve(query) for query in queries], np.int32).reshape(-1, 2)
        answers = []
        for start in range(0, len(asked), QUERIES_AT_ONCE):
            part = asked[start : start + QUERIES_AT_ONCE]
            best = self.system.best(part, min(k, self.graph.num_entities))
            known = self.graph.known_answers
            keys = self.graph.query_keys(part[:, 0], part[:, 1])
            for key, *row in zip(keys.tolist(), best.entities.tolist(), best.scores.tolist(),
                                 best.probabilities.tolist(), best.errors.tolist(),
                                 strict=True):
                right = set(known[key].tolist())
                answers.append([Prediction(
                    id=self.graph.entity_ids[entity], name=self.graph.entity_names[entity],
                    probability=probability, probability_error=error, log_probability=score,
                    known=entity in right,
                ) for entity, score, probability, error in zip(*row, strict=True)])
        return answers

    @property
    def writes(self) -> bool:
        """Whether there is a `generator`."""
        return isinstance(self.system, Generator | Combined)

    @property
    def generator(self) -> Generator:
        """The generator, alone or within a fusion.

        Raises:
            InputError: It is the run of a scorer, or of scorers alone, which write no names.
        """
        if isinstance(self.system, Generator):
            return self.system
        if isinstance(self.system, Combined):
            return self.system.generator
        raise InputError("This is the run of a scorer, or of scorers alone, where a generator is "
                         "needed; give the run of one, or of a fusion with one.")

    def telling(self, query: Query) -> Completer:
        """A completer that knows the new entities of a query; this one, where there are none.

        Raises:
            InputError: A name is taken or unknown, or an image cannot be captioned.
        """
        newcomers = self._newcomers(query)
        if not newcomers:
            return self
        generator, graph = self.generator, self._graph_with(newcomers)
        captions = {newcomer.name: caption for newcomer in newcomers
                    if (caption := self._caption(newcomer))}
        verbalizer = generator.verbalizer.over(graph, captions)
        tokens, offsets = verbalizer.names()
        start = offsets[self.graph.num_entities]
        trie = generator.search.trie.extended(tokens[start:],
                                              offsets[self.graph.num_entities :] - start)
        told = Generator(verbalizer, ExactSearch(generator.search.decoder, trie))
        system = self.system
        if isinstance(system, Combined):
            voices = tuple(voice.and_unseen(len(newcomers)) for voice in system.voices)
            return Completer(replace(self.run, system=replace(
                system, generator=told, voices=voices)))
        return Completer(replace(self.run, system=told))

    def _newcomers(self, query: Query) -> list[Newcomer]:
        if not _is_told(query):
            return []
        known = self._names.entities
        found = [Newcomer(name) for name in dict.fromkeys(query.candidates)
                 if name not in known and name != query.name]
        return [*found, query.entity] if isinstance(query.entity, Newcomer) else found

    def _graph_with(self, newcomers: Sequence[Newcomer]) -> KnowledgeGraph:
        relations = _Index("relation", "relations", self.graph.relation_ids,
                           self.graph.relation_names)
        return with_newcomers(self.graph, newcomers, relations.__getitem__,
                              self._names.entities.__getitem__)

    def _caption(self, newcomer: Newcomer) -> str | None:
        if newcomer.image is None:
            return newcomer.caption
        if not self.run.captions:
            raise InputError(f"The new entity {newcomer.name!r} has an image, but this run reads "
                             "no captions; leave the image out.")
        profile = self.generator.verbalizer.config.reads("profile")
        texts = [caption_as(read_captions(
            self.run.dataset, self.run.caption_source, scope=scope).sources[0],
            Path(newcomer.image), newcomer.name) for scope in (PROFILE if profile else ("entity",))]
        return as_profile(newcomer.name, texts) if profile else texts[0]

    def check(self, query: Query) -> None:
        """Check that the graph knows all that a query names, but for what it tells.

        Raises:
            InputError: As `resolve`; or a new name is taken.
        """
        if newcomers := self._newcomers(query):
            self._graph_with(newcomers)
        if isinstance(query.entity, Newcomer):
            query = replace(query, entity=self.graph.entity_names[0])
        self.resolve(query)

    def resolve(self, query: Query) -> tuple[int, int]:
        """The entity and the relation in ``0 … 2R - 1`` that a query means.

        Raises:
            InputError: A name is unknown; the nearest known ones are named.
        """
        return self._names.resolve(query)

    def resolve_entity(self, name: str) -> int:
        """The entity with a name or an id.

        Raises:
            InputError: There is none; the nearest known names are told.
        """
        return self._names.entities[name]


class QueryNames:
    """Finds the entities and relations that queries name."""

    def __init__(self, graph: KnowledgeGraph) -> None:
        self.graph = graph
        self.entities = _Index("entity", "entities", graph.entity_ids, graph.entity_names)
        self.relations = _Index("relation", "relations", graph.relation_ids,
                                graph.relation_names[: graph.num_relations])

    def resolve(self, query: Query) -> tuple[int, int]:
        """As `Completer.resolve`."""
        relation = self.relations[query.relation]
        if query.direction == "head":
            relation += self.graph.num_relations
        return self.entities[query.name], relation


def _is_told(query: Query) -> bool:
    """Whether a query names entities that the graph may lack."""
    return isinstance(query.entity, Newcomer) or bool(query.candidates)


class _Index:
    """Finds things by name or id, forgiving case and how letters are composed."""

    def __init__(self, kind: str, kinds: str, ids: Sequence[str], names: Sequence[str]) -> None:
        self.kind, self.kinds = kind, kinds
        self.names = names
        # Of relations of one name, forward and inverse, the first.
        numbered = list(enumerate(names))[::-1]
        alike = {folded(name): index for index, name in numbered}
        exact = {name: index for index, name in numbered}
        by_id = {key: index for index, key in enumerate(ids)}
        # What is more exact wins.
        self.found = alike | by_id | exact

    def __contains__(self, name: str) -> bool:
        return name in self.found or folded(name) in self.found

    def __getitem__(self, name: str) -> int:
        found = self.found.get(name, self.found.get(folded(name)))
        if found is None:  # imports keep of a URI what follows its namespace
            found = self.found.get(short_ids(pa.array([name]))[0].as_py())
        if found is None:
            alike = {folded(known): known for known in self.names}
            near = [alike[match] for match in
                    difflib.get_close_matches(folded(name), alike, n=3, cutoff=0.5)]
            raise InputError(f"No {self.kind} is called {name!r}"
                             + (f"; the nearest names are {', '.join(near)}." if near else
                                f"; see {self.kinds}.tsv for the names."))
        return found
