"""Measuring strengths inside compiled code: one operator that the compiler does not look into.

A counter that decides in Python whether to measure would make the compiler trace anew at every forward;
a call that it must leave the graph for costs a break in every layer. The operator does neither.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from growcore.sparse.geometry import ConvGeometry, Geometry, LinearGeometry
from growcore.sparse.ranks import num_ranks
from growcore.sparse.strength import find_strength


def add_measured(
    x: Tensor, y: Tensor, accumulated: Tensor, name: str, threshold: float, geometry: Geometry
) -> None:
    """Measure a strength on one batch and add it, averaged over ranks, in place.

    Args:
        x: input of the layer, before padding.
        y: what the strength observes: the layer's output or the gradient of it.
        accumulated: the sum so far, shaped like the weight.
        name: of the strength.
        threshold: of activity, in [0.5, 1).
        geometry: how the layer joins x to its output.

    Raises:
        ValueError: the strength is not measured on batches (magnitude, random).
    """
    measure = find_strength(name).measure
    if measure is None:
        raise ValueError(
            f"strength={name!r} is not measured on batches; it is read from the layer at a progression. "
            "Leave out update_connections_tensor, or choose 'coactivation'."
        )
    measured = measure(geometry, x, y, threshold)
    # At once, because DDP copies the buffers of rank 0 to all before every forward.
    if num_ranks() > 1:
        dist.all_reduce(measured)
        measured /= num_ranks()
    accumulated += measured


def is_recomputing() -> bool:
    """Whether a forward runs within a backward pass: activation checkpointing computes it once more."""
    # The only way to tell that torch has; torch.utils.checkpoint asks it as well.
    return torch._C._current_graph_task_id() != -1


def is_first_with_gradient() -> bool:
    """Whether a forward with a gradient is the only one of its kind, not one computed once more.

    Of torch's two kinds of checkpointing the reentrant one has its first forward without gradient, so that
    the one within the backward pass is the first. The other keeps hooks on what is saved while it recomputes.
    """
    return not is_recomputing() or torch._C._autograd._top_saved_tensors_default_hooks(True) is None


@torch.library.custom_op("growcore::observe", mutates_args=("accumulated", "num_forwards"))
def observe(
    x: Tensor,
    y: Tensor,
    accumulated: Tensor,
    num_forwards: Tensor,
    name: str,
    threshold: float,
    interval: int,
    geometry: list[int],
    padding: str,
    padding_mode: str,
) -> None:
    """Count a forward, and measure if it is the first of `interval`; the operator behind compiled layers.

    A forward that activation checkpointing computes once more is not counted.

    Args:
        x: as `add_measured`, as are y, accumulated, name and threshold.
        y: the layer's output.
        accumulated: changed in place.
        num_forwards: a whole number on the CPU, changed in place.
        name: of the strength.
        threshold: of activity.
        interval: forwards between two measurements.
        geometry: kernel, stride, padding, dilation (two each) and groups; empty for a linear layer.
        padding: 'same' or 'valid' where the geometry's numbers do not say it, else ''.
        padding_mode: of a convolution.
    """
    if is_recomputing():
        return
    if int(num_forwards) % interval == 0:
        add_measured(x, y, accumulated, name, threshold, _unpack(geometry, padding, padding_mode))
    num_forwards += 1


def pack(geometry: Geometry) -> tuple[list[int], str, str]:
    """A geometry as the last three arguments of `observe`: an operator takes plain values only."""
    if not isinstance(geometry, ConvGeometry):
        return [], "", "zeros"
    named = isinstance(geometry.padding, str)
    numbers = (0, 0) if isinstance(geometry.padding, str) else geometry.padding
    packed = [*geometry.kernel_size, *geometry.stride, *numbers, *geometry.dilation, geometry.groups]
    return packed, str(geometry.padding) if named else "", geometry.padding_mode


def _unpack(packed: list[int], padding: str, padding_mode: str) -> Geometry:
    if not packed:
        return LinearGeometry()
    kernel, stride, numbers, dilation = ((packed[i], packed[i + 1]) for i in range(0, 8, 2))
    return ConvGeometry(kernel, stride, padding or numbers, dilation, packed[8], padding_mode)
