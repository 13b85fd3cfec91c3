"""How readers see a sum of outputs: as rows, as maps, or as maps that were pooled and flattened.

Sizes: N samples, p inputs of the summed layers together (biases included), o outputs of one reader, t taps by
which it reads the sum, i its inputs, L positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from growcore.growth.geometry.conv import ConvGeometry
from growcore.growth.module import GrowingModule
from growcore.growth.normalization import spatial_part
from growcore.growth.statistics.patches import tap_outputs, tap_positions
from growcore.growth.statistics.rows import as_points

if TYPE_CHECKING:
    from growcore.growth.merge import MergeGrowingModule

Read = tuple[Tensor, Tensor, Tensor]  # columns (N, p, L), gradient (N, o, L), own input (N, i, L)


class MergeGeometry:
    """What a kind of merge has to say to grow; a geometry keeps nothing."""

    def check_previous(self, name: str, module: nn.Module) -> None:
        """Raise a ValueError where a merge of that name cannot add the module's output."""
        raise NotImplementedError

    def check_next(self, name: str, module: nn.Module) -> None:
        """Raise a ValueError where the module cannot read a merge of that name."""
        raise NotImplementedError

    def columns(self, producers: list[GrowingModule]) -> Tensor:
        """(N, p, positions): the stacked inputs of the summed modules at every point of the sum."""
        raise NotImplementedError

    def reads(self, merge: MergeGrowingModule, reader: GrowingModule, columns: Tensor) -> Iterator[Read]:
        """What each tap of a reader sees at the points where it reads."""
        raise NotImplementedError

    def omega_kernel(self, reader: GrowingModule, omega: Tensor) -> Tensor:
        """The solution (o * t, k) of one reader as its weight for the new inputs."""
        raise NotImplementedError

    def columns_per_neuron(self, merge: MergeGrowingModule, reader: GrowingModule) -> int:
        """Indices of the second dimension of a reader's weight that belong to one neuron of the sum."""
        return 1


class LinearMergeGeometry(MergeGeometry):
    """A sum of linear layers' outputs that linear layers read."""

    def check_previous(self, name: str, module: nn.Module) -> None:
        """Raise a ValueError unless the module is a growing linear layer."""
        if not isinstance(_layer(module), nn.Linear):
            raise ValueError(f"{name} adds linear growing modules; got {type(module).__name__}.")

    def check_next(self, name: str, module: nn.Module) -> None:
        """Raise a ValueError unless the module is a growing linear layer."""
        if not isinstance(_layer(module), nn.Linear):
            raise ValueError(f"{name} is read by linear growing modules; got {type(module).__name__}.")

    def columns(self, producers: list[GrowingModule]) -> Tensor:
        """(N, p, positions): the stacked inputs of the summed layers."""
        return torch.cat([as_points(module.input_extended) for module in producers], dim=1)

    def reads(self, merge: MergeGrowingModule, reader: GrowingModule, columns: Tensor) -> Iterator[Read]:
        """All positions at once."""
        yield columns, as_points(reader.pre_activity_gradient), as_points(reader.input_extended)

    def omega_kernel(self, reader: GrowingModule, omega: Tensor) -> Tensor:
        """The weight is omega (o, k) itself."""
        return omega


class ConvMergeGeometry(MergeGeometry):
    """A sum of convolutions' outputs that convolutions read, or linear layers after it is flattened.

    Behind a sum that is pooled by averages and flattened a new channel is read by one weight per remaining
    position. S_growth is summed over the whole map of the sum.
    """

    def check_previous(self, name: str, module: nn.Module) -> None:
        """Raise a ValueError unless the module is a growing convolution without groups."""
        layer = _layer(module)
        if not isinstance(layer, nn.Conv2d) or layer.groups != 1:
            raise ValueError(
                f"{name} adds growing convolutions with groups=1; got {type(module).__name__}. A skip "
                f"without weights cannot gain channels: give it a 1 x 1 convolution, or grow inside blocks."
            )

    def check_next(self, name: str, module: nn.Module) -> None:
        """Raise a ValueError unless the module is a growing layer, without groups."""
        layer = _layer(module)
        if layer is None:
            raise ValueError(f"{name} is read by growing modules; got {type(module).__name__}.")
        if isinstance(layer, nn.Conv2d) and layer.groups != 1:
            raise ValueError(f"Growth is defined for groups=1; {module.name} has groups={layer.groups}.")

    def columns(self, producers: list[GrowingModule]) -> Tensor:
        """(N, p, positions): the unfolded inputs of the summed convolutions."""
        return torch.cat([module.input_extended for module in producers], dim=1)

    def reads(self, merge: MergeGrowingModule, reader: GrowingModule, columns: Tensor) -> Iterator[Read]:
        """Per tap of a convolution, per position that a linear layer reads.

        Raises:
            ValueError: the functions of the summed layers pool.
        """
        size = merge.gathered.size
        if columns.shape[2] != size.numel():
            raise ValueError(
                f"The modules before {merge.name} make {columns.shape[2]} points and the sum has "
                f"{tuple(size)}: their own functions may not pool. Pool by averages in the "
                f"post_merge_function."
            )
        maps = columns.unflatten(2, size)
        if isinstance(reader.layer, nn.Conv2d):
            yield from _reads_of_convolution(reader, reader.layer, maps)
            return
        goal, own = (as_points(t) for t in (reader.pre_activity_gradient, reader.input_extended))
        pooled = spatial_part(merge.post_merge_function, maps)
        for position in range(pooled.shape[2]):
            yield pooled[:, :, position : position + 1], goal, own

    def omega_kernel(self, reader: GrowingModule, omega: Tensor) -> Tensor:
        """The solution as a kernel, or as a linear layer's columns, channels first as flattening orders."""
        if isinstance(reader.layer, nn.Conv2d):
            return reader.omega_kernel(omega)
        per_position = omega.unflatten(0, (reader.out_neurons, -1))  # o positions k
        channels_first: Tensor = per_position.transpose(1, 2).flatten(1)
        return channels_first

    def columns_per_neuron(self, merge: MergeGrowingModule, reader: GrowingModule) -> int:
        """Indices of the second dimension of a reader's weight that belong to one channel of the sum.

        Raises:
            ValueError: a linear reader of a sum without channels: the number of its positions is not known.
        """
        if not isinstance(reader.layer, nn.Linear):
            return 1
        if merge.in_neurons == 0:
            raise ValueError(
                f"{reader.name} reads the flattened {merge.name}, which has no channels: how many positions "
                f"a new one has cannot be told. Start with at least one channel."
            )
        return reader.in_neurons // merge.in_neurons


def _reads_of_convolution(reader: GrowingModule, layer: nn.Conv2d, maps: Tensor) -> Iterator[Read]:
    geometry, size = reader.geometry, (maps.shape[2], maps.shape[3])
    assert isinstance(geometry, ConvGeometry)
    goal = reader.pre_activity_gradient.to(maps.dtype)
    own = reader.input_extended.unflatten(2, goal.shape[2:])
    for tap in geometry.taps(layer):
        rows, columns = (slice(r.start, r.stop, r.step) for r in tap_positions(layer, size, tap))
        seen = [slice(r.start, r.stop) for r in tap_outputs(layer, size, tap)]
        yield maps[:, :, rows, columns].flatten(2), goal[:, :, *seen].flatten(2), own[:, :, *seen].flatten(2)


def _layer(module: nn.Module) -> nn.Module | None:
    """The layer of a growing module, None of another module."""
    return module.layer if isinstance(module, GrowingModule) else None
