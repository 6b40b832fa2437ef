"""How much each negative counts: by its score, or by how uncertain the scorer is of it.

The entropy-based weights are EGNS, which the paper of MoCME (arXiv 2507.20620) only describes:
their equations here are our reconstruction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from caption_cache.errors import InputError


@dataclass(frozen=True)
class WeightingConfig:
    """How negatives are weighted."""

    key: ClassVar[str] = "model.weighting"
    """Where it stands in the configuration of a run."""
    temperature: float = 1.0
    """Weight of the score α in softmax(α s + …) over a fact's negatives; 0 leaves it out."""
    entropy: Literal["none", "added", "proportional", "list"] = "none"
    """How uncertainty weights (EGNS): ``added`` to the exponent as λ U with U the entropy of σ(s);
    ``proportional`` to U alone; by the summands -q log q of the entropy of the ``list``, q =
    softmax(α s)."""
    entropy_weight: float = 1.0
    """λ; only with entropy: added."""
    entropy_warmup: float = 0.1
    """Part of the training over which λ rises from 0; only with entropy: added."""
    spared: float = 0.0
    """Share of the most uncertain negatives that count nothing: many are facts nobody wrote."""

    def __post_init__(self) -> None:
        for key in ("temperature", "entropy_weight"):
            if getattr(self, key) < 0:
                raise InputError(f"{self.key}.{key} is {getattr(self, key)}; give 0 or more.")
        for key in ("entropy_warmup", "spared"):
            if not 0 <= getattr(self, key) < 1:
                raise InputError(f"{self.key}.{key} is {getattr(self, key)}; give a number from 0 "
                                 "to below 1.")
        if self.entropy == "list" and not self.temperature:
            raise InputError(f"{self.key}.entropy 'list' with temperature 0 weights all negatives "
                             "alike; give a positive temperature, or entropy 'none'.")

    @property
    def uniform(self) -> bool:
        """Whether all negatives weigh alike."""
        return not self.temperature and self.entropy == "none" and not self.spared


@dataclass(frozen=True)
class SamplingConfig(WeightingConfig):
    """Which negatives are drawn, and how they are weighted."""

    key: ClassVar[str] = "model.sampling"
    negatives: int = 128
    """Negatives to a fact."""
    bernoulli: bool = True
    """Replace the end with fewer right answers more often (Wang et al. 2014), or both alike."""
    candidates: int = 1
    """Draw so many times the negatives, and keep the most uncertain."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("negatives", "candidates"):
            if getattr(self, key) < 1:
                raise InputError(f"{self.key}.{key} is {getattr(self, key)}; give 1 or more.")
        if 0 < self.spared * self.negatives < 1:
            raise InputError(f"{self.key}.spared {self.spared} of {self.negatives} negatives is "
                             "less than one; give a larger share, or 0.")


def uncertainty(scores: Tensor) -> Tensor:
    """The entropy of σ(score) in nats, elementwise: largest, log 2, at score 0."""
    certain = -scores.abs()  # σ(s) and 1 - σ(s) are as uncertain; near 1, float32 has no 1 - σ(s)
    return functional.softplus(certain) - certain * certain.sigmoid()


def weights(scores: Tensor, config: WeightingConfig, done: Tensor | float) -> Tensor:
    """The weight of each negative; the negatives of a fact have 1 together.

    Args:
        scores: [B, K].
        config: How.
        done: How much of the training is done, 0 … 1.

    Returns:
        [B, K], without gradient.
    """
    scores = scores.detach()
    tiny = torch.finfo(scores.dtype).tiny  # its logarithm is a number
    uncertain = uncertainty(scores).clamp(min=tiny)
    exponent = config.temperature * scores
    if config.entropy == "added":
        warm = done / config.entropy_warmup if config.entropy_warmup else torch.ones(())
        exponent = exponent + config.entropy_weight * torch.as_tensor(warm).clamp(max=1) * uncertain
    elif config.entropy == "proportional":
        exponent = uncertain.log()
    elif config.entropy == "list":
        log_q = exponent.log_softmax(1)
        exponent = log_q + (-log_q).clamp(min=tiny).log()  # log(-q log q)
    spared = int(config.spared * scores.shape[1])
    if spared:
        exponent = exponent.scatter(1, uncertain.topk(spared, 1).indices, -torch.inf)
    return exponent.softmax(1)


def sampling_loss(
    positive: Tensor, negative: Tensor, config: SamplingConfig, done: Tensor | float
) -> Tensor:
    """``-½ Σ_b [log σ(s_b) + Σ_k w_bk log σ(-s_bk)]`` (Sun et al. 2019, eq. 5 and 6).

    Args:
        positive: Scores of facts, [B].
        negative: Scores of their negatives, [B, K].
        config: Gives the weights w.
        done: As in `weights`.

    Returns:
        The sum over the batch, a scalar.
    """
    wrong = (weights(negative, config, done) * functional.logsigmoid(-negative)).sum()
    return -(functional.logsigmoid(positive).sum() + wrong) / 2


def softmax_loss(
    scores: Tensor, answers: Tensor, config: WeightingConfig, done: Tensor | float
) -> Tensor:
    """``Σ_b log [exp s_bt + (N - 1) Σ_{e≠t} w_be exp s_be] - s_bt``: 1-vs-all, weighted.

    Equal weights give the cross-entropy over all entities. Any others are our reconstruction of
    EGNS for scorers that draw no negatives: ``weights`` sees what their scores mean, the log-odds
    of ``q = softmax(s)``, since a softmax knows scores up to a constant only, of which σ(s)
    would depend. There are no two stages: every entity has been scored already.

    Args:
        scores: Of all entities, [B, N].
        answers: The right one of each row, int64 [B].
        config: Gives the weights w.
        done: As in `weights`.

    Returns:
        The sum over the batch, a scalar.
    """
    if config.uniform:
        return functional.cross_entropy(scores, answers, reduction="sum")
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    with torch.no_grad():
        log_q = scores.log_softmax(1)
        almost_one = -torch.finfo(log_q.dtype).eps  # so that log(1 - q) is a number
        odds = log_q - torch.log(-torch.expm1(log_q.clamp(max=almost_one)))
        wrong = torch.ones_like(odds, dtype=torch.bool).scatter(1, answers[:, None], False)
        weight = weights(odds[wrong].view(len(odds), -1), config, done)
        shift = torch.zeros_like(odds)
        shift[wrong] = (weight * weight.shape[1]).log().flatten()
    return functional.cross_entropy(scores + shift, answers, reduction="sum")
