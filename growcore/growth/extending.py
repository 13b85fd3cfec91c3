"""The part of a growing module that holds new neurons before they are applied.

The weights out of new neurons are this module's `extended_input_layer`, those into them the previous
module's `extended_output_layer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from growcore.growth.collecting import CollectingModule
from growcore.growth.initialization import copy_uniform, initializer, known_inits, reference_std
from growcore.growth.normalization import derivative_at_zero

NORMALIZATIONS = ("legacy_normalization", "equalize_second_layer", "equalize_extensions")


class ExtendingModule(CollectingModule):
    """A collecting module with the creation, selection and scaling of new neurons."""

    known_inits = known_inits

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.eigenvalues_extension: Tensor | None = None
        self.parameter_update_decrease: Tensor | None = None
        # Mean and variance of the new neurons' pre-activations at gamma = 1; None: not known.
        self.extension_moments: tuple[Tensor, Tensor] | None = None

    def layer_of_tensor(
        self, weight: Tensor, bias: Tensor | None = None, force_bias: bool = True
    ) -> nn.Linear | nn.Conv2d:
        """A layer like this one, but for its sizes, with copies of the given weight and bias.

        Raises:
            ValueError: force_bias, and the bias is there although the layer has none or the reverse.
        """
        raise NotImplementedError

    @staticmethod
    def get_fan_in_from_layer(layer: nn.Module) -> int:
        """Number of inputs of one neuron of the layer: the number of entries of one row of its weight."""
        weight = layer.weight
        assert isinstance(weight, Tensor)
        return weight[:1].numel() if weight.shape[0] else int(torch.tensor(weight.shape[1:]).prod())

    def copy_uniform_initialization(self, tensor: Tensor, reference_tensor: Tensor, fan_in: int) -> None:
        """Fill `tensor` uniformly on +-sqrt(3) std(reference), or std fan_in^(-1/2) without a spread."""
        copy_uniform(tensor, reference_tensor, fan_in)

    def create_layer_in_extension(self, extension_size: int) -> None:
        """Create an input extension of zeros for so many new neurons of the previous module."""
        _check_size(extension_size)
        shape = (self.weight.shape[0], extension_size, *self.weight.shape[2:])
        self.extended_input_layer = self.layer_of_tensor(self.weight.new_zeros(shape), force_bias=False)

    def create_layer_out_extension(self, extension_size: int) -> None:
        """Create an output extension of zeros: so many new neurons of this module."""
        _check_size(extension_size)
        weight = self.weight.new_zeros((extension_size, *self.weight.shape[1:]))
        bias = None if self.bias is None else self.bias.new_zeros(extension_size)
        self.extended_output_layer = self.layer_of_tensor(weight, bias)

    def create_layer_extensions(
        self,
        extension_size: int,
        output_extension_size: int | None = None,
        input_extension_size: int | None = None,
        output_extension_init: str = "copy_uniform",
        input_extension_init: str = "copy_uniform",
        variance_transfer: bool = False,
    ) -> None:
        """Create new neurons of the previous module with drawn weights into and out of them.

        Args:
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
        previous = self.previous_extending()
        initializer(output_extension_init), initializer(input_extension_init)  # known before anything is set
        size_out = extension_size if output_extension_size is None else output_extension_size
        size_in = extension_size if input_extension_size is None else input_extension_size
        _check_size(size_out)
        _check_size(size_in)
        self.check_extension_sizes(size_out, size_in)
        previous.draw_output_extension(size_out, output_extension_init)
        self.draw_input_extension(size_in, input_extension_init)
        self.eigenvalues_extension = None
        self.extension_moments = self.measured_moments()
        if variance_transfer:
            self.transfer_variance()

    def draw_output_extension(self, size: int, init: str) -> None:
        """Create so many new neurons of this module with weights drawn by `known_inits[init]`."""
        self.create_layer_out_extension(size)
        layer, fan_in = self.extended_output_layer, self.get_fan_in_from_layer(self.layer)
        assert layer is not None
        initializer(init)(layer.weight, self.weight, fan_in)
        if layer.bias is not None and self.bias is not None:
            initializer(init)(layer.bias, self.bias, fan_in)

    def draw_input_extension(self, size: int, init: str) -> None:
        """Create so many new inputs of this module with weights drawn by `known_inits[init]`."""
        self.create_layer_in_extension(size)
        layer = self.extended_input_layer
        assert layer is not None
        initializer(init)(layer.weight, self.weight, self.get_fan_in_from_layer(layer) + self.in_fan)

    def check_extension_sizes(self, output_size: int, input_size: int) -> None:
        """Raise a ValueError where so many new outputs before do not make so many new inputs here."""
        self.check_pair()
        if output_size != input_size:
            raise ValueError(
                f"Every new neuron before {self.name} is one new input of it; got "
                f"output_extension_size={output_size}, input_extension_size={input_size}."
            )

    def transfer_variance(self) -> None:
        """Shrink the input extension, and by a delta the old weights, so that the variance stays."""
        assert self.extended_input_layer is not None
        width, num_new = self.weight.shape[1], self.extended_input_layer.weight.shape[1]
        shrink = (width / (width + num_new)) ** 0.5
        self.scale_layer(self.extended_input_layer, shrink)
        bias = None if self.bias is None else torch.zeros_like(self.bias)
        self.optimal_delta_layer = self.layer_of_tensor((1 - shrink) * self.weight.detach(), bias)
        self.parameter_update_decrease = None

    @property
    def in_fan(self) -> int:
        """Number of inputs of one neuron of this layer."""
        return self.get_fan_in_from_layer(self.layer)

    @property
    def activation_gradient(self) -> Tensor:
        """sigma'(0+) of the function between the previous layer and this one."""
        previous = self.require_previous()
        function = previous.extended_post_layer_function
        if function is None:
            function = previous.post_layer_function
        return torch.tensor(derivative_at_zero(function), dtype=self.weight.dtype, device=self.device)

    @property
    def first_order_improvement(self) -> Tensor:
        """First-order decrease of the loss by delta and the new neurons, per unit gamma^2.

        Raises:
            ValueError: the optimal delta has not been computed.
        """
        if self.parameter_update_decrease is None:
            raise ValueError(
                f"The first-order improvement of {self.name} is not known. Call compute_optimal_updates()."
            )
        if self.eigenvalues_extension is None:
            return self.parameter_update_decrease
        new_neurons = self.activation_gradient * self.eigenvalues_extension.square().sum()
        return self.parameter_update_decrease + new_neurons

    def previous_extending(self) -> ExtendingModule:
        previous = self.require_previous()
        assert isinstance(previous, ExtendingModule)
        return previous

    def measured_moments(self) -> tuple[Tensor, Tensor] | None:
        """Mean and variance the statistics predict for the new neurons' pre-activations, or None."""
        layer = self.previous_extending().extended_output_layer
        if layer is None or self.growth_mean.samples == 0 or self.tensor_s_growth.samples == 0:
            return None
        alpha = layer.weight.detach().flatten(1)
        if layer.bias is not None:
            alpha = torch.cat([alpha, layer.bias.detach()[:, None]], dim=1)
        sums = self.growth_mean()
        num_positions = sums[-1]
        sum_b = sums if layer.bias is not None else sums[:-1]
        alpha = alpha.to(sums.dtype)
        mean = alpha @ sum_b / num_positions
        second = ((alpha @ self.tensor_s_growth()) * alpha).sum(1) / num_positions
        return mean, (second - mean**2).clamp(min=0)

    def sub_select_optimal_added_parameters(
        self,
        keep_neurons: int | None = None,
        threshold: float | None = None,
        sub_select_previous: bool = True,
        zeros_if_not_enough: bool = False,
        zeros_fan_in: bool = True,
        zeros_fan_out: bool = False,
    ) -> None:
        """Keep the first, most significant new neurons.

        Args:
            keep_neurons: how many stay; None: those whose singular value is at least `threshold`.
            threshold: least singular value that stays; needed where keep_neurons is None.
            sub_select_previous: whether the previous module's output extension shrinks along.
            zeros_if_not_enough: keep the number of neurons and set weights of the others to zero instead.
            zeros_fan_in: then those into them.
            zeros_fan_out: then those out of them.

        Raises:
            ValueError: no extension, neither or a negative number, or nothing to set to zero.
        """
        keep = self._number_to_keep(keep_neurons, threshold)
        if zeros_if_not_enough and not (zeros_fan_in or zeros_fan_out):
            raise ValueError(
                "zeros_if_not_enough needs the side whose weights become zero; got zeros_fan_in=False, "
                "zeros_fan_out=False. Set one of them."
            )
        previous = self.previous_extending() if sub_select_previous else None
        if zeros_if_not_enough:
            self._silence(keep, previous if zeros_fan_in else None, zeros_fan_out)
        else:
            self._shorten(keep, previous)

    def _number_to_keep(self, keep_neurons: int | None, threshold: float | None) -> int:
        if self.extended_input_layer is None:
            raise ValueError(
                f"{self.name} has no new neurons to select from. Call compute_optimal_updates() or "
                f"create_layer_extensions() first."
            )
        if keep_neurons is not None:
            if keep_neurons < 0:
                raise ValueError(f"keep_neurons must not be negative; got {keep_neurons}.")
            return keep_neurons
        if threshold is None or self.eigenvalues_extension is None:
            raise ValueError(
                f"Without keep_neurons the singular values decide; got threshold={threshold}, "
                f"eigenvalues_extension={self.eigenvalues_extension}. Pass keep_neurons=... ."
            )
        return int((self.eigenvalues_extension >= threshold).sum())

    def _shorten(self, keep: int, previous: ExtendingModule | None) -> None:
        assert self.extended_input_layer is not None
        weight = self.extended_input_layer.weight[:, :keep]
        self.extended_input_layer = self.layer_of_tensor(weight, force_bias=False) if keep else None
        if self.eigenvalues_extension is not None:
            self.eigenvalues_extension = self.eigenvalues_extension[:keep] if keep else None
        if self.extension_moments is not None:
            mean, variance = self.extension_moments
            self.extension_moments = (mean[:keep], variance[:keep]) if keep else None
        if previous is not None and previous.extended_output_layer is not None:
            layer = previous.extended_output_layer
            bias = None if layer.bias is None else layer.bias[:keep]
            previous.extended_output_layer = (
                previous.layer_of_tensor(layer.weight[:keep], bias) if keep else None
            )

    @torch.no_grad()
    def _silence(self, keep: int, previous: ExtendingModule | None, zeros_fan_out: bool) -> None:
        if self.eigenvalues_extension is not None:
            self.eigenvalues_extension[keep:] = 0
        if zeros_fan_out and self.extended_input_layer is not None:
            self.extended_input_layer.weight[:, keep:] = 0
        if previous is None or previous.extended_output_layer is None:
            return
        previous.extended_output_layer.weight[keep:] = 0
        if previous.extended_output_layer.bias is not None:
            previous.extended_output_layer.bias[keep:] = 0
        if self.extension_moments is not None:
            for moment in self.extension_moments:
                moment[keep:] = 0

    @staticmethod
    @torch.no_grad()
    def scale_layer(layer: nn.Module, scale: float) -> nn.Module:
        """Multiply the weight and bias of a layer in place; returns the layer."""
        for parameter in layer.parameters(recurse=False):
            parameter.mul_(scale)
        return layer

    def scale_parameter_update(self, scale: float) -> None:
        """Multiply the optimal delta and the decrease it predicts."""
        if self.optimal_delta_layer is not None:
            self.scale_layer(self.optimal_delta_layer, scale)
        if self.parameter_update_decrease is not None:
            self.parameter_update_decrease = self.parameter_update_decrease * scale

    def scale_layer_extension(
        self, scale: float | None, scale_output: float | None, scale_input: float | None
    ) -> None:
        """Multiply the new weights; the singular values go with sqrt(scale_input * scale_output).

        Args:
            scale: for both sides; then the other two must be None.
            scale_output: for the weights into the new neurons (the previous module's output).
            scale_input: for the weights out of them (this module's input).

        Raises:
            ValueError: no extension, or neither one nor two scales.
        """
        if (scale is None) != (scale_output is not None and scale_input is not None):
            raise ValueError(
                f"Give either scale or both scale_output and scale_input; "
                f"got scale={scale}, scale_output={scale_output}, scale_input={scale_input}."
            )
        out_scale = scale if scale_output is None else scale_output
        in_scale = scale if scale_input is None else scale_input
        assert out_scale is not None
        assert in_scale is not None
        previous = self.previous_extending()
        if self.extended_input_layer is None or previous.extended_output_layer is None:
            raise ValueError(f"{self.name} has no extension to scale. Call compute_optimal_updates() first.")
        self.scale_layer(self.extended_input_layer, in_scale)
        self.scale_layer(previous.extended_output_layer, out_scale)
        if self.eigenvalues_extension is not None:
            self.eigenvalues_extension = self.eigenvalues_extension * abs(in_scale * out_scale) ** 0.5
        if self.extension_moments is not None:
            mean, variance = self.extension_moments
            self.extension_moments = (mean * out_scale, variance * out_scale**2)

    def normalize_optimal_updates(
        self, std_target: float | None = None, normalization_type: str = "legacy_normalization"
    ) -> None:
        """Scale the optimal step and the new neurons to the size of the weights they join.

        With s the target: legacy_normalization gives delta deviation s and multiplies alpha by s/std(omega);
        equalize_second_layer gives delta and omega deviation s and multiplies alpha by std(omega)/std(delta);
        equalize_extensions gives omega and alpha deviation s and multiplies delta by the same two factors.

        Args:
            std_target: s, above 0; None: the deviation of this layer's weight, or fan_in^(-1/2).
            normalization_type: one of NORMALIZATIONS.

        Raises:
            ValueError: an unknown type or a target that is not positive.
        """
        previous = self.previous_module
        alpha = previous.extended_output_layer if isinstance(previous, ExtendingModule) else None
        target = reference_std(self.weight, self._fan_in_or_extension()) if std_target is None else std_target
        scales = update_scales(
            normalization_type,
            target,
            _weight(self.optimal_delta_layer),
            _weight(self.extended_input_layer),
            _weight(alpha),
        )
        self.scale_parameter_update(scales.delta)
        if self.extended_input_layer is not None and alpha is not None:
            self.scale_layer_extension(None, scales.alpha, scales.omega)

    def _fan_in_or_extension(self) -> int:
        if self.in_fan == 0 and self.extended_input_layer is not None:
            return self.get_fan_in_from_layer(self.extended_input_layer)
        return self.in_fan


