"""Which examples a step trains on, as a function of the seed and the step alone."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Longs = npt.NDArray[np.int64]

WINDOW = 16
"""Batches whose examples are sorted by length together; more save padding and mix less."""


class Batches:
    """A stateless sampler: stopping after step n and going on gives the same batches.

    Every epoch is a fresh permutation. Examples of like length are put into one batch, and the
    batches are shuffled again; what is left over at the end of an epoch waits for the next.
    """

    def __init__(self, lengths: Longs, batch_size: int, seed: int) -> None:
        """Plan the batches.

        Args:
            lengths: About how long each example is, int64 [n].
            batch_size: Examples in a step, all processes together.
            seed: Same seed, same batches.
        """
        self.lengths = lengths
        self.batch_size = min(batch_size, len(lengths))
        self.seed = seed
        self.per_epoch = len(lengths) // self.batch_size
        self._epoch = lru_cache(maxsize=1)(self._plan)

    def __getitem__(self, step: int) -> tuple[int, Longs]:
        """The epoch of a step, counted from 1, and its examples, int64 [batch_size]."""
        epoch, index = divmod(step, self.per_epoch)
        return epoch + 1, self._epoch(epoch)[index]

    def _plan(self, epoch: int) -> Longs:
        generator = np.random.default_rng([self.seed, epoch])
        kept = generator.permutation(len(self.lengths))[: self.per_epoch * self.batch_size]
        window = np.arange(len(kept)) // (WINDOW * self.batch_size)
        kept = kept[np.lexsort([self.lengths[kept], window])]
        return generator.permutation(kept.reshape(self.per_epoch, self.batch_size), axis=0)
