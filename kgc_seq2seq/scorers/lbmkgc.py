"""LBMKGC (NeurIPS 2025): RotatE over entities that mix structure, image and text by relation.

``variant: released`` is the model of the released code: frozen vectors, no alignment. ``variant:
paper`` adds the contrastive alignment that the paper describes and the code lacks; its form, and
modality weights that depend on the relation, are our reconstruction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from caption_cache.errors import InputError
from kgc_seq2seq.scorers.modal import ModalConfig, ModalScorer, masked_softmax
from kgc_seq2seq.scorers.rotate import pick
from kgc_seq2seq.scorers.scorer import Batch, Vocabulary
from kgc_seq2seq.scorers.vectors import Vectors
from kgc_seq2seq.scorers.weighting import SamplingConfig


@dataclass(frozen=True)
class LbmkgcConfig(ModalConfig):
    """LBMKGC; the defaults are those of the released code for MKG-W."""

    gamma: float = 16.0
    """The margin γ."""
    regularization: float = 1e-5
    """Weight of the mean squares of a fact's learnt embeddings, negatives included."""
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(temperature=4.0))
    """The negatives."""
    variant: Literal["released", "paper"] = "released"
    """Without or with the alignment of images and texts."""
    alignment: float = 1.0
    """Weight of the alignment; only with variant: paper."""
    relation_weights: bool = False
    """Weight image against text by relation, not only both against structure (our
    reconstruction)."""
    guided: bool = True
    """Learn the weights of structure and modalities; otherwise structure has 1 / (1 + modalities),
    and what an entity has of these shares the rest alike."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant == "paper" and len(self.modalities) < 2:
            raise InputError("model.variant 'paper' aligns images with texts; give both "
                             "model.modalities, or variant 'released'.")
        if self.relation_weights and not (self.guided and len(self.modalities) == 2):
            raise InputError("model.relation_weights weights images against texts; give both "
                             "model.modalities and guided: true, or leave it.")
        if self.alignment < 0:
            raise InputError(f"model.alignment is {self.alignment}; give 0 or more.")


class Lbmkgc(ModalScorer):
    """LBMKGC, both variants."""

    name = "lbmkgc"
    title = "LBMKGC"
    Config = LbmkgcConfig
    config: LbmkgcConfig

    def __init__(self, config: LbmkgcConfig, vocabulary: Vocabulary,
                 vectors: Mapping[str, Vectors]) -> None:
        super().__init__(config, vocabulary, vectors)
        size, span, count = self.size, self.span, len(vocabulary.relation_ids)
        self.projections = nn.ModuleDict({
            modality: nn.Sequential(nn.Linear(vectors[modality].values.shape[1], size), nn.ReLU(),
                                    nn.Linear(size, size))
            for modality in config.modalities})
        if config.guided and len(config.modalities) > 1:
            self.attention = nn.Linear(size, 1, bias=False)
        if config.guided and config.structure and config.modalities:
            self.gate = nn.Embedding(count, 1)
            nn.init.uniform_(self.gate.weight, -span, span)
        if config.relation_weights:
            self.preference = nn.Embedding(count, len(config.modalities))
            nn.init.zeros_(self.preference.weight)
        if config.variant == "paper":
            self.log_temperature = nn.Parameter(torch.tensor(math.log(0.07)))  # as CLIP's

    def tables(self, rows: Tensor | None = None) -> tuple[Tensor, ...]:
        """Structure, and the mixture of the modalities; or each of these, where relations weigh.

        An entity without any modality is its structure alone.
        """
        config = self.config
        structure = pick(self.entities.weight, rows) if config.structure else None
        parts = [] if structure is None else [structure]
        if not config.modalities:
            return tuple(parts)
        projected, omega = self._mixture(rows)
        weighted = projected * omega[..., None]  # [M, N, 2d]
        if structure is not None:
            alone = (omega == 0).all(dim=0)[:, None]
            weighted = torch.where(alone, structure / len(weighted), weighted)
        parts += weighted.unbind() if config.relation_weights else [weighted.sum(0)]
        return tuple(parts)

    def shares(self, relations: Tensor) -> Tensor:
        """``g_r = σ(ζ_r)`` of structure and ``1 - g_r`` of the modalities."""
        config = self.config
        modal = self.relations.weight.new_ones(len(relations), 1)
        if config.relation_weights:
            modal = self.preference(relations).softmax(1) * len(config.modalities)
        if not config.modalities or not config.structure:
            return modal
        gate = self.gate(relations).sigmoid() if config.guided else modal / (
            1 + len(config.modalities))
        return torch.cat([gate, (1 - gate) * modal], 1)

    def modality_weights(self, heads: Tensor, relations: Tensor) -> dict[str, Tensor] | None:
        """``g_r`` of structure and ``(1 - g_r) ω_m`` of each modality.

        An entity without any modality is its structure alone.
        """
        config = self.config
        shares = self.shares(relations % len(self.vocabulary.relation_ids))
        if not config.modalities:
            return {"structure": shares[:, 0]}
        structure, modal = shares.split(
            [int(config.structure), shares.shape[1] - config.structure], 1)
        omega = self._mixture(heads)[1].T
        alone = (omega == 0).all(dim=1)
        found = dict(zip(config.modalities, (modal * omega).unbind(1), strict=True))
        if not config.structure:
            return found
        return {"structure": torch.where(alone, 1, structure[:, 0]), **found}

    def _mixture(self, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """The projected modalities, [M, N, 2d], and their ω, [M, N]; 0 where there is none."""
        config = self.config
        projected = torch.stack([self.project(modality, rows) for modality in config.modalities])
        present = torch.stack([pick(self.vectors(modality).mask, rows)
                               for modality in config.modalities])
        logits = (self.attention(projected.tanh())[..., 0]
                  if config.guided and len(config.modalities) > 1
                  else torch.zeros_like(projected[..., 0]))
        return projected, masked_softmax(logits, present)

    def project(self, modality: str, rows: Tensor | None = None) -> Tensor:
        """``W2 ReLU(W1 x)`` of some entities (int64 [B]) or of all, [B or N, 2d]."""
        found: Tensor = self.projections[modality](pick(self.vectors(modality).values, rows))
        return found

    def loss(self, batch: Batch) -> Tensor:
        """As in `RotationScorer`, with the alignment in the paper's variant."""
        total = super().loss(batch)
        if self.config.variant == "paper":
            total = total + self.config.alignment * len(batch["triples"]) * self._misalignment(
                batch["triples"][:, [0, 2]].unique())
        return total

    def _misalignment(self, rows: Tensor) -> Tensor:
        """``½ [CE(τ⁻¹ V Tᵀ, I) + CE(τ⁻¹ T Vᵀ, I)]`` over entities that have both."""
        both = rows[torch.stack([self.vectors(modality).mask[rows]
                                 for modality in self.config.modalities]).all(dim=0)]
        if len(both) < 2:  # nothing to tell apart; the temperature keeps its part in the graph
            return self.log_temperature * 0
        one, other = (functional.normalize(self.project(modality, both), dim=1)
                      for modality in self.config.modalities)
        logits = one @ other.T / self.log_temperature.exp()
        right = torch.arange(len(both), device=rows.device)
        return (functional.cross_entropy(logits, right)
                + functional.cross_entropy(logits.T, right)) / 2

