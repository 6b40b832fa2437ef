"""Groups of different sizes: the best of each, pairs of what is in the same, spans of numbers."""

from __future__ import annotations

from collections.abc import Iterator

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


def pairs(groups: Tensor, others: Tensor, at_once: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Each element with every other of its group, block by block.

    Args:
        groups: The group of each element, int64 [n].
        others: The group of each other, int64 [m], ascending.
        at_once: About so many pairs in a block; all pairs of an element are in the same.

    Yields:
        Indices of the elements, ascending, and of the others, int64 [pairs] each.
    """
    starts = torch.searchsorted(others, groups)
    counts = torch.searchsorted(others, groups, right=True) - starts
    sizes = torch.bincount((counts.cumsum(0) - counts) // at_once).tolist()
    low = 0
    for first, count in zip(starts.split(sizes), counts.split(sizes), strict=True):
        element, other = spread(first, count)
        yield low + element, other
        low += len(count)


def spread(starts: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers of many spans, one after the other.

    Args:
        starts: The first number of each span, int64 [n].
        counts: How many follow, itself counted, int64 [n].

    Returns:
        The span of each number, ascending, and the number, int64 [sum of counts] each.
    """
    span = torch.repeat_interleave(counts)
    before = counts.cumsum(0) - counts
    return span, torch.arange(len(span), device=counts.device) - (before - starts)[span]
