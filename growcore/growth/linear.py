"""LinearGrowingModule: fully connected layers that grow."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from growcore.growth.collecting import accumulation_dtype
from growcore.growth.module import GrowingModule
from growcore.growth.resizing import replace_parameters


class LinearGrowingModule(GrowingModule):
    """A growing nn.Linear; positions of a sequence (N, T, features) are summed, samples are counted.

    Args:
        in_features: size of each input.
        out_features: size of each output.
        use_bias: whether the layer has a bias.
        layer: an nn.Linear (or subclass) of these sizes to use instead of a new one.

    The other arguments are those of GrowingModule; target and initial widths count input features.
    """

    layer: nn.Linear

    def __init__(
        self,
        in_features: int,
        out_features: int,
        use_bias: bool = True,
        post_layer_function: nn.Module | None = None,
        extended_post_layer_function: nn.Module | None = None,
        previous_module: nn.Module | None = None,
        next_module: nn.Module | None = None,
        allow_growing: bool = False,
        device: torch.device | None = None,
        name: str | None = None,
        target_in_features: int | None = None,
        initial_in_features: int | None = None,
        layer: nn.Linear | None = None,
    ) -> None:
        if layer is None:
            layer = _new_layer(in_features, out_features, use_bias, device)
        expected = (in_features, out_features, use_bias)
        if (layer.in_features, layer.out_features, layer.bias is not None) != expected:
            raise ValueError(f"layer must have (in, out, bias) = {expected}; got {layer}.")
        super().__init__(
            layer,
            post_layer_function=post_layer_function,
            extended_post_layer_function=extended_post_layer_function,
            allow_growing=allow_growing,
            previous_module=previous_module,
            next_module=next_module,
            device=device,
            name=name,
            target_in_neurons=target_in_features,
            initial_in_neurons=initial_in_features,
        )

    @property
    def in_features(self) -> int:
        """Size of each input."""
        return self.layer.in_features

    @property
    def out_features(self) -> int:
        """Size of each output."""
        return self.layer.out_features

    def check_pair(self) -> None:
        """Raise a ValueError where the previous module and this one cannot share new neurons."""
        previous = self.require_previous()
        if not isinstance(previous, LinearGrowingModule) or previous.out_features != self.in_features:
            raise ValueError(
                f"A linear layer grows behind a linear layer of as many outputs as it has inputs "
                f"({self.in_features}); got {previous.name}, a {type(previous).__name__} of "
                f"{previous.weight.shape[0]} outputs."
            )

    def check_extension_sizes(self, output_size: int, input_size: int) -> None:
        """Raise a ValueError where so many new outputs before do not make so many new inputs here.

        Behind a flattened convolution every channel makes one input per position of its map.
        """
        before = self.require_previous().weight
        if before.ndim == 2:
            super().check_extension_sizes(output_size, input_size)
            return
        channels = before.shape[0]
        num_positions = self.in_features // max(channels, 1)
        if channels * num_positions != self.in_features or input_size != output_size * num_positions:
            raise ValueError(
                f"{self.name} reads {self.in_features} inputs of {channels} flattened channels, so "
                f"input_extension_size must be {num_positions} times output_extension_size; got "
                f"output_extension_size={output_size}, input_extension_size={input_size}."
            )

    @property
    def input_extended(self) -> Tensor:
        """(N, ..., in + 1) the stored input with ones at the end; (N, ..., in) without a bias."""
        if not self.use_bias:
            return self.input
        return torch.cat([self.input, self.input.new_ones(*self.input.shape[:-1], 1)], dim=-1)

    def _rows(self) -> Tensor:
        """The input with one row per sample and position."""
        return _as_rows(self.input)

    def _goal_rows(self, desired_activation: Tensor | None) -> Tensor:
        return _as_rows(self.pre_activity_gradient if desired_activation is None else desired_activation)

    def compute_s_update(self) -> tuple[Tensor, int]:
        """Sum of b b^T, (in+1, in+1), and the number of samples."""
        rows = self._rows()
        return _product(rows, rows, self.use_bias, self.use_bias), self.input.shape[0]

    def compute_m_update(self, desired_activation: Tensor | None = None) -> tuple[Tensor, int]:
        """Sum of b g^T, (in+1, out), and the number of samples."""
        goal = self._goal_rows(desired_activation)
        return _product(self._rows(), goal, self.use_bias, False), self.input.shape[0]

    def _previous_rows(self) -> tuple[Tensor, bool]:
        previous = self.require_previous()
        assert isinstance(previous, LinearGrowingModule)
        return previous._rows(), previous.use_bias

    def compute_m_prev_update(self, desired_activation: Tensor | None = None) -> tuple[Tensor, int]:
        """Sum of b(-2) g^T, (in_prev+1, out), and the number of samples."""
        before, with_ones = self._previous_rows()
        return _product(before, self._goal_rows(desired_activation), with_ones, False), self.input.shape[0]

    def compute_cross_covariance_update(self) -> tuple[Tensor, int]:
        """Sum of b(-2) b(-1)^T, (in_prev+1, in+1), and the number of samples."""
        before, with_ones = self._previous_rows()
        return _product(before, self._rows(), with_ones, self.use_bias), self.input.shape[0]

    def compute_growth_mean_update(self) -> tuple[Tensor, int]:
        """Sum of b(-2) with 1 appended, (in_prev+1,), and the number of samples."""
        before, _ = self._previous_rows()
        return torch.cat([before.sum(0), before.new_tensor([before.shape[0]])]), self.input.shape[0]

    def projected_v_goal(self, input_vector: Tensor) -> Tensor:
        """The rest g - delta b for inputs b of shape (N, ..., in)."""
        if self.optimal_delta_layer is None:
            raise ValueError(f"{self.name} has no optimal delta. Call compute_optimal_delta() first.")
        return self.pre_activity_gradient - cast(Tensor, self.optimal_delta_layer(input_vector)).detach()

    def omega_kernel(self, omega: Tensor) -> Tensor:
        """The weight is omega (out, k) itself."""
        return omega

    def layer_of_tensor(
        self, weight: Tensor, bias: Tensor | None = None, force_bias: bool = True
    ) -> nn.Linear:
        """An nn.Linear with copies of weight (out, in) and bias (out,)."""
        check_bias(self, bias, force_bias)
        # On the meta device no random numbers are drawn for weights that are replaced at once.
        layer = nn.Linear(1, 1, bias=bias is not None, device="meta")
        replace_parameters(layer, weight.detach().clone(), None if bias is None else bias.detach().clone())
        return layer

    def update_input_size(
        self,
        input_size: tuple[int, ...] | None = None,
        compute_from_previous: bool = False,
        force_update: bool = True,
    ) -> tuple[int, ...] | None:
        """(in_features,): a linear layer fixes its input size."""
        return (self.in_features,)


def check_bias(module: GrowingModule, bias: Tensor | None, force_bias: bool) -> None:
    """Raise a ValueError where force_bias is set and only one of bias and the module's bias is there."""
    if force_bias and (bias is not None) != module.use_bias:
        raise ValueError(
            f"A layer like that of {module.name} has a bias exactly if it does; got bias "
            f"{'given' if bias is not None else 'None'}, use_bias={module.use_bias}. "
            f"Pass force_bias=False to leave it out."
        )


