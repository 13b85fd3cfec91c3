"""Growth that changes nothing at first: drawn weights into the new neurons, zero weights out of them.

Chen et al. 2016, "Net2Net: Accelerating Learning via Knowledge Transfer", arXiv:1511.05641, grow likewise
without a change of the function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from growcore.growth.methods.method import DRAWN, EVENTS, GrowthMethod

if TYPE_CHECKING:
    from growcore.config import GrowthConfig
    from growcore.growth.merge import Consumer


def create(consumer: Consumer, config: GrowthConfig, number: int) -> None:
    """Draw the weights into the new neurons by `growth.init`."""
    consumer.create_layer_extensions(
        number, output_extension_init=config.init.value, input_extension_init="zeros"
    )


METHOD = GrowthMethod(
    meaning="drawn weights in, zero weights out: the function stays as it is",
    keys=EVENTS | DRAWN,
    create=create,
)
