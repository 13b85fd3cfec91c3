"""Taking a module's current growth as a proposal and setting it back."""

from __future__ import annotations

from torch import Tensor

from growcore.growth.extending import ExtendingModule
from growcore.growth.proposal import GrowthProposal


def take_proposal(module: ExtendingModule) -> GrowthProposal:
    """Copies of the module's new neurons, optimal delta and what is predicted of them.

    Raises:
        ValueError: there are no new neurons.
    """
    alpha, omega = module.previous_extending().extended_output_layer, module.extended_input_layer
    if alpha is None or omega is None:
        raise ValueError(
            f"{module.name} has no new neurons to propose. Call compute_optimal_updates() or "
            f"create_layer_extensions() first."
        )
    delta, decrease = module.optimal_delta_layer, module.parameter_update_decrease
    eigenvalues = module.eigenvalues_extension
    if eigenvalues is None:
        eigenvalues = omega.weight.new_zeros(omega.weight.shape[1])
    mean, variance = (None, None) if module.extension_moments is None else module.extension_moments
    return GrowthProposal(
        alpha_weight=alpha.weight.detach().clone(),
        alpha_bias=copied(alpha.bias),
        omega=omega.weight.detach().clone(),
        eigenvalues=eigenvalues.detach().clone(),
        delta_weight=None if delta is None else delta.weight.detach().clone(),
        delta_bias=None if delta is None else copied(delta.bias),
        parameter_update_decrease=0.0 if decrease is None else float(decrease),
        first_order_improvement=0.0 if decrease is None else float(module.first_order_improvement),
        gamma=float(module.scaling_factor.detach()),
        preactivation_mean=copied(mean),
        preactivation_variance=copied(variance),
    )


def set_proposal(module: ExtendingModule, proposal: GrowthProposal) -> None:
    """Set the extensions, delta and gamma of a proposal; see GrowingModule.load_proposal.

    Raises:
        ValueError: the proposal does not fit the two layers; nothing has changed then.
    """
    previous = module.previous_extending()
    k, out = proposal.num_neurons, module.weight.shape[0]
    alpha = padded("alpha_weight", proposal.alpha_weight, (k, *previous.weight.shape[1:]))
    alpha_bias = checked_bias("alpha_bias", proposal.alpha_bias, previous.use_bias, k)
    omega = padded("omega", proposal.omega, (out, k, *module.weight.shape[2:]))
    delta_layer = None
    if proposal.delta_weight is not None:
        delta = padded("delta_weight", proposal.delta_weight, tuple(module.weight.shape))
        delta_bias = checked_bias("delta_bias", proposal.delta_bias, module.use_bias, out)
        delta_layer = module.layer_of_tensor(delta, delta_bias)
    previous.extended_output_layer = previous.layer_of_tensor(alpha, alpha_bias)
    module.extended_input_layer = module.layer_of_tensor(omega, force_bias=False)
    module.optimal_delta_layer = delta_layer
    module.eigenvalues_extension = proposal.eigenvalues.clone()
    module.parameter_update_decrease = module.weight.new_tensor(proposal.parameter_update_decrease).detach()
    mean, variance = proposal.preactivation_mean, proposal.preactivation_variance
    module.extension_moments = None
    if mean is not None and variance is not None:
        module.extension_moments = (mean.clone(), variance.clone())
    module.set_scaling_factor(proposal.gamma)


def copied(tensor: Tensor | None) -> Tensor | None:
    """A detached copy."""
    return None if tensor is None else tensor.detach().clone()


def checked_bias(name: str, bias: Tensor | None, wanted: bool, size: int) -> Tensor | None:
    """The bias with zeros appended; a ValueError where its being there and `wanted` differ."""
    if (bias is not None) != wanted:
        raise ValueError(
            f"{name} of a proposal is there exactly if its layer has a bias; got "
            f"{name}={'None' if bias is None else tuple(bias.shape)}, layer with bias: {wanted}. "
            f"Load a proposal into the pair of layers it was made for."
        )
    return None if bias is None else padded(name, bias, (size,))


def padded(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
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
