"""What a data set hides: every check that is worth making before a GPU hour is spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa

from kgc_seq2seq.graph.audit.findings import Finding
from kgc_seq2seq.graph.audit.modalities import audit_images
from kgc_seq2seq.graph.audit.names import audit_names, audit_tokens
from kgc_seq2seq.graph.audit.texts import audit_texts
from kgc_seq2seq.graph.audit.triples import audit_triples
from kgc_seq2seq.graph.folder import read_graph

Spell = Callable[[Sequence[str]], tuple[pa.Array, Sequence[int]]]
"""Gives names a key each, equal exactly when their tokens are, and which cannot be spelt."""


def audit_dataset(folder: Path, spell: Spell | None = None) -> list[Finding]:
    """Check a data-set folder.

    Args:
        folder: The folder.
        spell: How a tokenizer spells names; None checks them as strings only.

    Returns:
        The findings, the worst first.

    Raises:
        InputError: A table is missing or malformed, so that there is no graph to check.
    """
    graph = read_graph(folder, flawed=True)
    findings = [*audit_triples(graph), *audit_names(graph)]
    if spell is not None:
        findings += audit_tokens(graph, *spell(graph.entity_names))
    findings += [*audit_images(folder, graph), *audit_texts(folder, graph)]
    return sorted(findings, key=lambda finding: finding.severity.rank)
