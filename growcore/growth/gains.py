"""What each new neuron brings to first order, and which of its two signs is the better one.

A solution gives (alpha, omega) up to a common sign. To first order in gamma^2 a neuron lowers the loss by its
gain, -1/n sum g . omega sigma'(alpha b~), where sigma'(z) is the derivative of sigma at 0 in the direction z.
Where sigma has one slope at 0 the sign makes no difference and the gain is sigma'(0) <-M_prev, alpha^T
omega^T>. One-sided functions (ReLU) need a second look at the batches that the statistics saw.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from growcore.growth.extension import Extension, NewInputs, NewOutputs, selected
from growcore.growth.layers import apply_layer, layer_like, split_bias
from growcore.growth.normalization import apply_to_extension
from growcore.growth.resting import slopes

if TYPE_CHECKING:
    from growcore.growth.merge import Consumer
    from growcore.growth.module import GrowingModule

# How far new neurons go when the direction of their function is asked for: in double precision an error of
# a millionth by its curvature, and less by rounding.
_STEP = 1e-6


def exact(alpha_kp: Tensor, omega_ok: Tensor, m_prev_po: Tensor, slope: float) -> Tensor:
    """(k,) gains of new neurons behind a function of that slope at 0."""
    return slope * ((alpha_kp @ -m_prev_po) * omega_ok.T).sum(1)


def needs_second_look(consumer: Consumer) -> bool:
    """Whether the sign of its new neurons matters: their function has two slopes at 0."""
    return consumer.extension.has_neurons and slopes(consumer).is_one_sided


def look_again(consumer: Consumer) -> None:
    """Add what the new neurons bring by either sign on the passes since the last update.

    To be called after forward and backward on each batch that the statistics saw, with the same weights and
    the modules in eval mode; reset_computation comes later.

    Raises:
        ValueError: nothing is gathered, there are no new neurons, or no pass since the last update.
    """
    if not consumer.extension.has_neurons:
        raise ValueError(
            f"{consumer.name} has no new neurons to look at. Call compute_optimal_updates() first."
        )
    consumer.gathered.look_again()


def choose_signs(consumer: Consumer) -> None:
    """Turn each new neuron to its better sign, and drop those that do not lower the loss to first order.

    What is left holds its gains, which `predicted_decrease` adds up. Nothing may be left: then the consumer
    has no new neurons.

    Raises:
        ValueError: the function is one-sided and there was no second look.
    """
    if not consumer.extension.has_neurons:
        return
    measure(consumer)
    extension = consumer.extension
    assert extension.gains is not None
    signs, gains = torch.ones_like(extension.gains), extension.gains
    if needs_second_look(consumer):
        positive, negative = consumer.gathered.gains()
        signs, gains = torch.where(positive >= negative, 1.0, -1.0), torch.maximum(positive, negative)
    turned = replace(_turned(extension, signs), gains=gains)
    columns = [consumer.columns_per_neuron(reader) for reader in consumer.readers]
    consumer.extension = selected(turned, gains > 0, columns)


def measure(consumer: Consumer) -> None:
    """Take the gains of the new neurons as they are from the second look, where there was one.

    Raises:
        ValueError: there was none, and without one they are not known: the function is one-sided, or the
            neurons were not solved for.
    """
    looked = consumer.gathered.gains.samples > 0
    if looked:
        consumer.extension = replace(consumer.extension, gains=consumer.gathered.gains()[0])
    elif needs_second_look(consumer) or consumer.extension.gains is None:
        raise ValueError(
            f"What the new neurons before {consumer.name} bring shows on data alone: their function has two "
            f"slopes at 0, or they were not solved for. Run forward and backward on each batch of the "
            f"statistics again, and call look_again() after each."
        )


def of_both_signs(consumer: Consumer) -> Tensor:
    """(2, k) -sum g . omega sigma'(+-alpha b~) +- over samples and positions of the call at hand."""
    extension = consumer.extension
    signals = [
        _signal(producer, new)
        for producer, new in zip(consumer.producers, extension.outputs, strict=True)
        if new is not None
    ]
    both = [
        sign * _by_neuron(consumer, extension, _direction(consumer, [sign * z for z in signals]))
        for sign in (1.0, -1.0)
    ]
    return torch.stack(both)


