"""What the connections of a layer join. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Units:
    """The units of a layer, beside the shape of its weight: its outputs, and the inputs that it reads."""

    groups: int = 1  # of a convolution
    read: bool = True  # whether the inputs are units too; the pixels of images are not


EVERY_UNIT = Units()
