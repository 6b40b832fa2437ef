"""Which examples a step trains on, as a function of the seed and the step alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from torch import Tensor

from kgc_seq2seq.arrays import Longs

WINDOW = 128
"""So many batches are planned at once and sorted by their inputs' lengths, but at most half an
epoch: more save padding and mix less."""
WORTH = 0.035
"""Long targets are set apart, and those of the rest again, where that keeps so large a share of
tokens from being padding. They are not sorted: in batches of names all alike, the densest part of
MKG-W was learnt worse."""
_SAMPLE = 1024
"""So many examples tell how long they are on average."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples that are made at once, which is much faster than batch by batch."""

    lengths: Longs
    """Tokens of each one's input and of its target, int64 [n, 2]."""
    batch: Callable[[Longs, int], Mapping[str, Tensor]]
    """The tensors of some of them (their places among these, int64 [b]) in a step (from 0)."""


@dataclass(frozen=True, eq=False)
class Batch:
    """What a step trains on."""

    step: int
    """Counted from 0."""
    epoch: int
    """Counted from 1."""
    window: int
    """The window that it lies in, counted from 0 through all epochs."""
    window_step: int
    """The first step of that."""
    examples: Examples
    """Those of the window."""
    rows: Longs
    """Those of the step among them, int64 [b]."""


class Batches:
    """A sampler that starts at any window, whose batches follow from the seed and its number.

    Every epoch is a fresh permutation, cut into windows of about `WINDOW` batches. Within one,
    examples of like length are put into one batch, and the batches are shuffled.
    """

    def __init__(
        self, read: Callable[[Longs, int], Examples], count: int, batch_size: int, seed: int,
        batch_tokens: int | None = None, least: int = 1,
    ) -> None:
        """Plan the batches.

        Args:
            read: Makes examples (int64 [n]) as they are in an epoch (from 1).
            count: How many there are.
            batch_size: Examples in a step, all processes together; what is left over at the end
                of an epoch waits for the next.
            seed: Same seed, same batches.
            batch_tokens: In place of ``batch_size``: as many examples as have so many tokens with
                padding; nothing is left over.
            least: As many examples are in every batch of ``batch_tokens``, be it too large.
        """
        self.read = read
        self.count = count
        self.seed = seed
        self.batch_tokens = batch_tokens
        self.smallest = min(count, batch_size if batch_tokens is None else least)
        """The number of examples in the smallest batch."""
        self._permutation = lru_cache(maxsize=1)(self._permute)

    def after(self, step: int, window: int = 0, window_step: int = 0) -> Iterator[Batch]:
        """The batches from a step on, without end.

        Args:
            step: Counted from 0.
            window: A window, in which the step lies or which comes before it.
            window_step: The first step of that.
        """
        while True:
            epoch, examples, batches = self._plan(window)
            for place in range(max(0, step - window_step), len(batches)):
                yield Batch(window_step + place, epoch, window, window_step, examples,
                            batches[place])
            window, window_step = window + 1, window_step + len(batches)

    @cached_property
    def _windows(self) -> int:
        """Their number in an epoch; not the number of their batches must be known, but this."""
        size: float = self.smallest
        if self.batch_tokens is not None:
            sample = self.read(self._permutation(1)[0][:_SAMPLE], 1).lengths
            size = max(size, self.batch_tokens / sample.sum(axis=1).mean())
        batches = max(1, int(self.count / size))
        return max(min(2, batches), round(batches / WINDOW))

    def _permute(self, epoch: int) -> tuple[Longs, np.random.PCG64]:
        bits = np.random.PCG64([self.seed, epoch - 1])
        return np.random.Generator(bits).permutation(self.count), bits

    def _plan(self, window: int) -> tuple[int, Examples, list[Longs]]:
        """The epoch of a window, its examples, and the rows of each batch."""
        before, turn = divmod(window, self._windows)
        permutation, bits = self._permutation(before + 1)
        unit = self.smallest if self.batch_tokens is None else 1
        start, end = (place * (self.count // unit) // self._windows * unit
                      for place in (turn, turn + 1))
        examples = self.read(permutation[start:end], before + 1)
        order = _by_length(examples.lengths)
        cuts = np.arange(0, len(order) + 1, unit) if self.batch_tokens is None else _cut(
            examples.lengths[order], self.batch_tokens, self.smallest)
        # Each window has a stream of random numbers of its own, so that none needs those before.
        shuffled = np.random.Generator(bits.jumped(turn)).permutation(len(cuts) - 1)
        return before + 1, examples, [order[cuts[batch] : cuts[batch + 1]] for batch in shuffled]


def _by_length(lengths: Longs) -> Longs:
    """An order in which neighbours are of like length, int64 [n].

    Args:
        lengths: Of inputs and targets, int64 [n, 2].
    """
    inputs, targets = lengths.T
    rest = np.sort(targets)
    limits = np.zeros(0, np.int64)
    while True:
        short = np.arange(1, len(rest) + 1)
        saved = (rest[-1] - rest) * short
        if saved.max() < WORTH * lengths.sum():
            break
        limits = np.append(rest[saved.argmax()], limits)
        rest = rest[: np.searchsorted(rest, limits[0], side="right")]
    kind = np.searchsorted(limits, targets)
    # Up and down again: where two kinds meet, inputs are alike.
    return np.lexsort([np.where(kind % 2, -inputs, inputs), kind])


def _cut(lengths: Longs, tokens: int, least: int) -> Longs:
    """Where batches begin and end, so that each takes ``tokens`` with padding.

    Args:
        lengths: int64 [n, 2].
        tokens: So many at most, where ``least`` examples have no more.
        least: Examples in a batch, at least; ``n`` where there are not so many.
    """
    cuts = [0]
    while cuts[-1] < len(lengths):
        start = cuts[-1]
        row = lengths[start : start + tokens]
        padded = np.maximum.accumulate(row).sum(axis=1) * np.arange(1, len(row) + 1)
        fitting = int(np.searchsorted(padded, tokens, side="right"))
        cuts.append(min(start + max(least, fitting), len(lengths)))
    if len(cuts) > 2 and cuts[-1] - cuts[-2] < least:
        cuts[-2] = cuts[-1] - least  # the batch before spares some
        if cuts[-2] - cuts[-3] < least:
            del cuts[-2]
    return np.array(cuts)
