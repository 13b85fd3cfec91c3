"""Merges: where the outputs of several growing modules are added and several modules read the sum.

A new neuron of the merge is a new output of every module before it and a new input of every module behind
it: z = sigma(sum_i alpha_i b_i), read by omega_j. With the inputs b_i stacked and the gradients g_j side by
side this is the problem of a single pair, and it is solved as such.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from growcore.growth import solve
from growcore.growth.collecting import accumulation_dtype
from growcore.growth.conv import Conv2dGrowingModule
from growcore.growth.linear import LinearGrowingModule
from growcore.growth.links import GrowsReaders
from growcore.growth.module import GrowingModule
from growcore.growth.normalization import (
    apply_to_extension,
    check_growable,
    derivative_at_zero,
    grow_function,
    spatial_part,
)
from growcore.growth.patches import tap_outputs, tap_positions
from growcore.growth.statistic import TensorStatistic

_UNREGISTERED = frozenset(("previous_modules", "next_modules"))


class MergeGrowingModule(GrowsReaders):
    """A sum of modules' outputs and the function after it, able to grow.

    The caller adds: `merge(first(x) + second(x))`. Sizes below: p inputs of the previous modules together
    (biases included), o outputs of one next module, t taps by which it reads the merge, i its inputs.

    Args:
        post_merge_function: what follows the sum.
        previous_modules: growing modules whose outputs are added; they have no function of their own.
        next_modules: growing modules that read the result.
        name: what messages call it.
    """

    previous_modules: list[GrowingModule]
    next_modules: list[GrowingModule]

    def __init__(
        self,
        post_merge_function: nn.Module | None = None,
        previous_modules: list[GrowingModule] | None = None,
        next_modules: list[GrowingModule] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__()
        self.name = name if name is not None else type(self).__name__
        self.post_merge_function = nn.Identity() if post_merge_function is None else post_merge_function
        self.previous_modules, self.next_modules = [], []
        self._shape: torch.Size | None = None
        self.eigenvalues_extension: Tensor | None = None
        self.tensor_s_growth = TensorStatistic(
            None, self.compute_s_growth_update, name=f"S_growth of {self.name}"
        )
        self._m_prev: list[TensorStatistic] = []
        self._c: list[TensorStatistic] = []
        self._collecting = False
        self.set_previous_modules(previous_modules or [])
        self.set_next_modules(next_modules or [])

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _UNREGISTERED:
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def set_previous_modules(self, previous_modules: list[GrowingModule]) -> None:
        """Set the modules whose outputs are added.

        Raises:
            ValueError: a module of a kind, width or function that a merge cannot add.
        """
        for module in previous_modules:
            self._check_previous(module)
            if module.out_neurons != previous_modules[0].out_neurons:
                raise ValueError(
                    f"{self.name} adds outputs of one width; got {[m.out_neurons for m in previous_modules]}."
                )
        self.previous_modules = list(previous_modules)
        for module in previous_modules:
            module.next_module = self

    def set_next_modules(self, next_modules: list[GrowingModule]) -> None:
        """Set the modules that read the sum.

        Raises:
            ValueError: a module of a kind that cannot read this merge.
        """
        for module in next_modules:
            self._check_next(module)
        self.next_modules = list(next_modules)
        for module in next_modules:
            module.previous_module = self
        numbers = range(len(next_modules))
        self._m_prev = [
            TensorStatistic(None, partial(self._m_prev_update, j), name="M_prev") for j in numbers
        ]
        self._c = [TensorStatistic(None, partial(self._c_update, j), name="C") for j in numbers]

    def add_previous_module(self, module: GrowingModule) -> None:
        """Add one more module whose output is added."""
        self.set_previous_modules([*self.previous_modules, module])

    def add_next_module(self, module: GrowingModule) -> None:
        """Add one more module that reads the sum."""
        self.set_next_modules([*self.next_modules, module])

    def _check_previous(self, module: nn.Module) -> None:
        raise NotImplementedError

    def _check_next(self, module: nn.Module) -> None:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """The function of the sum x."""
        if self._collecting:
            self._shape = x.shape
            for statistic in self._statistics():
                statistic.updated = False
        return cast(Tensor, self.post_merge_function(x))

    def extended_forward(self, x: Tensor, x_ext: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The function of the sum, and of the sum of what the new neurons of the previous modules give."""
        supplement = None if x_ext is None else apply_to_extension(self.post_merge_function, x_ext)
        return self.post_merge_function(x), supplement

    def set_scaling_factor(self, factor: float) -> None:
        """Set gamma for every extension of the merge and the steps of the modules behind it."""
        shared = torch.tensor(float(factor), dtype=torch.float64, requires_grad=True)
        for module in self.previous_modules:
            module.share_scaling_factor(shared)
        for module in self.next_modules:
            module.share_scaling_factor(shared, of_input=True)

    def _statistics(self) -> list[TensorStatistic]:
        return [self.tensor_s_growth, *self._m_prev, *self._c]

    def init_computation(self) -> None:
        """Start gathering statistics here and in the modules behind."""
        if not self.previous_modules or not self.next_modules:
            raise ValueError(f"{self.name} grows between modules; set previous and next modules first.")
        for statistic in self._statistics():
            statistic.init()
        for module in self.next_modules:
            module.init_computation()
        if not self._collecting:
            self._collecting = True
            for module in self.previous_modules:
                module.read_by(1)

    @torch.no_grad()
    def update_computation(self) -> None:
        """Add the stored batch here and in the modules behind, once per forward pass."""
        if not self._collecting:
            raise ValueError(f"{self.name} is not gathering statistics. Call init_computation() first.")
        for module in self.next_modules:
            module.update_computation()
        with torch.autocast(self.previous_modules[0].device.type, enabled=False):
            for statistic in self._statistics():
                statistic.update()

    def reset_computation(self) -> None:
        """Stop gathering statistics and forget them."""
        for statistic in self._statistics():
            statistic.reset()
        for module in self.next_modules:
            module.reset_computation()
        if self._collecting:
            self._collecting = False
            for module in self.previous_modules:
                module.read_by(-1)

    def _columns(self) -> Tensor:
        """(N, p, positions): the stacked inputs of the previous modules at every point of the sum."""
        raise NotImplementedError

    def _reads(self, module: GrowingModule, columns: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Per tap of a next module: columns (N, p, L), gradient (N, o, L), own input (N, i, L)."""
        raise NotImplementedError

    def _omega_weight(self, module: GrowingModule, omega: Tensor) -> Tensor:
        """The solution (o * t, k) of one next module as its weight for the new inputs."""
        raise NotImplementedError

    def compute_s_growth_update(self) -> tuple[Tensor, int]:
        """Sum of b b^T over samples and points of the sum, (p, p), and the number of samples."""
        columns = self._columns()
        return torch.einsum("npl,nql->pq", columns, columns), columns.shape[0]

    def _m_prev_update(self, number: int) -> tuple[Tensor, int]:
        columns = self._columns()
        per_tap = [
            torch.einsum("npl,nol->po", source, goal)
            for source, goal, _ in self._reads(self.next_modules[number], columns)
        ]
        return torch.stack(per_tap, dim=2).flatten(1), columns.shape[0]

    def _c_update(self, number: int) -> tuple[Tensor, int]:
        columns = self._columns()
        per_tap = [
            torch.einsum("npl,nil->pi", source, own)
            for source, _, own in self._reads(self.next_modules[number], columns)
        ]
        return torch.stack(per_tap, dim=1), columns.shape[0]

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
        for module, omega in zip(
            self.next_modules, neurons.omega.split([goal.shape[1] for goal in goals]), strict=True
        ):
            weight = self._omega_weight(module, omega.to(module.weight.dtype))
            module.extended_input_layer = module.layer_of_tensor(weight, force_bias=False)

    def _spread_alpha(self, alpha: Tensor) -> None:
        sizes = [module.in_fan + int(module.use_bias) for module in self.previous_modules]
        for module, rows in zip(self.previous_modules, alpha.split(sizes, dim=1), strict=True):
            rows = rows.to(module.weight.dtype)
            weight, bias = (rows[:, :-1], rows[:, -1]) if module.use_bias else (rows, None)
            weight = weight.reshape(-1, *module.weight.shape[1:])
            module.extended_output_layer = module.layer_of_tensor(weight, bias)

    @property
    def first_order_improvement(self) -> Tensor:
        """First-order decrease of the loss by all steps and the new neurons, per unit gamma^2."""
        if self.eigenvalues_extension is None:
            raise ValueError(f"The improvement of {self.name} is not known. Call compute_optimal_updates().")
        slope = derivative_at_zero(self.post_merge_function)
        total = slope * self.eigenvalues_extension.square().sum()
        for module in self.next_modules:
            assert module.parameter_update_decrease is not None
            total = total + module.parameter_update_decrease
        return total

    def apply_change(self, scaling_factor: float | None = None) -> None:
        """Make all modules around compute what their extended_forward computes.

        Raises:
            ValueError: there is no extension, or what follows the sum cannot grow; nothing has changed then.
        """
        check_growable(self.post_merge_function)
        around = [m.extended_output_layer for m in self.previous_modules]
        around += [m.extended_input_layer for m in self.next_modules]
        if not around or any(layer is None for layer in around):
            raise ValueError(
                f"{self.name} has no new neurons to apply. Call compute_optimal_updates() first."
            )
        if scaling_factor is not None:
            self.set_scaling_factor(scaling_factor)
        gamma = float(self.next_modules[0].scaling_factor.detach())
        for module in self.next_modules:
            module.apply_change()
        for module in self.previous_modules:
            module.grow_output(gamma, None)
        first = self.previous_modules[0].extended_output_layer
        assert first is not None
        self.post_merge_function = grow_function(self.post_merge_function, first.weight.shape[0])

    def delete_update(self) -> None:
        """Forget the new neurons and the steps of the next modules."""
        self.eigenvalues_extension = None
        for module in self.previous_modules:
            module.extended_output_layer = None
        for module in self.next_modules:
            module.delete_update()
        self.set_scaling_factor(0.0)


class LinearMergeGrowingModule(MergeGrowingModule):
    """A sum of linear layers' outputs that linear layers read."""

    def _check_previous(self, module: nn.Module) -> None:
        if not isinstance(module, LinearGrowingModule):
            raise ValueError(f"{self.name} adds linear growing modules; got {type(module).__name__}.")

    def _check_next(self, module: nn.Module) -> None:
        if not isinstance(module, LinearGrowingModule):
            raise ValueError(f"{self.name} is read by linear growing modules; got {type(module).__name__}.")

    def _columns(self) -> Tensor:
        return torch.cat([_points(module.input_extended) for module in self.previous_modules], dim=1)

    def _reads(self, module: GrowingModule, columns: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        yield columns, _points(module.pre_activity_gradient), _points(module.input_extended)

    def _omega_weight(self, module: GrowingModule, omega: Tensor) -> Tensor:
        return omega


class Conv2dMergeGrowingModule(MergeGrowingModule):
    """A sum of convolutions' outputs that convolutions read, or linear layers after it is flattened.

    The post_merge_function may pool by averages and flatten for linear readers; a new channel is then read
    by one weight per remaining position. S_growth is summed over the whole map of the sum.
    """

    def _check_previous(self, module: nn.Module) -> None:
        if not isinstance(module, Conv2dGrowingModule) or module.layer.groups != 1:
            raise ValueError(
                f"{self.name} adds growing convolutions with groups=1; got {type(module).__name__}. A skip "
                f"without weights cannot gain channels: give it a 1 x 1 convolution, or grow inside blocks."
            )

    def _check_next(self, module: nn.Module) -> None:
        if not isinstance(module, Conv2dGrowingModule | LinearGrowingModule):
            raise ValueError(f"{self.name} is read by growing modules; got {type(module).__name__}.")
        if isinstance(module, Conv2dGrowingModule) and module.layer.groups != 1:
            raise ValueError(
                f"Growth is defined for groups=1; {module.name} has groups={module.layer.groups}."
            )

    def _columns(self) -> Tensor:
        return torch.cat([module.input_extended for module in self.previous_modules], dim=1)

    def _reads(self, module: GrowingModule, columns: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        assert self._shape is not None
        maps = columns.unflatten(2, self._shape[2:])
        if isinstance(module, Conv2dGrowingModule):
            yield from self._reads_of_convolution(module, maps)
            return
        goal, own = (_points(t) for t in (module.pre_activity_gradient, module.input_extended))
        pooled = spatial_part(self.post_merge_function, maps)
        for position in range(pooled.shape[2]):
            yield pooled[:, :, position : position + 1], goal, own

    def _reads_of_convolution(
        self, module: Conv2dGrowingModule, maps: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        size = maps.shape[2], maps.shape[3]
        own = module.input_extended.unflatten(2, module.pre_activity.shape[2:])
        goal = module.pre_activity_gradient.to(maps.dtype)
        for tap in module.taps():
            rows, columns = tap_positions(module.layer, size, tap)
            source = maps[
                :, :, rows.start : rows.stop : rows.step, columns.start : columns.stop : columns.step
            ]
            out_rows, out_columns = tap_outputs(module.layer, size, tap)
            seen = slice(out_rows.start, out_rows.stop), slice(out_columns.start, out_columns.stop)
            yield source.flatten(2), goal[:, :, *seen].flatten(2), own[:, :, *seen].flatten(2)

    def _omega_weight(self, module: GrowingModule, omega: Tensor) -> Tensor:
        if not isinstance(module, LinearGrowingModule):
            return module.omega_kernel(omega)
        per_position = omega.unflatten(0, (module.out_features, -1))  # o positions k
        channels_first: Tensor = per_position.transpose(1, 2).flatten(1)  # as flattening orders them
        return channels_first


def _points(x: Tensor) -> Tensor:
    """(N, ..., features) as (N, features, positions), in accumulation precision."""
    return x.reshape(x.shape[0], -1, x.shape[-1]).transpose(1, 2).to(accumulation_dtype(x))
