"""A consumer's way from its initial to its target width, in neurons that it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from growcore.growth.merge import Consumer


def missing_neurons(consumer: Consumer) -> int:
    """target_in_neurons - in_neurons.

    Raises:
        ValueError: no target was set.
    """
    return _target(consumer) - consumer.in_neurons


def number_of_neurons_to_add(
    consumer: Consumer, method: str = "fixed_proportional", number_of_growth_steps: int = 1
) -> int:
    """Neurons of one of so many equal growth steps from the initial to the target width, rounded down."""
    if method != "fixed_proportional":
        raise ValueError(f"Unknown method {method!r}. Known: fixed_proportional.")
    if number_of_growth_steps < 1:
        raise ValueError(f"number_of_growth_steps must be at least 1; got {number_of_growth_steps}.")
    return (_target(consumer) - consumer.initial_in_neurons) // number_of_growth_steps


def complete_growth(consumer: Consumer, extension_kwargs: dict[str, Any]) -> None:
    """Add all missing neurons at once, drawn as create_layer_extensions(**extension_kwargs) does."""
    missing = missing_neurons(consumer)
    if missing > 0:
        consumer.create_layer_extensions(extension_size=missing, **extension_kwargs)
        consumer.apply_change(scaling_factor=1.0, apply_delta=False)
        consumer.delete_update()


def _target(consumer: Consumer) -> int:
    if consumer.target_in_neurons is None:
        raise ValueError(f"{consumer.name} has no target width. Pass target_in_neurons.")
    return consumer.target_in_neurons