@dataclass(frozen=True, slots=True)
class UpdateScales:
    """What a step and the weights out of and into new neurons are multiplied by."""

    delta: float
    omega: float
    alpha: float


def update_scales(
    normalization_type: str, target: float, delta: Tensor | None, omega: Tensor | None, alpha: Tensor | None
) -> UpdateScales:
    """The factors of normalize_optimal_updates; the tensors may be of any shape, None has the factor 1.

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


def _weight(layer: nn.Linear | nn.Conv2d | None) -> Tensor | None:
    return None if layer is None else layer.weight


def _factor(weight: Tensor | None, target: float) -> float:
    """What a weight is multiplied by to have the target deviation; 1 where there is nothing to scale.

    A weight without a spread, such as a single number, is scaled by its root mean square.
    """
    if weight is None:
        return 1.0
    spread = reference_spread(weight.detach())
    return target / spread if spread > 0 else 1.0


def reference_spread(weight: Tensor) -> float:
    """Standard deviation, or the root mean square where that is 0 or not defined."""
    deviation = float(weight.std()) if weight.numel() >= 2 else 0.0
    return deviation if deviation > 0 else float(weight.square().mean().sqrt())


def _check_size(extension_size: int) -> None:
    if extension_size < 1:
        raise ValueError(f"An extension needs at least one new neuron; got extension_size={extension_size}.")
