"""A moving average of the weights, which often generalises better than the last of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """The exponential moving average of a model's trained weights."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start with the weights as they are.

        Args:
            model: Its parameters that require gradients are averaged.
            decay: Share of the old average that a step keeps; less in the first steps, at most
                ``(1 + step) / (10 + step)``, so that the beginning is soon forgotten.
        """
        self.decay = decay
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.tensors: list[Tensor] = [weight.detach().clone() for weight in self.weights]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step number ``step``, from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.tensors, list(self.weights), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average in the weights' place, and the weights back afterwards, bit for bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for weight, average in zip(self.weights, self.tensors, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
