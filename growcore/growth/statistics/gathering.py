"""The calls that gather statistics, for growing layers and merges alike.

b is the input of a layer, extended by 1 where it has a bias, g = dL/da; index -1 is this layer's, -2 the
previous one's. A batch is what the last forward and backward pass left.
"""

from __future__ import annotations

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
    """Add the stored batch to every statistic, once per forward pass.

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
    """Sum of b b^T over the stored batch, and its number of samples."""
    return module.geometry.second_moment(module.gathered.reading), module.gathered.num_samples


def compute_m_update(module: GrowingModule, desired_activation: Tensor | None = None) -> tuple[Tensor, int]:
    """Sum of b g^T over the stored batch; desired_activation stands in for g."""
    goal = module.pre_activity_gradient if desired_activation is None else desired_activation
    return module.geometry.correlation(module.gathered.reading, goal), module.gathered.num_samples


def compute_m_prev_update(
    module: GrowingModule, desired_activation: Tensor | None = None
) -> tuple[Tensor, int]:
    """Sum of b(-2) g^T over the stored batch; desired_activation stands in for g."""
    goal = module.pre_activity_gradient if desired_activation is None else desired_activation
    return module.geometry.previous_correlation(*module.gathered.pair, goal), module.gathered.num_samples


def compute_cross_covariance_update(module: GrowingModule) -> tuple[Tensor, int]:
    """Sum of b(-2) b(-1)^T over the stored batch, and its number of samples."""
    return module.geometry.cross_covariance(*module.gathered.pair), module.gathered.num_samples


def compute_n_update(module: GrowingModule) -> tuple[Tensor, int]:
    """What the stored batch adds to N by the second pass: -sum b(-2) (g - delta b)^T.

    The batches are those M and S were gathered on, seen with the same weights, and the optimal delta
    is known already.
    """
    update, num_samples = module.compute_m_prev_update(module.projected_v_goal(module.input))
    return -update, num_samples


def projected_v_goal(module: GrowingModule, input_vector: Tensor) -> Tensor:
    """The rest g - delta b: what the gradient asks for beyond the layer's own optimal step."""
    if module.optimal_delta_layer is None:
        raise ValueError(f"{module.name} has no optimal delta. Call compute_optimal_delta() first.")
    step: Tensor = module.optimal_delta_layer(input_vector).detach()
    return module.pre_activity_gradient - step
