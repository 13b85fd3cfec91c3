"""Taking the growth of a merge as a proposal and setting it back."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from growcore.growth.joining import JoiningModule
from growcore.growth.module import GrowingModule
from growcore.growth.proposal import MergeProposal, NewInputs, NewOutputs
from growcore.growth.snapshot import checked_bias, copied, padded

_Layer = nn.Linear | nn.Conv2d
_Moments = tuple[Tensor, Tensor] | None


def take_proposal(
    merge: JoiningModule,
    eigenvalues: Tensor | None,
    first_order_improvement: float,
    moments: Sequence[_Moments],
    sum_moments: _Moments,
) -> MergeProposal:
    """Copies of the new outputs and inputs around a merge that has them, and of the steps behind it."""
    outputs = tuple(_outputs(m, one) for m, one in zip(merge.producers, moments, strict=True))
    num_neurons = outputs[0].weight.shape[0]
    mean, variance = sum_moments or (None, None)
    return MergeProposal(
        outputs=outputs,
        inputs=tuple(_inputs(module) for module in merge.readers),
        eigenvalues=(
            outputs[0].weight.new_zeros(num_neurons) if eigenvalues is None else eigenvalues.detach().clone()
        ),
        first_order_improvement=first_order_improvement,
        gamma=float(merge.readers[0].scaling_factor.detach()),
        sum_mean=copied(mean),
        sum_variance=copied(variance),
    )


def _outputs(module: GrowingModule, moments: _Moments) -> NewOutputs:
    layer = module.extended_output_layer
    assert layer is not None
    mean, variance = moments or (None, None)
    return NewOutputs(layer.weight.detach().clone(), copied(layer.bias), copied(mean), copied(variance))


def _inputs(module: GrowingModule) -> NewInputs:
    layer, delta, decrease = (
        module.extended_input_layer,
        module.optimal_delta_layer,
        module.parameter_update_decrease,
    )
    assert layer is not None
    return NewInputs(
        omega=layer.weight.detach().clone(),
        delta_weight=None if delta is None else delta.weight.detach().clone(),
        delta_bias=None if delta is None else copied(delta.bias),
        parameter_update_decrease=0.0 if decrease is None else float(decrease),
    )


def set_proposal(merge: JoiningModule, proposal: MergeProposal) -> tuple[list[_Moments], _Moments]:
    """Set the extensions, steps and gamma of a proposal; see MergeGrowingModule.load_proposal.

    Returns:
        The moments of the new outputs of each module, and of their sum.

    Raises:
        ValueError: the proposal does not fit the modules; nothing has changed then.
    """
    counts = (len(proposal.outputs), len(proposal.inputs))
    if counts != (len(merge.producers), len(merge.readers)):
        raise ValueError(
            f"A proposal for {merge.name} names {len(merge.producers)} modules before and "
            f"{len(merge.readers)} behind it; got {counts[0]} and {counts[1]}. Load a proposal into the "
            f"merge it was made for."
        )
    k = proposal.num_neurons
    outputs = [_output_layer(m, new, k) for m, new in zip(merge.producers, proposal.outputs, strict=True)]
    inputs = [
        _input_layers(m, new, k * merge.columns_per_neuron(m))
        for m, new in zip(merge.readers, proposal.inputs, strict=True)
    ]
    for module, layer in zip(merge.producers, outputs, strict=True):
        module.extended_output_layer = layer
    for module, (omega, delta), new in zip(merge.readers, inputs, proposal.inputs, strict=True):
        module.extended_input_layer, module.optimal_delta_layer = omega, delta
        module.parameter_update_decrease = module.weight.new_tensor(new.parameter_update_decrease).detach()
    merge.set_scaling_factor(proposal.gamma)
    moments = [_moments(new.preactivation_mean, new.preactivation_variance) for new in proposal.outputs]
    return moments, _moments(proposal.sum_mean, proposal.sum_variance)


def _output_layer(module: GrowingModule, new: NewOutputs, k: int) -> _Layer:
    weight = padded("weight", new.weight, (k, *module.weight.shape[1:]))
    return module.layer_of_tensor(weight, checked_bias("bias", new.bias, module.use_bias, k))


def _input_layers(module: GrowingModule, new: NewInputs, num_columns: int) -> tuple[_Layer, _Layer | None]:
    omega = padded("omega", new.omega, (module.out_neurons, num_columns, *module.weight.shape[2:]))
    omega_layer = module.layer_of_tensor(omega, force_bias=False)
    if new.delta_weight is None:
        return omega_layer, None
    delta = padded("delta_weight", new.delta_weight, tuple(module.weight.shape))
    delta_bias = checked_bias("delta_bias", new.delta_bias, module.use_bias, module.out_neurons)
    return omega_layer, module.layer_of_tensor(delta, delta_bias)


def _moments(mean: Tensor | None, variance: Tensor | None) -> _Moments:
    return None if mean is None or variance is None else (mean.clone(), variance.clone())
