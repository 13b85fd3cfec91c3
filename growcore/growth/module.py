"""GrowingModule: a layer that gains input neurons where the loss asks for them.

A pair of modules grows: the previous one gains output neurons (alpha), this one the inputs they feed
(omega), and this one takes its optimal step (delta). Verbockhaven et al., arXiv:2405.19816.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from growcore.growth import solve
from growcore.growth.initialization import reference_std
from growcore.growth.links import GrowsReaders, LinkedModule
from growcore.growth.normalization import check_growable, derivative_at_zero, grow_function
from growcore.growth.proposal import GrowthProposal
from growcore.growth.resizing import ConnectionState as ConnectionState
from growcore.growth.resizing import MaskedConnections, ResizableModule
from growcore.growth.snapshot import set_proposal, take_proposal


class GrowingModule(ResizableModule):
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

    def compute_optimal_delta(
        self,
        update: bool = True,
        dtype: torch.dtype = torch.float32,
        force_pseudo_inverse: bool = False,
        relative_ridge: float = 0.0,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """The step of the layer's own weights that decreases the loss fastest: delta = (S^-1 M)^T.

        Pruned connections of a layer with a mask take no part in the step.

        Args:
            update: whether optimal_delta_layer and parameter_update_decrease are set.
            dtype: precision of the solution.
            force_pseudo_inverse: never solve directly.
            relative_ridge: multiple of S's mean diagonal entry added to its diagonal.

        Returns:
            delta shaped like the weight, delta of the bias or None, and the decrease d = tr(M delta).
        """
        self.delta_raw, decrease = solve.optimal_delta(
            self.tensor_s(), self.tensor_m(), dtype, force_pseudo_inverse, relative_ridge
        )
        if isinstance(self.layer, MaskedConnections):
            self.delta_raw, decrease = self._alive(self.delta_raw, self.layer.mask)
        weight, bias = self._split_bias(self.delta_raw, self.use_bias)
        weight = weight.reshape(self.weight.shape)
        if update:
            self.optimal_delta_layer = self.layer_of_tensor(weight, bias)
            self.parameter_update_decrease = decrease
        return weight, bias, decrease

    def _alive(self, delta: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The part of delta a layer with pruned connections can take, and the decrease it brings."""
        alive = torch.ones_like(delta)
        alive[:, : self.in_fan] = mask.flatten(1).to(delta)
        delta = delta * alive
        decrease = (self.tensor_m() * delta.T).sum()
        # Part of an optimal step may point uphill; then no step is better.
        return (delta, decrease) if decrease > 0 else (torch.zeros_like(delta), torch.zeros_like(decrease))

    def compute_optimal_added_parameters(
        self,
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
        previous = self.require_growing_previous()
        N = self.tensor_n if use_projected_gradient else -self.tensor_m_prev()
        neurons = solve.optimal_new_neurons(
            self.tensor_s_growth().to(dtype),
            N.to(dtype),
            numerical_threshold,
            statistical_threshold,
            maximum_added_neurons,
            relative_thresholds,
            relative_ridge,
        )
        alpha, omega, self.eigenvalues_extension = (
            t.to(self.weight.dtype) for t in (neurons.alpha, neurons.omega, neurons.eigenvalues)
        )
        alpha_weight, alpha_bias = self._split_bias(alpha, previous.use_bias)
        alpha_weight = alpha_weight.reshape(-1, *previous.weight.shape[1:])
        self.extended_input_layer = self.layer_of_tensor(self.omega_kernel(omega), force_bias=False)
        if update_previous:
            previous.extended_output_layer = previous.layer_of_tensor(alpha_weight, alpha_bias)
            self.extension_moments = self.measured_moments()
        return alpha_weight, alpha_bias, self.omega_of_solution(omega), self.eigenvalues_extension

    def omega_kernel(self, omega: Tensor) -> Tensor:
        """The solved omega as a weight of this layer for the new inputs."""
        raise NotImplementedError

    def omega_of_solution(self, omega: Tensor) -> Tensor:
        """The solved omega as compute_optimal_added_parameters returns it."""
        return omega

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

    def compute_gradmax_updates(
        self,
        maximum_added_neurons: int | None = None,
        statistical_threshold: float = 1e-5,
        relative_thresholds: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """New neurons that change nothing yet and whose incoming weights get the largest gradient.

        alpha is 0 and omega holds the leading right singular vectors of M_prev, of norm 1; with step size 1
        on alpha the loss falls by the sum of the squared singular values. There is no delta. Only M_prev
        is needed. Before a ReLU, whose gradient at exactly 0 is 0, alpha's bias (its weights, where it has
        no bias) is a thousandth of the previous layer's weights, so that the neurons are open.
        Evci et al., "GradMax", ICLR 2022, arXiv:2201.05125.
        """
        previous = self.require_growing_previous()
        neurons = solve.optimal_new_neurons(
            None,
            -self.tensor_m_prev().to(dtype),
            0.0,
            statistical_threshold,
            maximum_added_neurons,
            relative_thresholds,
        )
        values = neurons.eigenvalues.to(self.weight.dtype)
        # The solution has columns of norm sqrt(Lambda).
        omega = (neurons.omega / neurons.eigenvalues.sqrt().clamp_min(1e-30)).to(self.weight.dtype)
        previous.create_layer_out_extension(max(len(values), 1))
        previous.open_extension()
        self.extended_input_layer = self.layer_of_tensor(self.omega_kernel(omega), force_bias=False)
        self.eigenvalues_extension = values
        self.optimal_delta_layer = None
        self.parameter_update_decrease = values.new_zeros(())
        self.extension_moments = self.measured_moments()

    def open_extension(self) -> None:
        """Move new neurons that are all zero off the kink of a function without gradient there."""
        layer = self.extended_output_layer
        function = self.extended_post_layer_function or self.post_layer_function
        if layer is None or derivative_at_zero(function, at=0.0) or not derivative_at_zero(function):
            return
        small = 1e-3 * reference_std(self.weight, self.in_fan)
        with torch.no_grad():
            if layer.bias is not None:
                layer.bias.fill_(small)
            else:
                layer.weight.normal_(0.0, small)

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
        self._check_change(delta, omega, previous, extension_size if apply_extension else None)
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

    def _check_change(
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

    def missing_neurons(self) -> int:
        """target_in_neurons - in_neurons.

        Raises:
            ValueError: no target was set.
        """
        return self._target() - self.in_neurons

    def number_of_neurons_to_add(
        self, method: str = "fixed_proportional", number_of_growth_steps: int = 1
    ) -> int:
        """Neurons of one of so many equal growth steps from the initial to the target width, rounded down."""
        if method != "fixed_proportional":
            raise ValueError(f"Unknown method {method!r}. Known: fixed_proportional.")
        if number_of_growth_steps < 1:
            raise ValueError(f"number_of_growth_steps must be at least 1; got {number_of_growth_steps}.")
        return (self._target() - self.initial_in_neurons) // number_of_growth_steps

    def complete_growth(self, extension_kwargs: dict[str, Any]) -> None:
        """Add all missing neurons at once, drawn as create_layer_extensions(**extension_kwargs) does."""
        missing = self.missing_neurons()
        if missing > 0:
            self.create_layer_extensions(extension_size=missing, **extension_kwargs)
            self.apply_change(scaling_factor=1.0, apply_delta=False)
            self.delete_update()

    def _target(self) -> int:
        if self.target_in_neurons is None:
            raise ValueError(f"{self.name} has no target width. Pass target_in_neurons.")
        return self.target_in_neurons

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
        self.require_growing_previous()
        set_proposal(self, proposal)

    def require_growing_previous(self) -> GrowingModule:
        """The previous module, checked to share new neurons with this one."""
        self.check_pair()
        previous = self.require_previous()
        assert isinstance(previous, GrowingModule)
        return previous

    @staticmethod
    def _split_bias(matrix: Tensor, has_bias: bool) -> tuple[Tensor, Tensor | None]:
        return (matrix[:, :-1], matrix[:, -1]) if has_bias else (matrix, None)

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