def _signal(producer: GrowingModule, new: NewOutputs) -> Tensor:
    """What new neurons see, alpha b~, or will see after the first step that they wait for."""
    weight, bias = new.weight, new.bias
    if new.towards is not None:
        rows, bias = split_bias(new.towards, producer.use_bias)
        weight = rows.reshape(weight.shape)
    return apply_layer(layer_like(producer.layer, weight, bias), producer.gathered.input.to(weight.dtype))


def _direction(consumer: Consumer, signals: list[Tensor]) -> Tensor:
    """The derivative of sigma at 0 in the direction of the signals."""
    functions = [_way(producer) for producer in consumer.producers]
    behind = _in_double(consumer.function_behind)

    def give(inputs: list[Tensor]) -> Tensor:
        terms = [f(z) for f, z in zip(functions, inputs, strict=True)]
        return apply_to_extension(behind, terms[0] if len(terms) == 1 else torch.stack(terms).sum(0))

    largest = max((float(z.abs().max()) for z in signals if z.numel()), default=0.0)
    step = _STEP / largest if largest > 0 else 1.0
    moved = give([z.double() * step for z in signals])
    rest = give([torch.zeros_like(z[:1], dtype=torch.float64) for z in signals])
    return ((moved - rest) / step).to(signals[0].dtype)


def _way(producer: GrowingModule) -> Callable[[Tensor], Tensor]:
    special = producer.extended_post_layer_function
    if special is not None:
        return _in_double(special)
    function = _in_double(producer.post_layer_function)
    return lambda z: apply_to_extension(function, z)


def _in_double(function: nn.Module) -> nn.Module:
    return copy.deepcopy(function).double().eval()


def _by_neuron(consumer: Consumer, extension: Extension, h: Tensor) -> Tensor:
    """(k,) -sum g . omega h of each neuron, h being what the new neurons give."""
    with torch.enable_grad():
        share = torch.ones(extension.num_neurons, dtype=h.dtype, device=h.device, requires_grad=True)
        total = torch.zeros((), dtype=h.dtype, device=h.device)
        for reader, read in zip(consumer.readers, extension.inputs, strict=True):
            total = total + _product(reader, read, h, share)
        (gains,) = torch.autograd.grad(total, share)
    return -gains


def _product(reader: GrowingModule, read: NewInputs, h: Tensor, share: Tensor) -> Tensor:
    assert read.omega is not None
    layer = layer_like(reader.layer, read.omega, None)
    if isinstance(reader.layer, nn.Linear):
        if h.dim() == 4:  # maps that are flattened on their way
            h = h.flatten(1)
        h = h * share.repeat_interleave(h.shape[-1] // len(share))
    else:
        h = h * share[:, None, None]
    return (apply_layer(layer, h) * reader.gathered.gradient.to(h.dtype)).sum()


def _turned(extension: Extension, signs: Tensor) -> Extension:
    """Each neuron with alpha and omega times its sign; one that waits for its first step stays open."""
    outputs = tuple(new and _turned_outputs(new, signs) for new in extension.outputs)
    inputs = tuple(replace(new, omega=_turned_columns(new.omega, signs)) for new in extension.inputs)
    mean = extension.sum_mean
    if mean is not None and not any(new and _stays_open(new) for new in extension.outputs):
        mean = mean * signs.to(mean)
    return replace(extension, outputs=outputs, inputs=inputs, sum_mean=mean)


def _stays_open(new: NewOutputs) -> bool:
    """Whether the neurons wait for their first step with a bias that opens them."""
    return new.towards is not None and new.bias is not None


def _turned_outputs(new: NewOutputs, signs: Tensor) -> NewOutputs:
    signs = signs.to(new.weight)
    turned = replace(
        new,
        weight=new.weight * signs.reshape(-1, *(1,) * (new.weight.dim() - 1)),
        towards=None if new.towards is None else new.towards * signs[:, None],
    )
    if _stays_open(new):
        return turned
    mean = new.preactivation_mean
    return replace(
        turned,
        bias=None if new.bias is None else new.bias * signs,
        preactivation_mean=None if mean is None else mean * signs.to(mean),
    )


def _turned_columns(omega: Tensor | None, signs: Tensor) -> Tensor | None:
    if omega is None:
        return None
    columns = signs.repeat_interleave(omega.shape[1] // len(signs)).to(omega)
    return omega * columns.reshape(1, -1, *(1,) * (omega.dim() - 2))
