"""DistMult and ComplEx, trained against all entities at once, with the nuclear 3-norm.

Yang et al. 2015, Trouillon et al. 2016; full softmax, reciprocal relations and N3 as in
Lacroix et al. 2018. That images and texts may speak, by a linear map into the embeddings, is ours,
and so is that entities may lose their own embedding.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from caption_cache.errors import InputError
from kgc_seq2seq.arrays import Longs
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.scorers.scorer import Batch, EntityScorer, Feed, Vocabulary, as_long
from kgc_seq2seq.scorers.vectors import Vectors, refuse_repeated
from kgc_seq2seq.scorers.weighting import WeightingConfig, softmax_loss


@dataclass(frozen=True)
class OneVsAllConfig:
    """A factorisation of the graph."""

    dim: int = 128
    """Width of the embeddings; complex numbers count once."""
    init_sd: float = 0.03
    """Standard deviation of the random weights; large ones learn by heart."""
    n3: float = 0.1
    """Weight of the cubed moduli of a fact's three embeddings (Lacroix et al. 2018, eq. 6)."""
    dropout: float = 0.0
    """Dropout rate of the query."""
    modalities: tuple[Literal["image", "text"], ...] = ()
    """What is read of each entity: a linear map of its vector is added to its embedding."""
    entity_dropout: float = 0.0
    """Share of the entities that have, in a step of training, one common embedding instead of their
    own, so that images and texts learn to speak alone. Those that train does not name always have
    it; with 0 they are trained as wrong answers. Only with ``modalities``."""
    weighting: WeightingConfig = field(default_factory=lambda: WeightingConfig(temperature=0.0))
    """How the wrong answers are weighted; by default all alike. EGNS: ``entropy: added``."""

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise InputError(f"model.dim is {self.dim}; give 1 or more.")
        if self.init_sd <= 0:
            raise InputError(f"model.init_sd is {self.init_sd}; it must be positive.")
        if self.n3 < 0:
            raise InputError(f"model.n3 is {self.n3}; give 0 or more.")
        for name in ("dropout", "entity_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"model.{name} is {getattr(self, name)}; give a number from 0 to "
                                 "below 1.")
        refuse_repeated(self.modalities)
        if self.entity_dropout and not self.modalities:
            raise InputError("model.entity_dropout leaves entities to what their images and texts "
                             "say, and none are read; give model.modalities with it.")


class Queries:
    """A `scorer.Feed`: both queries of every train triple, with their answer."""

    def __init__(self, graph: KnowledgeGraph) -> None:
        self.queries = as_long(graph.queries(graph.train))

    def __len__(self) -> int:
        return len(self.queries)

    def __call__(self, examples: Longs, epoch: int) -> dict[str, Tensor]:
        """``queries`` int64 [B, 3]: entity, relation in ``0 … 2R - 1``, answer."""
        return {"queries": self.queries[torch.from_numpy(examples)]}


class OneVsAll(EntityScorer):
    """A scorer whose score is the inner product of a query's vector and the answer's."""

    Config = OneVsAllConfig
    config: OneVsAllConfig
    width: ClassVar[int]
    """Real numbers to each of the ``dim``."""

    def __init__(self, config: OneVsAllConfig, vocabulary: Vocabulary,
                 vectors: Mapping[str, Vectors]) -> None:
        super().__init__(config, vocabulary, vectors)
        size = self.width * config.dim
        self.entities = nn.Embedding(len(vocabulary.entity_ids), size)
        self.relations = nn.Embedding(2 * len(vocabulary.relation_ids), size)
        self.projections = nn.ModuleDict({
            modality: nn.Linear(vectors[modality].values.shape[1], size, bias=False)
            for modality in config.modalities})
        for table in (self.entities, self.relations, *self.projections.values()):
            nn.init.normal_(table.weight, std=config.init_sd)  # type: ignore[arg-type]
        if config.entity_dropout:
            self.common = nn.Parameter(torch.zeros(size))
            self.register_buffer("named", torch.ones(len(vocabulary.entity_ids), dtype=torch.bool))

    @classmethod
    def reads(cls, config: OneVsAllConfig) -> tuple[str, ...]:
        """Its modalities."""
        return config.modalities

    @abstractmethod
    def combine(self, heads: Tensor, relations: Tensor) -> Tensor:
        """The query's vector: two [B, width · dim] give one."""

    def score(self, heads: Tensor, relations: Tensor) -> Tensor:
        """As in `scorer.EntityScorer`."""
        table = self.table()
        return self._score(table[heads], self.relations(relations), table)

    def table(self) -> Tensor:
        """``e + Σ_m W_m x_m`` of all entities, [N, width · dim]; x is 0 where there is none."""
        total = self.entities.weight
        if self.config.entity_dropout:
            own = self.get_buffer("named")
            if self.training:
                own = own & (torch.rand(len(own), device=own.device) >= self.config.entity_dropout)
            total = torch.where(own[:, None], total, self.common)
        for modality, projection in self.projections.items():
            total = total + projection(self.vectors(modality).values)
        return total

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy over all entities, weighted as the configuration says, and N3.

        Args:
            batch: With ``queries`` of `Queries`, and ``done``.
        """
        head, relation, tail = batch["queries"].unbind(1)
        table = self.table()
        factors = (functional.embedding(head, table), self.relations(relation),
                   functional.embedding(tail, table))
        total = softmax_loss(self._score(*factors[:2], table), tail, self.config.weighting,
                             batch["done"])
        if self.config.n3:
            total = total + self.config.n3 / 3 * sum(
                self._moduli(factor).pow(3).sum() for factor in factors)
        return total

    def feed(self, graph: KnowledgeGraph, seed: int) -> Feed:
        """As in `scorer.EntityScorer`; nothing is drawn at random.

        From now on the scorer knows which entities train names.
        """
        if self.config.entity_dropout:
            self.get_buffer("named").copy_(torch.from_numpy(graph.train_degree > 0))
        return Queries(graph)

    def _score(self, heads: Tensor, relations: Tensor, table: Tensor) -> Tensor:
        query = functional.dropout(self.combine(heads, relations), self.config.dropout,
                                   self.training)
        return functional.linear(query, table)

    def _moduli(self, factor: Tensor) -> Tensor:
        parts = factor.unflatten(1, (self.width, -1))
        # The small term keeps the gradient of a modulus of 0 finite.
        moduli: Tensor = (parts.square().sum(dim=1) + 1e-12).sqrt()
        return moduli


class DistMult(OneVsAll):
    """``⟨h, r, t⟩`` (Yang et al. 2015)."""

    name = "distmult"
    title = "DistMult"
    width = 1

    def combine(self, heads: Tensor, relations: Tensor) -> Tensor:
        """``h · r``."""
        return heads * relations


class ComplEx(OneVsAll):
    """``Re ⟨h, r, t̄⟩`` (Trouillon et al. 2016); real parts stand before imaginary parts."""

    name = "complex"
    title = "ComplEx-N3"
    width = 2

    def combine(self, heads: Tensor, relations: Tensor) -> Tensor:
        """``h · r`` in complex numbers: its real inner product with t is the score."""
        (a, b), (c, d) = heads.chunk(2, 1), relations.chunk(2, 1)
        return torch.cat([a * c - b * d, a * d + b * c], 1)
