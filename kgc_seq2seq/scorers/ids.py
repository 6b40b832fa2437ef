"""Whose row is whose: identifiers beside the tensors whose rows they name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from caption_cache.errors import InputError
from kgc_seq2seq.arrays import Longs


def pack(ids: Sequence[str]) -> Tensor:
    """Identifiers as a tensor, uint8: UTF-8, one a line. No identifier holds a line break."""
    return torch.frombuffer(bytearray("\n".join(ids).encode() + b"\n"), dtype=torch.uint8)


def unpack(packed: Tensor) -> tuple[str, ...]:
    """The inverse of `pack`."""
    return tuple(packed.numpy().tobytes().decode().removesuffix("\n").split("\n"))


def places(
    source: str, what: str, ids: Sequence[str], entity_ids: Sequence[str]
) -> Longs:
    """The row of a graph that each row of a file is of, int64 [M].

    Args:
        source: The file, for messages.
        what: What it holds, for messages.
        ids: The entity of each of its M rows.
        entity_ids: The entities of the graph.

    Raises:
        InputError: One is no entity of the graph, or has two rows.
    """
    place = {entity: row for row, entity in enumerate(entity_ids)}
    found = np.array([place.get(entity, -1) for entity in ids], np.int64)
    if (found < 0).any():
        raise InputError(f"{source}: {ids[int((found < 0).argmax())]!r} is no entity of this "
                         f"graph; the {what} belong to another, make them anew.")
    repeated = np.bincount(found)[found] > 1
    if repeated.any():
        raise InputError(f"{source}: the entity {ids[int(repeated.argmax())]!r} has two rows; keep "
                         "one.")
    return found
