"""Filtered ranks with ties, and the metrics made of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

HITS = (1, 3, 10)


@dataclass(frozen=True)
class Ranks:
    """Ranks of G gold answers, counted from 1."""

    better: Longs
    """Allowed candidates that score more than the gold, int64 [G]."""
    tied: Longs
    """Allowed candidates other than the gold that score the same within tolerance, int64 [G]."""

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

    def __getitem__(self, chosen: npt.NDArray[np.bool_] | slice) -> Ranks:
        return Ranks(self.better[chosen], self.tied[chosen])


def metrics(ranks: Ranks) -> dict[str, float | int]:
    """MR, MRR and Hits@1/3/10 of realistic ranks, and how many ranks there are.

    A Hits@k counts a rank of at most k. All but ``mr`` and ``count`` lie in 0 … 1.
    """
    rank = ranks.realistic
    return {
        "mr": float(rank.mean()),
        "mrr": float((1 / rank).mean()),
        **{f"hits@{k}": float((rank <= k).mean()) for k in HITS},
        "count": len(rank),
    }
