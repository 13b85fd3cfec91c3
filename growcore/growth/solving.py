"""The part of a growing module that solves for its optimal step and the best new neurons before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from growcore.growth import solve
from growcore.growth.initialization import reference_std
from growcore.growth.normalization import derivative_at_zero
from growcore.growth.resizing import MaskedConnections, ResizableModule


class SolvingModule(ResizableModule):
    """A resizable module that turns its statistics into a step and an extension."""

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

    @property
    def function_on_extension(self) -> nn.Module:
        """What follows the layer for new neurons."""
        special = self.extended_post_layer_function
        return self.post_layer_function if special is None else special

    def open_extension(self, behind: nn.Module | None = None) -> None:
        """Move new neurons that are all zero off the kink of a function without gradient there.

        Args:
            behind: what follows this module's own function, if anything does.
        """
        layer = self.extended_output_layer
        function = nn.Sequential(self.function_on_extension, nn.Identity() if behind is None else behind)
        if layer is None or derivative_at_zero(function, at=0.0) or not derivative_at_zero(function):
            return
        small = 1e-3 * reference_std(self.weight, self.in_fan)
        with torch.no_grad():
            if layer.bias is not None:
                layer.bias.fill_(small)
            else:
                layer.weight.normal_(0.0, small)

    def require_growing_previous(self) -> SolvingModule:
        """The previous module, checked to share new neurons with this one."""
        self.check_pair()
        previous = self.require_previous()
        assert isinstance(previous, SolvingModule)
        return previous

    @staticmethod
    def _split_bias(matrix: Tensor, has_bias: bool) -> tuple[Tensor, Tensor | None]:
        return (matrix[:, :-1], matrix[:, -1]) if has_bias else (matrix, None)
