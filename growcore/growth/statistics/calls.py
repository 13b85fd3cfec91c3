"""The passes a layer has taken part in since its statistics were last updated.

A layer may be called several times in one forward pass (weights that several inputs share), and several
passes may go forward and backward before an update (accumulated gradients). All of them count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True, eq=False)
class Call:
    """One call of a layer."""

    x: Tensor  # its input, detached
    number: int  # calls before it
    round: int  # backward passes before it: calls of one pass share samples
    source: int  # where in memory its input lay
    made: int = 0  # where what it gave lay
    gradient: Tensor | None = None  # dL/da, where it is asked for and backward has come by
    is_reached: bool = False


class Calls:
    """The calls of one layer that backward reached.

    A call that no backward pass reaches, such as one for a look at the loss, is let go with its graph.
    """

    def __init__(self) -> None:
        self.num_calls = 0
        self.round = 0
        self.at: Call | None = None  # the call that is being added to a statistic
        self.last: Call | None = None
        self.is_consumed = False  # whether statistics have counted these calls
        self._reached: list[Call] = []

    def begin(self, x: Tensor, keep_rounds: bool) -> Call:
        """A call begins; those that statistics have counted, or of earlier rounds, are let go."""
        if any(call.round == self.round for call in self._reached):
            self.round += 1
            if not keep_rounds:
                self._reached = []
        if self.is_consumed:
            self._reached, self.is_consumed = [], False
        self.num_calls += 1
        self.last = Call(x.detach(), self.num_calls, self.round, x.data_ptr())
        return self.last

    def await_backward(self, pre_activity: Tensor, keep_gradient: bool) -> None:
        """Count the last call as soon as backward comes by."""
        call, reached = self.last, self._reached
        assert call is not None
        if not pre_activity.requires_grad:
            if torch.is_grad_enabled():  # nothing before the layer learns
                reached.append(call)
            return

        # Holds nothing that holds the graph, so that an unused graph can go.
        def reach(gradient: Tensor) -> None:
            if keep_gradient:
                call.gradient = gradient if call.gradient is None else call.gradient + gradient
            if not call.is_reached:
                call.is_reached = True
                reached.append(call)

        pre_activity.register_hook(reach)

    def reached(self) -> list[Call]:
        """Those that backward reached, in the order they were made."""
        return sorted(self._reached, key=lambda call: call.number)

    def clear(self) -> None:
        """Let go of everything."""
        self._reached, self.last, self.at, self.is_consumed = [], None, None, False


def rounds(calls: Sequence[Call]) -> list[list[Call]]:
    """The calls by the pass they belong to."""
    by_round: dict[int, list[Call]] = {}
    for call in calls:
        by_round.setdefault(call.round, []).append(call)
    return list(by_round.values())


def num_samples(name: str, calls: Sequence[Call]) -> int:
    """Samples of all passes; calls of one pass see the same ones.

    Raises:
        ValueError: calls of one pass have different numbers of samples.
    """
    total = 0
    for together in rounds(calls):
        sizes = {call.x.shape[0] for call in together}
        if len(sizes) > 1:
            raise ValueError(
                f"{name} was called {len(together)} times in one pass, with {sorted(sizes)} samples: over "
                f"how many the statistics are to be averaged cannot be told. Call it with equal batches, or "
                f"run backward and update_computation() after each."
            )
        total += sizes.pop()
    return total


def matched(name: str, calls: Sequence[Call], before_name: str, before: Sequence[Call]) -> list[Call]:
    """For each call of a reader the one of the layer before that made its input.

    Raises:
        ValueError: the two were not called equally often in each pass.
    """
    own, other = rounds(calls), rounds(before)
    if [len(r) for r in own] != [len(r) for r in other]:
        raise ValueError(
            f"{name} was called {[len(r) for r in own]} times in the passes since the last update, "
            f"{before_name} {[len(r) for r in other]} times: what belongs together cannot be told. Let "
            f"{name} read each output of {before_name} once."
        )
    return [call for mine, theirs in zip(own, other, strict=True) for call in _ordered(mine, theirs)]


def _ordered(mine: list[Call], theirs: list[Call]) -> list[Call]:
    makers = {call.made: call for call in theirs}
    if {call.source for call in mine} != makers.keys():
        return theirs  # something stands between: in the order of the calls
    return [makers[call.source] for call in mine]
