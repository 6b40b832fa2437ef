"""What the page and its programs can ask of a run; every request is bounded."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from caption_cache.errors import InputError
from kgc_seq2seq.completer import Completer, Direction, Prediction, Query
from kgc_seq2seq.explain import PartsExplanation, explain_parts
from kgc_seq2seq.explorer.name_search import NameSearch
from kgc_seq2seq.explorer.pictures import Pictures
from kgc_seq2seq.leave_one_out import Effect, leave_one_out
from kgc_seq2seq.newcomers import Newcomer
from kgc_seq2seq.queries import answers_data, parse_queries
from kgc_seq2seq.runs import open_run
from kgc_seq2seq.text.verbalizer import Part

MAX_TEXT = 200
"""Characters of a name in a request."""
MAX_ANSWERS = 100
"""Answers to one query."""
MAX_TOLD = 100
"""So many facts and candidates a query may tell."""
MAX_DESCRIPTION = 2_000
"""Characters of the description and the caption of a new entity."""
MAX_QUERIES = 1000
"""Queries of one file."""
MAX_MATCHES = 20
"""Names that are offered while one is typed."""


@dataclass(frozen=True)
class Asked:
    """A query and what came of it."""

    query: Query
    """With the names of the graph, whatever was typed."""
    answers: Sequence[Prediction]
    """Best first."""
    parts: PartsExplanation
    """What each part of the system has in them."""


@dataclass(frozen=True)
class Reasons:
    """Why a generator gives an answer its probability."""

    answer: str
    """The name of the answer."""
    read: Sequence[Part]
    """What the model reads for the query, and what its budget leaves out."""
    effects: Sequence[Effect]
    """What each part of the context that is read does to the answer."""


class Explorer:
    """A run that is asked by people and programs."""

    def __init__(self, run: Path) -> None:
        """Open a run.

        Raises:
            InputError: As `open_run`, or its images cannot be listed.
        """
        opened = open_run(run)
        self.completer = Completer(opened)
        self.graph = self.completer.graph
        self.pictures = Pictures(opened.dataset, opened.captions)
        self._names = NameSearch(self.graph)

    @property
    def relations(self) -> list[str]:
        """The names of the R relations."""
        return list(self.graph.relation_names[: self.graph.num_relations])

    def entities(self, text: str) -> list[str]:
        """Names of entities that match what was typed, best first, `MAX_MATCHES` at most.

        Raises:
            InputError: The text is too long.
        """
        _bound(text)
        return self._names.find(text, MAX_MATCHES)

    def example(self, seed: int) -> Query:
        """A test fact as a query; where there are images, of a head that has one."""
        graph = self.graph
        facts = next(facts for facts in (graph.test, graph.valid, graph.train) if len(facts))
        shown = np.array([graph.entity_ids[head] in self.pictures for head in facts[:, 0]])
        chosen = facts[shown] if shown.any() else facts
        head, relation, _ = chosen[np.random.default_rng(seed).integers(len(chosen))].tolist()
        return Query(graph.entity_names[head], graph.relation_names[relation])

    def ask(self, query: Query, k: int) -> Asked:
        """Answer a query.

        Raises:
            InputError: It asks too much, or a name is unknown.
        """
        _bound(query.name, query.relation)
        _bound_answers(k)
        entity, relation = self.completer.resolve(query)
        plain = relation % self.graph.num_relations
        query = Query(self.graph.entity_names[entity], self.graph.relation_names[plain],
                      query.direction)
        answers = self.completer.complete(query, k)
        return Asked(query, answers, explain_parts(self.completer, query, answers))

    def reasons(self, query: Query, answer: str) -> Reasons:
        """Why a generator, alone or in a fusion, gives an answer its probability.

        Raises:
            InputError: A name is unknown, or it is the run of a scorer.
        """
        _bound(query.name, query.relation, answer)
        return _reasons(self.completer, query, answer)

    def tell(
        self, told: Newcomer, image: bytes | None, relation: str, direction: Direction, k: int
    ) -> tuple[Asked, Reasons]:
        """Answer a query about an entity that the graph lacks, and say why.

        Args:
            told: The entity.
            image: The content of its image file, in place of a caption.
            relation: As in `Query`.
            direction: As in `Query`.
            k: As in `ask`.

        Raises:
            InputError: It asks or tells too much, a name is unknown or taken, the image cannot be
                captioned, or it is the run of a scorer.
        """
        query = Query(told, relation, direction)
        _bound_told(query)
        _bound_answers(k)
        with tempfile.TemporaryDirectory() as folder:
            if image is not None:
                path = Path(folder) / "image"
                path.write_bytes(image)
                query = replace(query, entity=replace(told, image=str(path)))
            completer = self.completer.telling(query)
        query = query.plain
        answers = completer.complete(query, k)
        asked = Asked(query, answers, explain_parts(completer, query, answers))
        return asked, _reasons(completer, query, answers[0].name)

    def ask_as_data(self, query: Query, k: int, *, explain: bool) -> dict[str, Any]:
        """As ``kgc predict --json``, and with ``explain`` as ``kgc predict --explain --json``.

        Raises:
            InputError: As `ask`.
        """
        asked = self.ask(query, k)
        data = answers_data(asked.query, asked.answers)
        if explain:
            data |= asked.parts.data
            if self.completer.writes:
                reasons = self.reasons(asked.query, asked.answers[0].name)
                data["context"] = [asdict(effect) for effect in reasons.effects]
        return data

    def ask_lines(self, text: str, k: int) -> list[dict[str, Any]]:
        """As ``kgc predict --queries FILE --json``.

        Args:
            text: The lines of the file.
            k: Answers to each query.

        Raises:
            InputError: A line is no query or asks too much, or there are too many.
        """
        queries = parse_queries(text, "The file")
        if len(queries) > MAX_QUERIES:
            raise InputError(f"The file holds {len(queries):,} queries; ask {MAX_QUERIES:,} at "
                             "once, or use 'kgc predict --queries'.")
        _bound_answers(k)
        for query in queries:
            _bound_told(query)
        return list(map(answers_data, queries, self.completer.complete_many(queries, k)))


def _reasons(completer: Completer, query: Query, answer: str) -> Reasons:
    generator = completer.generator
    asked = completer.resolve(query)
    chosen = completer.resolve_entity(answer)
    return Reasons(
        completer.graph.entity_names[chosen],
        generator.verbalizer.parts(np.array([*asked, -1], np.int32)),
        leave_one_out(generator.search, generator.verbalizer, asked, chosen))


def _bound_told(query: Query) -> None:
    """Bound a query that may tell of new entities."""
    _bound(query.name, query.relation, *query.candidates)
    told = query.entity if isinstance(query.entity, Newcomer) else Newcomer(query.name)
    _bound(*(text for fact in told.facts for text in fact))
    if told.image is not None:
        raise InputError(f"The new entity {query.name!r} names a file of this machine as its "
                         "image; give a caption instead.")
    if len(told.facts) + len(query.candidates) > MAX_TOLD:
        raise InputError(f"A query tells of more than {MAX_TOLD} facts and candidates; give "
                         "fewer.")
    if len(told.description) + len(told.caption or "") > MAX_DESCRIPTION:
        raise InputError(f"The texts about {query.name!r} are longer than {MAX_DESCRIPTION:,} "
                         "characters; shorten them.")


def _bound(*texts: str) -> None:
    for text in texts:
        if len(text) > MAX_TEXT:
            raise InputError(f"A name of {len(text):,} characters is too long; give at most "
                             f"{MAX_TEXT}.")


def _bound_answers(k: int) -> None:
    if not 1 <= k <= MAX_ANSWERS:
        raise InputError(f"k is {k}; ask for 1 to {MAX_ANSWERS} answers.")
