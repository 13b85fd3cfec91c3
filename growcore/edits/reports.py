"""What an edit did, as plain values for reports and logs; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class LayerState:
    """Size of an edited layer and of its model at one moment."""

    width: int  # neurons of the layer
    parameters: int  # of the whole model
    nonzero_parameters: int
    forward_flops: int  # of the whole model, one sample, dense


@dataclass(frozen=True, slots=True)
class EditRecord:
    """One edit, or one that was considered and left, as the edit log shows it."""

    step: int  # optimizer steps before it
    epoch: int  # epochs before it
    layer: str
    kind: str  # grow, prune, remove, or skip: proposed, and left because nothing lowered the loss
    number: int  # neurons gained or removed, or connections that became zero
    reason: str
    predicted_decrease: float | None = None  # of the mean loss, first order, at the scaling factor applied
    realised_decrease: float | None = None  # on the line search's batches, all edits together
    scaling_factor: float | None = None
    counts: dict[str, float] = field(default_factory=dict)  # of a pruning: kept, reinitialised, ...
    before: LayerState | None = None
    after: LayerState | None = None
    # By `<what>/<layer>`, on one training batch, all edits together; see `checks.edit_signal`.
    signal: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EditRecord:
        """The record that `dataclasses.asdict` made these values of."""
        moments = {key: values[key] and LayerState(**values[key]) for key in ("before", "after")}
        return cls(**{**values, **moments})
