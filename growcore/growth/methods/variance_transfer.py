"""Variance transfer: drawn weights, and all of the reader's weights shrunk so that variances stay.

Yuan et al. 2023, "Accelerated Training via Incrementally Growing Neural Networks using Variance Transfer and
Learning Rate Adaptation", arXiv:2306.12700.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from growcore.growth.methods.method import DRAWN, EVENTS, GrowthMethod

if TYPE_CHECKING:
    from growcore.config import GrowthConfig
    from growcore.growth.merge import Consumer


def create(consumer: Consumer, config: GrowthConfig, number: int) -> None:
    """Draw both sides by `growth.init` and shrink the reader's old and new weights."""
    consumer.create_layer_extensions(
        number,
        output_extension_init=config.init.value,
        input_extension_init=config.init.value,
        variance_transfer=True,
    )


METHOD = GrowthMethod(
    meaning="drawn, and all of the reader's weights shrunk to keep variance",
    keys=EVENTS | DRAWN,
    create=create,
)
