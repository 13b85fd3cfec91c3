"""GrowingModule: a layer that gains input neurons where the loss asks for them.

A pair of modules grows: the previous one gains output neurons (alpha), this one the inputs they feed
(omega), and this one takes its optimal step (delta). Verbockhaven et al., arXiv:2405.19816.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from growcore.growth.links import GrowsReaders, LinkedModule
from growcore.growth.normalization import check_growable, grow_function
from growcore.growth.proposal import GrowthProposal
from growcore.growth.resizing import ConnectionState as ConnectionState
from growcore.growth.snapshot import set_proposal, take_proposal
from growcore.growth.solving import SolvingModule
from growcore.growth.target import TargetWidth


class GrowingModule(SolvingModule, TargetWidth):
    """A layer and the function after it, able to grow.

    Args:
        layer: the linear or convolutional layer.
        tensor_s_shape: shape S must have for this layer, checked; None: not checked.
        tensor_m_shape: shape M must have for this layer, checked; None: not checked.
        post_layer_function: what follows the layer.
        extended_post_layer_function: what follows the new neurons before they are applied; None: the
            post_layer_function without its normalisation.
        allow_growing: whether this layer gains inputs; it then needs a growing previous_module.
        previous_module: where the input comes from.
        next_module: where the output goes.
        device: where the layer is put; None: where it is.
        name: what messages call it.
        target_in_neurons: input neurons when growth is complete.
        initial_in_neurons: input neurons before growth; None: those of the layer now.
    """

    def __init__(
        self,
        layer: nn.Linear | nn.Conv2d,
        tensor_s_shape: tuple[int, int] | None = None,
        tensor_m_shape: tuple[int, int] | None = None,
        post_layer_function: nn.Module | None = None,
        extended_post_layer_function: nn.Module | None = None,
        allow_growing: bool = True,
        previous_module: nn.Module | None = None,
        next_module: nn.Module | None = None,
        device: torch.device | None = None,
        name: str | None = None,
        target_in_neurons: int | None = None,
        initial_in_neurons: int | None = None,
    ) -> None:
        if allow_growing and not isinstance(previous_module, LinkedModule | GrowsReaders):
            raise ValueError(
                f"A layer that gains inputs needs a growing module before it; got allow_growing=True, "
                f"previous_module={type(previous_module).__name__}. Pass previous_module or "
                f"allow_growing=False."
            )
        super().__init__(
            layer.to(device) if device is not None else layer,
            nn.Identity() if post_layer_function is None else post_layer_function.to(device),
            None if extended_post_layer_function is None else extended_post_layer_function.to(device),
            previous_module,
            next_module,
            name,
        )
        self.allow_growing = allow_growing
        self.target_in_neurons = target_in_neurons
        self.initial_in_neurons = self.in_neurons if initial_in_neurons is None else initial_in_neurons
        self._check_shapes(tensor_s_shape, tensor_m_shape)

    def _check_shapes(self, s_shape: tuple[int, int] | None, m_shape: tuple[int, int] | None) -> None:
        num_inputs = self.in_fan + int(self.use_bias)
        for name, given, right in (
            ("tensor_s_shape", s_shape, (num_inputs, num_inputs)),
            ("tensor_m_shape", m_shape, (num_inputs, self.weight.shape[0])),
        ):
            if given is not None and tuple(given) != right:
                raise ValueError(f"{name} must be {right} for {self.layer}; got {given}. Leave it out.")

    def compute_optimal_updates(
        self,
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
        self.compute_optimal_delta(dtype=dtype, relative_ridge=relative_ridge)
        if self.previous_module is None or isinstance(self.previous_module, GrowsReaders):
            return None, None
        alpha_weight, alpha_bias, _, _ = self.compute_optimal_added_parameters(
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

    def apply_change(
        self,
        scaling_factor: float | Tensor | None = None,
        apply_previous: bool = True,
        apply_delta: bool = True,
        apply_extension: bool = True,
        extension_size: int | None = None,
    ) -> None:
        """Make the layers compute what extended_forward computes.

        The layer's input and the previous layer's output grow; the layer's own output does not.

        Args:
            scaling_factor: gamma; None: the current one.
            apply_previous: whether the previous layer gains its output neurons.
            apply_delta: whether the step is taken.
            apply_extension: whether neurons are added.
            extension_size: number of new neurons, checked; None: those of the extension.

        Raises:
            ValueError: the extensions do not fit, before anything has changed.
        """
        delta = self.optimal_delta_layer if apply_delta else None
        omega = self.extended_input_layer if apply_extension else None
        previous = self.previous_module
        if not (apply_previous and apply_extension and isinstance(previous, GrowingModule)):
            previous = None
        self.check_change(delta, omega, previous, extension_size if apply_extension else None)
        if scaling_factor is not None:
            self.scaling_factor = scaling_factor
        gamma = float(self.scaling_factor.detach())
        if delta is not None:
            bias = None if delta.bias is None else -(gamma**2) * delta.bias.detach()
            self.parameter_step(-(gamma**2) * delta.weight.detach(), bias)
        if omega is not None:
            self.layer_in_extension(gamma * omega.weight.detach())
        if previous is not None and previous.extended_output_layer is not None:
            previous.grow_output(gamma, self.extension_moments)

    def check_change(
        self,
        delta: nn.Module | None,
        omega: nn.Linear | nn.Conv2d | None,
        previous: GrowingModule | None,
        extension_size: int | None,
    ) -> None:
        """Raise a ValueError where apply_change could not be carried out to its end."""
        size = 0 if omega is None else omega.weight.shape[1]
        if extension_size is not None and extension_size != size:
            raise ValueError(
                f"extension_size must be the size of the extension of {self.name}; "
                f"got extension_size={extension_size}, extension {size}. Leave it out."
            )
        stale = (delta is not None and delta.weight.shape != self.weight.shape) or (
            omega is not None and omega.weight.shape[0] != self.out_neurons
        )
        alpha = None if previous is None else previous.extended_output_layer
        if previous is not None and alpha is not None:
            check_growable(previous.post_layer_function)
            stale = stale or alpha.weight.shape[1:] != previous.weight.shape[1:]
        if stale:
            raise ValueError(
                f"The update of {self.name} was computed for other sizes: a layer has grown since. "
                f"Gather statistics again, or take proposal() first and load_proposal() now."
            )

    def grow_output(self, gamma: float, moments: tuple[Tensor, Tensor] | None) -> None:
        """Gain the output extension, scaled, and let what follows the layer grow along."""
        layer = self.extended_output_layer
        assert layer is not None
        bias = None if layer.bias is None else gamma * layer.bias.detach()
        self.layer_out_extension(gamma * layer.weight.detach(), bias)
        mean, variance = (None, None) if moments is None else (gamma * moments[0], gamma**2 * moments[1])
        num_new = layer.weight.shape[0]
        self.post_layer_function = grow_function(self.post_layer_function, num_new, mean, variance)

    def delete_update(
        self,
        include_previous: bool = True,
        delete_delta: bool = True,
        delete_input: bool = True,
        delete_output: bool = False,
    ) -> None:
        """Forget the optimal delta and the new neurons, and set gamma to 0.

        This layer's own output extension stays by default: the next layer may still need it.
        """
        self.set_scaling_factor(0.0)
        self.parameter_update_decrease = None
        self.eigenvalues_extension = None
        self.extension_moments = None
        if delete_delta:
            self.optimal_delta_layer = None
            self.delta_raw = None
        if delete_output:
            self.extended_output_layer = None
        if delete_input:
            self.extended_input_layer = None
            if include_previous and isinstance(self.previous_module, GrowingModule):
                self.previous_module.extended_output_layer = None

    @property
    def producers(self) -> list[GrowingModule]:
        """The module that gains new neurons for this one; empty where no growing module stands before it."""
        return [self.previous_module] if isinstance(self.previous_module, GrowingModule) else []

    @property
    def readers(self) -> list[GrowingModule]:
        """The modules that read those neurons: this one."""
        return [self]

    def columns_per_neuron(self, reader: GrowingModule) -> int:
        """Indices of the second dimension of a reader's weight that belong to one neuron."""
        return 1

    def proposal(self) -> GrowthProposal:
        """The current new neurons and optimal delta as a value.

        Raises:
            ValueError: there are no new neurons.
        """
        self.require_growing_previous()
        return take_proposal(self)

    def load_proposal(self, proposal: GrowthProposal) -> None:
        """Set the extensions, delta and gamma of a proposal, so that apply_change bakes in exactly it.

        Neurons that the two layers have gained since the proposal was made get zeros: the proposal does
        not concern them. So proposals made for several pairs of one network apply one after another.

        Raises:
            ValueError: the proposal does not fit the two layers; nothing has changed then.
        """
        if not isinstance(proposal, GrowthProposal):
            raise ValueError(
                f"{self.name} reads one layer and takes a GrowthProposal; got {type(proposal).__name__}. "
                f"Load a proposal into the layers it was made for."
            )
        self.require_growing_previous()
        set_proposal(self, proposal)

    def update_input_size(
        self,
        input_size: tuple[int, ...] | None = None,
        compute_from_previous: bool = False,
        force_update: bool = True,
    ) -> tuple[int, ...] | None:
        """The size of the layer's input without samples and channels, where it is known."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"{self.name}, {self.number_of_parameters()} parameters"
