"""The record of an extension: new neurons between producers and readers, and the readers' own steps.

An Extension is frozen; functions take one and return another, nothing here knows modules. Letters: k new
neurons, alpha (k, in) or (k, in, kh, kw) the weights into them, omega (out, k) or (out, k, kh, kw) those out
of them, delta a reader's own step. Moments are the mean and variance, (k,), of the new neurons'
pre-activations at scaling factor 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

NORMALIZATIONS = ("legacy_normalization", "equalize_second_layer", "equalize_extensions")

_Record = TypeVar("_Record", bound=Any)


@dataclass(frozen=True, slots=True)
class NewOutputs:
    """What one producer gains."""

    weight: Tensor  # (k, in) or (k, in, kh, kw): into the new neurons
    bias: Tensor | None  # (k,); None where the module has no bias
    preactivation_mean: Tensor | None = None  # (k,), at gamma = 1; None: not known
    preactivation_variance: Tensor | None = None  # (k,), at gamma = 1
    # (k, in + 1), bias last: what the first step of size 1 takes the weights to; None: they are there.
    towards: Tensor | None = None

    def rows(self) -> Tensor:
        """(k, in + 1): the weights of each new neuron, its bias last; (k, in) without a bias."""
        rows = self.weight.flatten(1)
        return rows if self.bias is None else torch.cat([rows, self.bias[:, None]], dim=1)


@dataclass(frozen=True, slots=True)
class NewInputs:
    """What one reader gains, and its own step."""

    omega: Tensor | None = None  # (out, k) or (out, k, kh, kw); (out, k * positions) behind flattened maps
    delta_weight: Tensor | None = None  # shape of the module's weight
    delta_bias: Tensor | None = None  # shape of the module's bias
    parameter_update_decrease: float | None = None  # first-order decrease of the loss by delta, per gamma^2


@dataclass(frozen=True, slots=True)
class Extension:
    """k new neurons, computed once and applied later; what is not there, or not known, is None."""

    outputs: tuple[NewOutputs | None, ...]  # one for each producer
    inputs: tuple[NewInputs, ...]  # one for each reader
    eigenvalues: Tensor | None = None  # (k,) singular values, largest first; None where nothing was solved
    sum_mean: Tensor | None = None  # (k,), of the sum of several producers' new outputs at gamma = 1
    sum_variance: Tensor | None = None  # (k,), at gamma = 1
    # (k,) first-order decrease of the loss by each new neuron, per unit gamma^2; None: not known
    gains: Tensor | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all producers and all readers have new neurons."""
        known = [*self.outputs, *(new.omega for new in self.inputs)]
        return bool(self.outputs) and all(part is not None for part in known)

    @property
    def num_neurons(self) -> int:
        """k, the number of new neurons of a complete extension."""
        assert self.outputs[0] is not None
        return self.outputs[0].weight.shape[0]

    @property
    def has_neurons(self) -> bool:
        """Whether it is complete and has at least one new neuron."""
        return self.is_complete and self.num_neurons > 0


