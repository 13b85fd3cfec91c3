"""Convolutions that grow.

RestrictedConv2dGrowingModule connects new channels by the centre tap of its kernel only, so that a new
channel acts like a neuron between two fully connected layers, position by position.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from growcore.growth.gram import cross_gram, gram, weighted_gram
from growcore.growth.linear import check_bias
from growcore.growth.module import GrowingModule
from growcore.growth.patches import (
    Patches,
    column_sums,
    hits,
    output_size,
    patches_of,
    tap_outputs,
    tap_positions,
    turned_patches,
    weight_correlation,
)
from growcore.growth.resizing import replace_parameters
from growcore.growth.statistic import TensorStatistic


class Conv2dGrowingModule(GrowingModule):
    """A growing nn.Conv2d; what new channels are solved for is left to its two kinds.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side or sides of the kernel.
        stride: step between positions.
        padding: number, pair or 'same' / 'valid'.
        dilation: step between taps.
        input_size: height and width of the input map, where it is known beforehand.
        use_bias: whether the layer has a bias.
        layer: an nn.Conv2d (or subclass) of this geometry to use instead of a new one.

    The other arguments are those of GrowingModule; target and initial widths count input channels.
    """

    layer: nn.Conv2d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        input_size: tuple[int, int] | None = None,
        use_bias: bool = True,
        post_layer_function: nn.Module | None = None,
        extended_post_layer_function: nn.Module | None = None,
        previous_module: nn.Module | None = None,
        next_module: nn.Module | None = None,
        allow_growing: bool = False,
        device: torch.device | None = None,
        name: str | None = None,
        target_in_channels: int | None = None,
        initial_in_channels: int | None = None,
        layer: nn.Conv2d | None = None,
    ) -> None:
        plain = nn.Conv2d(
            max(in_channels, 1), max(out_channels, 1), kernel_size, stride, padding, dilation, bias=use_bias,
            device=device if layer is None else "meta",
        )  # fmt: skip
        if in_channels == 0 or out_channels == 0:
            # torch warns when it initialises a layer without channels.
            weight = plain.weight.new_zeros(out_channels, in_channels, *plain.kernel_size)
            replace_parameters(plain, weight, weight.new_zeros(out_channels) if use_bias else None)
        if layer is not None and _geometry(layer) != _geometry(plain):
            raise ValueError(f"layer must have the geometry of {plain}; got {layer}.")
        super().__init__(
            plain if layer is None else layer,
            post_layer_function=post_layer_function,
            extended_post_layer_function=extended_post_layer_function,
            allow_growing=allow_growing,
            previous_module=previous_module,
            next_module=next_module,
            device=device,
            name=name,
            target_in_neurons=target_in_channels,
            initial_in_neurons=initial_in_channels,
        )
        self.input_size = input_size

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        return self.layer.in_channels

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return self.layer.out_channels

    @property
    def in_features(self) -> int:
        """Inputs of one output position: channels times taps."""
        return self.in_fan

    @property
    def out_features(self) -> int:
        """Channels of the output."""
        return self.layer.out_channels

    @property
    def kernel_size(self) -> tuple[int, int]:
        """Height and width of the kernel."""
        return self.layer.kernel_size[0], self.layer.kernel_size[1]

    @property
    def stride(self) -> tuple[int, int]:
        """Step between positions."""
        return self.layer.stride[0], self.layer.stride[1]

    @property
    def dilation(self) -> tuple[int, int]:
        """Step between taps."""
        return self.layer.dilation[0], self.layer.dilation[1]

    @property
    def padding(self) -> tuple[int, int] | str:
        """Padding of the layer."""
        padding = self.layer.padding
        return padding if isinstance(padding, str) else (padding[0], padding[1])

    def check_pair(self) -> None:
        """Raise a ValueError where the previous module and this one cannot share new channels."""
        previous = self.require_previous()
        if not isinstance(previous, Conv2dGrowingModule) or previous.out_channels != self.in_channels:
            raise ValueError(
                f"A convolution grows behind a convolution of as many output channels as it has input "
                f"channels ({self.in_channels}); got {previous.name}, a {type(previous).__name__} of "
                f"{previous.weight.shape[0]} outputs."
            )
        for module in (previous, self):
            if module.layer.groups != 1:
                raise ValueError(
                    f"Growth is defined for groups=1, where a new channel meets every other; "
                    f"{module.name} has groups={module.layer.groups}. Leave it out of growth."
                )

    def previous_conv(self) -> Conv2dGrowingModule:
        """The previous module, with the map it makes checked to be the map this one reads.

        Raises:
            ValueError: something between the two, such as pooling, has changed the grid.
        """
        previous = self.require_previous()
        assert isinstance(previous, Conv2dGrowingModule)
        made = output_size(previous.layer, _size(previous.input))
        if made != _size(self.input):
            raise ValueError(
                f"A pair of layers that grows shares a grid: {previous.name} makes a {made} map, "
                f"{self.name} reads {_size(self.input)}. Downsample by stride, or pool outside the pair."
            )
        return previous

    def taps(self) -> list[tuple[int, int]]:
        """The taps of the kernel that read new channels."""
        raise NotImplementedError

    def patches(self) -> Patches:
        """What the layer reads of the stored input."""
        return patches_of(self.layer, self.input)

    def _goal(self, desired_activation: Tensor | None) -> Tensor:
        return self.pre_activity_gradient if desired_activation is None else desired_activation

    @property
    def input_extended(self) -> Tensor:
        """(N, C*K*L + 1, positions) the unfolded input with a row of ones; without it if there is no bias."""
        columns = self.patches().columns()
        if not self.use_bias:
            return columns
        return torch.cat([columns, columns.new_ones(columns.shape[0], 1, columns.shape[2])], dim=1)

    def compute_s_update(self) -> tuple[Tensor, int]:
        """Sum of b b^T over samples and positions, (C*K*L + 1, C*K*L + 1), and the number of samples."""
        return gram(self.patches(), self.use_bias), self.input.shape[0]

    def compute_m_update(self, desired_activation: Tensor | None = None) -> tuple[Tensor, int]:
        """Sum of b g^T over samples and positions, (C*K*L + 1, O), and the number of samples."""
        goal = self._goal(desired_activation)
        return weight_correlation(self.patches(), goal, self.use_bias), self.input.shape[0]

    def projected_v_goal(self, input_vector: Tensor) -> Tensor:
        """The rest g - delta b for inputs b of shape (N, C, H, W)."""
        if self.optimal_delta_layer is None:
            raise ValueError(f"{self.name} has no optimal delta. Call compute_optimal_delta() first.")
        return self.pre_activity_gradient - cast(Tensor, self.optimal_delta_layer(input_vector)).detach()

    def layer_of_tensor(
        self, weight: Tensor, bias: Tensor | None = None, force_bias: bool = True
    ) -> nn.Conv2d:
        """An nn.Conv2d of this geometry with copies of weight (out, in, kh, kw) and bias (out,)."""
        check_bias(self, bias, force_bias)
        layer = nn.Conv2d(
            1, 1, self.kernel_size, self.stride, self.padding, self.dilation,
            bias=bias is not None, padding_mode=self.layer.padding_mode, device="meta",
        )  # fmt: skip
        replace_parameters(layer, weight.detach().clone(), None if bias is None else bias.detach().clone())
        return layer

    def update_input_size(
        self,
        input_size: tuple[int, ...] | None = None,
        compute_from_previous: bool = False,
        force_update: bool = True,
    ) -> tuple[int, int] | None:
        """Set and return height and width of the input map.

        Args:
            input_size: the size; None: from the previous module or the stored input.
            compute_from_previous: take it from the previous module's input size.
            force_update: replace a size that is known already.

        Returns:
            the size, or None where nothing is known.
        """
        if self.input_size is not None and not force_update:
            return self.input_size
        if input_size is not None:
            self.input_size = (input_size[0], input_size[1])
        elif compute_from_previous and isinstance(self.previous_module, Conv2dGrowingModule):
            before = self.previous_module.update_input_size()
            if before is not None:
                self.input_size = output_size(self.previous_module.layer, before)
        elif self._input is not None:
            self.input_size = _size(self._input)
        return self.input_size


class _PairedConv2dGrowingModule(Conv2dGrowingModule):
    """What the two kinds share: an S_growth of their own, because they see the previous map differently."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tensor_s_growth = self._statistic("S_growth", self.compute_s_growth_update)

    @property
    def tensor_s_growth(self) -> TensorStatistic:
        """Second moment of the previous layer's input as often as new channels are read."""
        return self._tensor_s_growth

    def statistics(self) -> Iterator[TensorStatistic]:
        """The statistics that a forward pass of this module opens for one more update."""
        yield from super().statistics()
        yield self._tensor_s_growth

    def compute_s_growth_update(self) -> tuple[Tensor, int]:
        """Sum of b(-2) b(-2)^T over the stored batch, and its number of samples."""
        raise NotImplementedError

    def _previous_at(self, tap: tuple[int, int]) -> Patches:
        """What the previous layer reads where it makes what the tap of this layer reads, within the map."""
        previous = self.previous_conv()
        rows, columns = tap_positions(self.layer, _size(self.input), tap)
        return patches_of(previous.layer, previous.input).at(rows, columns)

    def _own_at(self, tap: tuple[int, int]) -> Patches:
        """What this layer reads at the positions where the tap is within the map."""
        return self.patches().at(*tap_outputs(self.layer, _size(self.input), tap))

    def _goal_at(self, tap: tuple[int, int], desired_activation: Tensor | None) -> Tensor:
        rows, columns = tap_outputs(self.layer, _size(self.input), tap)
        goal = self._goal(desired_activation)
        return goal[:, :, rows.start : rows.stop, columns.start : columns.stop]


