"""Sizes, degrees and relation cardinalities of a data set, as figures and as a plot."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from caption_cache.disk import replacing
from caption_cache.errors import InputError
from kgc_seq2seq.graph.cardinality import CARDINALITIES, answers_per_query, cardinalities
from kgc_seq2seq.graph.csr import distinct_rows
from kgc_seq2seq.graph.knowledge_graph import SPLITS, KnowledgeGraph

_SHOWN = 15
_BLUE, _ORANGE = "#2563a8", "#c2681c"


def describe_graph(graph: KnowledgeGraph) -> dict[str, Any]:
    """Describe a graph.

    Returns:
        JSON values: sizes, the degrees in train, and for every relation its id, name, number of
        train triples, tails per head, heads per tail and cardinality, the most frequent first.
    """
    degree = graph.train_degree
    count = np.bincount(distinct_rows(graph.train)[:, 1], minlength=graph.num_relations)
    tails_per_head, heads_per_tail = answers_per_query(graph)
    kind = cardinalities(graph)
    relations = [{
        "id": graph.relation_ids[r], "name": graph.relation_names[r], "triples": int(count[r]),
        "tails_per_head": round(float(tails_per_head[r]), 3),
        "heads_per_tail": round(float(heads_per_tail[r]), 3),
        "cardinality": CARDINALITIES[kind[r]],
    } for r in np.argsort(-count, kind="stable").tolist()]
    return {
        "name": graph.name, "entities": graph.num_entities, "relations": graph.num_relations,
        "triples": {split: len(graph.split(split)) for split in SPLITS},
        "described_entities": sum(map(bool, graph.entity_descriptions)),
        "degree": {
            "mean": round(float(degree.mean()), 3), "max": int(degree.max()),
            "unseen": int((degree == 0).sum()),
            **{f"p{q}": float(np.percentile(degree, q)) for q in (10, 50, 90, 99)}},
        "cardinalities": {name: {
            "relations": int((kind == place).sum()), "triples": int(count[kind == place].sum())}
            for place, name in enumerate(CARDINALITIES)},
        "by_relation": relations,
    }


def description_text(description: dict[str, Any]) -> str:
    """The description for people."""
    degree = description["degree"]
    lines = [
        f"{description['name']}: {description['entities']:,} entities, "
        f"{description['relations']:,} relations, "
        + ", ".join(f"{count:,} {split}" for split, count in description["triples"].items()),
        f"degree in train: mean {degree['mean']:.1f}, median {degree['p50']:.0f}, 90 % below "
        f"{degree['p90']:.0f}, most {degree['max']:,}; {degree['unseen']:,} entities have none",
        "cardinality: " + ", ".join(
            f"{name} {part['relations']:,} relations ({part['triples']:,} triples)"
            for name, part in description["cardinalities"].items()),
        "", f"{'triples':>9}  {'tails/head':>10}  {'heads/tail':>10}  kind    relation"]
    lines += [f"{relation['triples']:9,}  {relation['tails_per_head']:10.2f}  "
              f"{relation['heads_per_tail']:10.2f}  {relation['cardinality']:6}  "
              f"{relation['name']}" for relation in description["by_relation"][:_SHOWN]]
    if len(description["by_relation"]) > _SHOWN:
        lines.append(f"… and {len(description['by_relation']) - _SHOWN:,} more")
    return "\n".join(lines)


def plot_graph(graph: KnowledgeGraph, description: dict[str, Any], path: Path) -> None:
    """Draw how many entities have at least which degree, and the most frequent relations.

    Args:
        graph: The graph.
        description: From `describe_graph`.
        path: The picture; its ending says the format (png, svg, pdf).

    Raises:
        InputError: The format is unknown, or the file cannot be written.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    degree = np.sort(graph.train_degree)[::-1]
    seen = degree[degree > 0]
    left.step(seen, np.arange(1, len(seen) + 1), where="post", color=_BLUE)
    left.set(xscale="log", yscale="log", xlabel="train triples of an entity",
             ylabel="entities with at least so many",
             title="degrees")
    shown = description["by_relation"][:_SHOWN][::-1]
    labels = [f"{relation['name'][:32]} ({relation['cardinality']})" for relation in shown]
    right.barh(range(len(shown)), [relation["triples"] for relation in shown], color=_ORANGE)
    right.set_yticks(range(len(shown)), labels, parse_math=False)
    right.set(xlabel="train triples", title="most frequent relations")
    right.tick_params(axis="y", labelsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    try:
        with replacing(path) as aside, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph", UserWarning)  # scripts the font lacks
            figure.savefig(aside, format=path.suffix.removeprefix(".") or "png", dpi=150)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be drawn ({error}); give a path that can be written and "
                         "ends with .png, .svg or .pdf.") from None
