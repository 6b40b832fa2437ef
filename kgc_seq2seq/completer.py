"""The public face: load a run, complete a query."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from caption_cache.again import caption_as
from caption_cache.captions import read_captions
from caption_cache.errors import InputError
from kgc_seq2seq.config import RunConfig
from kgc_seq2seq.decoding.best_first import top_k
from kgc_seq2seq.decoding.exact import ExactSearch
from kgc_seq2seq.decoding.tree_decoder import TreeDecoder
from kgc_seq2seq.decoding.trie import EntityTrie
from kgc_seq2seq.evaluation.ranking import QUERIES_AT_ONCE, encode_queries
from kgc_seq2seq.graph.folder import read_graph
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.newcomers import Newcomer, with_newcomers
from kgc_seq2seq.text.verbalizer import Verbalizer
from kgc_seq2seq.training.model import load_model, load_tokenizer

Direction = Literal["tail", "head"]

OPEN_MASS = 0.001
"""Probabilities are given within about this share of themselves."""


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
    """log p(name) under the model, EOS included, natural logarithm."""
    known: bool
    """Whether the fact is in the data set, in any split."""


class Completer:
    """Answers queries with a trained generator; every answer is an entity of the graph."""

    def __init__(
        self, graph: KnowledgeGraph, verbalizer: Verbalizer, search: ExactSearch, config: RunConfig
    ) -> None:
        self.graph = graph
        self.verbalizer = verbalizer
        self.search = search
        self.config = config
        self.dataset: Path | None = None
        """Where the captions of the images are, if any are."""
        self._entities = _Index("entity", "entities", graph.entity_ids, graph.entity_names)
        self._relations = _Index("relation", "relations", graph.relation_ids,
                                 graph.relation_names[: graph.num_relations])

    @classmethod
    def from_pretrained(cls, run: str | Path) -> Completer:
        """Load a run folder.

        Raises:
            InputError: It is no run folder, or its data set has gone or changed.
        """
        run = Path(run)
        config = read_run(run)
        dataset = run / config.dataset
        graph = read_graph(dataset)
        tokenizer = load_tokenizer(run / "tokenizer")
        model = load_model(run / "model")
        captions = load_captions(dataset, config)
        verbalizer = Verbalizer(graph, captions, tokenizer, config.input, config.seed)
        trie = EntityTrie.load(run / "trie.safetensors")
        here = EntityTrie.build(*verbalizer.names())
        if not (np.array_equal(here.tokens, trie.tokens)
                and np.array_equal(here.order, trie.order)):
            raise InputError(f"The entities of {dataset} are not those that {run} was trained on; "
                             "put the data set back, or train again.")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model.to(device).eval()  # type: ignore[arg-type]
        search = ExactSearch(TreeDecoder(model), trie)
        completer = cls(graph, verbalizer, search, config)
        completer.dataset = dataset
        return completer

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
            return [self._told(query).complete(Query(query.name, query.relation, query.direction),
                                               k) if _is_told(query) else next(rest)
                    for query in queries]
        asked = np.array([self.resolve(query) for query in queries], np.int32).reshape(-1, 2)
        answers = []
        for start in range(0, len(asked), QUERIES_AT_ONCE):
            part = asked[start : start + QUERIES_AT_ONCE]
            best = top_k(self.search, encode_queries(self.search, self.verbalizer, part),
                         min(k, self.graph.num_entities), open_mass=OPEN_MASS)
            low = best.scores.double().exp() / (best.found_mass + best.open_mass)[:, None]
            high = best.scores.double().exp() / best.found_mass[:, None]
            known = self.graph.known_answers
            keys = self.graph.query_keys(part[:, 0], part[:, 1])
            for key, *row in zip(keys.tolist(), best.entities.tolist(), best.scores.tolist(),
                                 ((low + high) / 2).tolist(), ((high - low) / 2).tolist(),
                                 strict=True):
                right = set(known[key].tolist())
                answers.append([Prediction(
                    id=self.graph.entity_ids[entity], name=self.graph.entity_names[entity],
                    probability=probability, probability_error=error, log_probability=score,
                    known=entity in right,
                ) for entity, score, probability, error in zip(*row, strict=True)])
        return answers

    def _told(self, query: Query) -> Completer:
        """A completer that knows the new entities of a query."""
        known = {*self.graph.entity_ids, *self.graph.entity_names}
        newcomers = [Newcomer(name) for name in dict.fromkeys(query.candidates)
                     if name not in known and name != query.name]
        if isinstance(query.entity, Newcomer):
            newcomers.append(query.entity)
        if not newcomers:
            return self
        relations = _Index("relation", "relations", self.graph.relation_ids,
                           self.graph.relation_names)
        graph = with_newcomers(self.graph, newcomers, relations.__getitem__,
                               self._entities.__getitem__)
        captions = {newcomer.name: caption for newcomer in newcomers
                    if (caption := self._caption(newcomer))}
        verbalizer = self.verbalizer.over(graph, captions)
        tokens, offsets = verbalizer.names()
        start = offsets[self.graph.num_entities]
        trie = self.search.trie.extended(tokens[start:],
                                         offsets[self.graph.num_entities :] - start)
        return Completer(graph, verbalizer, ExactSearch(self.search.decoder, trie), self.config)

    def _caption(self, newcomer: Newcomer) -> str | None:
        if newcomer.image is None:
            return newcomer.caption
        if self.dataset is None or not self.config.input.captions:
            raise InputError(f"The new entity {newcomer.name!r} has an image, but this run reads "
                             "no captions; leave the image out.")
        sources = read_captions(self.dataset, self.config.caption_source).sources
        return caption_as(sources[0], Path(newcomer.image), newcomer.name)

    def resolve(self, query: Query) -> tuple[int, int]:
        """The entity and the relation in ``0 … 2R - 1`` that a query means.

        Raises:
            InputError: A name is unknown; the nearest known ones are named.
        """
        relation = self._relations[query.relation]
        if query.direction == "head":
            relation += self.graph.num_relations
        return self._entities[query.name], relation


def _is_told(query: Query) -> bool:
    """Whether a query names entities that the graph may lack."""
    return isinstance(query.entity, Newcomer) or bool(query.candidates)


def read_run(run: Path) -> RunConfig:
    """The configuration of a run folder; its ``dataset`` is relative to the folder.

    Raises:
        InputError: It is no run folder, or its training has not got as far as a model.
    """
    if not (run / "config.yaml").is_file():
        raise InputError(f"{run} is not the folder of a run: it has no config.yaml; give the "
                         "folder that 'python -m kgc_seq2seq.train' wrote.")
    if not (run / "model").is_dir():
        raise InputError(f"{run} has no model yet; go on with its training until the first "
                         "validation.")
    return RunConfig.load(run / "config.yaml")


def load_captions(dataset: Path, config: RunConfig) -> dict[str, str]:
    """The captions that a run reads, by entity id; empty when it reads none.

    Raises:
        InputError: It reads captions, and there are none.
    """
    if not config.input.captions:
        return {}
    return read_captions(dataset, config.caption_source).texts


class _Index:
    """Finds things by name or id, forgiving case."""

    def __init__(self, kind: str, kinds: str, ids: Sequence[str], names: Sequence[str]) -> None:
        self.kind, self.kinds = kind, kinds
        self.names = names
        folded = {name.casefold(): index for index, name in enumerate(names)}
        exact = {name: index for index, name in enumerate(names)}
        by_id = {key: index for index, key in enumerate(ids)}
        # What is more exact wins.
        self.found = folded | by_id | exact

    def __getitem__(self, name: str) -> int:
        found = self.found.get(name, self.found.get(name.casefold()))
        if found is None:
            folded = {known.casefold(): known for known in self.names}
            near = [folded[match] for match in
                    difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)]
            raise InputError(f"No {self.kind} is called {name!r}"
                             + (f"; the nearest names are {', '.join(near)}." if near else
                                f"; see {self.kinds}.tsv for the names."))
        return found
