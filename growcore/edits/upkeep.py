"""After an edit: running statistics are estimated anew before anything looks at the network in eval mode."""

from __future__ import annotations

from typing import Any

from torch import nn

from growcore.data import DataSet
from growcore.networks import cost
from growcore.networks.running_statistics import normalisations, reestimate

NUM_IMAGES = 1024  # training images of an estimate: the first ones, which the split has shuffled


class Upkeep:
    """Whether a network was edited, and at which step its running statistics were estimated last.

    A network without an edit, or without running statistics, is left as it is and costs nothing.
    """

    def __init__(self, data: DataSet) -> None:
        self.data = data
        self.edited = False
        self.estimated_at: int | None = None  # optimizer steps; None: before the newest edit, or never

    def note_edit(self) -> None:
        """Remember that the network was changed just now."""
        self.edited, self.estimated_at = True, None

    def refresh(self, model: nn.Module, step: int) -> int:
        """Estimate the running statistics, where weights moved since the last time.

        Not once after each edit but at every look from then on: the error comes back while weights move.

        Args:
            model: whose.
            step: optimizer steps so far.

        Returns:
            The FLOPs that it executed.
        """
        is_fresh = not self.edited or self.estimated_at == step
        if is_fresh or not normalisations(model):
            return 0
        x_NCHW = self.data.normalise(self.data.train.x_NCHW[:NUM_IMAGES])
        _, flops = cost.executed_flops(lambda: reestimate(model, x_NCHW))
        self.estimated_at = step
        return flops

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"edited": self.edited, "estimated_at": self.estimated_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.edited, self.estimated_at = state["edited"], state["estimated_at"]
