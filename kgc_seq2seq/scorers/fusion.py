"""Weights over what is there."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_softmax(logits: Tensor, present: Tensor) -> Tensor:
    """Softmax along the first dimension over what is present; zeros where nothing is.

    Args:
        logits: [M, …].
        present: bool, of the same shape.
    """
    # The finite stand-in keeps gradients finite where nothing is present.
    masked = logits.masked_fill(~present, torch.finfo(logits.dtype).min)
    return masked.softmax(0) * present