def _new_layer(in_features: int, out_features: int, use_bias: bool, device: torch.device | None) -> nn.Linear:
    if in_features and out_features:
        return nn.Linear(in_features, out_features, bias=use_bias, device=device)
    # torch warns when it initialises a layer without neurons.
    layer = nn.Linear(1, 1, bias=use_bias, device=device)
    weight = layer.weight.new_zeros(out_features, in_features)
    replace_parameters(layer, weight, layer.weight.new_zeros(out_features) if use_bias else None)
    return layer


def _as_rows(x: Tensor) -> Tensor:
    return x.flatten(0, -2).to(accumulation_dtype(x))


def _product(left: Tensor, right: Tensor, left_ones: bool, right_ones: bool) -> Tensor:
    """left^T right with a column of ones appended to either side; the ones are not written out."""
    m, n = left.shape[1], right.shape[1]
    total = left.new_empty(m + int(left_ones), n + int(right_ones))
    if left is right:
        _gram_into(total[:m, :m], left)
    else:
        torch.mm(left.T, right, out=total[:m, :n])
    if left_ones:
        total[-1, :n] = right.sum(0)
    if right_ones:
        total[:m, -1] = left.sum(0)
    if left_ones and right_ones:
        total[-1, -1] = left.shape[0]
    return total


def _gram_into(total: Tensor, rows: Tensor) -> None:
    """rows^T rows; of the two blocks off the diagonal one is computed and the other copied."""
    half = rows.shape[1] // 2
    first, second = rows[:, :half], rows[:, half:]
    torch.mm(first.T, rows, out=total[:half])
    torch.mm(second.T, second, out=total[half:, half:])
    total[half:, :half] = total[:half, half:].T