def mapped(record: _Record, change: Callable[[Tensor], Tensor | None]) -> _Record:
    """The record with every tensor of its own changed."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    changed: _Record = replace(
        record, **{name: change(value) for name, value in values.items() if isinstance(value, Tensor)}
    )
    return changed


def copied(extension: Extension) -> Extension:
    """The same with detached copies of all tensors."""
    return replace(
        mapped(extension, _copy),
        outputs=tuple(new and mapped(new, _copy) for new in extension.outputs),
        inputs=tuple(mapped(new, _copy) for new in extension.inputs),
    )


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def part_of(
    extension: Extension, with_step: bool = True, with_inputs: bool = True, with_outputs: bool = True
) -> Extension:
    """The extension without the readers' steps, their new inputs or the producers' new outputs."""
    inputs = extension.inputs
    if not with_step:
        inputs = tuple(replace(new, delta_weight=None, delta_bias=None) for new in inputs)
    if not with_inputs:
        inputs = tuple(replace(new, omega=None) for new in inputs)
    outputs = extension.outputs if with_outputs else (None,) * len(extension.outputs)
    return replace(extension, outputs=outputs, inputs=inputs)


def scaled(extension: Extension, alpha: float, omega: float) -> Extension:
    """Weights into and out of the new neurons multiplied; singular values go with sqrt(alpha * omega).

    Gains go with alpha * omega; where neurons of a one-sided function are turned they are no longer known.
    """
    eigenvalues = extension.eigenvalues
    return replace(
        extension,
        outputs=tuple(new and _scaled_outputs(new, alpha) for new in extension.outputs),
        inputs=tuple(replace(new, omega=_times(new.omega, omega)) for new in extension.inputs),
        eigenvalues=_times(eigenvalues, abs(omega * alpha) ** 0.5),
        sum_mean=_times(extension.sum_mean, alpha),
        sum_variance=_times(extension.sum_variance, alpha**2),
        gains=_times(extension.gains, alpha * omega) if alpha >= 0 else None,
    )


def _scaled_outputs(new: NewOutputs, scale: float) -> NewOutputs:
    return NewOutputs(
        new.weight * scale,
        _times(new.bias, scale),
        _times(new.preactivation_mean, scale),
        _times(new.preactivation_variance, scale**2),
        _times(new.towards, scale),
    )


def step_scaled(new: NewInputs, scale: float) -> NewInputs:
    """The step, and the decrease it predicts, multiplied."""
    decrease = new.parameter_update_decrease
    if decrease is not None and new.delta_weight is not None:
        # In the step's own precision, as the decrease was computed.
        decrease = float(decrease_tensor(decrease, new.delta_weight) * scale)
    return replace(
        new,
        delta_weight=_times(new.delta_weight, scale),
        delta_bias=_times(new.delta_bias, scale),
        parameter_update_decrease=decrease,
    )


def decrease_tensor(decrease: float, like: Tensor) -> Tensor:
    """A decrease as a tensor, in the precision that statistics of a layer of such a weight have."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.tensor(decrease, dtype=dtype, device=like.device)


def _times(tensor: Tensor | None, scale: float) -> Tensor | None:
    return None if tensor is None else tensor * scale


def shortened(extension: Extension, keep: int, with_outputs: bool = True) -> Extension:
    """Only the first, most significant neurons; none at all where `keep` is 0."""

    def first(tensor: Tensor | None, dim: int = 0) -> Tensor | None:
        return None if tensor is None or not keep else tensor.narrow(dim, 0, min(keep, tensor.shape[dim]))

    outputs = extension.outputs
    if with_outputs:
        outputs = tuple(new and mapped(new, lambda t: t[:keep]) if keep else None for new in outputs)
    return replace(
        extension,
        outputs=outputs,
        inputs=tuple(replace(new, omega=first(new.omega, 1)) for new in extension.inputs),
        eigenvalues=first(extension.eigenvalues),
        gains=first(extension.gains),
        sum_mean=first(extension.sum_mean),
        sum_variance=first(extension.sum_variance),
    )


