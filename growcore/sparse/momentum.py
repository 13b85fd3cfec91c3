"""Keeping an optimizer's memory of pruned connections from moving their weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from growcore.sparse.connections import SparseConnections


def hold_pruned_at_zero(optimizer: Optimizer, model: nn.Module) -> RemovableHandle:
    """After every step of the optimizer, set pruned weights and their optimizer state to exactly zero.

    A sparse layer computes as if pruned weights were zero whatever they hold, but momentum gathered
    before a progression goes on moving them. Where edits are applied together with the optimizer
    (`growcore.edits.surgery`) this is not needed.

    Args:
        optimizer: whose steps are followed.
        model: its sparse layers are looked up anew at every step, so it may change.

    Returns:
        handle whose `remove()` ends it.
    """

    @torch.no_grad()
    def zero(stepped: Optimizer, args: Any, kwargs: Any) -> None:
        for layer in model.modules():
            if isinstance(layer, SparseConnections):
                dead = ~layer.mask
                layer.weight.masked_fill_(dead, 0)
                for value in stepped.state.get(layer.weight, {}).values():
                    if torch.is_tensor(value) and value.shape == dead.shape:
                        value.masked_fill_(dead, 0)

    return optimizer.register_step_post_hook(zero)
