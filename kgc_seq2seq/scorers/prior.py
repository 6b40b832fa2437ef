"""What scorers add to the log-probability of a name: a weight for each relation, fitted on valid.

``fused(e) = log p(name of e) + Σ_s λ_sr · log softmax(scorer_s)(e)`` is a log-linear model of the
answer, so its likelihood has one maximum in λ.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from caption_cache.errors import InputError
from kgc_seq2seq.scorers.scorer import EntityScorer


def prior(
    scorers: Sequence[EntityScorer], weights: Tensor, heads: Tensor, relations: Tensor
) -> Tensor:
    """``Σ_s λ_sr · log softmax(scorer_s)`` of all entities.

    Args:
        scorers: S scorers of one graph.
        weights: λ, [S, 2R].
        heads: int64 [Q].
        relations: int64 [Q] in ``0 … 2R - 1``.

    Returns:
        float32 [Q, N].
    """
    parts = [weight[relations, None] * scorer.score(heads, relations).float().log_softmax(1)
             for scorer, weight in zip(scorers, weights, strict=True)]
    return torch.stack(parts).sum(0)


def fit_weights(
    names: Tensor, scores: Tensor, gold: Tensor, relations: Tensor, count: int,
    shrinkage: float = 1.0,
) -> Tensor:
    """The weights under which the answers of valid are most likely.

    Maximises ``Σ_q log softmax(fused)(gold_q) - shrinkage · Σ_sr (λ_sr - λ_s)²`` over λ_sr and
    the common λ_s: relations with few queries stay near the common weight.

    Args:
        names: Log-probabilities of names, [Q, C]; -inf for what is no candidate, such as known
            answers other than the gold.
        scores: Log-probabilities by S scorers, [S, Q, C], finite.
        gold: The place of each answer among its candidates, int64 [Q].
        relations: int64 [Q] in ``0 … count - 1``.
        count: 2R.
        shrinkage: How strongly weights are drawn to the common one.

    Returns:
        float32 [S, count].

    Raises:
        InputError: ``shrinkage`` is negative, or an answer is no candidate.
    """
    if shrinkage < 0:
        raise InputError(f"The shrinkage is {shrinkage}; give 0 or more.")
    rows = torch.arange(len(gold), device=gold.device)
    if not torch.isfinite(names[rows, gold]).all():
        raise InputError("An answer of valid has probability 0 under the generator; fusion cannot "
                         "weigh against that.")
    common = torch.zeros(len(scores), 1, dtype=torch.float64, device=names.device)
    apart = torch.zeros(len(scores), count, dtype=torch.float64, device=names.device)
    for weights in (common, apart):
        weights.requires_grad_()
    optimizer = torch.optim.LBFGS([common, apart], max_iter=200, tolerance_grad=1e-9,
                                  tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def cost() -> Tensor:
        fused = names + ((common + apart)[:, relations, None] * scores).sum(0)
        likelihood = fused.log_softmax(1)[rows, gold].mean()
        total: Tensor = shrinkage * apart.square().sum() / len(gold) - likelihood
        return total

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = cost()
        total.backward()
        return total

    optimizer.step(closure)
    return (common + apart).detach().float()