def selected(extension: Extension, keep: Tensor, columns_per_neuron: Sequence[int]) -> Extension:
    """Only the neurons that `keep`, bool (k,), says; none at all where it keeps none.

    `columns_per_neuron` are each reader's inputs for one neuron.
    """
    if not bool(keep.any()):
        return shortened(extension, 0)

    def chosen(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[keep]

    return replace(
        extension,
        outputs=tuple(new and mapped(new, chosen) for new in extension.outputs),
        inputs=tuple(
            replace(new, omega=None if new.omega is None else new.omega[:, keep.repeat_interleave(columns)])
            for new, columns in zip(extension.inputs, columns_per_neuron, strict=True)
        ),
        eigenvalues=chosen(extension.eigenvalues),
        gains=chosen(extension.gains),
        sum_mean=chosen(extension.sum_mean),
        sum_variance=chosen(extension.sum_variance),
    )


def silenced(extension: Extension, keep: int, into: bool, out_of: bool) -> Extension:
    """As many neurons, those behind the first `keep` with weights of 0 into them, out of them or both."""
    outputs, inputs = extension.outputs, extension.inputs
    if into:
        outputs = tuple(new and mapped(new, lambda t: _zero_from(t, keep)) for new in outputs)
    if out_of:
        inputs = tuple(replace(new, omega=_zero_from(new.omega, keep, 1)) for new in inputs)
    return replace(
        extension,
        outputs=outputs,
        inputs=inputs,
        eigenvalues=_zero_from(extension.eigenvalues, keep),
        gains=_zero_from(extension.gains, keep),
    )


def _zero_from(tensor: Tensor | None, start: int, dim: int = 0) -> Tensor | None:
    if tensor is None:
        return None
    zeroed = tensor.clone()
    zeroed.narrow(dim, min(start, tensor.shape[dim]), max(tensor.shape[dim] - start, 0)).zero_()
    return zeroed


def transferred(new: NewInputs, weight: Tensor, bias: Tensor | None) -> NewInputs:
    """Old and new weights of a reader shrunk by sqrt(old width / new width), the old ones by a step.

    So its pre-activations keep their variance at scaling factor 1. Yuan et al. 2023, arXiv:2306.12700.
    """
    assert new.omega is not None
    width, num_new = weight.shape[1], new.omega.shape[1]
    shrink = (width / (width + num_new)) ** 0.5
    return NewInputs(
        omega=new.omega * shrink,
        delta_weight=(1 - shrink) * weight.detach(),
        delta_bias=None if bias is None else torch.zeros_like(bias),
    )


def normalized(extension: Extension, normalization_type: str, target: float) -> Extension:
    """Steps and new neurons scaled to the size of the weights they join.

    Each deviation is over all modules on its side. With s the target: legacy_normalization gives delta
    deviation s and multiplies alpha by s/std(omega); equalize_second_layer gives delta and omega deviation s
    and multiplies alpha by std(omega)/std(delta); equalize_extensions gives omega and alpha deviation s and
    multiplies delta by the same two factors.

    Raises:
        ValueError: an unknown type or a target that is not positive.
    """
    scales = update_scales(
        normalization_type,
        target,
        _joined([new.delta_weight for new in extension.inputs]),
        _joined([new.omega for new in extension.inputs]),
        _joined([None if new is None else new.weight for new in extension.outputs]),
    )
    stepped = replace(extension, inputs=tuple(step_scaled(new, scales.delta) for new in extension.inputs))
    return scaled(stepped, scales.alpha, scales.omega) if extension.is_complete else stepped


def _joined(weights: Sequence[Tensor | None]) -> Tensor | None:
    """All entries of one side, None where a part is missing."""
    present = [weight for weight in weights if weight is not None]
    if not present or len(present) < len(weights):
        return None
    return present[0] if len(present) == 1 else torch.cat([weight.flatten() for weight in present])


@dataclass(frozen=True, slots=True)
class UpdateScales:
    """What a step and the weights out of and into new neurons are multiplied by."""

    delta: float
    omega: float
    alpha: float


def update_scales(
    normalization_type: str, target: float, delta: Tensor | None, omega: Tensor | None, alpha: Tensor | None
) -> UpdateScales:
    """The factors of `normalized`; the tensors may be of any shape, None has the factor 1.

    Raises:
        ValueError: an unknown type or a target that is not positive.
    """
    if normalization_type not in NORMALIZATIONS:
        raise ValueError(
            f"Unknown normalization_type {normalization_type!r}. Known: {', '.join(NORMALIZATIONS)}."
        )
    if not target > 0:
        raise ValueError(f"std_target must be positive; got {target}. Use None for the layer's own.")
    to_delta, to_omega, to_alpha = (_factor(weight, target) for weight in (delta, omega, alpha))
    return {
        "legacy_normalization": UpdateScales(to_delta, 1.0, to_omega),
        "equalize_second_layer": UpdateScales(to_delta, to_omega, to_delta / to_omega),
        "equalize_extensions": UpdateScales(to_omega * to_alpha, to_omega, to_alpha),
    }[normalization_type]


def _factor(weight: Tensor | None, target: float) -> float:
    """What a weight is multiplied by to have the target deviation; 1 where there is nothing to scale.

    A weight without a spread, such as a single number, is scaled by its root mean square.
    """
    if weight is None:
        return 1.0
    deviation = float(weight.std()) if weight.numel() >= 2 else 0.0
    spread = deviation if deviation > 0 else float(weight.square().mean().sqrt())
    return target / spread if spread > 0 else 1.0