class RestrictedConv2dGrowingModule(_PairedConv2dGrowingModule):
    """A convolution that reads new channels by the centre tap of its kernel.

    Centres that fall outside the previous map contribute nothing, bias included. S_growth is gathered at
    the centres; it is the previous layer's S only where the centres are the whole map.
    """

    @property
    def _centre(self) -> tuple[int, int]:
        return self.kernel_size[0] // 2, self.kernel_size[1] // 2

    def taps(self) -> list[tuple[int, int]]:
        """The centre."""
        return [self._centre]

    def check_pair(self) -> None:
        """Raise a ValueError where the previous module and this one cannot share new channels."""
        super().check_pair()
        if any(side % 2 == 0 for side in self.kernel_size):
            raise ValueError(
                f"New channels are read by the centre of the kernel, so its sides must be odd; "
                f"{self.name} has kernel_size={self.kernel_size}."
            )

    def compute_s_growth_update(self) -> tuple[Tensor, int]:
        """Sum of b(-2) b(-2)^T over samples and centres, and the number of samples."""
        return gram(self._previous_at(self._centre), self.require_previous().use_bias), self.input.shape[0]

    def compute_m_prev_update(self, desired_activation: Tensor | None = None) -> tuple[Tensor, int]:
        """Sum of b(-2) g^T over samples and centres, (C_prev*K*L + 1, O), and the number of samples."""
        goal = self._goal_at(self._centre, desired_activation)
        update = weight_correlation(self._previous_at(self._centre), goal, self.require_previous().use_bias)
        return update, self.input.shape[0]

    def compute_cross_covariance_update(self) -> tuple[Tensor, int]:
        """Sum of b(-2) b(-1)^T over samples and centres, and the number of samples."""
        left, right = self._previous_at(self._centre), self._own_at(self._centre)
        return cross_gram(left, right, self.require_previous().use_bias, self.use_bias), self.input.shape[0]

    def compute_growth_mean_update(self) -> tuple[Tensor, int]:
        """Sum of b(-2) with 1 appended over samples and centres, and the number of samples."""
        return column_sums(self._previous_at(self._centre)), self.input.shape[0]

    def omega_kernel(self, omega: Tensor) -> Tensor:
        """A kernel that is omega (out, k) at the centre and zero elsewhere."""
        kernel = omega.new_zeros(*omega.shape, *self.kernel_size)
        kernel[:, :, self._centre[0], self._centre[1]] = omega
        return kernel


