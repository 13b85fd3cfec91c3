"""How wide the neurons that a consumer reads are to become."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class _Draws(Protocol):
    """A consumer whose new neurons can be drawn and applied."""

    @property
    def create_layer_extensions(self) -> Callable[..., None]: ...

    @property
    def apply_change(self) -> Callable[..., None]: ...

    @property
    def delete_update(self) -> Callable[..., None]: ...

    @property
    def missing_neurons(self) -> Callable[[], int]: ...


class TargetWidth:
    """A consumer's way from its initial to its target width, in neurons that it reads."""

    name: str
    target_in_neurons: int | None
    initial_in_neurons: int

    @property
    def in_neurons(self) -> int:
        """Number of neurons that are read now."""
        raise NotImplementedError

    def missing_neurons(self) -> int:
        """target_in_neurons - in_neurons.

        Raises:
            ValueError: no target was set.
        """
        return self._target() - self.in_neurons

    def number_of_neurons_to_add(
        self, method: str = "fixed_proportional", number_of_growth_steps: int = 1
    ) -> int:
        """Neurons of one of so many equal growth steps from the initial to the target width, rounded down."""
        if method != "fixed_proportional":
            raise ValueError(f"Unknown method {method!r}. Known: fixed_proportional.")
        if number_of_growth_steps < 1:
            raise ValueError(f"number_of_growth_steps must be at least 1; got {number_of_growth_steps}.")
        return (self._target() - self.initial_in_neurons) // number_of_growth_steps

    def complete_growth(self: _Draws, extension_kwargs: dict[str, Any]) -> None:
        """Add all missing neurons at once, drawn as create_layer_extensions(**extension_kwargs) does."""
        missing = self.missing_neurons()
        if missing > 0:
            self.create_layer_extensions(extension_size=missing, **extension_kwargs)
            self.apply_change(scaling_factor=1.0, apply_delta=False)
            self.delete_update()

    def _target(self) -> int:
        if self.target_in_neurons is None:
            raise ValueError(f"{self.name} has no target width. Pass target_in_neurons.")
        return self.target_in_neurons
