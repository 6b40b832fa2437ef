"""The best of each group, for groups of different sizes."""

from __future__ import annotations

import torch
from torch import Tensor


def best_of_each(groups: Tensor, values: Tensor, limit: int) -> Tensor:
    """Which elements are among the ``limit`` largest of their group.

    Args:
        groups: int64 [n].
        values: float [n].
        limit: How many of each group.

    Returns:
        Indices int64 [at most n], ordered by group, within a group the largest first.
    """
    order = torch.argsort(values, descending=True, stable=True)
    order = order[torch.argsort(groups[order], stable=True)]
    ordered = groups[order]
    # Where its group starts is the first place that is not smaller.
    start = torch.searchsorted(ordered, ordered)
    best: Tensor = order[torch.arange(len(order), device=order.device) - start < limit]
    return best


def merge_best(
    entities: Tensor, scores: Tensor, query: Tensor, entity: Tensor, score: Tensor
) -> tuple[Tensor, Tensor]:
    """The best k of what was found before, [Q, k], and of what was met now, [n].

    Of equal scores the entity of the lower number comes first, whatever the order of the search.
    """
    if not len(query):
        return entities, scores
    count, k = scores.shape
    before = torch.arange(count, device=query.device).repeat_interleave(k)
    names = torch.cat([entities.flatten(), entity])
    by_name = torch.argsort(names, stable=True)
    queries = torch.cat([before, query])[by_name]
    values = torch.cat([scores.flatten(), score])
    best = by_name[best_of_each(queries, values[by_name], k)].view(count, k)
    return names[best], values[best]
