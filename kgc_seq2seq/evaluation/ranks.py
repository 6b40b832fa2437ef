"""Filtered ranks with ties, exact or within certified brackets, and the metrics of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kgc_seq2seq.arrays import Bools, Floats, Longs

HITS = (1, 3, 10)


@dataclass(frozen=True)
class Ranks:
    """Ranks of G gold answers, counted from 1."""

    better: Longs
    """Allowed candidates that score more than the gold, int64 [G]."""
    tied: Longs
    """Allowed candidates other than the gold that score the same within tolerance, int64 [G]."""
    open: Longs | None = None
    """At most so many more candidates might be better or tied, int64 [G]; None: the ranks are
    exact."""

    @property
    def optimistic(self) -> Longs:
        """The gold first among its ties."""
        return self.better + 1

    @property
    def pessimistic(self) -> Longs:
        """The gold last among its ties."""
        return self.better + self.tied + 1

    @property
    def realistic(self) -> Floats:
        """The mean of the two: the expected rank when ties are broken at random."""
        return (self.optimistic + self.pessimistic) / 2

    def __getitem__(self, chosen: Bools | slice) -> Ranks:
        return Ranks(self.better[chosen], self.tied[chosen],
                     None if self.open is None else self.open[chosen])


def metrics(ranks: Ranks) -> dict[str, Any]:
    """MR, MRR and Hits@1/3/10 of realistic ranks, the MRR of optimistic ones, and their number.

    A Hits@k counts a rank of at most k. All but ``mr`` and ``count`` lie in 0 … 1. Where
    ``mrr_optimistic`` is far above ``mrr``, the system tells many candidates not apart. Of
    bracketed ranks every metric is an interval ``{"low": …, "high": …}`` that holds the exact
    value.
    """
    best = _metrics(ranks.realistic, ranks.optimistic)
    if ranks.open is None:
        return best
    worst = _metrics(ranks.realistic + ranks.open, ranks.optimistic + ranks.open)
    return {name: value if name == "count" else {"low": min(value, worst[name]),
                                                 "high": max(value, worst[name])}
            for name, value in best.items()}


def middle(metric: float | Mapping[str, float]) -> float:
    """A metric of `metrics`; of an interval its middle, which errs by half its width at most."""
    return (metric["low"] + metric["high"]) / 2 if isinstance(metric, Mapping) else metric


def number_text(metric: int | float | Mapping[str, float]) -> str:
    """A metric as people read it: a count, four digits, or both ends of an interval."""
    if isinstance(metric, Mapping):
        return f"{metric['low']:.4f}–{metric['high']:.4f}"
    return str(metric) if isinstance(metric, int) else f"{metric:.4f}"


def gains(rank: Floats) -> dict[str, Floats]:
    """What each rank adds to the metrics of which more is better: their mean is the metric.

    Args:
        rank: From 1, [G].

    Returns:
        ``mrr`` and ``hits@k``, float64 [G] each.
    """
    return {"mrr": 1 / rank, **{f"hits@{k}": (rank <= k).astype(np.float64) for k in HITS}}


def _metrics(rank: Floats, optimistic: npt.NDArray[Any]) -> dict[str, Any]:
    return {
        "mr": float(rank.mean()),
        **{name: float(gain.mean()) for name, gain in gains(rank).items()},
        "mrr_optimistic": float((1 / optimistic).mean()),
        "count": len(rank),
    }
