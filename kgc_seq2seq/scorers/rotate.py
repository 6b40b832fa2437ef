"""RotatE, and what every scorer built on it shares: rotations, negatives, the loss.

Sun et al. 2019: a relation turns the head into the tail, ``s = γ - Σ_i |h_i e^{jθ_i} - t_i|``.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from caption_cache.errors import InputError
from kgc_seq2seq.graph.knowledge_graph import KnowledgeGraph
from kgc_seq2seq.scorers.corruption import Corruptions
from kgc_seq2seq.scorers.rotation import (
    blend,
    blended_distances,
    cross_distances,
    distance,
    rotate,
)
from kgc_seq2seq.scorers.scorer import Batch, EntityScorer, Feed, Vocabulary
from kgc_seq2seq.scorers.vectors import Vectors
from kgc_seq2seq.scorers.weighting import SamplingConfig, sampling_loss, uncertainty

EPSILON = 2.0
"""Of the range of random weights (γ + ε) / width, as in the authors' code."""


@dataclass(frozen=True)
class RotationConfig:
    """A scorer that rotates."""

    dim: int = 500
    """Number d of complex numbers to an entity."""
    gamma: float = 12.0
    """The margin γ."""
    regularization: float = 0.0
    """Weight of the mean squares of a fact's embeddings, negatives included."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """The negatives."""

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise InputError(f"model.dim is {self.dim}; give 1 or more.")
        if self.gamma <= 0:
            raise InputError(f"model.gamma is {self.gamma}; it must be positive.")
        if self.regularization < 0:
            raise InputError(f"model.regularization is {self.regularization}; give 0 or more.")


class RotationScorer(EntityScorer):
    """A RotatE whose entities are mixtures of tables, mixed anew for each relation.

    Entity e of relation r is ``Σ_p shares(r)_p tables_p[e]``; tables are made once a step,
    however many negatives point into them.
    """

    def __init__(self, config: RotationConfig, vocabulary: Vocabulary,
                 vectors: Mapping[str, Vectors]) -> None:
        super().__init__(config, vocabulary, vectors)
        self.phase_range = (config.gamma + EPSILON) / config.dim
        self.relations = nn.Embedding(len(vocabulary.relation_ids), config.dim)
        nn.init.uniform_(self.relations.weight, -self.phase_range, self.phase_range)
        self._kept: tuple[Tensor, ...] | None = None

    @abstractmethod
    def tables(self, rows: Tensor | None = None) -> tuple[Tensor, ...]:
        """The P tables, [N, 2d], or some rows of them (int64 [U]), [U, 2d]; computed anew."""

    @abstractmethod
    def shares(self, relations: Tensor) -> Tensor:
        """What each table has in the entities of relations (int64 [B] in ``0 … R - 1``), [B, P]."""

    @abstractmethod
    def structure(self) -> Tensor | None:
        """The learnt embeddings, [N, 2d], which `RotationConfig.regularization` keeps small."""

    def phases(self, relations: Tensor) -> Tensor:
        """The angles of relations in ``0 … R - 1``, [B, d]."""
        found: Tensor = self.relations(relations)
        return found * (math.pi / self.phase_range)

    def score(self, heads: Tensor, relations: Tensor) -> Tensor:
        """As in `scorer.EntityScorer`; the inverse of a relation turns back."""
        with torch.no_grad():
            tables = self._tables_to_read()
            count = len(self.vocabulary.relation_ids)
            plain = relations % count
            sign = torch.where(relations < count, 1, -1)[:, None]
            result = tables[0].new_empty(len(heads), len(tables[0]))
            for relation in plain.unique():  # entities differ by relation, not by query
                chosen = (plain == relation).nonzero()[:, 0]
                shares = self.shares(relation[None])
                given = blend([table[heads[chosen]] for table in tables], shares)
                points = rotate(given, sign[chosen] * self.phases(plain[chosen]))
                result[chosen] = self.config.gamma - cross_distances(points, tables, shares)
            return result

    def loss(self, batch: Batch) -> Tensor:
        """Negative sampling, weighted as `RotationConfig.sampling` says.

        Args:
            batch: With ``triples``, ``negatives`` and ``replaces_tail`` of `Corruptions`.
        """
        sampling = self.config.sampling
        batch, rows = self._renumbered(batch)
        # Distances are sums of many: whatever precision made the tables, they are not made in it.
        tables = tuple(table.to(self.relations.weight.dtype) for table in self.tables(rows))
        if sampling.candidates > 1:
            batch = {**batch, **self._most_uncertain(batch, tables)}
        positive, negative = self._scores(batch, tables)
        total = sampling_loss(positive, negative, sampling, batch["done"])
        if self.config.regularization:
            total = total + self.config.regularization * self._mean_squares(batch, rows)
        return total

    def feed(self, graph: KnowledgeGraph, seed: int) -> Feed:
        """As in `scorer.EntityScorer`: triples with negatives."""
        sampling = self.config.sampling
        return Corruptions(graph, sampling.negatives * sampling.candidates, seed,
                           bernoulli=sampling.bernoulli)

    def train(self, mode: bool = True) -> RotationScorer:
        """Forget the tables that scoring keeps: training changes them."""
        self._kept = None
        super().train(mode)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RotationScorer:
        self._kept = None  # as above: another device or data type
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def load_state_dict(self, *state: Any, **how: Any) -> Any:
        """Forget the tables that scoring keeps: these are other weights."""
        self._kept = None
        return super().load_state_dict(*state, **how)

    def _renumbered(self, batch: Batch) -> tuple[Batch, Tensor | None]:
        """A batch whose entities are rows of those it names; these, or None for all.

        In a large graph most entities are in no negative of a step; in a small one nearly all.
        """
        head, relation, tail = batch["triples"].unbind(1)
        named = torch.cat([head, tail, batch["negatives"].flatten()])
        if len(named) >= len(self.vocabulary.entity_ids):
            return batch, None
        rows, place = named.unique(return_inverse=True)
        head, tail, negatives = place.split([len(head), len(tail), batch["negatives"].numel()])
        return {**batch, "triples": torch.stack([head, relation, tail], 1),
                "negatives": negatives.view_as(batch["negatives"])}, rows

    def _tables_to_read(self) -> tuple[Tensor, ...]:
        if self.training:
            return self.tables()
        if self._kept is None:
            self._kept = tuple(table.detach() for table in self.tables())
        return self._kept

    def _scores(self, batch: Batch, tables: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Scores of the facts, [B], and of their negatives, [B, K]."""
        head, relation, tail = batch["triples"].unbind(1)
        shares, phases = self.shares(relation), self.phases(relation)
        picked = [[table[end] for table in tables] for end in (head, tail)]
        heads, tails = (blend(found, shares) for found in picked)
        turned = rotate(heads, phases)
        # |h e^{jθ} - t| = |h - t e^{-jθ}|: a wrong head is compared with the tail turned back, so
        # whichever end is replaced, the negative itself needs no rotation.
        anchors = torch.cat([rotate(tails, -phases), turned])
        owners = (torch.arange(len(head), device=head.device)[:, None]
                  + len(head) * batch["replaces_tail"])
        gamma = self.config.gamma
        return gamma - distance(turned, tails), gamma - blended_distances(
            anchors, owners, tables, shares, batch["negatives"])

    def _most_uncertain(self, batch: Batch, tables: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Of many negatives, those of which the scorer is least sure."""
        with torch.no_grad():
            _, scores = self._scores(batch, tables)
            kept = uncertainty(scores).topk(self.config.sampling.negatives, 1).indices
            return {key: batch[key].gather(1, kept) for key in ("negatives", "replaces_tail")}

    def _mean_squares(self, batch: Batch, rows: Tensor | None) -> Tensor:
        """``Σ_b (mean h² + mean r² + mean t²) / 3`` over each fact and its negatives."""
        head, relation, tail = batch["triples"].unbind(1)
        total = self.relations(relation).square().mean(1).sum()
        structure = self.structure()
        if structure is not None:
            # Every row of a fact's expanded batch holds the fact's own end or the negative: the
            # two together have each negative once, and each end once where it is not replaced.
            squares = pick(structure, rows).square().mean(1)
            count = batch["negatives"].shape[1]
            tails = batch["replaces_tail"].sum(1)
            ends = squares[head] * (1 + tails) + squares[tail] * (1 + count - tails)
            total = total + (ends + squares[batch["negatives"]].sum(1)).sum() / (1 + count)
        mean: Tensor = total / 3
        return mean


class RotatE(RotationScorer):
    """RotatE itself."""

    name = "rotate"
    title = "RotatE"
    Config = RotationConfig

    def __init__(self, config: RotationConfig, vocabulary: Vocabulary,
                 vectors: Mapping[str, Vectors]) -> None:
        super().__init__(config, vocabulary, vectors)
        self.entities = nn.Embedding(len(vocabulary.entity_ids), 2 * config.dim)
        nn.init.uniform_(self.entities.weight, -self.phase_range, self.phase_range)

    def tables(self, rows: Tensor | None = None) -> tuple[Tensor, ...]:
        """The embeddings."""
        return (pick(self.entities.weight, rows),)

    def shares(self, relations: Tensor) -> Tensor:
        """All of the one table."""
        return self.entities.weight.new_ones(len(relations), 1)

    def structure(self) -> Tensor | None:
        """The embeddings."""
        return self.entities.weight


def pick(table: Tensor, rows: Tensor | None) -> Tensor:
    """Some rows of a table (int64 [U]), or all."""
    return table if rows is None else table[rows]
