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
from growcore.growth.checking import check_can_grow
from growcore.growth.extension import Extension, NewInputs, NewOutputs
from growcore.growth.gains import exact as exact_gains
from growcore.growth.initialization import reference_std
from growcore.growth.layers import split_bias
from growcore.growth.moments import blocks, with_moments
from growcore.growth.normalization import derivative_at_zero
from growcore.growth.resizing import MaskedConnections
from growcore.growth.resting import slopes

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
    check_can_grow(consumer)
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
    # Behind a falling function alpha and omega have opposite signs.
    omega = -neurons.omega if slopes(consumer).mean < 0 else neurons.omega
    outputs = []
    for module, rows in zip(consumer.producers, blocks(consumer, neurons.alpha), strict=True):
        weight, bias = split_bias(rows.to(module.weight.dtype), module.use_bias)
        outputs.append(NewOutputs(weight.reshape(-1, *module.weight.shape[1:]), bias))
    inputs = _with_omega(consumer, [reader.new_inputs for reader in consumer.readers], omega, goals)
    eigenvalues = neurons.eigenvalues.to(consumer.readers[0].weight.dtype)
    gains = _expected_gains(consumer, neurons.alpha, omega)
    return with_moments(consumer, Extension(tuple(outputs), inputs, eigenvalues, gains=gains))


def _expected_gains(consumer: Consumer, alpha: Tensor, omega: Tensor) -> Tensor:
    """Gains by the statistics: exact where the function has one slope at 0, else the mean of both signs."""
    m_prev = -_side_by_side(consumer.gathered.goals(use_projected_gradient=False)).to(alpha)
    gains = exact_gains(alpha, omega, m_prev, slopes(consumer).mean)
    return gains.to(consumer.readers[0].weight.dtype)


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
    is needed. Before a ReLU, whose gradient at exactly 0 is 0, alpha's bias is a thousandth of the producer's
    weights, so that the neurons are open; where it has no bias, alpha goes as far the way of its first step.
    Evci et al., "GradMax", ICLR 2022, arXiv:2201.05125.
    """
    check_can_grow(consumer)
    goals = [goal.to(dtype) for goal in consumer.gathered.goals(use_projected_gradient=False)]
    joined = _side_by_side(goals)
    neurons = solve.optimal_new_neurons(
        None, joined, 0.0, statistical_threshold, maximum_added_neurons, relative_thresholds
    )
    # The solution has columns of norm sqrt(Lambda).
    root = neurons.eigenvalues.sqrt()
    omega, towards = neurons.omega / root, neurons.alpha * root[:, None]
    if slopes(consumer).mean < 0:
        towards = -towards
    outputs = [
        _waiting(producer, rows.to(producer.weight.dtype), consumer)
        for producer, rows in zip(consumer.producers, blocks(consumer, towards), strict=True)
    ]
    no_steps = [NewInputs(parameter_update_decrease=0.0) for _ in consumer.readers]
    inputs = _with_omega(consumer, no_steps, omega, goals)
    eigenvalues = neurons.eigenvalues.to(consumer.readers[0].weight.dtype)
    gains = _expected_gains(consumer, towards, omega)
    extension = Extension(tuple(outputs), inputs, eigenvalues, gains=gains)
    consumer.extension = with_moments(consumer, extension)


def _waiting(module: GrowingModule, towards: Tensor, consumer: Consumer) -> NewOutputs:
    """New neurons of zeros that wait for a step, moved off the kink of a function without gradient there."""
    rows = torch.zeros_like(towards)
    function = nn.Sequential(module.function_on_extension, consumer.function_behind)
    if not derivative_at_zero(function, at=0.0) and derivative_at_zero(function):
        small = 1e-3 * reference_std(module.weight, module.in_fan)
        if module.use_bias:
            rows[:, -1] = small
        else:
            size = towards.square().mean(1, keepdim=True).sqrt().clamp_min(torch.finfo(rows.dtype).tiny)
            rows = small * towards / size
    weight, bias = split_bias(rows, module.use_bias)
    return NewOutputs(weight.reshape(-1, *module.weight.shape[1:]), bias, towards=towards)


def slope(consumer: Consumer) -> float:
    """sigma'(0+) of what stands between the producers and the readers."""
    return slopes(consumer).right


def predicted_decrease(consumer: Consumer) -> float:
    """First-order decrease of the loss by all steps and the new neurons as they are, per unit gamma^2.

    That of the neurons is measured after a second look, and exact before one where their function has one
    slope at 0; before a second look at a one-sided function it is the mean over both signs of each neuron.
    What is not known counts as 0.
    """
    steps = sum(reader.new_inputs.parameter_update_decrease or 0.0 for reader in consumer.readers)
    gains = consumer.extension.gains
    return steps if gains is None else steps + float(gains.double().sum())


def first_order_improvement(consumer: Consumer) -> Tensor:
    """The page's figure for steps and new neurons, d + sigma'(0+) * sum lambda^2, per unit gamma^2.

    It is the decrease of the loss only without projection and for a function of one slope at 0;
    `predicted_decrease` is what can be counted on.

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
