"""Second moments of patches, sum u v^T, without writing all patches out.

Where neighbouring patches overlap (stride 1), u_i v_j depends on the distance between the two taps and on
nothing else, but for the positions at the rim of the map. So one product of the map with its shifted self
serves every pair of taps at that distance (13 products for a 3 x 3 kernel instead of 45), computed as if
positions went on until no tap touches the map; what the positions beyond the real ones contributed is then
taken off.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from growcore.growth.statistics.patches import Patches, column_sums, weight_gradient

# Numbers per row of a product: enough for full speed, few enough that its operands stay in the cache.
_CHUNK = 8192


def gram(patches: Patches, with_ones: bool) -> Tensor:
    """Sum of u u^T over samples and positions; with_ones appends the row and column of a constant 1."""
    return cross_gram(patches, patches, with_ones, with_ones)


def cross_gram(left: Patches, right: Patches, left_ones: bool, right_ones: bool) -> Tensor:
    """Sum of u_left u_right^T over samples and positions; both sides have the same positions."""
    total = _shifted(left, right) if _overlap(left, right) else _dense(left, right)
    if not (left_ones or right_ones):
        return total
    result = total.new_zeros(left.width + int(left_ones), right.width + int(right_ones))
    result[: left.width, : right.width] = total
    right_sums = column_sums(right)
    left_sums = right_sums if left is right else column_sums(left)
    if left_ones:
        result[-1] = right_sums if right_ones else right_sums[:-1]
    if right_ones:
        result[:, -1] = left_sums if left_ones else left_sums[:-1]
    return result


def weighted_gram(patches: Patches, rows_P: Tensor, columns_Q: Tensor, with_ones: bool) -> Tensor:
    """Sum of w u u^T, where a position's weight w is the product of its row's and its column's.

    Most positions have the largest weight where kernels overlap, so the others are corrected for.
    """
    rows, columns = rows_P.to(patches.x_NCHW), columns_Q.to(patches.x_NCHW)
    P, Q = range(len(rows)), range(len(columns))
    rim_rows = (rows < rows.max()).nonzero()[:, 0].tolist()
    rim_columns = (columns < columns.max()).nonzero()[:, 0].tolist()
    if not _overlap(patches, patches) or 3 * (len(rim_rows) * len(Q) + len(rim_columns) * len(P)) > len(
        P
    ) * len(Q):
        return _weighted(patches, torch.outer(rows, columns).flatten(), with_ones)
    largest = rows.max() * columns.max()
    total = largest * gram(patches, with_ones)
    padded = replace(patches, x_NCHW=patches.padded(), before=(0, 0), behind=(0, 0))
    for row in rim_rows:
        missing = rows[row] * columns - largest
        total += _weighted(padded.at(range(row, row + 1), Q), missing, with_ones)
    for column in rim_columns:
        missing = (rows * columns[column] - largest) * (rows == rows.max())
        total += _weighted(padded.at(P, range(column, column + 1)), missing, with_ones)
    return total


def _weighted(patches: Patches, weights: Tensor, with_ones: bool) -> Tensor:
    size = patches.width + int(with_ones)
    total = patches.x_NCHW.new_zeros(size, size)
    for part in _chunks(patches, len(weights)):
        u = part.columns()
        if with_ones:
            u = torch.cat([u, u.new_ones(u.shape[0], 1, u.shape[2])], dim=1)
        total.addmm_(_flat(u * weights), _flat(u).T)
    return total


def _dense(left: Patches, right: Patches) -> Tensor:
    total = left.x_NCHW.new_zeros(left.width, right.width)
    num_positions = left.counts[0] * left.counts[1]
    for part, other in zip(_chunks(left, num_positions), _chunks(right, num_positions), strict=True):
        u = _flat(part.columns())
        total.addmm_(u, (u if left is right else _flat(other.columns())).T)
    return total


def _overlap(left: Patches, right: Patches) -> bool:
    """Whether shifted products pay: stride 1, kernels of several taps, few positions at the rim."""
    if left.stride != (1, 1) or right.stride != (1, 1) or max(*left.kernel, *right.kernel) == 1:
        return False
    if left.width == 0 or right.width == 0:
        return False
    if left is not right and not all(_spacing(_lags(left, right, axis)[0]) for axis in (0, 1)):
        return False
    num_positions = left.counts[0] * left.counts[1]
    extended = [len(_extended(left, right, axis)) for axis in (0, 1)]
    return 2 * (extended[0] * extended[1] - num_positions) < num_positions


def _shifted(left: Patches, right: Patches) -> Tensor:
    """(C*K*L, C'*K'*L') by products of shifted maps."""
    (row_lags, row_index), (column_lags, column_index) = (_lags(left, right, axis) for axis in (0, 1))
    if left is right:
        products = _lag_products(left, row_lags, column_lags)
    else:
        products = _cross_lag_products(left, right, row_lags, column_lags)
    K, L, k, m = *left.kernel, *right.kernel
    index = row_index[:, None, :, None].expand(K, L, k, m), column_index[None, :, None, :].expand(K, L, k, m)
    total = products[index].permute(4, 0, 1, 5, 2, 3).contiguous()  # from K L k m C c to C K L c k m
    for block, part in _beyond(left, right):
        total[block].sub_(part)
    return total.reshape(left.width, right.width)


def _lags(left: Patches, right: Patches, axis: int) -> tuple[list[int], Tensor]:
    """The distances between taps, and which of them belongs to a pair of taps."""
    lags = [
        [(j * right.dilation[axis] - right.before[axis]) - (i * left.dilation[axis] - left.before[axis])
         for j in range(right.kernel[axis])]
        for i in range(left.kernel[axis])
    ]  # fmt: skip
    distinct = sorted({lag for row in lags for lag in row})
    return distinct, torch.tensor([[distinct.index(lag) for lag in row] for row in lags])


def _lag_products(patches: Patches, rows: list[int], columns: list[int]) -> Tensor:
    """(lags, lags, C, C): sum over samples and the whole map of x(q) x(q + lag)."""
    num_channels = patches.x_NCHW.shape[1]
    products = patches.x_NCHW.new_zeros(len(rows), len(columns), num_channels, num_channels)
    height, width = patches.size[0] + rows[-1], patches.size[1] + columns[-1]
    # Rows and maps stand end to end with zeros between them, so a shift in two dimensions is one along the
    # strip. A shift back gives the transpose.
    ahead = [
        (i, j, row * width + column)
        for i, row in enumerate(rows)
        for j, column in enumerate(columns)
        if row * width + column >= 0
    ]
    for part in _chunks(patches, height * width):
        x = _strip(part, height, width)
        for i, j, lag in ahead:
            products[i, j].addmm_(x[:, : x.shape[1] - lag], x[:, lag:].T)
    for i, j, lag in ahead:
        if lag > 0:
            products[-1 - i, -1 - j] = products[i, j].T
    return products


def _cross_lag_products(left: Patches, right: Patches, rows: list[int], columns: list[int]) -> Tensor:
    """(lags, lags, C, c): sum over samples and the whole map of x(q) y(q + lag), for evenly spaced lags.

    It is the gradient of the weight of a convolution whose taps are the lags.
    """
    pads = [
        (-lags[0], left.size[axis] + lags[-1] - right.size[axis]) for axis, lags in enumerate((rows, columns))
    ]
    y = F.pad(right.x_NCHW, (*pads[1], *pads[0]))  # a negative pad crops
    shape = (left.x_NCHW.shape[1], y.shape[1], len(rows), len(columns))
    dilation = _spacing(rows), _spacing(columns)
    return weight_gradient(y, shape, left.x_NCHW.contiguous(), dilation=dilation).permute(2, 3, 0, 1)


def _spacing(lags: list[int]) -> int:
    """The distance between neighbouring lags; 0 where it varies."""
    steps = {b - a for a, b in itertools.pairwise(lags)}
    return steps.pop() if len(steps) == 1 else int(not steps)


def _strip(patches: Patches, height: int, width: int) -> Tensor:
    """(C, N*height*width): the maps of all samples end to end, zeros behind each row and map."""
    x = patches.x_NCHW
    pads = (0, width - x.shape[3], 0, height - x.shape[2])
    return F.pad(x.transpose(0, 1), pads).flatten(1)


def _extended(left: Patches, right: Patches, axis: int) -> range:
    """Positions at which a tap of either side touches its map, the real positions included."""
    starts, stops = [0], [left.counts[axis]]
    for side in (left, right):
        starts.append(side.before[axis] - side.dilation[axis] * (side.kernel[axis] - 1))
        stops.append(side.before[axis] + side.size[axis])
    return range(min(starts), max(stops))


def _beyond(left: Patches, right: Patches) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    """What the positions beyond the real ones contribute: blocks of taps, and their products."""
    whole = slice(None)
    for row in _outside(left, right, 0):
        a, b = _touching(left, 0, row), _touching(right, 0, row)
        if a and b:
            positions = _extended(left, right, 1)
            u, v = _line(left, 0, row, a, positions), _line(right, 0, row, b, positions)
            block = (whole, _slice(a), whole, whole, _slice(b), whole)
            yield block, (u.flatten(0, 2) @ v.flatten(0, 2).T).view(*u.shape[:3], *v.shape[:3])
    for column in _outside(left, right, 1):
        a, b = _touching(left, 1, column), _touching(right, 1, column)
        if a and b:
            positions = range(left.counts[0])
            u, v = _line(left, 1, column, a, positions), _line(right, 1, column, b, positions)
            block = (whole, whole, _slice(a), whole, whole, _slice(b))
            yield block, (u.flatten(0, 2) @ v.flatten(0, 2).T).view(*u.shape[:3], *v.shape[:3])


def _outside(left: Patches, right: Patches, axis: int) -> list[int]:
    real = range(left.counts[axis])
    return [position for position in _extended(left, right, axis) if position not in real]


def _touching(side: Patches, axis: int, position: int) -> range:
    """The taps that read the map, not the zeros around it, at a position along one axis."""
    taps = [
        tap
        for tap in range(side.kernel[axis])
        if 0 <= position - side.before[axis] + tap * side.dilation[axis] < side.size[axis]
    ]
    return range(taps[0], taps[-1] + 1) if taps else range(0)


def _line(side: Patches, axis: int, position: int, taps: range, positions: range) -> Tensor:
    """(C, K, L, N*positions): the patches on one row (axis 0) or column (axis 1) of positions.

    Along the axis only the given taps are taken; along the other all, at the given positions.
    """
    other = 1 - axis
    reads = [position - side.before[axis] + tap * side.dilation[axis] for tap in taps]
    step, reach = side.dilation[axis], side.dilation[other]
    lines = slice(reads[0], reads[-1] + 1, step)
    x = side.x_NCHW[:, :, lines] if axis == 0 else side.x_NCHW[:, :, :, lines].transpose(2, 3)
    first = positions.start - side.before[other]
    last = positions[-1] - side.before[other] + reach * (side.kernel[other] - 1)
    x = F.pad(x, (-first, last + 1 - side.size[other]))  # a negative pad crops
    parts = [x[..., tap * reach : tap * reach + len(positions)] for tap in range(side.kernel[other])]
    u = torch.stack(parts, dim=3)  # N C axis-taps other-taps positions
    u = u if axis == 0 else u.transpose(2, 3)
    return u.permute(1, 2, 3, 0, 4).flatten(3)


def _slice(taps: range) -> slice:
    return slice(taps.start, taps.stop)


def _chunks(patches: Patches, num_columns: int) -> Iterator[Patches]:
    step = max(1, _CHUNK // max(num_columns, 1))
    num_samples = patches.x_NCHW.shape[0]
    for start in range(0, num_samples, step):
        yield patches.samples(start, min(start + step, num_samples))


def _flat(u_NCP: Tensor) -> Tensor:
    return u_NCP[0] if u_NCP.shape[0] == 1 else u_NCP.transpose(0, 1).flatten(1)
