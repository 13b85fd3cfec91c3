"""What the statistics predict for the pre-activations of new neurons: mean and variance at scaling factor 1.

Normalisation behind the new neurons starts from them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from growcore.growth.extension import Extension

if TYPE_CHECKING:
    from growcore.growth.merge import Consumer


def with_moments(consumer: Consumer, extension: Extension) -> Extension:
    """The extension with the moments that the statistics predict for its new outputs and their sum.

    Without statistics they stay unknown; so do those of the sum where functions stand before it.
    """
    mean, second = consumer.gathered.mean, consumer.tensor_s_growth
    outputs = [new for new in extension.outputs if new is not None]
    if mean.samples == 0 or second.samples == 0 or len(outputs) < len(consumer.producers):
        return extension
    sums, S = mean(), second()
    alpha = torch.cat([new.rows() for new in outputs], dim=1).to(sums.dtype)
    known, start = [], 0
    for new, block in zip(outputs, blocks(consumer, alpha), strict=True):
        columns = slice(start, start + block.shape[1])
        moments = _moments(block, sums[columns], S[columns, columns], sums[-1])
        known.append(replace(new, preactivation_mean=moments[0], preactivation_variance=moments[1]))
        start = columns.stop
    functions = [module.function_on_extension for module in consumer.producers]
    extension = replace(extension, outputs=tuple(known))
    if isinstance(consumer.function_behind, nn.Identity) or not all(
        isinstance(function, nn.Identity) for function in functions
    ):
        return extension
    sum_mean, sum_variance = _moments(alpha, sums[:start], S, sums[-1])
    return replace(extension, sum_mean=sum_mean, sum_variance=sum_variance)


def _moments(alpha: Tensor, sum_b: Tensor, S: Tensor, num_points: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of alpha b, from sum of b over num_points and the mean over samples of b b^T."""
    mean = alpha @ sum_b / num_points
    second = ((alpha @ S) * alpha).sum(1) / num_points
    return mean, (second - mean**2).clamp(min=0)


def blocks(consumer: Consumer, alpha: Tensor) -> list[Tensor]:
    """The columns of (k, p) that belong to each producer."""
    sizes = [module.in_fan + int(module.use_bias) for module in consumer.producers]
    return list(alpha.split(sizes, dim=1))
