"""Drawing and changing the extension that a consumer holds, for pairs and merges alike.

A consumer has producers, which gain outputs, and readers, which gain the inputs those feed; its `extension`
is the record that all of this takes and sets. Letters: alpha and omega are the weights into and out of new
neurons, delta a reader's own step, gamma the scaling factor.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from growcore.growth.checking import check_parts
from growcore.growth.extension import (
    Extension,
    NewOutputs,
    normalized,
    scaled,
    transferred,
)
from growcore.growth.initialization import initializer, reference_std
from growcore.growth.layers import fan_in
from growcore.growth.moments import with_moments

if TYPE_CHECKING:
    from growcore.growth.merge import Consumer
    from growcore.growth.module import GrowingModule


def scalar(value: float) -> Tensor:
    """A scaling factor: without dimensions and in double precision, so that it changes no dtype or digit."""
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def set_scaling_factor(consumer: Consumer, factor: float) -> None:
    """Set gamma of everything that grows together: one tensor for all extensions and steps."""
    shared = scalar(float(factor))
    for producer in consumer.producers:
        producer.output_scaling_factor = shared
    for reader in consumer.readers:
        reader.input_scaling_factor = shared


def require_extension(consumer: Consumer, verb: str) -> Extension:
    """The consumer's extension.

    Raises:
        ValueError: a producer or a reader has no new neurons.
    """
    if not consumer.extension.has_neurons:
        raise ValueError(
            f"{consumer.name} has no new neurons to {verb}. Call compute_optimal_updates() or "
            f"create_layer_extensions() first."
        )
    return consumer.extension


def _check_size(extension_size: int) -> None:
    """Raise a ValueError where an extension would have no neuron."""
    if extension_size < 1:
        raise ValueError(f"An extension needs at least one new neuron; got extension_size={extension_size}.")


def create_layer_out_extension(module: GrowingModule, extension_size: int) -> None:
    """Create an output extension of zeros: so many new neurons of this module."""
    module.new_outputs = new_outputs(module, extension_size)


def create_layer_in_extension(module: GrowingModule, extension_size: int) -> None:
    """Create an input extension of zeros for so many new neurons of the previous module."""
    module.new_inputs = replace(module.new_inputs, omega=_new_omega(module, extension_size))


def new_outputs(module: GrowingModule, size: int) -> NewOutputs:
    """So many new neurons of a module with weights of zero."""
    _check_size(size)
    weight = module.weight.new_zeros((size, *module.weight.shape[1:]))
    return NewOutputs(weight, None if module.bias is None else module.bias.new_zeros(size))


def _new_omega(module: GrowingModule, size: int) -> Tensor:
    """Weights of zero for so many new inputs of a module."""
    _check_size(size)
    return module.weight.new_zeros((module.out_neurons, size, *module.weight.shape[2:]))


def check_draw(sizes: tuple[int, ...], inits: tuple[str, ...]) -> None:
    """Raise a ValueError where an initialiser is not known or an extension would have no neuron."""
    for name in inits:
        initializer(name)
    for size in sizes:
        _check_size(size)


def drawn(
    consumer: Consumer,
    num_outputs: int,
    num_inputs: list[int],
    output_init: str,
    input_init: str,
    variance_transfer: bool,
) -> Extension:
    """New neurons with drawn weights into and out of them.

    Args:
        consumer: whose producers and readers gain them.
        num_outputs: what each producer gains.
        num_inputs: what each reader gains.
        output_init: name in `known_inits`, for the weights into the new neurons.
        input_init: name in `known_inits`, for the weights out of them.
        variance_transfer: whether the readers' weights shrink, see `extension.transferred`.

    Raises:
        ValueError: the modules around cannot gain neurons.
    """
    check_parts(consumer)
    outputs = tuple(_drawn_outputs(module, num_outputs, output_init) for module in consumer.producers)
    inputs = [
        replace(module.new_inputs, omega=_drawn_omega(module, size, input_init))
        for module, size in zip(consumer.readers, num_inputs, strict=True)
    ]
    if variance_transfer:
        inputs = [
            transferred(new, module.weight, module.bias)
            for module, new in zip(consumer.readers, inputs, strict=True)
        ]
    return with_moments(consumer, Extension(outputs, tuple(inputs)))


def _drawn_outputs(module: GrowingModule, size: int, init: str) -> NewOutputs:
    new = new_outputs(module, size)
    initializer(init)(new.weight, module.weight, module.in_fan)
    if new.bias is not None and module.bias is not None:
        initializer(init)(new.bias, module.bias, module.in_fan)
    return new


def _drawn_omega(module: GrowingModule, size: int, init: str) -> Tensor:
    omega = _new_omega(module, size)
    initializer(init)(omega, module.weight, fan_in(omega) + module.in_fan)
    return omega


def scale_layer_extension(
    consumer: Consumer, scale: float | None, scale_output: float | None, scale_input: float | None
) -> None:
    """Multiply the new weights; the singular values go with sqrt(scale_input * scale_output).

    Args:
        consumer: whose extension is scaled.
        scale: for both sides; then the other two must be None.
        scale_output: for the weights into the new neurons (the producers' output).
        scale_input: for the weights out of them (the readers' input).

    Raises:
        ValueError: no extension, or neither one nor two scales.
    """
    if (scale is None) != (scale_output is not None and scale_input is not None):
        raise ValueError(
            f"Give either scale or both scale_output and scale_input; "
            f"got scale={scale}, scale_output={scale_output}, scale_input={scale_input}."
        )
    alpha, omega = (scale if one is None else one for one in (scale_output, scale_input))
    assert alpha is not None
    assert omega is not None
    consumer.extension = scaled(require_extension(consumer, "scale"), alpha, omega)


def normalize_optimal_updates(
    consumer: Consumer, std_target: float | None = None, normalization_type: str = "legacy_normalization"
) -> None:
    """Scale the optimal steps and the new neurons to the size of the weights they join.

    Args:
        consumer: whose extension is scaled.
        std_target: the deviation s of `extension.normalized`, above 0; None: that of the readers' weights,
            or fan_in^(-1/2).
        normalization_type: one of NORMALIZATIONS, explained there.

    Raises:
        ValueError: an unknown type or a target that is not positive.
    """
    extension = consumer.extension
    if std_target is None:
        weights = [reader.weight.detach() for reader in consumer.readers]
        whole = weights[0] if len(weights) == 1 else torch.cat([weight.flatten() for weight in weights])
        omega, inputs = extension.inputs[0].omega, consumer.readers[0].in_fan
        std_target = reference_std(whole, inputs if inputs or omega is None else fan_in(omega))
    consumer.extension = normalized(extension, normalization_type, std_target)
