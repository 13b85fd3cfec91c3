"""The calls that gather statistics, for growing layers and merges alike.

b is the input of a layer, extended by 1 where it has a bias, g = dL/da; index -1 is this layer's, -2 the
previous one's. All calls of a layer that backward has reached since the last update count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.distributed
from torch import Tensor

if TYPE_CHECKING:
    from growcore.growth.merge import Consumer
    from growcore.growth.module import GrowingModule


def init_computation(consumer: Consumer) -> None:
    """Start gathering statistics, of a merge in its readers too; next forward passes keep what is needed.

    Raises:
        ValueError: the modules around are none that it can grow with.
    """
    consumer.gathered.init()


def update_computation(consumer: Consumer) -> None:
    """Add the forward and backward passes since the last update to every statistic.

    Raises:
        ValueError: init_computation was not called, or no forward and backward pass was made since.
    """
    consumer.gathered.update()


def reduce_computation(consumer: Consumer, group: torch.distributed.ProcessGroup | None = None) -> None:
    """Sum the statistics over the ranks of a process group, once, after the last update."""
    consumer.gathered.reduce(group)


def reset_computation(consumer: Consumer) -> None:
    """Stop gathering statistics and forget them and the stored tensors."""
    consumer.gathered.reset()


def compute_s_update(module: GrowingModule) -> tuple[Tensor, int]:
    """Sum of b b^T over the stored passes, and their number of samples."""
    gathered = module.gathered
    return gathered.summed(lambda: module.geometry.second_moment(gathered.reading), with_gradient=False)


def compute_m_update(module: GrowingModule, desired_activation: Tensor | None = None) -> tuple[Tensor, int]:
    """Sum of b g^T over the stored passes; desired_activation stands in for g."""
    goal, gathered = _goal(module, desired_activation), module.gathered
    return gathered.summed(
        lambda: module.geometry.correlation(gathered.reading, goal()), (), desired_activation is None
    )


def compute_m_prev_update(
    module: GrowingModule, desired_activation: Tensor | None = None
) -> tuple[Tensor, int]:
    """Sum of b(-2) g^T over the stored passes; desired_activation stands in for g."""
    return _previous_correlation(
        module, _goal(module, desired_activation), with_gradient=desired_activation is None
    )


def _previous_correlation(
    module: GrowingModule, goal: Callable[[], Tensor], with_gradient: bool
) -> tuple[Tensor, int]:
    gathered = module.gathered
    return gathered.summed(
        lambda: module.geometry.previous_correlation(*gathered.pair, goal()),
        [gathered.before],
        with_gradient,
    )


def _goal(module: GrowingModule, desired_activation: Tensor | None) -> Callable[[], Tensor]:
    """What gives the goal of the call at hand: its gradient, or what is desired instead.

    Raises:
        ValueError: one goal is desired for several calls.
    """
    if desired_activation is None:
        return lambda: module.pre_activity_gradient
    num_calls = len(module.gathered.calls.reached())
    if num_calls > 1:
        raise ValueError(
            f"{module.name} was called {num_calls} times since the last update; desired_activation is the "
            f"goal of one call. Update after each, or leave it out."
        )
    return lambda: desired_activation


def compute_cross_covariance_update(module: GrowingModule) -> tuple[Tensor, int]:
    """Sum of b(-2) b(-1)^T over the stored passes, and their number of samples."""
    gathered = module.gathered
    return gathered.summed(
        lambda: module.geometry.cross_covariance(*gathered.pair), [gathered.before], with_gradient=False
    )


def compute_n_update(module: GrowingModule) -> tuple[Tensor, int]:
    """What the stored passes add to N by the second pass: -sum b(-2) (g - delta b)^T.

    The batches are those M and S were gathered on, seen with the same weights, and the optimal delta
    is known already.
    """
    update, num_samples = _previous_correlation(
        module, lambda: module.projected_v_goal(module.input), with_gradient=True
    )
    return -update, num_samples


def projected_v_goal(module: GrowingModule, input_vector: Tensor) -> Tensor:
    """The rest g - delta b: what the gradient asks for beyond the layer's own optimal step."""
    if module.optimal_delta_layer is None:
        raise ValueError(f"{module.name} has no optimal delta. Call compute_optimal_delta() first.")
    step: Tensor = module.optimal_delta_layer(input_vector).detach()
    return module.pre_activity_gradient - step
