"""The methods of GrowingModule that solve for, draw, choose and apply its growth with the module before it.

The module's input and the previous module's output grow by the same neurons: alpha are the weights into them,
omega those out of them; delta is the module's own step, gamma the scaling factor.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

from growcore.growth import applying, extending, solving
from growcore.growth.extension import (
    Extension,
    NewInputs,
    copied,
    part_of,
    shortened,
    silenced,
    step_scaled,
)
from growcore.growth.layers import split_bias
from growcore.growth.proposal import GrowthProposal

if TYPE_CHECKING:
    from growcore.growth.module import GrowingModule


@runtime_checkable
class GrowsForReaders(Protocol):
    """A module that gains neurons for all its readers together: a merge."""

    def set_next_modules(self, next_modules: list[GrowingModule]) -> None:
        """Set the modules that read it."""


def compute_optimal_delta(
    module: GrowingModule,
    update: bool = True,
    dtype: torch.dtype = torch.float32,
    force_pseudo_inverse: bool = False,
    relative_ridge: float = 0.0,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The step of the layer's own weights that decreases the loss fastest: delta = (S^-1 M)^T.

    Pruned connections of a layer with a mask take no part in the step.

    Args:
        module: whose step it is.
        update: whether optimal_delta_layer and parameter_update_decrease are set.
        dtype: precision of the solution.
        force_pseudo_inverse: never solve directly.
        relative_ridge: multiple of S's mean diagonal entry added to its diagonal.

    Returns:
        delta shaped like the weight, delta of the bias or None, and the decrease d = tr(M delta).
    """
    module.delta_raw, decrease = solving.optimal_step(module, dtype, force_pseudo_inverse, relative_ridge)
    rows, bias = split_bias(module.delta_raw, module.use_bias)
    weight = rows.reshape(module.weight.shape)
    if update:
        step = NewInputs(module.new_inputs.omega, weight, bias, float(decrease))
        module.new_inputs = copied(Extension((), (step,))).inputs[0]
    return weight, bias, decrease


