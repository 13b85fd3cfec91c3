"""Means of tensors over samples, accumulated batch by batch as a sum and a count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed
from torch import Tensor


class TensorStatistic:
    """The mean of a tensor over samples.

    A forward pass sets `updated` to False; `update` adds that batch once and sets it to True, so that two
    modules which share a statistic do not count a batch twice.

    Args:
        shape: shape every update must have; None takes it from the first update.
        update_function: gives (sum over the samples of a batch, number of samples).
        device: where the sum is kept; None keeps it where the updates are.
        name: what error messages call it.
    """

    def __init__(
        self,
        shape: tuple[int, ...] | None,
        update_function: Callable[..., tuple[Tensor, int]],
        device: torch.device | str | None = None,
        name: str | None = None,
    ) -> None:
        self.shape = shape
        self.name = name if name is not None else "statistic"
        self.device = device
        self.samples = 0
        self.updated = True
        self._update_function = update_function
        self._sum: Tensor | None = None

    @torch.no_grad()
    def update(self, **kwargs: Any) -> tuple[Tensor, int] | None:
        """Add the current batch; a second call for the same forward pass adds nothing and returns None.

        Raises:
            ValueError: the update's shape is not the statistic's.
        """
        if self.updated:
            return None
        update, num_samples = self._update_function(**kwargs)
        if self.device is not None:
            update = update.to(self.device)
        expected = self.shape if self._sum is None else tuple(self._sum.shape)
        if expected is not None and tuple(update.shape) != expected:
            raise ValueError(
                f"{self.name} accumulates tensors of one shape; got {tuple(update.shape)} after {expected}. "
                f"If the layer has grown, call init_computation() again."
            )
        self._sum = update.clone() if self._sum is None else self._sum.add_(update)
        self.samples += num_samples
        self.updated = True
        return update, num_samples

    def init(self) -> None:
        """Start from nothing."""
        self.reset()

    def reset(self) -> None:
        """Forget every batch."""
        self._sum = None
        self.samples = 0
        self.updated = True

    def all_reduce(self, group: torch.distributed.ProcessGroup | None = None) -> None:
        """Sum over the ranks of a process group, so that the mean is over the samples of all of them."""
        if self._sum is None:
            raise ValueError(f"{self.name} holds no samples on this rank; update it before reducing.")
        count = torch.tensor([float(self.samples)], dtype=torch.float64, device=self._sum.device)
        torch.distributed.all_reduce(self._sum, group=group)
        torch.distributed.all_reduce(count, group=group)
        self.samples = int(count.item())

    def __call__(self) -> Tensor:
        """The mean over all samples seen.

        Raises:
            ValueError: no sample has been seen.
        """
        if self._sum is None or self.samples == 0:
            raise ValueError(
                f"{self.name} has seen no sample. Call init_computation(), then for each batch run forward, "
                f"backward of the summed loss and update_computation()."
            )
        return self._sum / self.samples

    def __repr__(self) -> str:
        return f"{self.name} of shape {self.shape} with {self.samples} samples"
