"""TINY: the new neurons, and the layer's own step, that lower the loss fastest to first order.

Verbockhaven et al. 2024, "Growing Tiny Networks", arXiv:2405.19816.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from growcore.config.acting import acting
from growcore.config.choices import UpdateNormalization
from growcore.growth.methods.method import EVENTS, STATISTICS, GrowthMethod

if TYPE_CHECKING:
    from growcore.config import GrowthConfig
    from growcore.growth.merge import Consumer


def create(consumer: Consumer, config: GrowthConfig, number: int) -> None:
    """Solve for at most so many neurons."""
    consumer.compute_optimal_updates(
        numerical_threshold=config.numerical_threshold,
        statistical_threshold=config.statistical_threshold,
        maximum_added_neurons=number,
        relative_thresholds=config.relative_thresholds,
        relative_ridge=config.relative_ridge,
    )


def finish(consumer: Consumer, config: GrowthConfig) -> None:
    """Scale them to the weights they join."""
    if config.normalization != UpdateNormalization.none:
        consumer.normalize_optimal_updates(normalization_type=config.normalization.value)


METHOD = GrowthMethod(
    meaning="the optimum of the first-order decrease, and the layer's own optimal step",
    keys=EVENTS
    | STATISTICS
    | acting(
        "numerical_threshold",
        "statistical_threshold",
        "relative_thresholds",
        "relative_ridge",
        "normalization",
    ),
    create=create,
    finish=finish,
    needs_statistics=True,
    draws=False,
    num_scaling_factors=6,
    promises=True,
)