class FullConv2dGrowingModule(_PairedConv2dGrowingModule):
    """A convolution that reads new channels by every tap of its kernel.

    S_growth sums over all pairs of a position and a tap that reads within the previous map; M_prev is
    (C_prev*K*L + 1, O * taps), C is (C_prev*K*L + 1, taps, C*K*L + 1).
    """

    def check_pair(self) -> None:
        """Raise a ValueError where the previous module and this one cannot share new channels."""
        super().check_pair()
        if self.layer.padding_mode != "zeros":
            raise ValueError(
                f"New channels are padded by zeros; {self.name} has "
                f"padding_mode={self.layer.padding_mode!r}. Use padding_mode='zeros'."
            )

    def taps(self) -> list[tuple[int, int]]:
        """Every tap, row by row."""
        return [(i, j) for i in range(self.kernel_size[0]) for j in range(self.kernel_size[1])]

    def compute_s_growth_update(self) -> tuple[Tensor, int]:
        """Sum of b(-2) b(-2)^T over samples, positions and taps, and the number of samples."""
        previous = self.previous_conv()
        rows, columns = hits(self.layer, _size(self.input))
        update = weighted_gram(previous.patches(), rows, columns, previous.use_bias)
        return update, self.input.shape[0]

    def compute_m_prev_update(self, desired_activation: Tensor | None = None) -> tuple[Tensor, int]:
        """Sum of b(-2) g^T for every tap, (C_prev*K*L + 1, O * taps), and the number of samples."""
        previous, goal = self.previous_conv(), self._goal(desired_activation)
        if self.stride == (1, 1):
            # Seen from the previous map, its points read the goal by the kernel turned around.
            turned = turned_patches(self.layer, goal, _size(self.input))
            update = cross_gram(previous.patches(), turned, previous.use_bias, False)
            shape = (-1, self.out_channels, *self.kernel_size)
            return update.reshape(shape).flip(2, 3).flatten(1), self.input.shape[0]
        per_tap = [
            weight_correlation(self._previous_at(tap), self._goal_at(tap, goal), previous.use_bias)
            for tap in self.taps()
        ]
        return torch.stack(per_tap, dim=2).flatten(1), self.input.shape[0]

    def compute_cross_covariance_update(self) -> tuple[Tensor, int]:
        """Sum of b(-2) b(-1)^T per tap, (C_prev*K*L + 1, taps, C*K*L + 1), and the number of samples."""
        with_ones = self.require_previous().use_bias
        per_tap = [
            cross_gram(self._previous_at(tap), self._own_at(tap), with_ones, self.use_bias)
            for tap in self.taps()
        ]
        return torch.stack(per_tap, dim=1), self.input.shape[0]

    def compute_growth_mean_update(self) -> tuple[Tensor, int]:
        """Sum of b(-2) with 1 appended over samples, positions and taps, and the number of samples."""
        sums = torch.stack([column_sums(self._previous_at(tap)) for tap in self.taps()]).sum(0)
        return sums, self.input.shape[0]

    def _project_cross_covariance(self, delta: Tensor) -> Tensor:
        return torch.einsum("pti,oi->pot", self.cross_covariance(), delta).flatten(1)

    def omega_kernel(self, omega: Tensor) -> Tensor:
        """The solution (out * taps, k) as a kernel (out, k, kh, kw)."""
        return omega.reshape(self.out_channels, *self.kernel_size, -1).permute(0, 3, 1, 2)

    def omega_of_solution(self, omega: Tensor) -> Tensor:
        """(out, k, kh, kw), as it is applied."""
        return self.omega_kernel(omega)


def _size(x_NCHW: Tensor) -> tuple[int, int]:
    return x_NCHW.shape[2], x_NCHW.shape[3]


def _geometry(layer: nn.Conv2d) -> tuple[object, ...]:
    window = (tuple(layer.kernel_size), tuple(layer.stride), tuple(layer.dilation))
    return (layer.in_channels, layer.out_channels, window, layer.padding, layer.bias is not None)
