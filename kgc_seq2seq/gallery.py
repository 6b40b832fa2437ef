"""The report of a run folder, with test queries to look at one by one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from caption_cache.images import decode, find_images, has_images, read_bytes, read_entities
from kgc_seq2seq.completer import Completer, Query, read_run
from kgc_seq2seq.evaluation.report import Example, write_report
from kgc_seq2seq.evaluation.results import read_result
from kgc_seq2seq.graph.csr import Ints
from kgc_seq2seq.reading import load_captions
from kgc_seq2seq.training.logs import read_metrics

QUERIES_A_RELATION = 2
SHOWN_ANSWERS = 5


def report_run(run: Path) -> Path:
    """Write ``report.html`` into a run folder, from its results and a few queries of its model.

    Returns:
        The path of the report.

    Raises:
        InputError: It is no run folder, or it has no result on test yet.
    """
    config = read_run(run)
    result = read_result(run / "results" / "test.json")
    completer = Completer.from_pretrained(run)
    graph, dataset = completer.graph, run / config.dataset
    names = dict(zip(graph.relation_ids, graph.relation_names, strict=False))
    path = run / "report.html"
    write_report(path, result, read_metrics(run), names,
                 pick_examples(completer, dataset, load_captions(dataset, config).entity))
    return path


def pick_examples(
    completer: Completer, dataset: Path, captions: Mapping[str, str]
) -> list[Example]:
    """The first test facts of each relation whose head has an image; nothing is chosen by hand."""
    graph = completer.graph
    pictures: dict[str, str] = {}
    if has_images(dataset):
        for image in find_images(dataset, read_entities(dataset)):
            pictures.setdefault(image.entity, image.path)
    shown = np.array([key in pictures for key in graph.entity_ids])
    facts = graph.test[shown[graph.test[:, 0]]]
    examples = []
    for head, relation, tail in _first_of_each(facts, QUERIES_A_RELATION).tolist():
        query = Query(graph.entity_ids[head], graph.relation_ids[relation])
        found = [answer for answer in completer.complete(query, graph.num_entities)
                 if not answer.known or answer.id == graph.entity_ids[tail]]
        place = next(i for i, answer in enumerate(found) if answer.id == graph.entity_ids[tail])
        examples.append(Example(
            entity=graph.entity_names[head], relation=graph.relation_names[relation],
            image=decode(read_bytes(dataset.resolve(), pictures[graph.entity_ids[head]])),
            caption=captions.get(graph.entity_ids[head], ""),
            answers=[(answer.name, answer.probability) for answer in found[:SHOWN_ANSWERS]],
            gold=graph.entity_names[tail], rank=place + 1))
    return examples


def _first_of_each(facts: Ints, count: int) -> Ints:
    """The first ``count`` rows of every relation."""
    order = np.argsort(facts[:, 1], kind="stable")
    relation = facts[order, 1]
    place = np.arange(len(order)) - np.searchsorted(relation, relation)
    chosen: Ints = facts[order[place < count]]
    return chosen
