"""MoCME (our reconstruction): experts give views of each modality, weighted by what they add.

The paper (arXiv 2507.20620) publishes no equation and no code. Its two parts are built here after
its description: CMKF, the fusion by complementarity, below; EGNS, negatives weighted by entropy,
in `weighting` and usable by every scorer that samples. Every choice is ours and a switch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from caption_cache.errors import InputError
from kgc_seq2seq.scorers.complementarity import Measure, complementarity
from kgc_seq2seq.scorers.modal import ModalConfig, ModalScorer, masked_softmax
from kgc_seq2seq.scorers.rotate import pick
from kgc_seq2seq.scorers.scorer import Vocabulary
from kgc_seq2seq.scorers.vectors import Vectors
from kgc_seq2seq.scorers.weighting import SamplingConfig


@dataclass(frozen=True)
class MocmeConfig(ModalConfig):
    """MoCME (our reconstruction)."""

    dim: int = 250
    """Number d of complex numbers to an entity."""
    gamma: float = 4.0
    """The margin γ."""
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(entropy="added"))
    """The negatives; without EGNS: ``entropy: none``."""
    experts: int = 3
    """Views K of each modality; 1 leaves the experts out."""
    intra: Measure = "cos"
    """How views are weighted: by the angle to the other views, by conditional entropy (``ce``) or
    normalised mutual information (``nmi``) with them over the entities of a step, or all alike
    (``none``)."""
    inter: Measure = "cos"
    """Likewise, how modalities are weighted."""
    intra_temperature: float = 1.0
    """τ of the softmax over views; a small one chooses."""
    inter_temperature: float = 1.0
    """τ of the softmax over modalities."""
    guard: bool = True
    """Weight each modality by a learnt relevance too: complementarity alone rewards noise."""
    prototypes: int = 64
    """Codes C that ``ce`` and ``nmi`` count with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("experts", "prototypes"):
            if getattr(self, key) < 1:
                raise InputError(f"model.{key} is {getattr(self, key)}; give 1 or more.")
        for key in ("intra_temperature", "inter_temperature"):
            if getattr(self, key) <= 0:
                raise InputError(f"model.{key} is {getattr(self, key)}; it must be positive.")


class Mocme(ModalScorer):
    """RotatE over one embedding of each entity, fused by complementarity (CMKF)."""

    name = "mocme"
    title = "MoCME (our reconstruction)"
    Config = MocmeConfig
    config: MocmeConfig

    def __init__(self, config: MocmeConfig, vocabulary: Vocabulary,
                 vectors: Mapping[str, Vectors]) -> None:
        super().__init__(config, vocabulary, vectors)
        size = self.size
        widths = {"structure": size} if config.structure else {}
        widths |= {modality: vectors[modality].values.shape[1] for modality in config.modalities}
        self.experts = nn.ModuleDict({
            name: nn.ModuleList(nn.Sequential(nn.Linear(width, size), nn.LayerNorm(size))
                                for _ in range(config.experts))
            for name, width in widths.items()})
        for module in self.experts.modules():
            if isinstance(module, nn.LayerNorm):  # views as large as RotatE's weights at the start
                nn.init.constant_(module.weight, self.span / 3**0.5)
        if config.guard and len(widths) > 1:
            self.relevance = nn.Linear(size, 1, bias=False)
        # Codes only count how views agree; they are drawn once and not learnt.
        self.register_buffer("codes", functional.normalize(
            torch.randn(config.prototypes, size), dim=1))

    def tables(self, rows: Tensor | None = None) -> tuple[Tensor, ...]:
        """``h = Σ_m β_m e_m`` over the modalities that an entity has; zeros where it has none."""
        together, weights = self._mixture(rows)
        return ((weights[..., None] * together).sum(0),)

    def modality_weights(self, heads: Tensor, relations: Tensor) -> dict[str, Tensor] | None:
        """``β_m``, whatever the relation."""
        # Some measures count over all entities, so all are looked at.
        return dict(zip(self.experts, self._mixture(None)[1][:, heads], strict=True))

    def _mixture(self, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """The modalities, [M, N, 2d], and their β, [M, N]; 0 where there is none."""
        config = self.config
        fused, present = [], []
        for name in self.experts:
            values, mask = self._modality(name, rows)
            fused.append(self._fuse_views(name, values, mask))
            present.append(mask)
        together, there = torch.stack(fused), torch.stack(present)  # [M, N, 2d], [M, N]
        logits = complementarity(config.inter, together, there, self.get_buffer("codes"))
        if config.guard and len(together) > 1:
            logits = logits + functional.logsigmoid(self.relevance(together.tanh())[..., 0])
        return together, masked_softmax(logits / config.inter_temperature, there)

    def shares(self, relations: Tensor) -> Tensor:
        """All of the one table."""
        return self.relations.weight.new_ones(len(relations), 1)

    def _modality(self, name: str, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        if name == "structure":
            values = pick(self.entities.weight, rows)
            return values, torch.ones(len(values), dtype=torch.bool, device=values.device)
        vectors = self.vectors(name)
        return pick(vectors.values, rows), pick(vectors.mask, rows)

    def _fuse_views(self, name: str, values: Tensor, mask: Tensor) -> Tensor:
        """``e = Σ_k α_k z_k`` with ``z_k = LN(W_k x + b_k)``: [N, width] gives [N, 2d]."""
        config = self.config
        experts: Any = self.experts[name]
        views = torch.stack([expert(values) for expert in experts])  # [K, N, 2d]
        there = mask.expand(len(views), -1)
        logits = complementarity(config.intra, views, there, self.get_buffer("codes"))
        weights = masked_softmax(logits / config.intra_temperature, there)
        return (weights[..., None] * views).sum(0)
