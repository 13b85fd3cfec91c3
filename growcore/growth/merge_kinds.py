"""Merges of linear layers and of convolutions."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from growcore.growth.collecting import accumulation_dtype
from growcore.growth.conv import Conv2dGrowingModule
from growcore.growth.linear import LinearGrowingModule
from growcore.growth.merge import MergeGrowingModule
from growcore.growth.module import GrowingModule
from growcore.growth.normalization import spatial_part
from growcore.growth.patches import tap_outputs, tap_positions


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
        if columns.shape[2] != self._shape[2:].numel():
            raise ValueError(
                f"The modules before {self.name} make {columns.shape[2]} points and the sum has "
                f"{tuple(self._shape[2:])}: their own functions may not pool. Pool by averages in the "
                f"post_merge_function."
            )
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

    def columns_per_neuron(self, reader: GrowingModule) -> int:
        """Indices of the second dimension of a reader's weight that belong to one channel of the sum.

        Raises:
            ValueError: a linear reader of a sum without channels: the number of its positions is not known.
        """
        if not isinstance(reader, LinearGrowingModule):
            return 1
        if self.in_neurons == 0:
            raise ValueError(
                f"{reader.name} reads the flattened {self.name}, which has no channels: how many positions "
                f"a new one has cannot be told. Start with at least one channel."
            )
        return reader.in_neurons // self.in_neurons

    def _omega_weight(self, module: GrowingModule, omega: Tensor) -> Tensor:
        if not isinstance(module, LinearGrowingModule):
            return module.omega_kernel(omega)
        per_position = omega.unflatten(0, (module.out_features, -1))  # o positions k
        channels_first: Tensor = per_position.transpose(1, 2).flatten(1)  # as flattening orders them
        return channels_first


def _points(x: Tensor) -> Tensor:
    """(N, ..., features) as (N, features, positions), in accumulation precision."""
    return x.reshape(x.shape[0], -1, x.shape[-1]).transpose(1, 2).to(accumulation_dtype(x))
