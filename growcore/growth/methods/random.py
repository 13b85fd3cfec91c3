"""Random growth: drawn weights into and out of the new neurons. The control of all that solve for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from growcore.growth.methods.method import DRAWN, EVENTS, GrowthMethod

if TYPE_CHECKING:
    from growcore.config import GrowthConfig
    from growcore.growth.merge import Consumer


def create(consumer: Consumer, config: GrowthConfig, number: int) -> None:
    """Draw both sides by `growth.init`."""
    consumer.create_layer_extensions(
        number, output_extension_init=config.init.value, input_extension_init=config.init.value
    )


METHOD = GrowthMethod(meaning="drawn weights in and out", keys=EVENTS | DRAWN, create=create)
