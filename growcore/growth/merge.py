"""Merges: where the outputs of several growing modules are added and several modules read the sum.

A new neuron of the merge is a new output of every module before it and a new input of every module behind
it: z = sigma(sum_i alpha_i b_i), read by omega_j. With the inputs b_i stacked and the gradients g_j side by
side this is the problem of a single pair, and it is solved as such.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from growcore.growth import solve
from growcore.growth.extending import update_scales
from growcore.growth.initialization import initializer, reference_std
from growcore.growth.joining import JoiningModule
from growcore.growth.merge_snapshot import set_proposal, take_proposal
from growcore.growth.module import GrowingModule
from growcore.growth.normalization import check_growable, derivative_at_zero, grow_function
from growcore.growth.proposal import MergeProposal
from growcore.growth.target import TargetWidth

Moments = tuple[Tensor, Tensor]  # mean and variance of new neurons at gamma = 1


class MergeGrowingModule(JoiningModule, TargetWidth):
    """A sum of modules' outputs and the function after it, able to grow; see JoiningModule."""

    def __init__(
        self,
        post_merge_function: nn.Module | None = None,
        previous_modules: list[GrowingModule] | None = None,
        next_modules: list[GrowingModule] | None = None,
        name: str | None = None,
        target_in_neurons: int | None = None,
    ) -> None:
        super().__init__(post_merge_function, previous_modules, next_modules, name, target_in_neurons)
        self.eigenvalues_extension: Tensor | None = None
        # Of the new outputs of each previous module, and of their sum; None: not known.
        self.extension_moments: list[Moments | None] = []
        self.sum_moments: Moments | None = None

    def compute_optimal_updates(
        self,
        numerical_threshold: float = 1e-10,
        statistical_threshold: float = 1e-5,
        maximum_added_neurons: int | None = None,
        dtype: torch.dtype = torch.float32,
        use_projected_gradient: bool = True,
        relative_thresholds: bool = False,
        relative_ridge: float = 0.0,
    ) -> None:
        """The optimal steps of the next modules and the optimal new neurons of the merge.

        Sets the extensions of all modules around; the arguments are those of GrowingModule's method.
        """
        goals = []
        for module, m_prev, c in zip(self.next_modules, self._m_prev, self._c, strict=True):
            module.compute_optimal_delta(dtype=dtype, relative_ridge=relative_ridge)
            N = -m_prev()
            if use_projected_gradient:
                assert module.delta_raw is not None
                N = N + torch.einsum("pti,oi->pot", c(), module.delta_raw).flatten(1)
            goals.append(N)
        neurons = solve.optimal_new_neurons(
            self.tensor_s_growth().to(dtype),
            torch.cat(goals, dim=1).to(dtype),
            numerical_threshold,
            statistical_threshold,
            maximum_added_neurons,
            relative_thresholds,
            relative_ridge,
        )
        self.eigenvalues_extension = neurons.eigenvalues
        self._spread_alpha(neurons.alpha)
        self._spread_omega(neurons.omega, [goal.shape[1] for goal in goals])
        self._measure_moments()

    def compute_gradmax_updates(
        self,
        maximum_added_neurons: int | None = None,
        statistical_threshold: float = 1e-5,
        relative_thresholds: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """New neurons that change nothing yet and whose incoming weights get the largest gradient.

        There are no steps; see GrowingModule.compute_gradmax_updates.
        """
        goals = [-m_prev().to(dtype) for m_prev in self._m_prev]
        neurons = solve.optimal_new_neurons(
            None,
            torch.cat(goals, dim=1),
            0.0,
            statistical_threshold,
            maximum_added_neurons,
            relative_thresholds,
        )
        # The solution has columns of norm sqrt(Lambda).
        omega = neurons.omega / neurons.eigenvalues.sqrt().clamp_min(1e-30)
        for module in self.previous_modules:
            module.create_layer_out_extension(max(len(neurons.eigenvalues), 1))
            module.open_extension(self.post_merge_function)
        self._spread_omega(omega, [goal.shape[1] for goal in goals])
        self.eigenvalues_extension = neurons.eigenvalues
        for module in self.next_modules:
            module.optimal_delta_layer = None
            module.parameter_update_decrease = module.weight.new_zeros(())
        self._measure_moments()

    def create_layer_extensions(
        self,
        extension_size: int,
        output_extension_init: str = "copy_uniform",
        input_extension_init: str = "copy_uniform",
        variance_transfer: bool = False,
    ) -> None:
        """Create new neurons of the merge with drawn weights; see GrowingModule.create_layer_extensions.

        Raises:
            ValueError: an unknown name or a size below 1, before anything is set.
        """
        initializer(output_extension_init), initializer(input_extension_init)
        for module in self.previous_modules:
            module.draw_output_extension(extension_size, output_extension_init)
        for module in self.next_modules:
            num_columns = extension_size * self.columns_per_neuron(module)
            module.draw_input_extension(num_columns, input_extension_init)
            if variance_transfer:
                module.transfer_variance()
        self.eigenvalues_extension = None
        self._measure_moments()

    def _spread_alpha(self, alpha: Tensor) -> None:
        for module, rows in zip(self.previous_modules, self._blocks(alpha), strict=True):
            rows = rows.to(module.weight.dtype)
            weight, bias = (rows[:, :-1], rows[:, -1]) if module.use_bias else (rows, None)
            weight = weight.reshape(-1, *module.weight.shape[1:])
            module.extended_output_layer = module.layer_of_tensor(weight, bias)

    def _spread_omega(self, omega: Tensor, sizes: list[int]) -> None:
        for module, rows in zip(self.next_modules, omega.split(sizes), strict=True):
            weight = self._omega_weight(module, rows.to(module.weight.dtype))
            module.extended_input_layer = module.layer_of_tensor(weight, force_bias=False)

    def _blocks(self, alpha: Tensor) -> Sequence[Tensor]:
        """The columns of (k, p) that belong to each previous module."""
        sizes = [module.in_fan + int(module.use_bias) for module in self.previous_modules]
        blocks: Sequence[Tensor] = alpha.split(sizes, dim=1)
        return blocks

    def _measure_moments(self) -> None:
        """What the statistics predict for the new outputs and their sum, where there are statistics."""
        self.extension_moments, self.sum_moments = [None] * len(self.previous_modules), None
        if self.growth_mean.samples == 0:
            return
        alpha = torch.cat([_rows(module) for module in self.previous_modules], dim=1)
        numbers = torch.arange(alpha.shape[1], device=alpha.device)[None]
        self.extension_moments = [
            self._moments(alpha, int(block[0, 0]), int(block[0, -1]) + 1) for block in self._blocks(numbers)
        ]
        if all(isinstance(m.function_on_extension, nn.Identity) for m in self.previous_modules):
            self.sum_moments = self._moments(alpha, 0, alpha.shape[1])

    def _moments(self, alpha: Tensor, start: int, stop: int) -> Moments:
        sums = self.growth_mean()
        part = alpha[:, start:stop].to(sums.dtype)
        mean = part @ sums[start:stop] / sums[-1]
        second = ((part @ self.tensor_s_growth()[start:stop, start:stop]) * part).sum(1) / sums[-1]
        return mean, (second - mean**2).clamp(min=0)

    @property
    def first_order_improvement(self) -> Tensor:
        """First-order decrease of the loss by all steps and the new neurons, per unit gamma^2."""
        if self.eigenvalues_extension is None:
            raise ValueError(f"The improvement of {self.name} is not known. Call compute_optimal_updates().")
        before = self.previous_modules[0].function_on_extension
        slope = derivative_at_zero(nn.Sequential(before, self.post_merge_function))
        total = slope * self.eigenvalues_extension.square().sum()
        for module in self.next_modules:
            assert module.parameter_update_decrease is not None
            total = total + module.parameter_update_decrease
        return total

    def scale_layer_extension(
        self, scale: float | None, scale_output: float | None, scale_input: float | None
    ) -> None:
        """Multiply the new weights; the singular values go with sqrt(scale_input * scale_output).

        Args:
            scale: for both sides; then the other two must be None.
            scale_output: for the weights into the new neurons.
            scale_input: for the weights out of them.
        """
        into, out = (scale if one is None else one for one in (scale_output, scale_input))
        self._require_extension("scale")
        assert into is not None
        assert out is not None
        for module in self.next_modules:
            module.scale_layer(_extension(module.extended_input_layer), out)
        for module in self.previous_modules:
            module.scale_layer(_extension(module.extended_output_layer), into)
        if self.eigenvalues_extension is not None:
            self.eigenvalues_extension = self.eigenvalues_extension * abs(into * out) ** 0.5
        self.extension_moments = [_scaled(moments, into) for moments in self.extension_moments]
        self.sum_moments = _scaled(self.sum_moments, into)

    def normalize_optimal_updates(
        self, std_target: float | None = None, normalization_type: str = "legacy_normalization"
    ) -> None:
        """Scale the steps and the new neurons to the size of the weights they join.

        As GrowingModule.normalize_optimal_updates; each deviation is over all modules on its side.
        """
        self._require_extension("normalize")
        if std_target is None:
            first = self.next_modules[0]
            std_target = reference_std(_joined(self.next_modules, lambda m: m.layer), max(first.in_fan, 1))
        has_step = all(m.optimal_delta_layer is not None for m in self.next_modules)
        scales = update_scales(
            normalization_type,
            std_target,
            _joined(self.next_modules, lambda m: m.optimal_delta_layer) if has_step else None,
            _joined(self.next_modules, lambda m: m.extended_input_layer),
            _joined(self.previous_modules, lambda m: m.extended_output_layer),
        )
        for module in self.next_modules:
            module.scale_parameter_update(scales.delta)
        self.scale_layer_extension(None, scales.alpha, scales.omega)

    def apply_change(self, scaling_factor: float | None = None, apply_delta: bool = True) -> None:
        """Make all modules around compute what their extended_forward computes.

        Args:
            scaling_factor: gamma; None: the current one.
            apply_delta: whether the next modules take their steps.

        Raises:
            ValueError: there is no extension, or what follows the sum cannot grow; nothing has changed then.
        """
        self._require_extension("apply")
        check_growable(self.post_merge_function)
        for module in self.previous_modules:
            check_growable(module.post_layer_function)
        for module in self.next_modules:
            delta = module.optimal_delta_layer if apply_delta else None
            module.check_change(delta, module.extended_input_layer, None, None)
        if scaling_factor is not None:
            self.set_scaling_factor(scaling_factor)
        gamma = float(self.next_modules[0].scaling_factor.detach())
        for module in self.next_modules:
            module.apply_change(apply_delta=apply_delta)
        for module, moments in zip(self.previous_modules, self.extension_moments, strict=True):
            module.grow_output(gamma, moments)
        num_new = _extension(self.previous_modules[0].extended_output_layer).weight.shape[0]
        mean, variance = _scaled(self.sum_moments, gamma) or (None, None)
        self.post_merge_function = grow_function(self.post_merge_function, num_new, mean, variance)

    def _require_extension(self, verb: str) -> None:
        around = [m.extended_output_layer for m in self.previous_modules]
        around += [m.extended_input_layer for m in self.next_modules]
        if not around or any(layer is None for layer in around):
            raise ValueError(
                f"{self.name} has no new neurons to {verb}. Call compute_optimal_updates() or "
                f"create_layer_extensions() first."
            )

    def delete_update(self) -> None:
        """Forget the new neurons and the steps of the next modules."""
        self.eigenvalues_extension = None
        self.extension_moments, self.sum_moments = [], None
        for module in self.previous_modules:
            module.extended_output_layer = None
        for module in self.next_modules:
            module.delete_update()
        self.set_scaling_factor(0.0)

    def proposal(self) -> MergeProposal:
        """The current new neurons and steps as a value.

        Raises:
            ValueError: there are no new neurons.
        """
        self._require_extension("propose")
        known = self.eigenvalues_extension is not None
        return take_proposal(
            self,
            self.eigenvalues_extension,
            float(self.first_order_improvement) if known else 0.0,
            self.extension_moments,
            self.sum_moments,
        )

    def load_proposal(self, proposal: MergeProposal) -> None:
        """Set the extensions, steps and gamma of a proposal, so that apply_change bakes in exactly it.

        Neurons that the modules around have gained since are padded as GrowingModule.load_proposal does.

        Raises:
            ValueError: the proposal does not fit the modules; nothing has changed then.
        """
        if not isinstance(proposal, MergeProposal):
            raise ValueError(
                f"{self.name} is a merge and takes a MergeProposal; got {type(proposal).__name__}. Load a "
                f"proposal into the layers it was made for."
            )
        self.extension_moments, self.sum_moments = set_proposal(self, proposal)
        self.eigenvalues_extension = proposal.eigenvalues.clone()


def _rows(module: GrowingModule) -> Tensor:
    """(k, p_i): the new outputs of one module, the bias last."""
    layer = _extension(module.extended_output_layer)
    weight = layer.weight.detach().flatten(1)
    return weight if layer.bias is None else torch.cat([weight, layer.bias.detach()[:, None]], dim=1)


def _extension(layer: nn.Linear | nn.Conv2d | None) -> nn.Linear | nn.Conv2d:
    assert layer is not None
    return layer


def _joined(
    modules: Sequence[GrowingModule], layer: Callable[[GrowingModule], nn.Linear | nn.Conv2d | None]
) -> Tensor:
    return torch.cat([_extension(layer(module)).weight.detach().flatten() for module in modules])


def _scaled(moments: Moments | None, scale: float) -> Moments | None:
    return None if moments is None else (moments[0] * scale, moments[1] * scale**2)


# What gains neurons: a layer before which they stand, or a merge.
Consumer = GrowingModule | MergeGrowingModule
