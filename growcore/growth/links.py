"""The part of a growing module that computes: its layer, its neighbours and its forward passes.

Letters: b input of the layer, a = W b pre-activation, sigma what follows it, gamma scaling factor, delta
the optimal step, alpha and omega the weights into and out of new neurons.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from growcore.growth.normalization import apply_to_extension
from growcore.growth.patches import output_size
from growcore.growth.statistic import TensorStatistic

# Modules that a growing module refers to or holds for a while: none is a part of it, so none may appear in
# its state_dict or among the parameters of an optimizer.
_UNREGISTERED = frozenset(
    ("previous_module", "next_module", "optimal_delta_layer", "extended_input_layer", "extended_output_layer")
)
_EXTENSIONS = ("optimal_delta_layer", "extended_input_layer", "extended_output_layer")


class GrowsReaders(nn.Module):
    """A module that joins several others and gains neurons for all its readers together."""


class LinkedModule(nn.Module):
    """A layer and the function after it, linked with the modules before and behind."""

    layer: nn.Linear | nn.Conv2d
    post_layer_function: nn.Module
    extended_post_layer_function: nn.Module | None
    previous_module: nn.Module | None
    next_module: nn.Module | None
    optimal_delta_layer: nn.Linear | nn.Conv2d | None
    extended_input_layer: nn.Linear | nn.Conv2d | None
    extended_output_layer: nn.Linear | nn.Conv2d | None

    def __init__(
        self,
        layer: nn.Linear | nn.Conv2d,
        post_layer_function: nn.Module,
        extended_post_layer_function: nn.Module | None,
        previous_module: nn.Module | None,
        next_module: nn.Module | None,
        name: str | None,
    ) -> None:
        super().__init__()
        self.name = name if name is not None else type(self).__name__
        self.layer = layer
        self.post_layer_function = post_layer_function
        self.extended_post_layer_function = extended_post_layer_function
        self.previous_module = previous_module
        self.next_module = next_module
        if isinstance(previous_module, LinkedModule) and previous_module.next_module is None:
            previous_module.next_module = self
        self.optimal_delta_layer = None
        self.extended_input_layer = None
        self.extended_output_layer = None
        self.store_input = False
        self.store_pre_activity = False
        self._num_readers = 0  # consumers that are gathering statistics and need this module's input
        self._input: Tensor | None = None
        self._pre_activity: Tensor | None = None
        self._scaling_factor = _scalar(0.0)
        self._output_scaling_factor = self._scaling_factor

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _UNREGISTERED:
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        # Tensors of a pass belong to its graph: they can be neither copied nor saved.
        return self.__dict__ | {"_input": None, "_pre_activity": None}

    def _apply(self, fn: Any, recurse: bool = True) -> LinkedModule:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name in _EXTENSIONS:
            extension = getattr(self, name)
            if extension is not None:
                extension._apply(fn, recurse)
        return self

    @property
    def weight(self) -> Tensor:
        """Weight of the layer."""
        return self.layer.weight

    @property
    def bias(self) -> Tensor | None:
        """Bias of the layer, None where it has none."""
        return self.layer.bias

    @property
    def use_bias(self) -> bool:
        """Whether the layer has a bias."""
        return self.layer.bias is not None

    @property
    def device(self) -> torch.device:
        """Where the layer's weight lives."""
        return self.layer.weight.device

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """The parameters of the layer; those of the function after it belong to the whole network."""
        return self.layer.parameters(recurse)

    def number_of_parameters(self) -> int:
        """Number of parameters of the layer."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def scaling_factor(self) -> Tensor:
        """gamma, a scalar leaf tensor, so that the loss can be differentiated by it."""
        return self._scaling_factor

    @scaling_factor.setter
    def scaling_factor(self, factor: float | Tensor) -> None:
        self._scaling_factor = _scalar(float(factor))
        # One tensor for both ends of the pair: a derivative by gamma passes through alpha and omega.
        if isinstance(self.previous_module, LinkedModule):
            self.previous_module.share_scaling_factor(self._scaling_factor)

    def share_scaling_factor(self, factor: Tensor, of_input: bool = False) -> None:
        """Scale the output extension, or delta and the input extension, by a tensor that others use too."""
        if of_input:
            self._scaling_factor = factor
        else:
            self._output_scaling_factor = factor

    def set_scaling_factor(self, factor: float) -> None:
        """Set gamma for this layer's step and input extension and the previous layer's output extension."""
        self.scaling_factor = factor

    def statistics(self) -> Iterator[TensorStatistic]:
        """The statistics that a forward pass of this module opens for one more update."""
        return iter(())

    def forward(self, x: Tensor) -> Tensor:
        """sigma(W x); keeps x and the pre-activation while statistics are gathered."""
        if not (self.store_input or self.store_pre_activity or self._num_readers):
            return self._after_layer(apply_layer(self.layer, x))
        return self._forward_and_store(x)

    def _forward_and_store(self, x: Tensor) -> Tensor:
        for statistic in self.statistics():
            statistic.updated = False
        if self.store_input or self._num_readers:
            self._input = x.detach()
        pre_activity = apply_layer(self.layer, x)
        if not self.store_pre_activity:
            return self._after_layer(pre_activity)
        self._pre_activity = pre_activity
        if pre_activity.requires_grad:
            pre_activity.retain_grad()
        # A function that works in place would overwrite the pre-activation and its gradient.
        return self._after_layer(pre_activity.clone())

    def _after_layer(self, pre_activity: Tensor) -> Tensor:
        if self.layer.weight.shape[0] == 0:  # torch normalises no empty batch
            return apply_to_extension(self.post_layer_function, pre_activity)
        return cast(Tensor, self.post_layer_function(pre_activity))

    def extended_forward(
        self,
        x: Tensor,
        x_ext: Tensor | None = None,
        use_optimal_delta: bool = True,
        use_extended_input: bool = True,
        use_extended_output: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """The forward pass as it will be after apply_change: a = W x - gamma^2 delta x + gamma omega x_ext.

        Nothing is stored.

        Args:
            x: input of the layer as it is.
            x_ext: what the previous module's new neurons give; needed where the input is extended.
            use_optimal_delta: whether the step delta is taken.
            use_extended_input: whether the new neurons of the previous module are read.
            use_extended_output: whether this layer's own new neurons, sigma(gamma alpha x), are computed.

        Returns:
            the output, and the output of the new neurons or None.

        Raises:
            ValueError: exactly one of input extension and x_ext is there.
        """
        pre_activity = apply_layer(self.layer, x)
        if use_optimal_delta and self.optimal_delta_layer is not None:
            pre_activity = pre_activity - self.scaling_factor**2 * apply_layer(self.optimal_delta_layer, x)
        if use_extended_input:
            pre_activity = pre_activity + self._from_extension(x_ext)
        supplement = None
        if use_extended_output and self.extended_output_layer is not None:
            supplement = self._after_extension(self._output_scaling_factor * self.extended_output_layer(x))
        return self._after_layer(pre_activity), supplement

    def _from_extension(self, x_ext: Tensor | None) -> Tensor | float:
        if (x_ext is None) != (self.extended_input_layer is None):
            raise ValueError(
                f"x_ext and the input extension of {self.name} go together; got "
                f"x_ext={None if x_ext is None else tuple(x_ext.shape)}, "
                f"extended_input_layer={self.extended_input_layer}. Pass on the second output of the "
                f"previous module's extended_forward, or set use_extended_input=False."
            )
        if x_ext is None or self.extended_input_layer is None:
            return 0.0
        return cast(Tensor, self.scaling_factor * self.extended_input_layer(x_ext))

    def _after_extension(self, supplement: Tensor) -> Tensor:
        if self.extended_post_layer_function is not None:
            return cast(Tensor, self.extended_post_layer_function(supplement))
        return apply_to_extension(self.post_layer_function, supplement)

    @property
    def input(self) -> Tensor:
        """Input of the last forward pass, detached.

        Raises:
            ValueError: none was stored.
        """
        if self._input is None:
            raise ValueError(
                f"{self.name} has stored no input. Call init_computation() (or set store_input=True) and "
                f"run a forward pass before update_computation()."
            )
        return self._input

    @property
    def pre_activity(self) -> Tensor:
        """Pre-activation of the last forward pass; `.grad` is filled by backward.

        Raises:
            ValueError: none was stored.
        """
        if self._pre_activity is None:
            raise ValueError(
                f"{self.name} has stored no pre-activation. Call init_computation() (or set "
                f"store_pre_activity=True) and run a forward pass before update_computation()."
            )
        return self._pre_activity

    @property
    def pre_activity_gradient(self) -> Tensor:
        """The gradient g = dL/da of the last forward and backward pass.

        Raises:
            ValueError: there was no backward pass, or the forward pass ran without gradients.
        """
        gradient = self.pre_activity.grad if self.pre_activity.requires_grad else None
        if gradient is None:
            raise ValueError(
                f"{self.name} has no gradient of its pre-activation: the last forward pass ran under no_grad "
                f"or was not followed by backward. Run forward and backward before update_computation()."
            )
        return gradient


def apply_layer(layer: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
    """layer(x), also for a convolution without channels on one side, which torch refuses."""
    if isinstance(layer, nn.Linear) or layer.weight.numel():
        return cast(Tensor, layer(x))
    size = (x.shape[0], layer.out_channels, *output_size(layer, (x.shape[2], x.shape[3])))
    if layer.bias is not None:
        return layer.bias[:, None, None].expand(size).clone()
    # Nothing it is computed from has a gradient, but the gradient of the pre-activation is asked for.
    return x.new_zeros(size).requires_grad_(torch.is_grad_enabled())


def _scalar(value: float) -> Tensor:
    # Without dimensions and in double precision: multiplying by it changes no dtype and loses no digit.
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)
