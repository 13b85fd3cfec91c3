"""From a consumer's statistics to its steps and new neurons, for pairs and merges alike.

Letters as in `solve`: S second moment, M correlation with the gradient g, N what new neurons should correlate
to, alpha and omega the weights into and out of them. Inputs of several producers are stacked and goals of
several readers lie side by side, so that a merge is the problem of a single pair.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from growcore.growth import solve
from growcore.growth.extending import new_outputs
from growcore.growth.extension import Extension, NewInputs, NewOutputs
from growcore.growth.initialization import reference_std
from growcore.growth.layers import split_bias
from growcore.growth.moments import blocks, with_moments
from growcore.growth.normalization import derivative_at_zero
from growcore.growth.resizing import MaskedConnections

if TYPE_CHECKING:
    from growcore.growth.merge import Consumer
    from growcore.growth.module import GrowingModule


def optimal_step(
    module: GrowingModule, dtype: torch.dtype, force_pseudo_inverse: bool, relative_ridge: float
) -> tuple[Tensor, Tensor]:
    """A module's delta (out, in + 1), bias last, and its decrease; pruned connections take no part."""
    delta, decrease = solve.optimal_delta(
        module.tensor_s(), module.tensor_m(), dtype, force_pseudo_inverse, relative_ridge
    )
    if not isinstance(module.layer, MaskedConnections):
        return delta, decrease
    alive = torch.ones_like(delta)
    alive[:, : module.in_fan] = module.layer.mask.flatten(1).to(delta)
    delta = delta * alive
    decrease = (module.tensor_m() * delta.T).sum()
    # Part of an optimal step may point uphill; then no step is better.
    return (delta, decrease) if decrease > 0 else (torch.zeros_like(delta), torch.zeros_like(decrease))


def solved_extension(
    consumer: Consumer,
    numerical_threshold: float,
    statistical_threshold: float,
    maximum_added_neurons: int | None,
    dtype: torch.dtype,
    use_projected_gradient: bool,
    relative_thresholds: bool,
    relative_ridge: float,
) -> Extension:
    """The neurons that decrease the loss fastest, beside the steps that the readers have.

    The arguments are those of GrowingModule.compute_optimal_added_parameters.
    """
    goals = consumer.gathered.goals(use_projected_gradient)
    neurons = solve.optimal_new_neurons(
        consumer.tensor_s_growth().to(dtype),
        _side_by_side(goals).to(dtype),
        numerical_threshold,
        statistical_threshold,
        maximum_added_neurons,
        relative_thresholds,
        relative_ridge,
    )
    outputs = []
    for module, rows in zip(consumer.producers, blocks(consumer, neurons.alpha), strict=True):
        weight, bias = split_bias(rows.to(module.weight.dtype), module.use_bias)
        outputs.append(NewOutputs(weight.reshape(-1, *module.weight.shape[1:]), bias))
    inputs = _with_omega(consumer, [reader.new_inputs for reader in consumer.readers], neurons.omega, goals)
    eigenvalues = neurons.eigenvalues.to(consumer.readers[0].weight.dtype)
    return with_moments(consumer, Extension(tuple(outputs), inputs, eigenvalues))


def _side_by_side(goals: list[Tensor]) -> Tensor:
    return goals[0] if len(goals) == 1 else torch.cat(goals, dim=1)


def _with_omega(
    consumer: Consumer, inputs: list[NewInputs], omega: Tensor, goals: list[Tensor]
) -> tuple[NewInputs, ...]:
    """The readers' records with the rows of omega that were solved for their goals."""
    rows = omega.split([goal.shape[1] for goal in goals])
    return tuple(
        replace(new, omega=consumer.omega_weight(reader, part.to(reader.weight.dtype)))
        for reader, new, part in zip(consumer.readers, inputs, rows, strict=True)
    )


def compute_gradmax_updates(
    consumer: Consumer,
    maximum_added_neurons: int | None = None,
    statistical_threshold: float = 1e-5,
    relative_thresholds: bool = False,
    dtype: torch.dtype = torch.float32,
) -> None:
    """New neurons that change nothing yet and whose incoming weights get the largest gradient.

    alpha is 0 and omega holds the leading right singular vectors of M_prev, of norm 1; with step size 1
    on alpha the loss falls by the sum of the squared singular values. There is no delta. Only M_prev
    is needed. Before a ReLU, whose gradient at exactly 0 is 0, alpha's bias (its weights, where it has
    no bias) is a thousandth of the producer's weights, so that the neurons are open.
    Evci et al., "GradMax", ICLR 2022, arXiv:2201.05125.
    """
    consumer.check_neighbours()
    goals = [goal.to(dtype) for goal in consumer.gathered.goals(use_projected_gradient=False)]
    neurons = solve.optimal_new_neurons(
        None, _side_by_side(goals), 0.0, statistical_threshold, maximum_added_neurons, relative_thresholds
    )
    # The solution has columns of norm sqrt(Lambda).
    omega = neurons.omega / neurons.eigenvalues.sqrt().clamp_min(1e-30)
    size = max(len(neurons.eigenvalues), 1)
    outputs = [_opened(producer, new_outputs(producer, size), consumer) for producer in consumer.producers]
    no_steps = [NewInputs(parameter_update_decrease=0.0) for _ in consumer.readers]
    inputs = _with_omega(consumer, no_steps, omega, goals)
    eigenvalues = neurons.eigenvalues.to(consumer.readers[0].weight.dtype)
    consumer.extension = with_moments(consumer, Extension(tuple(outputs), inputs, eigenvalues))


def _opened(module: GrowingModule, new: NewOutputs, consumer: Consumer) -> NewOutputs:
    """New neurons of zeros, moved in place off the kink of a function without gradient there."""
    function = nn.Sequential(module.function_on_extension, consumer.function_behind)
    if derivative_at_zero(function, at=0.0) or not derivative_at_zero(function):
        return new
    small = 1e-3 * reference_std(module.weight, module.in_fan)
    if new.bias is not None:
        new.bias.fill_(small)
    else:
        new.weight.normal_(0.0, small)
    return new


def slope(consumer: Consumer) -> float:
    """sigma'(0+) of what stands between the producers and the readers."""
    before = consumer.producers[0].function_on_extension
    return derivative_at_zero(nn.Sequential(before, consumer.function_behind))


def first_order_improvement(consumer: Consumer) -> Tensor:
    """First-order decrease of the loss by all steps and the new neurons, per unit gamma^2.

    Raises:
        ValueError: an optimal step has not been computed.
    """
    total: Tensor | float = 0.0
    if consumer.eigenvalues_extension is not None:
        total = slope(consumer) * consumer.eigenvalues_extension.square().sum()
    for reader in consumer.readers:
        if reader.parameter_update_decrease is None:
            raise ValueError(
                f"The first-order improvement of {consumer.name} is not known. "
                f"Call compute_optimal_updates()."
            )
        total = reader.parameter_update_decrease + total
    assert isinstance(total, Tensor)
    return total
