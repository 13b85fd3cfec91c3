"""The part of a growing module that gathers statistics.

S = 1/n sum b b^T, M = 1/n sum b g^T, M_prev and C the same with the input of the previous layer on the left;
b is extended by 1 where there is a bias, n counts samples, positions are summed. g = dL/da for a loss
summed over samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from growcore.growth.links import LinkedModule
from growcore.growth.statistic import TensorStatistic


class CollectingModule(LinkedModule):
    """A linked module with its statistics; what one batch adds is left to the kinds of layer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._collecting = False
        self.delta_raw: Tensor | None = None
        self._tensor_s = self._statistic("S", self.compute_s_update)
        self.tensor_m = self._statistic("M", self.compute_m_update)
        self.tensor_m_prev = self._statistic("M_prev", self.compute_m_prev_update)
        self.cross_covariance = self._statistic("C", self.compute_cross_covariance_update)
        self.growth_mean = self._statistic("mean of b(-2)", self.compute_growth_mean_update)

    def _statistic(self, name: str, update: Any) -> TensorStatistic:
        return TensorStatistic(None, update, name=f"{name} of {self.name}")

    def compute_s_update(self) -> tuple[Tensor, int]:
        """Sum of b b^T over the stored batch, and its number of samples."""
        raise NotImplementedError

    def compute_m_update(self, desired_activation: Tensor | None = None) -> tuple[Tensor, int]:
        """Sum of b g^T over the stored batch; desired_activation stands in for g."""
        raise NotImplementedError

    def compute_m_prev_update(self, desired_activation: Tensor | None = None) -> tuple[Tensor, int]:
        """Sum of b(-2) g^T over the stored batch; desired_activation stands in for g."""
        raise NotImplementedError

    def compute_cross_covariance_update(self) -> tuple[Tensor, int]:
        """Sum of b(-2) b(-1)^T over the stored batch, and its number of samples."""
        raise NotImplementedError

    def compute_growth_mean_update(self) -> tuple[Tensor, int]:
        """Sum of b(-2), 1 appended, over the samples and positions of the stored batch."""
        raise NotImplementedError

    def compute_n_update(self) -> tuple[Tensor, int]:
        """What the stored batch adds to N by the second pass: -sum b(-2) (g - delta b)^T.

        The batches are those M and S were gathered on, seen with the same weights, and the optimal delta
        is known already.
        """
        projected = self.projected_v_goal(self.input)
        update, num_samples = self.compute_m_prev_update(projected)
        return -update, num_samples

    def projected_v_goal(self, input_vector: Tensor) -> Tensor:
        """The rest g - delta b: what the gradient asks for beyond the layer's own optimal step."""
        raise NotImplementedError

    @property
    def input_extended(self) -> Tensor:
        """The stored input, extended by ones where the layer has a bias."""
        raise NotImplementedError

    @property
    def tensor_s(self) -> TensorStatistic:
        """S of this layer."""
        return self._tensor_s

    @property
    def tensor_s_growth(self) -> TensorStatistic:
        """S of the previous module's input: what new neurons of that module see."""
        return self.require_previous().tensor_s

    @property
    def tensor_n(self) -> Tensor:
        """N = -M_prev + C delta^T.

        Raises:
            ValueError: the optimal delta is not known yet.
        """
        if self.delta_raw is None:
            raise ValueError(
                f"N of {self.name} is what the optimal delta leaves over. Call compute_optimal_delta() "
                f"first, or pass use_projected_gradient=False."
            )
        return -self.tensor_m_prev() + self._project_cross_covariance(self.delta_raw)

    def _project_cross_covariance(self, delta: Tensor) -> Tensor:
        return self.cross_covariance() @ delta.T

    def require_previous(self) -> CollectingModule:
        """The previous module.

        Raises:
            ValueError: there is none that can gain neurons.
        """
        if not isinstance(self.previous_module, CollectingModule):
            raise ValueError(
                f"{self.name} gains input neurons from a growing module before it; got "
                f"previous_module={type(self.previous_module).__name__}. Pass previous_module=... ."
            )
        return self.previous_module

    def statistics(self) -> Iterator[TensorStatistic]:
        """The statistics that a forward pass of this module opens for one more update."""
        yield from (self._tensor_s, self.tensor_m, self.tensor_m_prev, self.cross_covariance)
        yield self.growth_mean

    def _pair_statistics(self) -> list[TensorStatistic]:
        return [self.tensor_m_prev, self.cross_covariance, self.tensor_s_growth, self.growth_mean]

    def _all_statistics(self) -> list[TensorStatistic]:
        own = [self.tensor_s, self.tensor_m]
        return own + self._pair_statistics() if self._has_pair else own

    @property
    def _has_pair(self) -> bool:
        """Whether the module before can gain neurons for this one alone; a merge gathers for its readers."""
        return isinstance(self.previous_module, CollectingModule)

    def _released_statistics(self) -> list[TensorStatistic]:
        """The statistics that no neighbour still reads."""
        released = [self.tensor_m] if self._num_readers else [self.tensor_m, self.tensor_s]
        if not self._has_pair:
            return released
        previous, shared = self.require_previous(), self.tensor_s_growth
        others = previous._collecting or previous._num_readers > int(self._collecting)
        return released + [s for s in self._pair_statistics() if s is not shared or not others]

    def init_computation(self) -> None:
        """Start gathering statistics; the next forward passes keep what they need.

        Raises:
            ValueError: the previous module is not one this layer can grow with.
        """
        if self._has_pair:
            self.check_pair()
        for statistic in self._all_statistics():
            statistic.init()
        if not self._collecting:
            self._collecting = self.store_input = self.store_pre_activity = True
            if self._has_pair:
                self.require_previous().read_by(1)

    def check_pair(self) -> None:
        """Raise a ValueError where the previous module and this one cannot share new neurons."""
        self.require_previous()

    @torch.no_grad()
    def update_computation(self) -> None:
        """Add the stored batch to every statistic, once per forward pass.

        Raises:
            ValueError: init_computation was not called, or no forward and backward pass was made since.
        """
        if not self._collecting:
            raise ValueError(f"{self.name} is not gathering statistics. Call init_computation() first.")
        # Checked before anything is added, so that no statistic runs ahead of another.
        _ = self.input, self.pre_activity_gradient
        with torch.autocast(self.device.type, enabled=False):
            for statistic in self._all_statistics():
                statistic.update()

    def reduce_computation(self, group: torch.distributed.ProcessGroup | None = None) -> None:
        """Sum the statistics over the ranks of a process group, once, after the last update."""
        for statistic in self._all_statistics():
            statistic.all_reduce(group)

    def reset_computation(self) -> None:
        """Stop gathering statistics and forget them and the stored tensors."""
        for statistic in self._released_statistics():
            statistic.reset()
        if self._collecting:
            self._collecting = self.store_input = self.store_pre_activity = False
            if self._has_pair:
                self.require_previous().read_by(-1)
        self._forget_pass()

    def read_by(self, num_more: int) -> None:
        """Keep the input for so many more (or, negative, fewer) that gather statistics of it."""
        self._num_readers += num_more
        self._forget_pass()

    def _forget_pass(self) -> None:
        if not (self.store_input or self._num_readers):
            self._input = None
        if not self.store_pre_activity:
            self._pre_activity = None


def accumulation_dtype(tensor: Tensor) -> torch.dtype:
    """Precision statistics are summed in: float32, or wider where the tensor is."""
    return torch.promote_types(tensor.dtype, torch.float32)
