"""Which examples a step trains on, as a function of the seed and the step alone."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

Longs = npt.NDArray[np.int64]

WINDOWS = 6
"""An epoch is cut into so many parts, and each is sorted by the inputs' length; fewer save padding
and mix less. The targets' length plays no part: in batches of names alike, the densest part of
MKG-W was learnt worse."""


class Batches:
    """A stateless sampler: stopping after step n and going on gives the same batches.

    Every epoch is a fresh permutation. Examples of like length are put into one batch, and the
    batches are shuffled again.
    """

    def __init__(
        self, lengths: Callable[[int], Longs], batch_size: int, seed: int,
        batch_tokens: int | None = None, least: int = 1,
    ) -> None:
        """Plan the batches.

        Args:
            lengths: Gives the lengths of each example's input and of its target in an epoch (from
                1), int64 [n, 2].
            batch_size: Examples in a step, all processes together; what is left over at the end
                of an epoch waits for the next.
            seed: Same seed, same batches.
            batch_tokens: In place of ``batch_size``: as many examples as have so many tokens with
                padding; nothing is left over.
            least: As many examples are in every batch of ``batch_tokens``, be it too large.
        """
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.batch_tokens = batch_tokens
        self.least = least
        self._epoch = lru_cache(maxsize=1)(self._plan)
        self._ends = [0]  # of the epochs, in steps; only with batch_tokens

    @property
    def smallest(self) -> int:
        """The number of examples in the smallest batch of the first epoch."""
        return min(map(len, self._epoch(1)))

    @cached_property
    def _per_epoch(self) -> int:
        return len(self._epoch(1))

    def __getitem__(self, step: int) -> tuple[int, Longs]:
        """The epoch of a step, counted from 1, and its examples, int64 [b]."""
        if self.batch_tokens is None:  # all epochs have as many batches as the first
            epoch, place = divmod(step, self._per_epoch)
            return epoch + 1, self._epoch(epoch + 1)[place]
        while step >= self._ends[-1]:
            self._ends.append(self._ends[-1] + len(self._epoch(len(self._ends))))
        epoch = bisect_right(self._ends, step)
        return epoch, self._epoch(epoch)[step - self._ends[epoch - 1]]

    def _plan(self, epoch: int) -> list[Longs]:
        generator = np.random.default_rng([self.seed, epoch - 1])
        lengths = self.lengths(epoch)
        kept = generator.permutation(len(lengths))
        if self.batch_tokens is None:
            size = min(self.batch_size, len(kept))
            kept = kept[: len(kept) // size * size]
        window = np.arange(len(kept)) * WINDOWS // len(kept)
        kept = kept[np.lexsort([lengths[kept, 0], window])]
        cuts = np.arange(0, len(kept) + 1, size) if self.batch_tokens is None else _cut(
            lengths[kept], window, self.batch_tokens, self.least)
        return [kept[cuts[batch] : cuts[batch + 1]]
                for batch in generator.permutation(len(cuts) - 1)]


def _cut(lengths: Longs, window: Longs, tokens: int, least: int) -> Longs:
    """Where batches begin and end, so that each takes ``tokens`` with padding.

    Args:
        lengths: int64 [n, 2].
        window: int64 [n], ascending; no batch reaches into two.
        tokens: So many at most, where ``least`` examples have no more.
        least: Examples in a batch, at least; ``n`` where there are not so many.
    """
    cuts = [0]
    ends = np.searchsorted(window, window, side="right")
    while cuts[-1] < len(lengths):
        start = cuts[-1]
        row = lengths[start : min(ends[start], start + tokens)]
        padded = np.maximum.accumulate(row).sum(axis=1) * np.arange(1, len(row) + 1)
        fitting = int(np.searchsorted(padded, tokens, side="right"))
        cuts.append(min(start + max(least, fitting), len(lengths)))
    if len(cuts) > 2 and cuts[-1] - cuts[-2] < least:
        del cuts[-2]
    return np.array(cuts)
