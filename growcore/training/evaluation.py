"""Measuring a model on one part of its data set: loss, accuracy, and which neurons are dead."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from growcore.data import DataSet, Part, evaluation_batches
from growcore.metrics import Metric
from growcore.networks import models
from growcore.networks.activity import watch_hidden
from growcore.networks.modes import evaluating

BATCH_SIZE = 1024  # images; evaluation keeps no activations for a backward pass


def evaluate(
    model: nn.Module, data: DataSet, part: Part, prefix: str, own: Mapping[str, Metric] | None = None
) -> dict[str, float]:
    """`PREFIX/loss`, `PREFIX/accuracy`, `PREFIX/accuracy/<class>` and metrics of one's own, in eval mode.

    Args:
        model: gives logits, N x classes.
        data: normalises the images.
        part: what is measured on.
        prefix: `val` or `test`.
        own: metrics of a user's by `val/NAME`, as `growcore.metrics.own` finds them.

    Returns:
        These metrics, of each class that occurs; with prefix `val` also `activity/dead_fraction/<layer>` for
        each layer that can grow.
    """
    with evaluating(model), torch.no_grad(), watch_hidden(models.growable(model)) as activities:
        logits_NK = torch.cat([model(x) for x, _ in evaluation_batches(data, part, BATCH_SIZE)])
    correct_N = logits_NK.argmax(1) == part.y_N
    metrics = {
        f"{prefix}/loss": float(functional.cross_entropy(logits_NK.float(), part.y_N)),
        f"{prefix}/accuracy": float(correct_N.float().mean()),
    }
    for key, metric in (own or {}).items():
        assert metric.measure is not None
        metrics[f"{prefix}/{key.removeprefix('val/')}"] = float(metric.measure(logits_NK.float(), part.y_N))
    for name, share in _accuracy_by_class(correct_N, part.y_N, data.class_names).items():
        metrics[f"{prefix}/accuracy/{name}"] = share
    if prefix == "val":
        for name, activity in activities.items():
            metrics[f"activity/dead_fraction/{name}"] = activity.dead_fraction()
    return metrics


def _accuracy_by_class(correct_N: Tensor, y_N: Tensor, names: tuple[str, ...]) -> dict[str, float]:
    num_K = torch.bincount(y_N, minlength=len(names))
    correct_K = torch.bincount(y_N[correct_N], minlength=len(names))
    shares = (correct_K / num_K.clamp_min(1)).tolist()
    return {
        _plain(name): share for name, share, num in zip(names, shares, num_K.tolist(), strict=True) if num
    }


def _plain(name: str) -> str:
    """A class name as part of a metric key: `T-shirt/top` would read as two levels."""
    return name.replace("/", "-")
