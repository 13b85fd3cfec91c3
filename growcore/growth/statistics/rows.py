"""Second moments of inputs that lie in rows, one for each sample and position.

A constant 1 that stands for a bias is never written out. Sums are in float32, or wider where the input is.
"""

from __future__ import annotations

import torch
from torch import Tensor


def accumulation_dtype(tensor: Tensor) -> torch.dtype:
    """Precision statistics are summed in: float32, or wider where the tensor is."""
    return torch.promote_types(tensor.dtype, torch.float32)


def as_rows(x: Tensor) -> Tensor:
    """(N, ..., features) as (N * positions, features), in accumulation precision."""
    return x.flatten(0, -2).to(accumulation_dtype(x))


def as_points(x: Tensor) -> Tensor:
    """(N, ..., features) as (N, features, positions), in accumulation precision."""
    return x.reshape(x.shape[0], -1, x.shape[-1]).transpose(1, 2).to(accumulation_dtype(x))


def product(left: Tensor, right: Tensor, left_ones: bool, right_ones: bool) -> Tensor:
    """left^T right with a column of ones appended to either side."""
    m, n = left.shape[1], right.shape[1]
    total = left.new_empty(m + int(left_ones), n + int(right_ones))
    if left is right:
        _gram_into(total[:m, :m], left)
    else:
        torch.mm(left.T, right, out=total[:m, :n])
    if left_ones:
        total[-1, :n] = right.sum(0)
    if right_ones:
        total[:m, -1] = left.sum(0)
    if left_ones and right_ones:
        total[-1, -1] = left.shape[0]
    return total


def _gram_into(total: Tensor, rows: Tensor) -> None:
    """rows^T rows; of the two blocks off the diagonal one is computed and the other copied."""
    half = rows.shape[1] // 2
    first, second = rows[:, :half], rows[:, half:]
    torch.mm(first.T, rows, out=total[:half])
    torch.mm(second.T, second, out=total[half:, half:])
    total[half:, :half] = total[:half, half:].T
