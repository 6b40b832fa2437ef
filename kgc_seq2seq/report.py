"""The report of a run folder, with test queries to look at one by one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from caption_cache.errors import InputError
from caption_cache.images import open_or_none, paths_by_entity
from kgc_seq2seq.arrays import Floats, Ints, Longs
from kgc_seq2seq.completer import Completer, Query
from kgc_seq2seq.evaluation.compare import Measured, compare, read_measured
from kgc_seq2seq.evaluation.frequency import frequency_ranks
from kgc_seq2seq.evaluation.report_page import Example, Report, write_report
from kgc_seq2seq.evaluation.results import TRIPLE, ranks_of, summarize, surest_result
from kgc_seq2seq.graph.knowledge_graph import SPLITS, KnowledgeGraph
from kgc_seq2seq.runs import open_run
from kgc_seq2seq.training.logs import read_metrics

QUERIES_A_RELATION = 2
SHOWN_ANSWERS = 5
SHOWN_ERRORS = 12
MOST_KNOWN = 200
"""No query with more known answers is shown: to list others takes a search past all of them."""


def report_run(run: Path, against: Sequence[Path] = ()) -> Path:
    """Write ``report.html`` into a run folder, from its results and a few queries of its model.

    Args:
        run: The run folder.
        against: Runs to compare it with, beside the frequency of answers.

    Returns:
        The path of the report.

    Raises:
        InputError: It is no run folder, it has no result on test yet, its data set has changed
            since, or a run was measured under another protocol.
    """
    opened = open_run(run)
    measured = read_measured(run, surest_result(run, "test"))
    completer = Completer(opened)
    graph, dataset = completer.graph, opened.dataset
    if measured.result["protocol"]["graph"] != graph.fingerprint:
        raise InputError(f"{dataset} has changed since {run} was evaluated; evaluate it again with "
                         f"'kgc evaluate {run}'.")
    gallery = Gallery(completer, ranks_of(measured.table).realistic, dataset.resolve(),
                      paths_by_entity(dataset), opened.captions)
    path = run / "report.html"
    write_report(path, Report(
        run=str(run), result=measured.result,
        sizes={"entities": graph.num_entities, "relations": graph.num_relations,
               **{f"facts in {split}": len(graph.split(split)) for split in SPLITS},
               "entities with an image": len(gallery.pictures),
               "captions read": len(gallery.captions)},
        comparison=compare([measured, _by_frequency(graph, measured),
                            *(read_measured(other, surest_result(other, "test"))
                              for other in against)]),
        history=read_metrics(run),
        calibration=_calibration(run, graph),
        relation_names=dict(zip(graph.relation_ids, graph.relation_names, strict=False)),
        worst=gallery.examples(gallery.worst()), examples=gallery.examples(gallery.first())))
    return path


def _calibration(run: Path, graph: KnowledgeGraph) -> Mapping[str, Any] | None:
    """What ``kgc calibrate`` measured on test; None: nothing, or of data that has changed since."""
    path = run / "results" / "test-calibration.json"
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found if found["protocol"]["graph"] == graph.fingerprint else None


def _by_frequency(graph: KnowledgeGraph, measured: Measured) -> Measured:
    """The baseline, as if it had been measured with the run."""
    ranks = frequency_ranks(graph, graph.test)
    table = measured.table.select([*TRIPLE, "direction", "better", "tied"])
    for name, column in (("better", ranks.better), ("tied", ranks.tied)):
        table = table.set_column(table.column_names.index(name), name, [column])
    return Measured("frequency of the answer in train", {
        **summarize(graph, graph.test, ranks),
        "protocol": {**measured.result["protocol"], "ranks": "exact", "system": "frequency"}},
        table)


@dataclass(frozen=True)
class Gallery:
    """Test queries to be looked at; they are numbered, tail queries first."""

    completer: Completer
    """Answers them."""
    ranks: Floats
    """The rank of each right answer, of a bracket the best, [2n]."""
    dataset: Path
    """The data-set folder, resolved."""
    pictures: Mapping[str, Sequence[str]]
    """The paths of images by entity id, of the entities that have any."""
    captions: Mapping[str, str]
    """By entity id."""

    def worst(self) -> Longs:
        """The queries of the highest ranks, the worst first, and two of a relation at most."""
        graph = self.completer.graph
        relation = np.tile(graph.test[:, 1], 2)
        order = np.argsort(-self.ranks, kind="stable")
        order = order[(self.ranks[order] > SHOWN_ANSWERS)
                      & (self._known(graph.queries(graph.test)[order]) <= MOST_KNOWN)]
        chosen = np.sort(_first_of_each(relation[order], QUERIES_A_RELATION))
        found: Longs = order[chosen[:SHOWN_ERRORS]]
        return found

    def first(self) -> Longs:
        """The first tail queries of each relation whose given entity has an image."""
        graph = self.completer.graph
        heads = graph.test[:, 0]
        shown = np.fromiter((graph.entity_ids[head] in self.pictures for head in heads.tolist()),
                            bool, len(heads))
        rows = np.flatnonzero(shown & (self._known(graph.test) <= MOST_KNOWN))
        found: Longs = rows[_first_of_each(graph.test[rows, 1], QUERIES_A_RELATION)]
        return found

    def examples(self, numbers: Longs) -> Iterator[Example]:
        """The queries with their answers."""
        graph = self.completer.graph
        questions = graph.queries(graph.test)[numbers]
        others = self._known(questions)
        for number, (given, relation, gold), known in zip(
                numbers.tolist(), questions.tolist(), others.tolist(), strict=True):
            tail = relation < graph.num_relations
            name, words = graph.entity_names[given], graph.relation_names[
                relation % graph.num_relations]
            query = Query(name, words, "tail" if tail else "head")
            found = [answer for answer in self.completer.complete(query, SHOWN_ANSWERS + known)
                     if not answer.known or answer.id == graph.entity_ids[gold]]
            pictured = given if graph.entity_ids[given] in self.pictures else gold
            yield Example(
                question=(name, words, "?") if tail else ("?", words, name),
                image=self._image(graph.entity_ids[pictured]),
                pictured=graph.entity_names[pictured],
                caption=self.captions.get(graph.entity_ids[given], ""),
                answers=[(answer.name, answer.probability) for answer in found[:SHOWN_ANSWERS]],
                gold=graph.entity_names[gold], rank=float(self.ranks[number]))

    def _known(self, queries: Ints) -> Longs:
        """How many answers to each query are known, int64 [B]."""
        graph = self.completer.graph
        return graph.known_answers.spans(graph.query_keys(*queries[:, :2].T))[1]

    def _image(self, entity: str) -> Image | None:
        paths = self.pictures.get(entity)
        return open_or_none(self.dataset, paths[0]) if paths else None


def _first_of_each(groups: Ints, count: int) -> Longs:
    """The places of the first ``count`` members of every group, group after group."""
    order = np.argsort(groups, kind="stable")
    group = groups[order]
    place = np.arange(len(order)) - np.searchsorted(group, group)
    chosen: Longs = order[place < count]
    return chosen
