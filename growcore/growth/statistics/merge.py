"""The statistics of a merge: of all inputs before the sum together, with each reader's gradient.

Sizes: p inputs of the summed modules together (biases included), o outputs of one reader, t taps by which it
reads the sum, i its inputs. S_growth (p, p), M_prev (p, o * t) and C (p, t, i) of each reader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.distributed
from torch import Tensor

from growcore.growth import gains
from growcore.growth.statistics.statistic import TensorStatistic

if TYPE_CHECKING:
    from growcore.growth.geometry.merge import Read
    from growcore.growth.merge import MergeGrowingModule
    from growcore.growth.statistics.layer import LayerStatistics


class MergeStatistics:
    """What a merge gathers, and the readers' own statistics along with it."""

    def __init__(self, merge: MergeGrowingModule) -> None:
        self.merge = merge
        self.collecting = False
        self.size = torch.Size()  # of the map of the sum, in the last forward pass
        self._sizes: set[torch.Size] = set()  # of all passes since the last update
        self._stacked: dict[int, Tensor] | None = None  # the columns of each call, while they are added
        self.gains = TensorStatistic(None, self._gains_update, name=f"gains of {merge.name}")
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
        self._sizes.add(self.size)
        for statistic in (*self.all(), self.gains):
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
        self._sizes.clear()
        for statistic in self.all():
            statistic.init()
        for reader in self.merge.readers:
            reader.init_computation()
        for producer in self.merge.producers:
            producer.gathered.consume()
        if not self.collecting:
            self.collecting = True
            for producer in self.merge.producers:
                producer.gathered.read_by(1)

    @torch.no_grad()
    def update(self) -> None:
        """Add the passes since the last update here and in the readers."""
        self._check()
        for reader in self.merge.readers:
            reader.update_computation()
        with torch.autocast(self.merge.producers[0].device.type, enabled=False):
            self._stacked = {}
            try:
                for statistic in self.all():
                    statistic.update()
            finally:
                self._stacked = None
        self._sizes = set()

    @torch.no_grad()
    def look_again(self) -> None:
        """Add the passes since the last update to what each new neuron brings by either sign."""
        self._check()
        with torch.autocast(self.merge.producers[0].device.type, enabled=False):
            self.gains.update()
        self._sizes = set()

    def _check(self) -> None:
        if not self.collecting:
            raise ValueError(f"{self.merge.name} is not gathering statistics. Call init_computation() first.")
        if len(self._sizes) > 1:
            raise ValueError(
                f"{self.merge.name} has added maps of {len(self._sizes)} sizes since the last update: "
                f"{sorted(map(tuple, self._sizes))}. Run backward and update_computation() after each."
            )

    def reduce(self, group: torch.distributed.ProcessGroup | None = None) -> None:
        """Sum over the ranks of a process group, here and in the readers."""
        for statistic in self.all():
            statistic.all_reduce(group)
        for reader in self.merge.readers:
            reader.reduce_computation(group)

    def reset(self) -> None:
        """Stop gathering and forget the statistics, here and in the readers."""
        for statistic in (*self.all(), self.gains):
            statistic.reset()
        for reader in self.merge.readers:
            reader.reset_computation()
        if self.collecting:
            self.collecting = False
            for producer in self.merge.producers:
                producer.gathered.read_by(-1)

    def _columns(self) -> Tensor:
        """(N, p, L) of the call at hand, unfolded once for all statistics."""
        if self._stacked is None:
            return self.merge.geometry.columns(self.merge.producers)
        key = id(self._first.calls.at)
        if key not in self._stacked:
            self._stacked[key] = self.merge.geometry.columns(self.merge.producers)
        return self._stacked[key]

    @property
    def _first(self) -> LayerStatistics:
        return self.merge.producers[0].gathered

    def _summed_before(self, update: Callable[[], Tensor]) -> tuple[Tensor, int]:
        others = [producer.gathered for producer in self.merge.producers[1:]]
        return self._first.summed(update, others, with_gradient=False)

    def _summed_at(self, number: int, update: Callable[[Iterator[Read]], Tensor]) -> tuple[Tensor, int]:
        """A sum over what one reader sees."""
        merge, reader = self.merge, self.merge.readers[number]
        return reader.gathered.summed(
            lambda: update(merge.geometry.reads(merge, reader, self._columns())),
            [producer.gathered for producer in merge.producers],
        )

    def _s_growth_update(self) -> tuple[Tensor, int]:
        def second_moment() -> Tensor:
            columns = self._columns()
            return torch.einsum("npl,nql->pq", columns, columns)

        return self._summed_before(second_moment)

    def _mean_update(self) -> tuple[Tensor, int]:
        """Sum of b, 1 appended, over samples and points of the sum, (p + 1,), and the number of samples."""

        def total() -> Tensor:
            columns = self._columns()
            num_points = columns.new_tensor([columns.shape[0] * columns.shape[2]])
            return torch.cat([columns.sum((0, 2)), num_points])

        return self._summed_before(total)

    def _m_prev_update(self, number: int) -> tuple[Tensor, int]:
        def correlation(reads: Iterator[Read]) -> Tensor:
            per_tap = [torch.einsum("npl,nol->po", source, goal) for source, goal, _ in reads]
            return torch.stack(per_tap, dim=2).flatten(1)

        return self._summed_at(number, correlation)

    def _c_update(self, number: int) -> tuple[Tensor, int]:
        def cross_covariance(reads: Iterator[Read]) -> Tensor:
            per_tap = [torch.einsum("npl,nil->pi", source, own) for source, _, own in reads]
            return torch.stack(per_tap, dim=1)

        return self._summed_at(number, cross_covariance)

    def _gains_update(self) -> tuple[Tensor, int]:
        first, *others = [reader.gathered for reader in self.merge.readers]
        before = [producer.gathered for producer in self.merge.producers]
        return first.summed(lambda: gains.of_both_signs(self.merge), [*others, *before])
