"""The statistics of a merge: of all inputs before the sum together, with each reader's gradient.

Sizes: p inputs of the summed modules together (biases included), o outputs of one reader, t taps by which it
reads the sum, i its inputs. S_growth (p, p), M_prev (p, o * t) and C (p, t, i) of each reader.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.distributed
from torch import Tensor

from growcore.growth.statistics.statistic import TensorStatistic

if TYPE_CHECKING:
    from growcore.growth.merge import MergeGrowingModule


class MergeStatistics:
    """What a merge gathers, and the readers' own statistics along with it."""

    def __init__(self, merge: MergeGrowingModule) -> None:
        self.merge = merge
        self.collecting = False
        self.size = torch.Size()  # of the map of the sum, in the last forward pass
        self._stacked: Tensor | None = None  # the columns of the batch that is being added
        self.s_growth = TensorStatistic(None, self._s_growth_update, name=f"S_growth of {merge.name}")
        self.mean = TensorStatistic(None, self._mean_update, name=f"mean of the inputs before {merge.name}")
        self.m_prev: list[TensorStatistic] = []
        self.c: list[TensorStatistic] = []

    def read_by(self, num_readers: int) -> None:
        """Make one M_prev and one C for each reader."""
        numbers = range(num_readers)
        self.m_prev = [TensorStatistic(None, partial(self._m_prev_update, j), name="M_prev") for j in numbers]
        self.c = [TensorStatistic(None, partial(self._c_update, j), name="C") for j in numbers]

    def store(self, x: Tensor) -> None:
        """Open every statistic for the pass that begins, and note the size of the sum."""
        self.size = x.shape[2:]
        for statistic in self.all():
            statistic.updated = False

    def all(self) -> list[TensorStatistic]:
        """The merge's own statistics."""
        return [self.s_growth, self.mean, *self.m_prev, *self.c]

    def goals(self, use_projected_gradient: bool) -> list[Tensor]:
        """N of each reader: what new neurons should correlate to."""
        goals = []
        for reader, m_prev, c in zip(self.merge.readers, self.m_prev, self.c, strict=True):
            N = -m_prev()
            if use_projected_gradient:
                assert reader.delta_raw is not None
                N = N + torch.einsum("pti,oi->pot", c(), reader.delta_raw).flatten(1)
            goals.append(N)
        return goals

    def init(self) -> None:
        """Start gathering here and in the readers."""
        self.merge.check_neighbours()
        for statistic in self.all():
            statistic.init()
        for reader in self.merge.readers:
            reader.init_computation()
        if not self.collecting:
            self.collecting = True
            for producer in self.merge.producers:
                producer.gathered.read_by(1)

    @torch.no_grad()
    def update(self) -> None:
        """Add the stored batch here and in the readers, once per forward pass."""
        if not self.collecting:
            raise ValueError(f"{self.merge.name} is not gathering statistics. Call init_computation() first.")
        for reader in self.merge.readers:
            reader.update_computation()
        with torch.autocast(self.merge.producers[0].device.type, enabled=False):
            self._stacked = self._columns()  # unfolded once for all statistics
            try:
                for statistic in self.all():
                    statistic.update()
            finally:
                self._stacked = None

    def reduce(self, group: torch.distributed.ProcessGroup | None = None) -> None:
        """Sum over the ranks of a process group, here and in the readers."""
        for statistic in self.all():
            statistic.all_reduce(group)
        for reader in self.merge.readers:
            reader.reduce_computation(group)

    def reset(self) -> None:
        """Stop gathering and forget the statistics, here and in the readers."""
        for statistic in self.all():
            statistic.reset()
        for reader in self.merge.readers:
            reader.reset_computation()
        if self.collecting:
            self.collecting = False
            for producer in self.merge.producers:
                producer.gathered.read_by(-1)

    def _columns(self) -> Tensor:
        if self._stacked is not None:
            return self._stacked
        return self.merge.geometry.columns(self.merge.producers)

    def _s_growth_update(self) -> tuple[Tensor, int]:
        columns = self._columns()
        return torch.einsum("npl,nql->pq", columns, columns), columns.shape[0]

    def _mean_update(self) -> tuple[Tensor, int]:
        """Sum of b, 1 appended, over samples and points of the sum, (p + 1,), and the number of samples."""
        columns = self._columns()
        num_points = columns.new_tensor([columns.shape[0] * columns.shape[2]])
        return torch.cat([columns.sum((0, 2)), num_points]), columns.shape[0]

    def _m_prev_update(self, number: int) -> tuple[Tensor, int]:
        columns = self._columns()
        reads = self.merge.geometry.reads(self.merge, self.merge.readers[number], columns)
        per_tap = [torch.einsum("npl,nol->po", source, goal) for source, goal, _ in reads]
        return torch.stack(per_tap, dim=2).flatten(1), columns.shape[0]

    def _c_update(self, number: int) -> tuple[Tensor, int]:
        columns = self._columns()
        reads = self.merge.geometry.reads(self.merge, self.merge.readers[number], columns)
        per_tap = [torch.einsum("npl,nil->pi", source, own) for source, _, own in reads]
        return torch.stack(per_tap, dim=1), columns.shape[0]
