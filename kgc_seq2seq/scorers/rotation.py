"""Rotations in the complex plane, and distances of very many points without large copies.

A point is d complex numbers, kept as 2d real ones: real parts, then imaginary parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CPU_BLOCK, _GPU_BLOCK = 2**20, 2**26
"""Numbers worked on at once: about what a CPU's caches hold, or enough to fill a GPU."""


def rotate(points: Tensor, phases: Tensor) -> Tensor:
    """Turn every complex number by its angle: [..., 2d] and [..., d] give [..., 2d]."""
    real, imaginary = points.chunk(2, -1)
    cosine, sine = phases.cos(), phases.sin()
    return torch.cat([real * cosine - imaginary * sine, real * sine + imaginary * cosine], -1)


def distance(one: Tensor, other: Tensor) -> Tensor:
    """``Σ_i |one_i - other_i|``, the modulus of complex numbers: two [..., 2d] give [...]."""
    difference = torch.stack((one - other).chunk(2, -1))
    moduli: Tensor = torch.linalg.vector_norm(difference, dim=0)  # its gradient at 0 is 0
    return moduli.sum(-1)


def blend(parts: Sequence[Tensor], shares: Tensor) -> Tensor:
    """``Σ_p shares[:, p] parts[p]``: P of [B, …] and [B or 1, P] give [B, …]."""
    columns = [share.view(-1, *[1] * (parts[0].ndim - 1)) for share in shares.unbind(1)]
    blended = parts[0] * columns[0]
    for part, column in zip(parts[1:], columns[1:], strict=True):
        blended = blended.addcmul(part, column)
    return blended


def cross_distances(points: Tensor, tables: Sequence[Tensor], shares: Tensor) -> Tensor:
    """`distance` of every point to every row of a mixture of tables, without a gradient.

    Args:
        points: [B, 2d].
        tables: P tables [N, 2d].
        shares: [1, P].

    Returns:
        [B, N].
    """
    count = len(tables[0])
    result = points.new_empty(len(points), count)
    few = 8
    rows = max(1, _block(points) // (few * points.shape[1]))
    with torch.inference_mode():
        for first in range(0, count, rows):
            part = blend([table[first : first + rows] for table in tables], shares)
            for start in range(0, len(points), few):
                difference = points[start : start + few, None] - part
                result[start : start + few, first : first + rows] = _moduli(difference).sum(-1)
    return result


def blended_distances(
    anchors: Tensor, owners: Tensor, tables: Sequence[Tensor], shares: Tensor, rows: Tensor
) -> Tensor:
    """`distance` from points to mixtures of table rows, for many rows of few points.

    Element (b, k) is ``distance(anchors[owners[b, k]], Σ_p shares[b, p] tables[p][rows[b, k]])``.
    The mixtures are made and forgotten block by block, forwards and backwards: they would be the
    largest tensors by far.

    Args:
        anchors: [A, 2d].
        owners: int64 [B, K] in 0 … A - 1.
        tables: P tables [N, 2d].
        shares: [B, P].
        rows: int64 [B, K] in 0 … N - 1.

    Returns:
        [B, K].
    """
    if torch.compiler.is_compiling():  # which makes the mixtures number by number
        return distance(anchors[owners], blend([table[rows] for table in tables], shares))
    result: Tensor = _BlendedDistances.apply(  # type: ignore[no-untyped-call]
        anchors, owners, shares, rows, *tables)
    return result


class _BlendedDistances(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchors: Tensor, owners: Tensor, shares: Tensor, rows: Tensor,
                *tables: Tensor) -> Tensor:
        ctx.save_for_backward(anchors, owners, shares, rows, *tables)
        result = anchors.new_empty(rows.shape)
        for block in _blocks(rows, anchors):
            picked = [table[rows[block]] for table in tables]
            difference = anchors[owners[block]] - blend(picked, shares[block])
            result[block] = _moduli(difference).sum(-1)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        anchors, owners, shares, rows, *tables = ctx.saved_tensors
        to_anchors, to_shares = torch.zeros_like(anchors), torch.zeros_like(shares)
        to_tables = [torch.zeros_like(table) for table in tables]
        for block in _blocks(rows, anchors):
            picked = [table[rows[block]] for table in tables]
            difference = anchors[owners[block]] - blend(picked, shares[block])
            # d|z| / dz is z / |z|, and 0 at 0.
            moduli = _moduli(difference).clamp_(min=torch.finfo(difference.dtype).tiny)
            slope = gradient[block].unsqueeze(-1) / moduli
            difference.unflatten(-1, (2, -1)).mul_(slope.unsqueeze(-2))
            to_anchors.index_add_(0, owners[block].flatten(), difference.flatten(0, 1))
            for part, (table, found) in enumerate(zip(to_tables, picked, strict=True)):
                to_shares[block, part] = -(difference * found).sum((1, 2))
                table.index_add_(0, rows[block].flatten(), (
                    difference * -shares[block, part, None, None]).flatten(0, 1))
        return to_anchors, None, to_shares, None, *to_tables


def _moduli(points: Tensor) -> Tensor:
    real, imaginary = points.chunk(2, -1)
    return (real * real).addcmul_(imaginary, imaginary).sqrt_()


def _blocks(rows: Tensor, like: Tensor) -> Iterator[slice]:
    size = max(1, _block(like) // max(1, rows.shape[1] * like.shape[1]))
    for start in range(0, len(rows), size):
        yield slice(start, start + size)


def _block(like: Tensor) -> int:
    return _CPU_BLOCK if like.device.type == "cpu" else _GPU_BLOCK
