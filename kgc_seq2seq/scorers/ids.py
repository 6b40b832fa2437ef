"""Whose row is whose: identifiers beside the tensors whose rows they name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pack(ids: Sequence[str]) -> Tensor:
    """Identifiers as a tensor, uint8: UTF-8, one a line. No identifier holds a line break."""
    return torch.frombuffer(bytearray("\n".join(ids).encode() + b"\n"), dtype=torch.uint8)


def unpack(packed: Tensor) -> tuple[str, ...]:
    """The inverse of `pack`."""
    return tuple(packed.numpy().tobytes().decode().removesuffix("\n").split("\n"))
