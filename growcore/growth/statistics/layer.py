"""What a growing layer keeps of its passes, and the statistics it gathers of them.

S = 1/n sum b b^T, M = 1/n sum b g^T, M_prev and C the same with the input of the previous layer on the left,
S_growth and the mean of that input as often as new neurons are read; b is extended by 1 where there is a
bias, n counts samples, positions are summed. g = dL/da for a loss summed over samples. What one batch adds
is the layer's geometry's business. All calls of the layer since the last update count, see `calls`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from torch import Tensor

from growcore.growth import gains
from growcore.growth.geometry.base import Reading
from growcore.growth.statistics.calls import Call, Calls, matched, num_samples
from growcore.growth.statistics.statistic import TensorStatistic

if TYPE_CHECKING:
    from growcore.growth.module import GrowingModule


class LayerStatistics:
    """Stored tensors and statistics of one growing module, and of the pair it makes with the one before.

    While a module or one of its readers gathers, each forward pass keeps the input, and where it is asked
    for the pre-activation, and opens every statistic for one more update.
    """

    def __init__(self, module: GrowingModule) -> None:
        self.module = module
        self.num_readers = 0  # consumers that are gathering statistics and need this module's input
        self.collecting = False
        self.calls = Calls()
        self.stored_input: Tensor | None = None
        self.stored_pre_activity: Tensor | None = None
        self.s = self._named("S", module.compute_s_update)
        self.m = self._named("M", module.compute_m_update)
        self.m_prev = self._named("M_prev", module.compute_m_prev_update)
        self.c = self._named("C", module.compute_cross_covariance_update)
        self.mean = self._named("mean of b(-2)", self._mean_update)
        self.gains = self._named("gains", self._gains_update)
        self.own_s_growth = (
            self._named("S_growth", self._s_growth_update) if module.geometry.own_growth_moment else None
        )

    def _named(self, name: str, update: Any) -> TensorStatistic:
        return TensorStatistic(None, update, name=f"{name} of {self.module.name}")

    def __getstate__(self) -> dict[str, Any]:
        # Tensors of a pass belong to its graph: they can be neither copied nor saved.
        return self.__dict__ | {"stored_input": None, "stored_pre_activity": None, "calls": Calls()}

    @property
    def wanted(self) -> bool:
        """Whether a forward pass has to keep anything."""
        return self.module.store_input or self.module.store_pre_activity or self.num_readers > 0

    def store(self, x: Tensor) -> None:
        """Open every statistic for the pass that begins, and keep its input where it is asked for."""
        for statistic in (*self.own(), self.gains):
            statistic.updated = False
        self.calls.begin(x, keep_rounds=self.collecting or self.num_readers > 0)
        if self.module.store_input or self.num_readers:
            self.stored_input = x.detach()

    def store_result(self, pre_activity: Tensor) -> Tensor:
        """Keep the pre-activation where it is asked for; returns what the function after the layer gets."""
        self.calls.await_backward(pre_activity, self.module.store_pre_activity)
        if not self.module.store_pre_activity:
            return pre_activity
        self.stored_pre_activity = pre_activity
        if pre_activity.requires_grad:
            pre_activity.retain_grad()
        # A function that works in place would overwrite the pre-activation and its gradient.
        return pre_activity.clone()

    def store_output(self, y: Tensor) -> Tensor:
        """Note where in memory the output lies, so that its reader's call can be told; returns it."""
        assert self.calls.last is not None
        self.calls.last.made = y.data_ptr()
        return y

    def forget_pass(self) -> None:
        """Let go of the tensors that nobody asks for any more."""
        if not (self.module.store_input or self.num_readers):
            self.stored_input = None
        if not self.module.store_pre_activity:
            self.stored_pre_activity = None
        if not self.wanted:
            self.calls.clear()

    def read_by(self, num_more: int) -> None:
        """Keep the input for so many more (or, negative, fewer) that gather statistics of it."""
        self.num_readers += num_more
        self.forget_pass()

    @property
    def input(self) -> Tensor:
        """Input of the call at hand or of the last, detached; a ValueError where none was stored."""
        if self.calls.at is not None:
            return self.calls.at.x
        if self.stored_input is None:
            raise ValueError(
                f"{self.module.name} has stored no input. Call init_computation() (or set store_input=True) "
                f"and run a forward pass before update_computation()."
            )
        return self.stored_input

    @property
    def pre_activity(self) -> Tensor:
        """Pre-activation of the last forward pass; a ValueError where none was stored."""
        if self.stored_pre_activity is None:
            raise ValueError(
                f"{self.module.name} has stored no pre-activation. Call init_computation() (or set "
                f"store_pre_activity=True) and run a forward pass before update_computation()."
            )
        return self.stored_pre_activity

    @property
    def gradient(self) -> Tensor:
        """The gradient dL/da of the call at hand or of the last.

        Raises:
            ValueError: there was no backward pass, or the pass ran under no_grad.
        """
        if self.calls.at is not None and self.calls.at.gradient is not None:
            return self.calls.at.gradient
        gradient = self.pre_activity.grad if self.pre_activity.requires_grad else None
        if gradient is None:
            raise ValueError(
                f"{self.module.name} has no gradient of its pre-activation: the last forward pass ran under "
                f"no_grad or was not followed by backward. Run forward and backward before "
                f"update_computation()."
            )
        return gradient

    def counted(self, with_gradient: bool) -> list[Call]:
        """The calls that a statistic adds up: those that backward reached since the last update.

        Raises:
            ValueError: there is none, or none with a gradient where one is needed.
        """
        calls = self.calls.reached()
        if with_gradient:
            calls = [call for call in calls if call.gradient is not None]
            if not calls:
                _ = self.gradient if self.calls.last is not None else self.input
        elif not calls:
            _ = self.input
            calls = [] if self.calls.last is None else [self.calls.last]
        return calls

    def summed(
        self,
        update: Callable[[], Tensor],
        others: Sequence[LayerStatistics] = (),
        with_gradient: bool = True,
    ) -> tuple[Tensor, int]:
        """A sum over all counted calls, with the number of their samples.

        Args:
            update: what the call at hand, here and in the others, adds.
            others: of the modules before or beside, whose calls belong to those here.
            with_gradient: whether the update needs the gradients.
        """
        calls = self.counted(with_gradient)
        name = self.module.name
        belonging = [matched(name, calls, o.module.name, o.counted(with_gradient=False)) for o in others]
        total: Tensor | None = None
        try:
            for together in zip(calls, *belonging, strict=True):
                for statistics, call in zip((self, *others), together, strict=True):
                    statistics.calls.at = call
                part = update()
                total = part if total is None else total + part
        finally:
            for statistics in (self, *others):
                statistics.calls.at = None
                statistics.consume()
        assert total is not None
        return total, num_samples(name, calls)

    @property
    def reading(self) -> Reading:
        """The module's layer with the stored input."""
        return Reading(self.module.name, self.module.layer, self.input)

    @property
    def pair(self) -> tuple[Reading, Reading]:
        """What the layer before read, and this one."""
        return self.before.reading, self.reading

    @property
    def has_pair(self) -> bool:
        """Whether the module before can gain neurons for this one alone; a merge gathers for its readers."""
        return bool(self.module.producers)

    @property
    def before(self) -> LayerStatistics:
        """Those of the previous module.

        Raises:
            ValueError: there is none that can gain neurons.
        """
        return self.module.require_previous().gathered

    @property
    def s_growth(self) -> TensorStatistic:
        """Second moment of what new neurons of the previous module see; by default that module's own S."""
        return self.before.s if self.own_s_growth is None else self.own_s_growth

    def goals(self, use_projected_gradient: bool) -> list[Tensor]:
        """N of this one reader: what new neurons should correlate to.

        Raises:
            ValueError: the projection is asked for and the optimal delta is not known yet.
        """
        if not use_projected_gradient:
            return [-self.m_prev()]
        module = self.module
        if module.delta_raw is None:
            raise ValueError(
                f"N of {module.name} is what the optimal delta leaves over. Call compute_optimal_delta() "
                f"first, or pass use_projected_gradient=False."
            )
        return [-self.m_prev() + module.geometry.projected(self.c(), module.delta_raw)]

    def own(self) -> Iterator[TensorStatistic]:
        """The statistics that a forward pass of the module opens for one more update."""
        yield from (self.s, self.m, self.m_prev, self.c, self.mean)
        if self.own_s_growth is not None:
            yield self.own_s_growth

    def all(self) -> list[TensorStatistic]:
        """Everything that is gathered for this module, S_growth included where it is the previous one's S."""
        own = [self.s, self.m]
        return own + self._of_pair() if self.has_pair else own

    def _of_pair(self) -> list[TensorStatistic]:
        return [self.m_prev, self.c, self.s_growth, self.mean]

    def _released(self) -> list[TensorStatistic]:
        """The statistics that no neighbour still reads."""
        released = [self.m] if self.num_readers else [self.m, self.s]
        if not self.has_pair:
            return released
        before = self.before
        others = before.collecting or before.num_readers > int(self.collecting)
        return released + [s for s in self._of_pair() if not (others and s is before.s)]

    def init(self) -> None:
        """Start gathering; the next forward passes keep what they need."""
        if self.has_pair:
            self.module.check_neighbours()
        self.consume()  # what went before does not count
        for statistic in self.all():
            statistic.init()
        if not self.collecting:
            self._collect(True)
            if self.has_pair:
                self.before.read_by(1)

    def _collect(self, wanted: bool) -> None:
        self.collecting = self.module.store_input = self.module.store_pre_activity = wanted

    @torch.no_grad()
    def update(self) -> None:
        """Add the passes since the last update to every statistic."""
        self.require_collecting()
        # Checked before anything is added, so that no statistic runs ahead of another.
        self.counted(with_gradient=True)
        with torch.autocast(self.module.device.type, enabled=False):
            for statistic in self.all():
                statistic.update()

    @torch.no_grad()
    def look_again(self) -> None:
        """Add the passes since the last update to what each new neuron brings by either sign."""
        self.require_collecting()
        with torch.autocast(self.module.device.type, enabled=False):
            self.gains.update()

    def consume(self) -> None:
        """The passes have been counted: the next one begins anew, here and before."""
        self.calls.is_consumed = True
        if self.has_pair:
            self.before.calls.is_consumed = True

    def require_collecting(self) -> None:
        """Raise a ValueError where nothing is gathered."""
        if not self.collecting:
            raise ValueError(
                f"{self.module.name} is not gathering statistics. Call init_computation() first."
            )

    def reduce(self, group: torch.distributed.ProcessGroup | None = None) -> None:
        """Sum over the ranks of a process group."""
        for statistic in self.all():
            statistic.all_reduce(group)

    def reset(self) -> None:
        """Stop gathering; forget the statistics and the stored tensors."""
        for statistic in (*self._released(), self.gains):
            statistic.reset()
        if self.collecting:
            self._collect(False)
            if self.has_pair:
                self.before.read_by(-1)
        self.forget_pass()

    def _s_growth_update(self) -> tuple[Tensor, int]:
        return self.summed(
            lambda: self.module.geometry.previous_second_moment(*self.pair), [self.before], False
        )

    def _mean_update(self) -> tuple[Tensor, int]:
        return self.summed(lambda: self.module.geometry.previous_sum(*self.pair), [self.before], False)

    def _gains_update(self) -> tuple[Tensor, int]:
        return self.summed(lambda: gains.of_both_signs(self.module), [self.before])
