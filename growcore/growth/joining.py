"""The part of a merge that adds modules' outputs, links them and gathers statistics.

Sizes: p inputs of the previous modules together (biases included), o outputs of one next module, t taps by
which it reads the merge, i its inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from growcore.growth.links import GrowsReaders
from growcore.growth.module import GrowingModule
from growcore.growth.normalization import apply_to_extension, derivative_at_zero
from growcore.growth.statistic import TensorStatistic

_UNREGISTERED = frozenset(("previous_modules", "next_modules"))


class JoiningModule(GrowsReaders):
    """A sum of modules' outputs and the function after it, able to grow.

    The caller adds: `merge(first(x) + second(x))`.

    Args:
        post_merge_function: what follows the sum.
        previous_modules: growing modules whose outputs are added, functions of equal slope at 0 behind them.
        next_modules: growing modules that read the result.
        name: what messages call it.
        target_in_neurons: neurons of the sum when growth is complete.
    """

    previous_modules: list[GrowingModule]
    next_modules: list[GrowingModule]

    def __init__(
        self,
        post_merge_function: nn.Module | None = None,
        previous_modules: list[GrowingModule] | None = None,
        next_modules: list[GrowingModule] | None = None,
        name: str | None = None,
        target_in_neurons: int | None = None,
    ) -> None:
        super().__init__()
        self.name = name if name is not None else type(self).__name__
        self.post_merge_function = nn.Identity() if post_merge_function is None else post_merge_function
        self.previous_modules, self.next_modules = [], []
        self._shape: torch.Size | None = None
        self._stacked: Tensor | None = None  # the columns of the batch that is being added
        self.tensor_s_growth = TensorStatistic(
            None, self.compute_s_growth_update, name=f"S_growth of {self.name}"
        )
        self.growth_mean = TensorStatistic(
            None, self.compute_growth_mean_update, name=f"mean of the inputs before {self.name}"
        )
        self._m_prev: list[TensorStatistic] = []
        self._c: list[TensorStatistic] = []
        self._collecting = False
        self.target_in_neurons = target_in_neurons
        self.initial_in_neurons = 0
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
        slopes = [derivative_at_zero(m.function_on_extension) for m in previous_modules]
        if len(set(slopes)) > 1:
            raise ValueError(
                f"{self.name} solves for all modules before it at once, so that their functions need one "
                f"slope at 0; got [{', '.join(f'{slope:.3g}' for slope in slopes)}]. Give them one "
                f"function, or put it behind the sum."
            )
        self.previous_modules = list(previous_modules)
        self.initial_in_neurons = self.in_neurons
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

    @property
    def in_neurons(self) -> int:
        """Number of neurons (features or channels) of the sum."""
        return self.previous_modules[0].out_neurons if self.previous_modules else 0

    @property
    def producers(self) -> list[GrowingModule]:
        """The modules that gain new neurons for the readers: the previous ones."""
        return self.previous_modules

    @property
    def readers(self) -> list[GrowingModule]:
        """The modules that read those neurons: the next ones."""
        return self.next_modules

    def columns_per_neuron(self, reader: GrowingModule) -> int:
        """Indices of the second dimension of a reader's weight that belong to one neuron of the sum."""
        return 1

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
        return [self.tensor_s_growth, self.growth_mean, *self._m_prev, *self._c]

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

    def reduce_computation(self, group: torch.distributed.ProcessGroup | None = None) -> None:
        """Sum the statistics here and behind over the ranks of a process group, after the last update."""
        for statistic in self._statistics():
            statistic.all_reduce(group)
        for module in self.next_modules:
            module.reduce_computation(group)

    @torch.no_grad()
    def update_computation(self) -> None:
        """Add the stored batch here and in the modules behind, once per forward pass."""
        if not self._collecting:
            raise ValueError(f"{self.name} is not gathering statistics. Call init_computation() first.")
        for module in self.next_modules:
            module.update_computation()
        with torch.autocast(self.previous_modules[0].device.type, enabled=False):
            self._stacked = self._columns()  # unfolded once for all statistics
            try:
                for statistic in self._statistics():
                    statistic.update()
            finally:
                self._stacked = None

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
        columns = self._columns() if self._stacked is None else self._stacked
        return torch.einsum("npl,nql->pq", columns, columns), columns.shape[0]

    def compute_growth_mean_update(self) -> tuple[Tensor, int]:
        """Sum of b, 1 appended, over samples and points of the sum, (p + 1,), and the number of samples."""
        columns = self._columns() if self._stacked is None else self._stacked
        num_points = columns.new_tensor([columns.shape[0] * columns.shape[2]])
        return torch.cat([columns.sum((0, 2)), num_points]), columns.shape[0]

    def _m_prev_update(self, number: int) -> tuple[Tensor, int]:
        columns = self._columns() if self._stacked is None else self._stacked
        per_tap = [
            torch.einsum("npl,nol->po", source, goal)
            for source, goal, _ in self._reads(self.next_modules[number], columns)
        ]
        return torch.stack(per_tap, dim=2).flatten(1), columns.shape[0]

    def _c_update(self, number: int) -> tuple[Tensor, int]:
        columns = self._columns() if self._stacked is None else self._stacked
        per_tap = [
            torch.einsum("npl,nil->pi", source, own)
            for source, _, own in self._reads(self.next_modules[number], columns)
        ]
        return torch.stack(per_tap, dim=1), columns.shape[0]
