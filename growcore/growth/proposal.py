"""A growth as a value: what a layer would gain, computed once and applied later."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class GrowthProposal:
    """k new neurons between a layer and the one before it, with the step of the layer itself.

    All tensors are detached copies. Applied with scaling factor gamma, the layer computes
    W b - gamma^2 delta b + gamma omega sigma(gamma alpha b_previous).
    """

    alpha_weight: Tensor  # (k, in_prev) or (k, in_prev, kh, kw): into the new neurons
    alpha_bias: Tensor | None  # (k,); None where the previous layer has no bias
    omega: Tensor  # (out, k) or (out, k, kh, kw): out of the new neurons
    eigenvalues: Tensor  # (k,), largest first; zero where nothing was solved
    delta_weight: Tensor | None  # shape of the layer's weight
    delta_bias: Tensor | None  # shape of the layer's bias
    parameter_update_decrease: float  # first-order decrease of the loss by delta, per unit gamma^2
    first_order_improvement: float  # the same for delta and the new neurons together
    gamma: float  # scaling factor
    preactivation_mean: Tensor | None = None  # (k,), of the new neurons at gamma = 1
    preactivation_variance: Tensor | None = None  # (k,), at gamma = 1

    @property
    def num_neurons(self) -> int:
        """k, the number of new neurons."""
        return self.alpha_weight.shape[0]


@dataclass(frozen=True, slots=True)
class NewOutputs:
    """What one module before a merge gains."""

    weight: Tensor  # (k, in) or (k, in, kh, kw): into the new neurons
    bias: Tensor | None  # (k,); None where the module has no bias
    preactivation_mean: Tensor | None = None  # (k,), at gamma = 1
    preactivation_variance: Tensor | None = None  # (k,), at gamma = 1


@dataclass(frozen=True, slots=True)
class NewInputs:
    """What one module behind a merge gains, and its own step."""

    omega: Tensor  # (out, k) or (out, k, kh, kw); (out, k * positions) behind flattened maps
    delta_weight: Tensor | None  # shape of the module's weight
    delta_bias: Tensor | None  # shape of the module's bias
    parameter_update_decrease: float  # first-order decrease of the loss by delta, per unit gamma^2


@dataclass(frozen=True, slots=True)
class MergeProposal:
    """k new neurons of a merge with the steps of the modules behind it.

    All tensors are detached copies. Applied with scaling factor gamma, each module behind computes
    W b - gamma^2 delta b + gamma omega sigma(sum of gamma alpha b_previous).
    """

    outputs: tuple[NewOutputs, ...]  # one for each previous module
    inputs: tuple[NewInputs, ...]  # one for each next module
    eigenvalues: Tensor  # (k,), largest first; zero where nothing was solved
    first_order_improvement: float  # of all steps and the new neurons, per unit gamma^2
    gamma: float  # scaling factor
    sum_mean: Tensor | None = None  # (k,), of the new neurons of the sum at gamma = 1
    sum_variance: Tensor | None = None  # (k,), at gamma = 1

    @property
    def num_neurons(self) -> int:
        """k, the number of new neurons."""
        return self.outputs[0].weight.shape[0]
