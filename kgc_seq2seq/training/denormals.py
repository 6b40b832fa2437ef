"""Numbers that are nearly 0, and computing with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def no_denormals() -> Iterator[None]:
    """Let this process take numbers below 1e-38 for 0: some CPUs take many times as long for them.

    Weights of negatives far from any doubt become so small. Threads have this from the one that
    starts them, so it must surround all that computes.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
