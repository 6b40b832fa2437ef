"""What all combinations of a generator with scorers have in common."""

from __future__ import annotations

from dataclasses import dataclass

from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.scorers.prior import Voice
from kgc_seq2seq.systems.generator import Generator


@dataclass(frozen=True, eq=False)
class Combined:
    """A generator, and the scorers that it is combined with."""

    generator: Generator
    """Gives names their probability."""
    voices: tuple[Voice, ...]
    """S scorers."""

    @property
    def graph(self) -> KnowledgeGraph:
        """The graph."""
        return self.generator.graph
