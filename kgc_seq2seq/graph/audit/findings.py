"""What an audit says: findings with a severity, a count, examples and the mend."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from kgc_seq2seq.arrays import Bools, Ints
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph

NUM_EXAMPLES = 3


class Severity(StrEnum):
    """How much a finding matters; by rank, the worst first."""

    ERROR = "error"
    """Results on this data set mean nothing until it is mended."""
    WARNING = "warning"
    """Results are flattered or blurred; mend it, or say so beside them."""
    INFO = "info"
    """Worth knowing."""

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Severity).index(self)


@dataclass(frozen=True)
class Finding:
    """One thing that an audit has found."""

    check: str
    """What was checked, such as ``valid-in-train``."""
    severity: Severity
    """How much it matters."""
    count: int
    """How many triples, entities, … it concerns."""
    message: str
    """What is the case, in one sentence."""
    mend: str
    """What to do about it."""
    examples: tuple[str, ...] = ()
    """At most three."""
    measures: dict[str, Any] = field(default_factory=dict)
    """Further figures, as JSON values."""


def tell_triples(graph: KnowledgeGraph, triples: Ints, chosen: Bools) -> tuple[str, ...]:
    """The first of the chosen triples, by name."""
    return tuple(
        f"({graph.entity_names[h]}, {graph.relation_names[r]}, {graph.entity_names[t]})"
        for h, r, t in triples[np.flatnonzero(chosen)[:NUM_EXAMPLES]].tolist())


def tell_names(names: Sequence[str], places: Iterable[int]) -> tuple[str, ...]:
    """The first of some names, in quotes."""
    return tuple(repr(names[place]) for place, _ in zip(places, range(NUM_EXAMPLES), strict=False))


def worst(findings: Sequence[Finding]) -> Severity:
    """The worst severity of some findings; ``info`` when there are none."""
    return min((finding.severity for finding in findings), key=lambda severity: severity.rank,
               default=Severity.INFO)


def findings_text(findings: Sequence[Finding]) -> str:
    """A table for people: the worst first."""
    if not findings:
        return "Nothing was found."
    width = max(len(finding.check) for finding in findings)
    count_width = max(len(f"{finding.count:,}") for finding in findings)
    lines = [f"{'severity':8}  {'check':{width}}  {'count':>{count_width}}  what"]
    margin = " " * (8 + 2 + width + 2 + max(count_width, 5) + 2)
    for finding in findings:
        lines.append(f"{finding.severity:8}  {finding.check:{width}}  "
                     f"{finding.count:>{max(count_width, 5)},}  {finding.message}")
        if finding.examples:
            lines.append(f"{margin}such as {'; '.join(finding.examples)}")
        lines.append(f"{margin}mend: {finding.mend}")
    return "\n".join(lines)
