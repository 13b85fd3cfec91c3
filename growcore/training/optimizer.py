"""The optimizer of the weights and its learning rate, made from a configuration and changed under way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler

from growcore.config import LearningRateSchedule, OptimizerConfig, OptimizerName, TrialConfig


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of all parameters, one group."""
    if config.name == OptimizerName.sgd:
        return torch.optim.SGD(
            model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    family = torch.optim.Adam if config.name == OptimizerName.adam else torch.optim.AdamW
    return family(
        model.parameters(), lr=config.lr, betas=(config.momentum, 0.999), weight_decay=config.weight_decay
    )


def make_schedule(optimizer: torch.optim.Optimizer, config: TrialConfig) -> LRScheduler:
    """The learning rate over epochs."""
    if config.optimizer.schedule == LearningRateSchedule.cosine:
        return CosineAnnealingLR(optimizer, T_max=config.training.num_epochs)
    return ConstantLR(optimizer, factor=1.0)


def change_optimizer(
    optimizer: torch.optim.Optimizer, schedule: LRScheduler, before: Mapping[str, Any], now: OptimizerConfig
) -> None:
    """Give a loaded optimizer the values that its configuration has now.

    Args:
        optimizer: in the state that `before` led to.
        schedule: its schedule; every rate it holds is multiplied by the ratio of the learning rates.
        before: OptimizerConfig as plain values.
        now: differs in lr, momentum and weight_decay only.
    """
    for group in optimizer.param_groups:
        if "betas" in group:
            group["betas"] = (now.momentum, group["betas"][1])
        else:
            group["momentum"] = now.momentum
        group["weight_decay"] = now.weight_decay
    if now.lr != before["lr"]:
        _scale_lr(optimizer, schedule, now.lr / before["lr"])


def check_same_optimizer(before: Mapping[str, Any], now: OptimizerConfig) -> None:
    for key, value in (("name", now.name), ("schedule", now.schedule)):
        if value != before[key]:
            raise ValueError(
                f"A training cannot go on with another optimizer.{key}: the checkpoint has "
                f"{before[key]}, the configuration {value}. Set optimizer.{key}={before[key]}."
            )


def _scale_lr(optimizer: torch.optim.Optimizer, schedule: LRScheduler, ratio: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] *= ratio
        group["initial_lr"] *= ratio
    schedule.base_lrs = [lr * ratio for lr in schedule.base_lrs]
    schedule._last_lr = [lr * ratio for lr in schedule._last_lr]