def compute_optimal_added_parameters(
    module: GrowingModule,
    numerical_threshold: float = 1e-15,
    statistical_threshold: float = 1e-3,
    maximum_added_neurons: int | None = None,
    update_previous: bool = True,
    dtype: torch.dtype = torch.float32,
    use_projected_gradient: bool = True,
    relative_thresholds: bool = False,
    relative_ridge: float = 0.0,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """The new neurons of the previous module that decrease the loss fastest; sets the extensions.

    Args:
        module: which gains inputs.
        numerical_threshold: eigenvalues of S_growth at or below it are dropped.
        statistical_threshold: singular values below it are dropped, never the largest.
        maximum_added_neurons: None: no limit.
        update_previous: whether the previous module's extended_output_layer is set.
        dtype: precision of the solution.
        use_projected_gradient: leave out what the optimal delta already corrects.
        relative_thresholds: thresholds are fractions of the largest value.
        relative_ridge: multiple of S_growth's mean diagonal entry added to its diagonal.

    Returns:
        alpha's weights and bias (None without one), omega and the singular values.
    """
    module.check_neighbours()
    solved = solving.solved_extension(
        module,
        numerical_threshold,
        statistical_threshold,
        maximum_added_neurons,
        dtype,
        use_projected_gradient,
        relative_thresholds,
        relative_ridge,
    )
    module.extension = solved if update_previous else replace(solved, outputs=module.extension.outputs)
    (new,), (read,) = solved.outputs, solved.inputs
    assert new is not None
    assert read.omega is not None
    assert solved.eigenvalues is not None
    omega = module.geometry.omega_of_kernel(module.layer, read.omega)
    return new.weight, new.bias, omega, solved.eigenvalues


def compute_optimal_updates(
    module: GrowingModule,
    numerical_threshold: float = 1e-10,
    statistical_threshold: float = 1e-5,
    maximum_added_neurons: int | None = None,
    update_previous: bool = True,
    dtype: torch.dtype = torch.float32,
    use_projected_gradient: bool = True,
    relative_thresholds: bool = False,
    relative_ridge: float = 0.0,
) -> tuple[Tensor | None, Tensor | None]:
    """The optimal delta and, where there is a previous module, the optimal new neurons.

    The arguments are those of compute_optimal_added_parameters.

    Returns:
        alpha's weights and bias; (None, None) without a previous module or behind a merge, which
        solves for all its readers at once.
    """
    module.compute_optimal_delta(dtype=dtype, relative_ridge=relative_ridge)
    if module.previous_module is None or isinstance(module.previous_module, GrowsForReaders):
        return None, None
    alpha_weight, alpha_bias, _, _ = module.compute_optimal_added_parameters(
        numerical_threshold,
        statistical_threshold,
        maximum_added_neurons,
        update_previous,
        dtype,
        use_projected_gradient,
        relative_thresholds,
        relative_ridge,
    )
    return alpha_weight, alpha_bias


def create_layer_extensions(
    module: GrowingModule,
    extension_size: int,
    output_extension_size: int | None = None,
    input_extension_size: int | None = None,
    output_extension_init: str = "copy_uniform",
    input_extension_init: str = "copy_uniform",
    variance_transfer: bool = False,
) -> None:
    """Create new neurons of the previous module with drawn weights into and out of them.

    Args:
        module: which gains inputs.
        extension_size: number of new neurons.
        output_extension_size: size on the previous module's side, if it differs.
        input_extension_size: size on this module's side, if it differs.
        output_extension_init: name in `known_inits`, for the weights into the new neurons.
        input_extension_init: name in `known_inits`, for the weights out of them.
        variance_transfer: shrink this layer's old and new weights by sqrt(old width / new width), so
            that its pre-activations keep their variance at scaling factor 1; the old weights' part
            becomes the delta. Yuan et al. 2023, arXiv:2306.12700.

    Raises:
        ValueError: an unknown name, a size below 1, sizes that do not belong together, or no previous
            module.
    """
    previous = module.require_previous()
    num_outputs = extension_size if output_extension_size is None else output_extension_size
    num_inputs = extension_size if input_extension_size is None else input_extension_size
    extending.check_draw((num_outputs, num_inputs), (output_extension_init, input_extension_init))
    module.geometry.check_extension_sizes(previous, module, num_outputs, num_inputs)
    module.extension = extending.drawn(
        module, num_outputs, [num_inputs], output_extension_init, input_extension_init, variance_transfer
    )


def sub_select_optimal_added_parameters(
    module: GrowingModule,
    keep_neurons: int | None = None,
    threshold: float | None = None,
    sub_select_previous: bool = True,
    zeros_if_not_enough: bool = False,
    zeros_fan_in: bool = True,
    zeros_fan_out: bool = False,
) -> None:
    """Keep the first, most significant new neurons.

    Args:
        module: which gains inputs.
        keep_neurons: how many stay; None: those whose singular value is at least `threshold`.
        threshold: least singular value that stays; needed where keep_neurons is None.
        sub_select_previous: whether the previous module's output extension shrinks along.
        zeros_if_not_enough: keep the number of neurons and set weights of the others to zero instead.
        zeros_fan_in: then those into them.
        zeros_fan_out: then those out of them.

    Raises:
        ValueError: no extension, neither or a negative number, nothing to set to zero, or no previous module.
    """
    extension = module.extension
    keep = _number_to_keep(module.name, extension, keep_neurons, threshold)
    if zeros_if_not_enough and not (zeros_fan_in or zeros_fan_out):
        raise ValueError(
            "zeros_if_not_enough needs the side whose weights become zero; got zeros_fan_in=False, "
            "zeros_fan_out=False. Set one of them."
        )
    if sub_select_previous:
        module.require_previous()
    if zeros_if_not_enough:
        module.extension = silenced(extension, keep, sub_select_previous and zeros_fan_in, zeros_fan_out)
    else:
        module.extension = shortened(extension, keep, sub_select_previous)


def _number_to_keep(name: str, extension: Extension, number: int | None, threshold: float | None) -> int:
    if extension.inputs[0].omega is None:
        raise ValueError(
            f"{name} has no new neurons to select from. Call compute_optimal_updates() or "
            f"create_layer_extensions() first."
        )
    if number is not None:
        if number < 0:
            raise ValueError(f"keep_neurons must not be negative; got {number}.")
        return number
    if threshold is None or extension.eigenvalues is None:
        raise ValueError(
            f"Without keep_neurons the singular values decide; got threshold={threshold}, "
            f"eigenvalues_extension={extension.eigenvalues}. Pass keep_neurons=... ."
        )
    return int((extension.eigenvalues >= threshold).sum())


def scale_parameter_update(module: GrowingModule, scale: float) -> None:
    """Multiply the optimal delta and the decrease it predicts."""
    module.new_inputs = step_scaled(module.new_inputs, scale)


def apply_change(
    module: GrowingModule,
    scaling_factor: float | Tensor | None = None,
    apply_previous: bool = True,
    apply_delta: bool = True,
    apply_extension: bool = True,
    extension_size: int | None = None,
) -> None:
    """Make the layers compute what extended_forward computes.

    The layer's input and the previous layer's output grow; the layer's own output does not.

    Args:
        module: which gains inputs.
        scaling_factor: gamma; None: the current one.
        apply_previous: whether the previous layer gains its output neurons; without, the caller sees to them.
        apply_delta: whether the step is taken.
        apply_extension: whether neurons are added, on both sides.
        extension_size: number of new neurons, checked; None: those of the extension.

    Raises:
        ValueError: the extensions do not fit, before anything has changed.
    """
    change = part_of(module.extension, apply_delta, apply_extension, apply_extension and apply_previous)
    one_side = not apply_previous
    applying.apply(module, change, scaling_factor, extension_size if apply_extension else None, one_side)


def delete_update(
    module: GrowingModule,
    include_previous: bool = True,
    delete_delta: bool = True,
    delete_input: bool = True,
    delete_output: bool = False,
) -> None:
    """Forget the optimal delta and the new neurons, and set gamma to 0.

    This layer's own output extension stays by default: the next layer may still need it.
    """
    module.set_scaling_factor(0.0)
    module.eigenvalues_extension = module.gains_extension = None
    kept = part_of(module.extension, not delete_delta, not delete_input, True).inputs[0]
    module.new_inputs = replace(kept, parameter_update_decrease=None)
    if delete_delta:
        module.delta_raw = None
    if delete_output:
        module.new_outputs = None
    if delete_input and include_previous:
        for producer in module.producers:
            producer.new_outputs = None


def proposal(module: GrowingModule) -> GrowthProposal:
    """The current new neurons and optimal delta as a value.

    Raises:
        ValueError: there are no new neurons.
    """
    module.check_neighbours()
    return applying.proposed(module, GrowthProposal)


def load_proposal(module: GrowingModule, proposal: GrowthProposal) -> None:
    """Set a proposal's extensions, delta and gamma; see `applying.load`.

    Raises:
        ValueError: the proposal does not fit the two layers; nothing has changed then.
    """
    if not isinstance(proposal, GrowthProposal):
        raise ValueError(
            f"{module.name} reads one layer and takes a GrowthProposal; got {type(proposal).__name__}. "
            f"Load a proposal into the layers it was made for."
        )
    module.check_neighbours()
    applying.load(module, proposal)
