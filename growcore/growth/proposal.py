"""A growth as a value: an extension, the decrease of the loss it promises and the factor it is applied at.

All tensors are detached copies. Applied with scaling factor gamma, a layer computes
W b - gamma^2 delta b + gamma omega sigma(gamma alpha b_previous), behind a merge
W b - gamma^2 delta b + gamma omega sigma(sum of gamma alpha b_previous).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from growcore.growth.extension import Extension, NewInputs, NewOutputs, copied
from growcore.growth.layers import Layer


@dataclass(frozen=True, slots=True)
class GrowthProposal:
    """k new neurons between a layer and the one before it, with the step of the layer itself."""

    alpha_weight: Tensor  # (k, in_prev) or (k, in_prev, kh, kw): into the new neurons
    alpha_bias: Tensor | None  # (k,); None where the previous layer has no bias
    omega: Tensor  # (out, k) or (out, k, kh, kw): out of the new neurons
    eigenvalues: Tensor  # (k,), largest first; zero where nothing was solved
    delta_weight: Tensor | None  # shape of the layer's weight
    delta_bias: Tensor | None  # shape of the layer's bias
    parameter_update_decrease: float  # first-order decrease of the loss by delta, per unit gamma^2
    first_order_improvement: float  # the page's figure for delta and the new neurons together
    predicted_decrease: float  # the decrease by delta and the new neurons together, exact or measured
    gamma: float  # scaling factor
    preactivation_mean: Tensor | None = None  # (k,), of the new neurons at gamma = 1
    preactivation_variance: Tensor | None = None  # (k,), at gamma = 1

    @property
    def num_neurons(self) -> int:
        """k, the number of new neurons."""
        return self.alpha_weight.shape[0]

    @classmethod
    def of(
        cls, extension: Extension, first_order_improvement: float, predicted_decrease: float, gamma: float
    ) -> GrowthProposal:
        """The proposal of a complete extension of one producer and one reader."""
        whole = _whole(extension)
        (new,), (read,) = whole.outputs, whole.inputs
        assert new is not None
        assert read.omega is not None
        assert read.parameter_update_decrease is not None
        assert whole.eigenvalues is not None
        return cls(
            alpha_weight=new.weight,
            alpha_bias=new.bias,
            omega=read.omega,
            eigenvalues=whole.eigenvalues,
            delta_weight=read.delta_weight,
            delta_bias=read.delta_bias,
            parameter_update_decrease=read.parameter_update_decrease,
            first_order_improvement=first_order_improvement,
            predicted_decrease=predicted_decrease,
            gamma=gamma,
            preactivation_mean=new.preactivation_mean,
            preactivation_variance=new.preactivation_variance,
        )

    @property
    def extension(self) -> Extension:
        """What is proposed, without what is promised of it."""
        new = NewOutputs(
            self.alpha_weight, self.alpha_bias, self.preactivation_mean, self.preactivation_variance
        )
        read = NewInputs(self.omega, self.delta_weight, self.delta_bias, self.parameter_update_decrease)
        return Extension((new,), (read,), self.eigenvalues)


@dataclass(frozen=True, slots=True)
class MergeProposal:
    """k new neurons of a merge with the steps of the modules behind it."""

    outputs: tuple[NewOutputs, ...]  # one for each previous module
    inputs: tuple[NewInputs, ...]  # one for each next module
    eigenvalues: Tensor  # (k,), largest first; zero where nothing was solved
    first_order_improvement: float  # the page's figure for all steps and new neurons, per unit gamma^2
    predicted_decrease: float  # first-order decrease by both, exact or measured, per unit gamma^2
    gamma: float  # scaling factor
    sum_mean: Tensor | None = None  # (k,), of the new neurons of the sum at gamma = 1
    sum_variance: Tensor | None = None  # (k,), at gamma = 1

    @property
    def num_neurons(self) -> int:
        """k, the number of new neurons."""
        return self.outputs[0].weight.shape[0]

    @classmethod
    def of(
        cls, extension: Extension, first_order_improvement: float, predicted_decrease: float, gamma: float
    ) -> MergeProposal:
        """The proposal of a complete extension."""
        whole = _whole(extension)
        assert whole.eigenvalues is not None
        return cls(
            outputs=tuple(replace(new, towards=None) for new in whole.outputs if new is not None),
            inputs=whole.inputs,
            eigenvalues=whole.eigenvalues,
            first_order_improvement=first_order_improvement,
            predicted_decrease=predicted_decrease,
            gamma=gamma,
            sum_mean=whole.sum_mean,
            sum_variance=whole.sum_variance,
        )

    @property
    def extension(self) -> Extension:
        """What is proposed, without what is promised of it."""
        return Extension(self.outputs, self.inputs, self.eigenvalues, self.sum_mean, self.sum_variance)


def _whole(extension: Extension) -> Extension:
    """A copy whose figures are 0 where nothing was solved."""
    assert extension.is_complete
    new = copied(extension)
    assert new.outputs[0] is not None
    inputs = tuple(
        replace(read, parameter_update_decrease=read.parameter_update_decrease or 0.0) for read in new.inputs
    )
    if new.eigenvalues is not None:
        return replace(new, inputs=inputs)
    return replace(new, inputs=inputs, eigenvalues=new.outputs[0].weight.new_zeros(new.num_neurons))


def fitted(
    extension: Extension, producers: list[Layer], readers: list[Layer], columns_per_neuron: list[int]
) -> Extension:
    """A copy for these layers, with zeros for neurons that they have gained since.

    Args:
        extension: a proposal's, complete.
        producers: the layers that gain outputs.
        readers: the layers that gain inputs.
        columns_per_neuron: of each reader, its inputs for one neuron.

    Raises:
        ValueError: it does not fit the layers.
    """
    whole, k = copied(extension), extension.num_neurons
    return replace(
        whole,
        outputs=tuple(
            _fitted_outputs(new, layer, k) for new, layer in zip(whole.outputs, producers, strict=True)
        ),
        inputs=tuple(
            _fitted_inputs(new, layer, k * columns)
            for new, layer, columns in zip(whole.inputs, readers, columns_per_neuron, strict=True)
        ),
    )


def _fitted_outputs(new: NewOutputs | None, layer: Layer, k: int) -> NewOutputs:
    assert new is not None
    return replace(
        new,
        weight=_padded("alpha_weight", new.weight, (k, *layer.weight.shape[1:])),
        bias=_padded_bias("alpha_bias", new.bias, layer.bias is not None, k),
    )


def _fitted_inputs(new: NewInputs, layer: Layer, num_columns: int) -> NewInputs:
    assert new.omega is not None
    num_out = layer.weight.shape[0]
    new = replace(new, omega=_padded("omega", new.omega, (num_out, num_columns, *layer.weight.shape[2:])))
    if new.delta_weight is None:
        return new
    return replace(
        new,
        delta_weight=_padded("delta_weight", new.delta_weight, tuple(layer.weight.shape)),
        delta_bias=_padded_bias("delta_bias", new.delta_bias, layer.bias is not None, num_out),
    )


def _padded(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The tensor with zeros appended up to the shape.

    Raises:
        ValueError: the tensor is larger, or another kind of weight.
    """
    fits = tensor.ndim == len(shape) and all(a <= b for a, b in zip(tensor.shape, shape, strict=True))
    if not fits or tensor.shape[2:] != shape[2:]:
        raise ValueError(
            f"{name} of a proposal must fit the layers, {shape}; got {tuple(tensor.shape)}. "
            f"Load a proposal into the pair of layers it was made for."
        )
    larger = tensor.new_zeros(shape)
    larger[tuple(slice(size) for size in tensor.shape)] = tensor
    return larger


def _padded_bias(name: str, bias: Tensor | None, wanted: bool, size: int) -> Tensor | None:
    """The bias with zeros appended; a ValueError where its being there and `wanted` differ."""
    if (bias is not None) != wanted:
        raise ValueError(
            f"{name} of a proposal is there exactly if its layer has a bias; got "
            f"{name}={'None' if bias is None else tuple(bias.shape)}, layer with bias: {wanted}. "
            f"Load a proposal into the pair of layers it was made for."
        )
    return None if bias is None else _padded(name, bias, (size,))
